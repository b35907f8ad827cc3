// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

// situation is what a start finds.
type situation struct {
	name     string
	make     func(w *world) *server // what is about to start
	takeOver bool
	barred   bool // in the end a lossy epoch_started has barred the machine
}

var situations = []situation{
	{name: "a fresh log", make: func(w *world) *server { return w.first() }},
	{name: "a clean end", make: func(w *world) *server {
		s := w.first()
		s.mustStart(false)
		s.lock(machine)
		s.stop()
		return s
	}},
	{name: "a kill with a backlog", make: killed},
	{name: "a hand-over to another directory", make: func(w *world) *server {
		s := w.first()
		s.mustStart(false)
		s.lock(machine)
		s.stop()
		return w.recovered()
	}},
	{name: "a lost machine", takeOver: true, barred: true, make: func(w *world) *server {
		lostMachine(w)
		return w.recovered()
	}},
	{name: "a dead server that comes back", takeOver: true, barred: true, make: func(w *world) *server {
		dead := lostMachine(w)
		s := w.recovered()
		s.mustStart(true)
		s.stop()
		return dead
	}},
	{name: "a dead server that comes back before its successor served", takeOver: true, barred: true, make: func(w *world) *server {
		dead := lostMachine(w)
		s := w.recovered()
		s.bucket.Set(failing(buckettest.Put, archiver.LogPrefix))
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := s.startWithin(ctx, true); err == nil {
			w.t.Fatalf("a server has started that can put nothing")
		}
		return dead
	}},
	{name: "a disk rolled back", barred: true, make: func(w *world) *server {
		s := w.first()
		s.mustStart(false)
		s.lock(machine)
		s.wait()
		old := s.twin()
		s.store("archived after the snapshot")
		s.wait()
		s.store("committed after the snapshot")
		s.kill()
		return old
	}},
	{name: "a WAL that differs", takeOver: true, barred: true, make: differing},
	{name: "an old server's last word", takeOver: true, barred: true, make: func(w *world) *server {
		word := lastWord(w)
		s := w.recovered()
		s.step = func(what string) { // behind the list, before epoch_started
			if strings.HasPrefix(what, "the views begin") {
				word.land()
			}
		}
		return s
	}},
}

// killed is a server that was killed with two closed generations and an open
// one that are not archived.
func killed(w *world) *server {
	s := w.first()
	s.mustStart(false)
	s.lock(machine)
	s.wait()
	s.bucket.Away()
	for range 2 {
		s.store("closed")
		time.Sleep(6 * time.Second)
	}
	s.store("open")
	s.kill()
	return s
}

// differing is a dead server whose open generation was shipped by a copy of its
// directory, with one event less, and nothing after it.
func differing(w *world) *server {
	s := w.first()
	s.mustStart(false)
	s.lock(machine)
	s.wait()
	s.bucket.Set(failing(buckettest.Put, archiver.LogPrefix))
	s.store("first")
	clone := s.twin()
	w.forgiven[s.store("second")] = true // the copy cannot know of it
	s.kill()
	puts := 0
	clone.bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
		if op == buckettest.Put && strings.HasPrefix(key, archiver.LogPrefix) {
			if puts++; puts > 1 {
				return fmt.Errorf("put %s: %w", key, buckettest.ErrInjected)
			}
		}
		return nil
	}})
	clone.mustStart(false)
	time.Sleep(time.Minute)
	clone.kill()
	delete(w.seen, clone.started.Last) // nobody outside that directory has seen it
	return s
}

// recorder takes an image of directory and bucket at every step of a server.
type recorder struct {
	s      *server
	images []image
}

// image is what a crash leaves at one moment.
type image struct {
	moment string
	path   string
	place  place
	world  *world
}

