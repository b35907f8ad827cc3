// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

// archivedServer runs, with several archived generations at hand that are old
// enough to go.
func archivedServer(w *world) *server {
	s := w.first()
	s.mustStart(false)
	for range 4 {
		s.store(strings.Repeat("a block ", 100))
		s.wait()
	}
	time.Sleep(11 * time.Minute)
	return s
}

func TestTheJanitorKeepsToItsBudgetAndTheLastGeneration(t *testing.T) {
	inWorld(t, func(w *world) {
		s := archivedServer(w)
		gens := s.log.Local()
		s.janitor.Budget = gens[len(gens)-1].Size() + gens[len(gens)-2].Size()
		w.must(s.janitor.Round(context.Background()))
		if left := s.log.Local(); len(left) != 2 || left[0] != gens[len(gens)-2] {
			t.Errorf("%d generations are left, the first is %s; want the last two", len(left), left[0])
		}
		s.janitor.Budget = 0
		w.must(s.janitor.Round(context.Background()))
		if left := s.log.Local(); len(left) != 1 || left[0] != gens[len(gens)-1] {
			t.Errorf("%d generations are left; want the last one", len(left))
		}
		s.check() // Follow goes on in the archive
		s.store("after")
		s.kill()
		s.mustStart(false)
		if s.epochStarted().Lossy {
			t.Errorf("a restart after drops is lossy: %s", s.started.Lossy)
		}
		s.stop()
	})
}

func TestTheJanitorLeavesWhatIsYoungOrNotSeenInTheArchive(t *testing.T) {
	for name, arrange := range map[string]func(w *world, s *server, key string){
		"too young":    func(_ *world, s *server, _ string) { s.janitor.MinAge = time.Hour },
		"not archived": func(_ *world, s *server, _ string) { s.janitor.Log = unarchived{s.janitor.Log} },
		"hidden from the list": func(_ *world, s *server, key string) {
			s.bucket.Set(buckettest.Hooks{Hide: func(k string) bool { return k == key }})
		},
		"gone":            func(w *world, _ *server, key string) { w.bucket.Remove(key) },
		"damaged":         func(w *world, _ *server, key string) { flipEnd(w.bucket, key) },
		"of another size": func(w *world, _ *server, key string) { w.bucket.Set(key, []byte("short")) },
		"closed at another time": func(w *world, _ *server, key string) {
			another(w, key, func(_ []byte, t *eventlog.Trailer) { t.ClosedAt++ })
		},
		"with another payload": func(w *world, _ *server, key string) {
			another(w, key, func(data []byte, t *eventlog.Trailer) {
				data[t.FooterOffset-1]++
				t.PayloadSum = eventlog.Checksum(data[:t.FooterOffset])
			})
		},
		"no answer": func(_ *world, s *server, _ string) { s.bucket.Set(failing(buckettest.Get, archiver.LogPrefix)) },
	} {
		for _, full := range []bool{false, true} {
			if full && name == "too young" {
				continue
			}
			t.Run(fmt.Sprintf("%s, the disk is full: %v", name, full), func(t *testing.T) {
				inWorld(t, func(w *world) {
					s := archivedServer(w)
					gens := s.log.Local()
					if full {
						s.janitor.Log, s.janitor.MinAge = &pressedLog{Log: s.log, wants: 1 << 40}, time.Hour
					}
					arrange(w, s, archiver.Shipped(gens[0].Ordinal).Key())
					err := s.janitor.Round(context.Background())
					if quiet := name == "too young" || name == "not archived"; (err == nil) != quiet {
						t.Errorf("the round ended with %v", err)
					}
					if left := s.log.Local(); len(left) != len(gens) {
						t.Errorf("%d of %d generations are left", len(left), len(gens))
					}
				})
			})
		}
	}
}

// pressedLog is a log whose disk wants room.
type pressedLog struct {
	archiver.Log
	pressed chan struct{}
	wants   int64
}

func (l *pressedLog) Pressed() <-chan struct{}  { return l.pressed }
func (l *pressedLog) WantsRoom() (int64, error) { return l.wants, nil }

func TestWhenTheDiskIsNearlyFullYoungCopiesGoToo(t *testing.T) {
	inWorld(t, func(w *world) {
		s := archivedServer(w)
		gens := s.log.Local()
		s.janitor.MinAge, s.janitor.Budget = time.Hour, 1<<40
		disk := &pressedLog{Log: s.log, wants: gens[0].Size() + 1}
		s.janitor.Log = disk
		w.must(s.janitor.Round(context.Background()))
		if left := s.log.Local(); len(left) != len(gens)-2 || left[0] != gens[2] {
			t.Errorf("%d of %d generations are left; the room of two is wanted", len(left), len(gens))
		}
		disk.wants = 1 << 40
		w.must(s.janitor.Round(context.Background()))
		if left := s.log.Local(); len(left) != 1 {
			t.Errorf("%d generations are left; want the last one", len(left))
		}
		s.check()
		s.stop()
	})
}

