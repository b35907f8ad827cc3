// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

// segment is the file with a generation's frames.
const segment = "00000000000000000001"

// generations are the directories of a state directory's WAL, ascending.
func (s *server) generations() []string {
	s.w.t.Helper()
	paths, err := filepath.Glob(filepath.Join(s.path, "wal", "*"))
	s.w.must(err)
	return paths
}

// flip changes one byte of a file, counted from its end if negative.
func (w *world) flip(path string, at int) {
	w.t.Helper()
	data, err := os.ReadFile(path)
	w.must(err)
	if at < 0 {
		at += len(data)
	}
	data[at] ^= 0x40
	w.must(os.WriteFile(path, data, 0o600))
}

func TestEverySingleObjectThatIsMissingIsNamed(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		for range 3 {
			s.mustStart(false)
			s.store("a block")
			s.wait()
			s.kill()
		}
		s = w.recovered()
		for i, key := range w.bucket.Keys() {
			if key == archiver.ManifestKey {
				continue
			}
			fork := w.fork(fmt.Sprintf("%s/fork-%d", w.root, i))
			fork.bucket.Remove(key)
			err := errors.Join(fork.at(fork.copyDir(s.path)).start(true), fork.follow())
			if err == nil || !strings.Contains(err.Error(), key) {
				t.Errorf("without %s: %v; want an error that names it", key, err)
			}
			expectNone(t, err, archiver.ErrFenced, archiver.ErrTakeOver)
			fork.endAll()
		}
	})
}

// follow reads the whole archive and returns what it complains of.
func (w *world) follow() error {
	for _, err := range archiver.At(w.bucket, w.logID).Follow(context.Background(), eventlog.FirstSeq) {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestAClaimThatTheListLacksIsFound(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		for range 3 {
			s.mustStart(false)
			s.wait()
			s.kill()
		}
		for _, hidden := range []uint32{1, 3, 4} {
			archive := archiver.At(s.bucket, w.logID)
			s.bucket.Set(buckettest.Hooks{Hide: func(key string) bool { return key == archiver.EpochKey(hidden) }})
			claim, err := archive.HighestClaim(context.Background())
			w.must(err)
			if claim.Epoch != 4 {
				t.Errorf("with claim %d hidden from the list, the highest is %d; want 4", hidden, claim.Epoch)
			}
		}
	})
}

func TestAnArchiveThatEndsBeforeWhatIsKnownIsRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.store("a block")
		s.wait()
		s.kill()
		s.mustStart(false) // records how far archive and WAL agree
		s.kill()
		object := archiver.Shipped(s.state().Archived.Ordinal)
		w.bucket.Remove(object.Key())
		err := s.start(false)
		var hole *archiver.HoleError
		if !errors.As(err, &hole) || hole.First != object.First || hole.Last != object.First {
			t.Fatalf("the start ended with %v; want a hole at ordinal %d", err, object.First)
		}
	})
}

func (s *server) state() archiver.State {
	s.w.t.Helper()
	state, err := archiver.ReadState(s.path)
	s.w.must(err)
	return state
}

func TestOrdinalsMissingBetweenArchiveAndWALAreNamed(t *testing.T) {
	for name, missing := range map[string]int{"before the first local one": 0, "between two local ones": 1} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				s := killed(w)
				gens := s.generations()
				tail := gens[len(gens)-4 : len(gens)-1] // the last one is prepared, and empty
				for _, path := range gens[:len(gens)-4] {
					w.must(os.RemoveAll(path)) // what is archived need not be here
				}
				w.must(os.RemoveAll(tail[missing]))
				before := w.bucket.Keys()
				err := s.start(false)
				if !slices.Equal(before, w.bucket.Keys()) || len(s.aside()) != 0 {
					t.Error("a refused start has changed something")
				}
				var hole *archiver.HoleError
				if !errors.As(err, &hole) || hole.First != hole.Last || !strings.Contains(tail[missing], fmt.Sprintf("%016d.", hole.First)) {
					t.Fatalf("without %s the start ended with %v", tail[missing], err)
				}
			})
		})
	}
}

