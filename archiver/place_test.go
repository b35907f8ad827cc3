// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

// place stands for the files of one state directory. The tests' directories
// are in memory, where nothing tells files apart.
type place struct {
	number   int64 // 0: not known
	putBack  int64 // how often a copy was put back over what was there
	lockLost int64 // how often LOCK was removed
}

func (p *place) identify(path string) archiver.FileID {
	if p.number == 0 {
		return archiver.FileID{}
	}
	born := p.number * 1_000_000
	switch name := filepath.Base(path); {
	case name == "LOCK":
		return archiver.FileID{Inode: 12, Born: born + p.lockLost}
	case name == "state.json", strings.HasPrefix(name, ".tmp-"):
		return archiver.FileID{Inode: 13, Born: born + p.putBack}
	}
	return archiver.FileID{Inode: 11, Born: born}
}

// livingOriginal is a server with a client's session, and a copy of its
// directory. Then the server acknowledges more, and none of it is archived.
func livingOriginal(w *world) (original, clone *server, lost eventlog.Seq) {
	original = w.first()
	original.mustStart(false)
	original.lock(machine)
	original.store("archived")
	original.wait()
	original.bucket.Set(failing(buckettest.Put, archiver.LogPrefix))
	original.store("committed when the copy was made")
	clone = original.clone()
	return original, clone, original.store("committed after the copy was made")
}

func TestACopyOfALivingServersDirectoryNeedsATakeOverAndIsLossy(t *testing.T) {
	inWorld(t, func(w *world) {
		original, clone, lost := livingOriginal(w)
		claims := slices.Clone(clone.state().Claims)
		err := clone.start(false)
		expectError(t, err, archiver.ErrTakeOver)
		if !strings.Contains(err.Error(), "copy") || !strings.Contains(err.Error(), "stop it in order") {
			t.Errorf("the refusal is %q; want it to say that this is a copy, and how to move a directory", err)
		}
		if got := clone.state().Claims; !slices.Equal(got, claims) {
			t.Errorf("a start that was refused has recorded the claims %v, before %v", got, claims)
		}
		original.mustAppend("the original goes on")

		clone.mustStart(true)
		ev := clone.epochStarted()
		if !ev.Lossy || ev.Cause != "take-over" || !slices.Equal(ev.Barred, []eventlog.Seq{machine}) {
			t.Errorf("epoch_started is %+v; want a lossy take-over with machine %s barred", ev, machine)
		}
		if slices.ContainsFunc(clone.entries(), func(e eventlog.Entry) bool { return e.Event.Seq == lost }) {
			t.Error("the copy has what its original acknowledged after it was made")
		}
		original.bucket.Set(noFaults)
		<-original.ended
		expectError(t, original.shipErr, archiver.ErrFenced)
		original.end()
		clone.store("of the copy")
		clone.stop()
	})
}

// startsWithin reports whether the server can be started in that time.
func (s *server) startsWithin(d time.Duration, takeOver bool) bool {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return s.startWithin(ctx, takeOver) == nil
}

// mustAppend commits a block that may be lost without a word.
func (s *server) mustAppend(content string) {
	s.w.t.Helper()
	s.w.forgiven[s.store(content)] = true
}

func TestACopyHasNoneOfItsOriginalsClaims(t *testing.T) {
	inWorld(t, func(w *world) {
		original, clone, _ := livingOriginal(w)
		epoch, dirID := original.started.Head.Epoch, original.state().DirID
		clone.mustStart(true)
		state := clone.state()
		for _, claim := range state.Claims {
			if claim.Epoch <= epoch {
				t.Errorf("the copy remembers the claim of epoch %d, which its original made", claim.Epoch)
			}
		}
		if state.DirID == dirID {
			t.Error("the copy has the identity of its original's directory")
		}
		clone.kill()
		original.end()
		clone.mustStart(false) // it is where it last served
		clone.stop()
	})
}

// A copy can be made when its original has recorded a claim and not put it yet.
// The copy then knows that claim's writer. To pass over it would take the log
// from a server that has just been started.
func TestACopyDoesNotPassOverAClaimThatItsOriginalIsMaking(t *testing.T) {
	inWorld(t, func(w *world) {
		original := w.first()
		original.mustStart(false)
		original.stop() // so that a copy is let in
		key := archiver.EpochKey(3)
		original.bucket.Late(key)
		tries := 0
		original.bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, called string) error {
			if op == buckettest.Put && called == key {
				if tries++; tries > 1 {
					return fmt.Errorf("put %s: %w", key, buckettest.ErrInjected)
				}
			}
			return nil
		}})
		if original.startsWithin(time.Second, false) {
			t.Fatal("a server has started without its claim")
		}
		clone := original.clone()
		clone.bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, called string) error {
			if op == buckettest.Put && called == key {
				original.bucket.Land(context.Background(), key)
			}
			return nil
		}})
		expectError(t, clone.start(false), archiver.ErrFenced)
		original.bucket.Set(noFaults)
		original.mustStart(false)
		original.stop()
	})
}