// The janitor does not wait for its next round then, nor does it go round and
// round when that frees nothing.
func TestTheJanitorWorksAtOnceWhenTheDiskIsNearlyFull(t *testing.T) {
	inWorld(t, func(w *world) {
		s := archivedServer(w)
		s.janitor.Every, s.janitor.MinAge, s.janitor.Budget = time.Hour, time.Hour, 1<<40
		disk := &pressedLog{Log: s.log, pressed: make(chan struct{}), wants: 1 << 40}
		s.janitor.Log = disk
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); s.janitor.Run(ctx) }()
		s.bucket.Away()
		disk.pressed <- struct{}{}
		began := time.Now()
		disk.pressed <- struct{}{}
		if waited := time.Since(began); waited < time.Second {
			t.Errorf("after a round in vain the next one begins after %v", waited)
		}
		if len(s.log.Local()) == 1 {
			t.Error("generations were dropped while the archive was away")
		}
		s.bucket.Set(noFaults)
		disk.pressed <- struct{}{}
		disk.pressed <- struct{}{} // the round before it is over
		if left := len(s.log.Local()); left != 1 {
			t.Errorf("%d generations are left; want 1", left)
		}
		cancel()
		<-done
		s.stop()
	})
}

func flipEnd(b *buckettest.Memory, key string) {
	data, _ := b.Get(key)
	b.Flip(key, (len(data)-200)*8)
}

// another puts a whole object in the place of one: of its size, and with a
// trailer that fits it.
func another(w *world, key string, change func(data []byte, t *eventlog.Trailer)) {
	data, _ := w.bucket.Get(key)
	data = bytes.Clone(data)
	end := len(data) - eventlog.TrailerSize
	trailer, err := eventlog.DecodeTrailer(data[end:])
	w.must(err)
	change(data, trailer)
	w.bucket.Set(key, eventlog.AppendTrailer(data[:end], trailer))
}

// unarchived is a log of which nothing is archived.
type unarchived struct{ archiver.Log }

func (unarchived) Archived() eventlog.Seq { return 0 }

func TestAStartFindsWhatADropHasLeft(t *testing.T) {
	for name, leave := range map[string]func(path string) error{
		"all":                func(string) error { return nil },
		"no payload":         func(path string) error { return os.Remove(filepath.Join(path, "payload")) },
		"no frames":          func(path string) error { return os.Remove(filepath.Join(path, segment)) },
		"an empty directory": func(path string) error { return os.RemoveAll(path + "/payload") },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				s := archivedServer(w)
				s.janitor.Budget = 1 << 30
				w.must(s.janitor.Round(context.Background())) // records what is archived, drops nothing
				if mark := s.state().Archived; mark == nil || mark.Seq != s.log.Archived() {
					t.Fatalf("the mark is %+v, archived is %s", mark, s.log.Archived())
				}
				s.kill()
				path := s.generations()[0]
				w.must(leave(path))
				if name == "an empty directory" {
					w.must(os.Remove(filepath.Join(path, segment)))
				}
				s.mustStart(false)
				if s.epochStarted().Lossy {
					t.Errorf("the start is lossy: %s", s.started.Lossy)
				}
				s.store("after")
				s.stop()
			})
		})
	}
}

func TestTheJanitorWorksUntilItIsTold(t *testing.T) {
	inWorld(t, func(w *world) {
		s := archivedServer(w)
		s.janitor.Every = time.Minute
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); s.janitor.Run(ctx) }()
		s.bucket.Away() // a round that fails is no end
		time.Sleep(3 * time.Minute)
		if len(s.log.Local()) == 1 {
			t.Error("generations were dropped while the archive was away")
		}
		s.bucket.Set(noFaults)
		time.Sleep(3 * time.Minute)
		if left := len(s.log.Local()); left != 1 {
			t.Errorf("%d generations are left; want 1", left)
		}
		cancel()
		<-done
		s.stop()
	})
}

// empty takes the content out of a file, until the function returned is
// called.
func (w *world) empty(path string) (restore func()) {
	data, err := os.ReadFile(path)
	w.must(err)
	w.must(os.Truncate(path, 0))
	return func() { w.must(os.WriteFile(path, data, 0o600)) }
}
