// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"errors"
	"os"
	"testing"
)

// moveTo kills the server, deletes its state directory, and goes on at the
// same addresses with one that is recovered under another name.
func (s *server) moveTo(name string, flags ...string) *server {
	s.t.Helper()
	s.kill()
	must(s.t, os.RemoveAll(s.path(s.name)))
	s.recover(name, 1)
	next := s.newServer(name, append(flags, "--take-over")...)
	next.listen, next.admin = s.listen, s.admin
	next.start()
	return next
}

func TestWithAckArchivedEverythingAcknowledgedSurvivesTheLossOfTheMachine(t *testing.T) {
	w := initialised(t)
	s := w.serve("a", "--ack", "archived")
	load := startLoad(t, s.door("load", "blocks"))
	eventually(t, "the load is under way", func() error {
		if load.next.Load() < 100 {
			return errTooFew
		}
		return nil
	})
	next := s.moveTo("b")
	load.done.Wait() // barred
	load.check(false)
	next.endsCleanly()
}

func TestWithAckCommittedNothingWaitsForTheArchive(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.serve("a", "--ack", "committed")
	d := s.door("alice", "laptop")
	d.create()
	must(t, os.Rename(w.archivePath(), w.path("away")))
	lock := d.store("locks", []byte("a lock"))
	snapshot := d.store("snapshots", []byte("a snapshot"))
	s.kill()
	must(t, os.Rename(w.path("away"), w.archivePath()))
	s.start()
	d.wants(200, "GET", snapshot, nil)
	s.awaitArchived()
	d.wants(200, "DELETE", lock, nil)
	s.endsCleanly()
}

// TestACommitPointThatIsNotArchivedInTimeGets503AndNothingIsLost is the
// default's other side: the answer waits, and a retry finds what was stored.
func TestACommitPointThatIsNotArchivedInTimeGets503AndNothingIsLost(t *testing.T) {
	w := initialised(t)
	s := w.serve("a", "--ack-timeout", "1s")
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	must(t, os.Rename(w.archivePath(), w.path("away")))
	d.store("data", []byte("data is answered when committed"))
	body := []byte("a snapshot")
	snapshot := named("snapshots", body)
	for range 2 { // a repetition is not answered sooner
		if a := d.wants(503, "POST", snapshot, body); a.header.Get("Retry-After") == "" {
			t.Error("503 without Retry-After")
		}
	}
	if err := s.ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	must(t, os.Rename(w.path("away"), w.archivePath()))
	eventually(t, "a retry succeeds", func() error {
		if a := d.do("POST", snapshot, body); a.status != 200 {
			return errors.New(a.body)
		}
		return nil
	})
	next := s.moveTo("b")
	next.door("alice", "laptop").wants(200, "GET", snapshot, nil)
	next.endsCleanly()
}