func TestACopyThatCrashesWithItsClaimStaysLossy(t *testing.T) {
	inWorld(t, func(w *world) {
		original, clone, _ := livingOriginal(w)
		for _, prefix := range []string{archiver.EpochPrefix, archiver.LogPrefix} { // before the claim is put, and after
			clone.bucket.Set(failing(buckettest.Put, prefix))
			if clone.startsWithin(time.Second, true) {
				t.Fatal("a server has started that can put nothing")
			}
			if clone.state().Lossy == nil {
				t.Errorf("a copy that failed at %s has forgotten that it is lossy", prefix)
			}
		}
		clone.bucket.Set(noFaults)
		clone.mustStart(false) // the highest claim is its own now
		if !clone.epochStarted().Lossy {
			t.Error("the start after the crash is not lossy")
		}
		original.end()
		clone.stop()
	})
}

// Each of these finds a directory that was not ended in order.
func TestWhatIsACopyAndWhatIsNot(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *server)
		copied bool
	}{
		"nothing happened":                     {func(*server) {}, false},
		"the directory was renamed":            {func(s *server) { s.path = s.w.copyDir(s.path) }, false},
		"another directory":                    {func(s *server) { *s = *s.clone() }, true},
		"a copy put back over the original":    {func(s *server) { s.place.putBack++ }, true},
		"LOCK was removed":                     {func(s *server) { s.place.lockLost++ }, true},
		"a file system that tells nothing now": {func(s *server) { s.place.number = 0 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				s := w.first()
				s.mustStart(false)
				s.lock(machine)
				s.wait()
				s.kill()
				c.change(s)
				err := s.start(false)
				if !c.copied {
					w.must(err)
					if s.epochStarted().Lossy {
						t.Errorf("the start is lossy: %s", s.started.Lossy)
					}
					s.stop()
					return
				}
				expectError(t, err, archiver.ErrTakeOver)
				s.mustStart(true)
				if ev := s.epochStarted(); !ev.Lossy || len(ev.Barred) != 1 {
					t.Errorf("epoch_started is %+v; want it lossy, with the machine barred", ev)
				}
				s.stop()
			})
		})
	}
}

func TestOnlyWhatIsKnownOfTwoPlacesShowsADifference(t *testing.T) {
	id := func(inode uint64, born int64) archiver.FileID { return archiver.FileID{Inode: inode, Born: born} }
	known := archiver.Place{Directory: id(1, 10), Lock: id(2, 20), Record: id(3, 30), Machine: "m"}
	with := func(change func(*archiver.Place)) archiver.Place {
		p := known
		change(&p)
		return p
	}
	for name, c := range map[string]struct {
		place archiver.Place
		want  string
	}{
		"the same":                         {known, ""},
		"nothing is known":                 {archiver.Place{}, ""},
		"the machine alone is known":       {archiver.Place{Machine: "other"}, ""},
		"in a container":                   {with(func(p *archiver.Place) { p.Machine = "" }), ""},
		"the directory's is not known":     {with(func(p *archiver.Place) { p.Directory = id(0, 0) }), ""},
		"the record's is not known":        {with(func(p *archiver.Place) { p.Record = id(0, 0) }), ""},
		"another machine":                  {with(func(p *archiver.Place) { p.Machine = "other" }), "machine"},
		"another directory":                {with(func(p *archiver.Place) { p.Directory = id(4, 40) }), "directory"},
		"an inode that was used again":     {with(func(p *archiver.Place) { p.Directory = id(1, 40) }), "directory"},
		"another LOCK":                     {with(func(p *archiver.Place) { p.Lock = id(2, 21) }), "LOCK"},
		"another LOCK, and no more known":  {archiver.Place{Lock: id(5, 20)}, "LOCK"},
		"another record in the same place": {with(func(p *archiver.Place) { p.Record = id(6, 30) }), "state.json"},
	} {
		for _, got := range []string{archiver.PlaceDiffers(c.place, known), archiver.PlaceDiffers(known, c.place)} {
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%s: what differs is %q, want %q in it", name, got, c.want)
			}
		}
	}
}

func TestAfterACleanEndAnyPlaceWillDo(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.lock(machine)
		s.stop()
		moved := s.clone()
		moved.mustStart(false)
		if ev := moved.epochStarted(); ev.Lossy || ev.Cause != "start" {
			t.Errorf("epoch_started is %+v; want a start that is not lossy", ev)
		}
		moved.kill()
		moved.mustStart(false) // this place is its own now
		moved.stop()
	})
}