func record(s *server) *recorder {
	r := &recorder{s: s}
	before := s.step
	s.step = func(what string) {
		if before != nil {
			before(what)
		}
		r.take(what)
	}
	s.bucket.Set(buckettest.Hooks{
		Before: func(_ context.Context, op buckettest.Op, key string) error { r.call("before", op, key); return nil },
		After:  func(_ context.Context, op buckettest.Op, key string) error { r.call("after", op, key); return nil },
	})
	return r
}

func (r *recorder) call(when string, op buckettest.Op, key string) {
	if op != buckettest.Get { // that changes nothing, and some run side by side
		r.take(fmt.Sprintf("%s %s %s", when, op, key))
	}
}

func (r *recorder) take(moment string) {
	synctest.Wait()
	w := r.s.w
	r.images = append(r.images, image{
		moment: fmt.Sprintf("%s (%d)", moment, len(r.images)),
		path:   w.copyDir(r.s.path), place: *r.s.place, world: w.fork(w.root + "/fork"),
	})
}

func TestAStartThatCrashesAtAnyStepIsFinishedByTheNext(t *testing.T) {
	for _, situation := range situations {
		t.Run(situation.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				s := situation.make(w)
				r := record(s)
				s.mustStart(situation.takeOver)
				s.step = nil // from here on two goroutines are at work
				s.store("after the start")
				s.wait()
				s.bucket.Set(noFaults)
				s.expectBarred(situation.barred)
				s.kill()
				for i, image := range r.images {
					situation.goOn(w, i, image)
				}
			})
		})
	}
}

// goOn starts again from an image, twice.
func (c *situation) goOn(w *world, i int, image image) {
	w.t.Helper()
	fork := image.world
	fork.root = fmt.Sprintf("%s/fork-%d", w.root, i)
	defer fork.endAll()
	fork.t = annotated{w.t, "crash " + image.moment}
	s := fork.atPlace(image.path, &image.place)
	s.mustStart(c.takeOver)
	s.store("after the crash")
	s.wait()
	s.check()
	s.kill()
	s.mustStart(false)
	s.expectBarred(c.barred)
	s.stop()
	fork.archive()
}

// annotated says at which moment something was.
type annotated struct {
	tester
	moment string
}

// Fatalf ends the test.
func (a annotated) Fatalf(format string, args ...any) {
	a.Helper()
	a.tester.Fatalf("%s: %s", a.moment, fmt.Sprintf(format, args...))
}

// expectBarred checks that the loss of the machine's session is part of
// history, or that there was none. (A lock that never reached the archive is
// one that nobody can know of.)
func (s *server) expectBarred(barred bool) {
	s.w.t.Helper()
	known := false
	for _, e := range s.entries() {
		known = known || e.Event.Kind == eventlog.KindLock
		if e.Event.Lossy && slices.Contains(e.Event.Barred, machine) {
			if !barred {
				s.w.t.Fatalf("epoch_started %s bars the machine though nothing of it was lost", e.Event.Seq)
			}
			return
		}
	}
	if barred && known {
		s.w.t.Fatalf("no epoch_started bars the machine whose session was interrupted")
	}
}

func TestInitThatCrashesAtAnyStepIsFinishedByTheNext(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.at(w.newPath())
		dir, err := archiver.CreateStateDirAt(s.path, archiver.State{LogID: w.logID, DirID: archiver.NewID(), Phase: archiver.PhaseInitialising}, s.place.identify)
		w.must(err)
		w.must(dir.Close())
		r := record(s)
		w.must(s.init())
		for i, image := range r.images {
			fork := image.world
			fork.root = fmt.Sprintf("%s/fork-%d", w.root, i)
			fork.t = annotated{w.t, "crash " + image.moment}
			again := fork.atPlace(image.path, &image.place)
			w.must(again.init())
			w.must(again.init()) // and once more: it is done
			again.mustStart(false)
			if again.started.Last.Epoch() != 2 {
				t.Errorf("crash %s: the first start has epoch %d", image.moment, again.started.Last.Epoch())
			}
			again.stop()
		}
	})
}
