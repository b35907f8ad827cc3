// SPDX-License-Identifier: Apache-2.0

package plainclient

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

// TestAnotherProgramsServerServesThisClientToo keeps the client honest: it
// must speak the protocol, not only what our own server understands.
func TestAnotherProgramsServerServesThisClientToo(t *testing.T) {
	rclone := testkit.Need(t, "rclone")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := listener.Addr().String()
	must(t, listener.Close())
	dir := t.TempDir()
	cmd := exec.Command(rclone, "serve", "restic", "--addr", addr, "--config", filepath.Join(dir, "rclone.conf"), filepath.Join(dir, "data"))
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })

	c, err := New("http://"+addr+"/alice/laptop/", Options{GiveUp: time.Minute})
	must(t, err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	must(t, c.Init(ctx)) // repeats until the server is there
	tree := writeTree(t)
	for range 2 {
		_, err = c.Backup(ctx, tree)
		must(t, err)
	}
	sameTree(t, tree, restored(t, c, "latest"))
	report, err := c.Check(ctx)
	must(t, err)
	if report.Snapshots != 2 {
		t.Errorf("%d snapshots", report.Snapshots)
	}
}
