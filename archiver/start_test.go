// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"slices"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

func TestTheFirstStartGoesOnAfterInit(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		if s.started.Last != eventlog.MakeSeq(2, 1) || s.started.Lossy != "" {
			t.Errorf("the first start begins with %s, lossy %q; want 2.1, not lossy", s.started.Last, s.started.Lossy)
		}
		if ev := s.epochStarted(); ev.Lossy || ev.Previous != eventlog.MakeSeq(1, 2) || ev.Cause != "start" {
			t.Errorf("epoch_started is %+v", ev)
		}
		s.store("a block")
		s.wait()
		s.check()
		s.stop()
	})
}

func TestACleanRestartLosesNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		for range 3 {
			s.mustStart(false)
			if ev := s.epochStarted(); ev.Lossy {
				t.Errorf("epoch %d says that it is lossy: %s", ev.Seq.Epoch(), s.started.Lossy)
			}
			s.lock(machine)
			s.store("a block")
			s.stop()
		}
	})
}

func TestAStateDirectoryDoesNotGrowWithItsStarts(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		for range 40 {
			s.mustStart(false)
			s.kill()
		}
		if n := len(s.state().Claims); n > 20 {
			t.Errorf("%d claims are remembered after 40 starts", n)
		}
	})
}

func TestARestartAfterAKillServesBeforeItsBacklogIsShipped(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.wait()
		s.bucket.Away()
		for range 3 {
			s.store("one")
			time.Sleep(6 * time.Second) // a generation is closed
		}
		s.store("in the open generation")
		s.kill()

		s.bucket.Set(failing(buckettest.Put, archiver.LogPrefix))
		s.mustStart(false)
		if ev := s.epochStarted(); ev.Lossy {
			t.Errorf("the start is lossy: %s", s.started.Lossy)
		}
		s.store("new")
		if archived := s.log.Archived(); archived.Epoch() != 2 {
			t.Errorf("everything up to %s counts as archived while no object of epoch 3 can be put", archived)
		}
		s.bucket.Set(noFaults)
		s.wait()
		s.check()
		s.stop()
	})
}

func TestNothingOfANewEpochIsArchivedBeforeItsEpochStarted(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.bucket.Away()
		s.store("tail")
		s.kill()
		s.mustStart(false)
		s.store("new")
		s.wait()
		entries := w.archive()
		i := slices.IndexFunc(entries, func(e eventlog.Entry) bool { return e.Event.Seq.Epoch() == 3 })
		if entries[i].Event.Type != eventlog.EpochStarted || entries[i].Event.Seq.Counter() != 1 {
			t.Errorf("epoch 3 begins with %s %s", entries[i].Event.Type, entries[i].Event.Seq)
		}
		s.stop()
	})
}

func TestAnUnclosedTailIsWrittenAgainAndShipped(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.wait()
		first := s.store("a payload that is copied")
		s.kill()
		s.mustStart(false)
		s.wait()
		for _, e := range w.archive() {
			if e.Event.Seq == first && e.Placement.Length != uint64(len("a payload that is copied")) {
				t.Errorf("the block of the unclosed tail was archived with %d bytes", e.Placement.Length)
			}
		}
		s.check()
		s.stop()
	})
}

func TestALostResponseIsFoundOutByReadingBack(t *testing.T) {
	for _, done := range []bool{false, true} {
		inWorld(t, func(w *world) {
			s := w.first()
			s.bucket.FailNext("put", 2, done) // the claim
			s.mustStart(false)
			s.store("a block")
			s.bucket.FailNext("put", 3, done) // the objects
			s.wait()
			s.check()
			s.stop()
			s.mustStart(false)
			s.stop()
		})
	}
}

func TestTheArchiveAwayAtTheStartChangesNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.store("a block")
		s.kill()
		s.bucket.Away()
		before, err := archiver.ReadState(s.path)
		w.must(err)
		err = s.start(false)
		if err == nil {
			t.Fatal("a server has started without its archive")
		}
		expectNone(t, err, archiver.ErrFenced, archiver.ErrTakeOver, archiver.ErrHole, eventlog.ErrDamaged)
		after, err := archiver.ReadState(s.path)
		w.must(err)
		if before.Lossy != after.Lossy || *before.Archived != *after.Archived || len(s.aside()) != 0 {
			t.Errorf("the state was %+v and is %+v", before, after)
		}
		s.bucket.Set(noFaults)
		s.mustStart(false)
		s.wait()
		s.stop()
	})
}