// The first event of an epoch follows whatever came before it: here only the
// ordinals tell that something is missing.
func TestAMissingEndOfAnEpochBetweenArchiveAndWALIsNamed(t *testing.T) {
	inWorld(t, func(w *world) {
		s := killed(w)
		s.bucket.Set(failing(buckettest.Put, archiver.LogPrefix))
		w.must(s.start(false)) // its epoch_started waits behind the tail
		started := s.log.Local()[len(s.log.Local())-1]
		s.kill()
		missing := started.Ordinal - 1
		for _, path := range s.generations() {
			if filepath.Base(path) < fmt.Sprintf("%016d.", started.Ordinal) {
				w.must(os.RemoveAll(path))
			}
		}
		before := w.bucket.Keys()
		err := s.start(false)
		var hole *archiver.HoleError
		if !errors.As(err, &hole) || hole.Last != missing {
			t.Errorf("without ordinal %d, the last of its epoch, the start ended with %v", missing, err)
		}
		if !slices.Equal(before, w.bucket.Keys()) || len(s.aside()) != 0 {
			t.Error("a refused start has changed something")
		}
	})
}

func TestDamageThatTheArchiveDoesNotCoverIsRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.wait()
		good := s.store("first")
		s.store("second")
		s.store("third")
		s.kill()
		gens := s.generations()
		path := filepath.Join(gens[len(gens)-2], segment)
		data, err := os.ReadFile(path)
		w.must(err)
		w.flip(path, len(data)*2/3)
		before := w.bucket.Keys()
		err = s.start(false)
		expectError(t, err, eventlog.ErrDamaged)
		if !strings.Contains(err.Error(), good.String()) && !strings.Contains(err.Error(), good.Next().String()) {
			t.Errorf("the error does not say behind which seq: %v", err)
		}
		if !slices.Equal(before, w.bucket.Keys()) || len(s.aside()) != 0 {
			t.Error("a refused start has changed something")
		}
	})
}

func TestARottenPayloadThatIsNotArchivedIsRefusedBeforeAnythingIsClaimed(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.wait()
		s.store("first")
		rotten := s.store(strings.Repeat("second", 4<<10)) // more than a frame carries
		s.kill()
		gens := s.generations()
		w.flip(filepath.Join(gens[len(gens)-2], "payload"), -1)
		before := w.bucket.Keys()
		for range 2 {
			err := s.start(false)
			expectError(t, err, eventlog.ErrDamaged)
			if !strings.Contains(err.Error(), rotten.String()) {
				t.Errorf("the error does not say which seq: %v", err)
			}
		}
		if !slices.Equal(before, w.bucket.Keys()) || len(s.aside()) != 0 || !slices.Equal(gens, s.generations()) {
			t.Error("a refused start has changed something")
		}
	})
}

func TestAnEventOfALaterVersionIsRefusedBeforeAnythingIsClaimed(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.wait()
		s.store("first")
		seq, err := s.append(eventlog.Event{Type: 1000, Actor: "test"}, "")
		w.must(err)
		s.kill()
		s.refusesUnknown(t, seq)
	})
}

// The same of one that is archived already, which views that are behind would
// come upon.
func TestAnArchivedEventOfALaterVersionIsRefusedBeforeAnythingIsClaimed(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.wait()
		s.store("first")
		behind := slices.Clone(s.views.applied)
		seq, err := s.append(eventlog.Event{Type: 1000, Actor: "test"}, "")
		w.must(err)
		s.stop()
		s.views.applied = behind
		s.refusesUnknown(t, seq)
	})
}

// refusesUnknown checks that a start names the event seq, which this build does
// not know, and changes nothing.
func (s *server) refusesUnknown(t *testing.T, seq eventlog.Seq) {
	t.Helper()
	before := s.w.bucket.Keys()
	err := s.start(false)
	expectError(t, err, eventlog.ErrUnknownType)
	if !strings.Contains(err.Error(), seq.String()) {
		t.Errorf("the error does not say which seq: %v", err)
	}
	if !slices.Equal(before, s.w.bucket.Keys()) || len(s.aside()) != 0 {
		t.Error("a refused start has changed something")
	}
}

// While the archive does not answer, nothing is known of what the views have
// yet to apply, and nothing is claimed.
func TestAnArchiveThatStopsBeforeTheViewsEventsAreReadIsNotClaimed(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.wait()
		s.store("first")
		behind := slices.Clone(s.views.applied)
		s.store("second")
		s.stop()
		s.views.applied = behind
		before, reads := w.bucket.Keys(), 0
		s.bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
			if op != buckettest.Get || !strings.HasPrefix(key, archiver.LogPrefix) {
				return nil
			}
			if reads++; reads == 1 { // the end of the archive
				return nil
			}
			return buckettest.ErrInjected
		}})
		expectError(t, s.start(false), buckettest.ErrInjected)
		if !slices.Equal(before, w.bucket.Keys()) {
			t.Error("a refused start has changed something")
		}
		s.bucket.Set(noFaults)
		s.mustStart(false)
	})
}

