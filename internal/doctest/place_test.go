// SPDX-License-Identifier: Apache-2.0

package doctest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

// place is where a story runs: a home directory and addresses of its own.
type place struct {
	home, bin     string
	listen, admin string
	environ       []string
	replace       *strings.Replacer // what the documents say, with what is here
}

// newPlace makes a home directory with something to back up, and puts in front
// of PATH a strandline that finds this story's server without being told.
func newPlace(t *testing.T, program string) *place {
	t.Helper()
	p := &place{home: t.TempDir(), listen: freeAddress(t), admin: freeAddress(t)}
	p.bin = filepath.Join(p.home, ".bin")
	write(t, filepath.Join(p.home, "documents", "letter.txt"), strings.Repeat("Dear reader,\n", 1000))
	write(t, filepath.Join(p.home, "documents", "pictures", "one"), strings.Repeat("\x89PNG", 100_000))
	write(t, filepath.Join(p.bin, "strandline"), fmt.Sprintf(`#!/bin/sh
case "$1 $2" in
"drill --archive") ;;
status\ *|events\ *|release\ *|drill\ *) verb=$1; shift; exec '%[1]s' "$verb" --admin '%[2]s' "$@" ;;
esac
exec '%[1]s' "$@"
`, program, p.admin))
	if err := os.Chmod(filepath.Join(p.bin, "strandline"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.environ = []string{
		"HOME=" + p.home, "PATH=" + p.bin + ":" + os.Getenv("PATH"), "TMPDIR=" + p.home, "LC_ALL=C.UTF-8",
		"STRANDLINE_LISTEN=" + p.listen, "STRANDLINE_ADMIN=" + p.admin,
		"DATA=" + filepath.Join(p.home, "state"), "ARCHIVE=dir:" + filepath.Join(p.home, "archive"),
	}
	return p
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() //nolint:errcheck // nothing was sent
	return ln.Addr().String()
}

// builds is where the program is built, once.
var builds struct {
	sync.Once
	dir string
	out []byte
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if builds.dir != "" {
		if err := os.RemoveAll(builds.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}

// build returns the path of the program.
func build(t *testing.T) string {
	t.Helper()
	builds.Do(func() {
		if builds.dir, builds.err = os.MkdirTemp("", "doctest-"); builds.err != nil {
			return
		}
		command := exec.Command("go", "build", "-o", filepath.Join(builds.dir, "strandline"), "./cmd/strandline")
		command.Dir = root
		builds.out, builds.err = command.CombinedOutput()
	})
	if builds.err != nil {
		t.Fatalf("build the program: %v\n%s", builds.err, builds.out)
	}
	return filepath.Join(builds.dir, "strandline")
}

// storyTime bounds one story.
const storyTime = testkit.Patience

// execute runs the script in a process group of its own and returns what it
// printed. Whatever of the group is left then is killed.
func (p *place) execute(t *testing.T, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), storyTime)
	defer cancel()
	path := filepath.Join(p.home, ".script")
	write(t, path, script)
	command := exec.CommandContext(ctx, "bash", path)
	command.Dir, command.Env = p.home, p.environ
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = 5 * time.Second
	log, err := os.Create(filepath.Join(p.home, ".output")) // a file: servers left over cannot hold it up
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() //nolint:errcheck // read by name
	command.Stdout, command.Stderr = log, log
	runErr := command.Run()
	if command.Process != nil {
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) // none left is as well
	}
	out, err := os.ReadFile(log.Name())
	if err != nil {
		t.Fatal(err)
	}
	if runErr != nil {
		t.Fatalf("the commands failed: %v\n%s\n--- the script\n%s", runErr, out, script)
	}
	return string(out)
}
