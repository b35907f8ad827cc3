// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/testkit"
)

func TestAHangupWhileTheArchiveIsAwayDoesNotEndTheServer(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	must(t, os.Rename(w.archivePath(), w.path("away")))
	s := w.newServer("a")
	must(t, s.launch())
	eventually(t, "the server waits for its archive", func() error {
		if !strings.Contains(s.printed(), "serving reads only") {
			return errors.New("it does not say so")
		}
		return nil
	})
	s.signal(syscall.SIGHUP)
	must(t, os.Rename(w.path("away"), w.archivePath()))
	s.awaitReady()
	s.endsCleanly()
}

func TestAServerThatCannotShipAnyMoreAcknowledgesNothingAndIsNotHealthy(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.serve("a")
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	s.awaitArchived()
	must(t, os.Rename(w.archivePath(), w.path("away")))
	body := pattern("committed, not archived", 20_000) // more than a frame carries
	d.store("data", body)
	s.endsCleanly()
	must(t, os.Rename(w.path("away"), w.archivePath()))
	path, offset := where(t, w.path("a", "wal"), body)
	flip(t, path, offset+100)

	must(t, s.launch())
	eventually(t, "the server has found the damage", func() error {
		if !strings.Contains(s.printed(), "what was to be shipped has rotted") {
			return errors.New("it does not say so")
		}
		return nil
	})
	for _, probe := range []string{"healthz", "readyz"} {
		eventually(t, probe+" is red", func() error {
			resp, err := http.Get("http://" + s.admin + "/" + probe)
			if err != nil {
				return err
			}
			must(t, resp.Body.Close())
			if resp.StatusCode == http.StatusOK {
				return fmt.Errorf("%s is green", probe)
			}
			return nil
		})
	}
	if status := s.status(); status.Mode != httpapi.ModeHold || !strings.Contains(status.Stopped, "rotten-payload@") {
		t.Errorf("status: %s, stopped %q", status.Mode, status.Stopped)
	}
	more := []byte("in the session of the lock")
	d.wants(503, "POST", named("data", more), more)
	if code := s.stop(); code != 5 {
		t.Errorf("it ended with code %d", code)
	}
	claims := contents(t, w.archivePath("epoch"))
	s.refusesToStart(5, "rotten-payload@") // it is remembered
	if now := contents(t, w.archivePath("epoch")); len(now) != len(claims) {
		t.Errorf("a start that can ship nothing claimed an epoch: %q, before %q", now, claims)
	}
}

func TestAStartThatFailsOnThisMachineEndsAndTakesOneEpochOnly(t *testing.T) {
	w := initialised(t)
	spool := w.path("a", "spool")
	must(t, os.MkdirAll(spool, 0o700))
	if out, err := exec.Command("mount", "-t", "tmpfs", "none", spool).CombinedOutput(); err != nil {
		testkit.Lacks(t, "a folder that cannot be removed: a mount point", fmt.Errorf("%w %s", err, out))
	}
	t.Cleanup(func() { must(t, exec.Command("umount", spool).Run()) })
	claims := len(contents(t, w.archivePath("epoch")))
	s := w.newServer("a")
	s.refusesToStart(1, "spool")
	if now := len(contents(t, w.archivePath("epoch"))); now > claims+1 {
		t.Errorf("it claimed %d epochs", now-claims)
	}
}