func TestDamageBeforeEventsThatAreNotArchivedIsRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.store("first")
		s.store("second")
		s.wait()
		s.bucket.Set(failing(buckettest.Put, archiver.LogPrefix))
		s.store("committed, and not archived")
		s.kill()
		gens := s.generations()
		victim := gens[len(gens)-3] // then the open one, and the one prepared
		w.flip(filepath.Join(victim, "payload"), -eventlog.TrailerSize-1)
		w.flip(filepath.Join(victim, segment), 200)
		expectError(t, s.start(false), eventlog.ErrDamaged)
		if aside := s.aside(); len(aside) != 0 {
			t.Errorf("a refused start has set %q aside", aside)
		}
	})
}

func TestDamageThatTheArchiveCoversIsPassedOver(t *testing.T) {
	for name, c := range map[string]struct {
		frames bool // damaged too
		lossy  bool
	}{
		"footer and frames":              {frames: true, lossy: true},
		"a footer whose frames are good": {},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				s := w.first()
				s.mustStart(false)
				s.wait()
				s.store("first")
				s.store("second")
				s.wait()
				s.kill()
				gens := s.generations()
				victim := gens[len(gens)-2]
				w.flip(filepath.Join(victim, "payload"), -eventlog.TrailerSize-1)
				if c.frames {
					w.flip(filepath.Join(victim, segment), 200)
				}
				s.mustStart(false)
				if got := s.epochStarted().Lossy; got != c.lossy {
					t.Errorf("the start is lossy: %t (%s); want %t", got, s.started.Lossy, c.lossy)
				}
				if aside := s.aside(); len(aside) == 0 || !strings.HasPrefix(aside[0], filepath.Base(victim)) {
					t.Errorf("set aside is %q; want %s, as evidence", aside, filepath.Base(victim))
				}
				s.store("third")
				s.stop()
			})
		})
	}
}

func TestTheArchiveOfAnotherLogIsRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		other := newWorld(t, w.root+"/other")
		other.first()
		s := w.first()
		s.bucket = buckettest.NewFaulty(other.bucket)
		before := other.bucket.Keys()
		expectError(t, s.start(true), archiver.ErrOtherLog)

		fresh := w.at(w.newPath())
		fresh.bucket = s.bucket
		expectError(t, fresh.init(), archiver.ErrOtherLog)
		other.bucket.Remove(archiver.ManifestKey) // even without its name
		expectError(t, fresh.init(), archiver.ErrOtherLog)
		if after := other.bucket.Keys(); !slices.Equal(before[:len(before)-1], after) {
			t.Errorf("the other log's bucket held %q, and now %q", before, after)
		}
	})
}

func TestADirectoryThatIsNotReadyIsNotServed(t *testing.T) {
	for _, phase := range []archiver.Phase{archiver.PhaseInitialising, archiver.PhaseRecovering, "of a later version"} {
		inWorld(t, func(w *world) {
			s := w.first()
			dir, err := s.open()
			w.must(err)
			w.must(dir.Update(func(state *archiver.State) { state.Phase = phase }))
			w.must(dir.Close())
			if err := s.start(false); err == nil || !strings.Contains(err.Error(), string(phase)) {
				t.Errorf("a directory that is %s: %v", phase, err)
			}
		})
	}
}

func TestAStartThatCouldNotFinishMayBeRunAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		lostMachine(w)
		s := w.recovered()
		for _, hooks := range []buckettest.Hooks{
			failing(buckettest.List, archiver.LogPrefix), failing(buckettest.Put, archiver.EpochPrefix), failing(buckettest.Put, archiver.LogPrefix),
			failing(buckettest.Head, archiver.EpochPrefix),
		} {
			s.bucket.Set(hooks)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			err := s.startWithin(ctx, true)
			cancel()
			expectError(t, err, buckettest.ErrInjected)
			expectNone(t, err, archiver.ErrFenced, archiver.ErrTakeOver, archiver.ErrHole, eventlog.ErrDamaged)
		}
		s.bucket.Set(noFaults)
		s.mustStart(true)
		s.expectBarred(true)
		s.stop()
	})
}