// A directory that an earlier build served does not know where it lay.
func TestAStateOfAnEarlierBuildKnowsNoPlace(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.store("a block")
		s.wait()
		s.kill()
		dir, err := s.open()
		w.must(err)
		w.must(dir.Update(func(state *archiver.State) { state.Served = archiver.Place{} }))
		w.must(dir.Close())
		clone := s.clone()
		clone.mustStart(false)
		if clone.state().Served == (archiver.Place{}) {
			t.Error("the start did not record where the directory lies")
		}
		clone.stop()
	})
}

func TestAWALThatIsGoneOrEmptyIsALossAfterAnUncleanEnd(t *testing.T) {
	for name, lose := range map[string]func(w *world, wal string){
		"gone":                     func(w *world, wal string) { w.must(os.RemoveAll(wal)) },
		"empty":                    func(w *world, wal string) { w.must(os.RemoveAll(wal)); w.must(os.Mkdir(wal, 0o700)) },
		"but one prepared is left": func(w *world, wal string) { keepLast(w, wal) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				s := w.first()
				s.mustStart(false)
				s.lock(machine)
				s.wait()
				w.copied = true // nothing here knows what else was acknowledged
				s.kill()
				lose(w, filepath.Join(s.path, "wal"))
				s.mustStart(false)
				ev := s.epochStarted()
				if !ev.Lossy || !slices.Equal(ev.Barred, []eventlog.Seq{machine}) || !strings.Contains(s.started.Lossy, "lost or empty") {
					t.Errorf("epoch_started is %+v, said is %q; want it lossy, with the machine barred", ev, s.started.Lossy)
				}
				s.kill()
				s.mustStart(false)
				if s.epochStarted().Lossy {
					t.Errorf("the start after it is lossy again: %s", s.started.Lossy)
				}
				s.stop()
			})
		})
	}
}

// keepLast removes all generations but the newest, which was prepared ahead.
func keepLast(w *world, wal string) {
	names, err := os.ReadDir(wal)
	w.must(err)
	for _, name := range names[:len(names)-1] {
		w.must(os.RemoveAll(filepath.Join(wal, name.Name())))
	}
}

func TestAnEmptyWALIsNoLossWhereNothingWasWritten(t *testing.T) {
	for name, begin := range map[string]func(w *world) *server{
		"recovered, and never served": func(w *world) *server {
			s := w.first()
			s.mustStart(false)
			s.lock(machine)
			s.stop()
			return w.recovered()
		},
		"removed after a clean end": func(w *world) *server {
			s := w.first()
			s.mustStart(false)
			s.lock(machine)
			s.stop()
			w.must(os.RemoveAll(filepath.Join(s.path, "wal")))
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				s := begin(w)
				// It crashes with its claim, right behind it, and behind the first
				// generation.
				for _, hooks := range []buckettest.Hooks{failing(buckettest.Put, archiver.EpochPrefix), awayAfterClaim(), failing(buckettest.Put, archiver.LogPrefix)} {
					s.bucket.Set(hooks)
					if s.startsWithin(time.Second, false) {
						s.kill() // it served before its epoch_started was shipped
					}
				}
				s.bucket.Set(noFaults)
				s.mustStart(false)
				if s.epochStarted().Lossy {
					t.Errorf("the start is lossy: %s", s.started.Lossy)
				}
				s.stop()
			})
		})
	}
}

// awayAfterClaim is a bucket that goes away once it has a claim.
func awayAfterClaim() buckettest.Hooks {
	var away atomic.Bool
	return buckettest.Hooks{
		Before: func(_ context.Context, op buckettest.Op, key string) error {
			if away.Load() {
				return fmt.Errorf("%s %s: %w", op, key, buckettest.ErrInjected)
			}
			return nil
		},
		After: func(_ context.Context, op buckettest.Op, key string) error {
			if op == buckettest.Put && strings.HasPrefix(key, archiver.EpochPrefix) {
				away.Store(true)
			}
			return nil
		},
	}
}

func TestTheLockNamesHostAndBoot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	dir, err := archiver.CreateStateDir(path, archiver.State{Phase: archiver.PhaseReady})
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close() //nolint:errcheck // the test is over
	_, err = archiver.OpenStateDir(path)
	expectError(t, err, archiver.ErrInUse)
	host, hostErr := os.Hostname()
	if hostErr != nil {
		t.Fatal(hostErr)
	}
	want := fmt.Sprintf("in use by pid %d, host %s", os.Getpid(), host)
	if boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		want += ", boot " + strings.TrimSpace(string(boot))
	}
	if !strings.HasSuffix(err.Error(), want) {
		t.Errorf("the error is %q; want it to end with %q", err, want)
	}
}
