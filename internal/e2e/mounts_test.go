// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"

	"github.com/strandline-project/strandline/internal/testkit"
)

// ownMounts is a command that runs a shell script, with args and then the
// command that follows as its $0 and on, among mounts that it alone sees.
func ownMounts(t testing.TB, script string, args ...string) []string {
	t.Helper()
	own := "-m" // a mount namespace
	if os.Getuid() != 0 {
		own = "-rm" // and one of users, in which we are root
	}
	if out, err := exec.Command("unshare", own, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", t.TempDir()).CombinedOutput(); err != nil {
		testkit.Lacks(t, "mounts of its own, and the right to make them", fmt.Errorf("%w %s", err, out))
	}
	return slices.Concat([]string{"unshare", own, "sh", "-ec", script}, args)
}

// inside runs a command among the mounts of the server's process, which began
// with ownMounts.
func (s *server) inside(command ...string) {
	s.t.Helper()
	enter := []string{"-t", strconv.Itoa(s.current().cmd.Process.Pid), "-m"}
	if os.Getuid() != 0 {
		enter = append(enter, "-U", "--preserve-credentials")
	}
	out, err := exec.Command("nsenter", slices.Concat(enter, command)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%v: %v %s", command, err, out)
	}
}
