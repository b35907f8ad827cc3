// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit"
	"github.com/strandline-project/strandline/projector"
)

func TestDigestsAreRecordedAndHold(t *testing.T) {
	w := emptyWorld(t, Options{Ack: AckCommitted})
	w.every = 10
	w.start(nil)
	w.recorder.Begin()
	must(t, w.Register(t.Context(), "test", laptop))
	for records := 1; records <= 5; records++ {
		for i := range int(w.every) {
			must(t, w.put(eventlog.KindData, bytesOf(100*records+i, 10)))
		}
		eventually(t, "one more record", func() bool { return w.count(eventlog.StateRecorded) > records })
	}
	closeStore(t, w)
	must(t, w.recorder.Close(t.Context()))
	w.settle()
	for i, view := range []*projector.View{w.machines.View, w.blocks.View} {
		if err := w.runners[i].Err(); err != nil {
			t.Fatal(err)
		}
		if compared, skipped := view.Recorded(); compared < 5 || skipped != 0 {
			t.Errorf("the %s view compared %d and skipped %d", view.Name(), compared, skipped)
		}
	}
	history := w.history()
	last := history[len(history)-1]
	if last.Type != eventlog.StateRecorded || len(last.Views) != 2 || last.Views[0].AsOf != last.Seq-1 {
		t.Errorf("the end is %+v", last)
	}
	var previous eventlog.Seq
	for _, ev := range history[:len(history)-1] {
		if ev.Type != eventlog.StateRecorded {
			continue
		}
		for _, state := range ev.Views {
			if state.AsOf != previous && state.AsOf != ev.Seq-1 {
				t.Errorf("record %s is as of %s, the one before is %s", ev.Seq, state.AsOf, previous)
			}
		}
		previous = ev.Seq
	}
	w.reproject()
}

func closeStore(t *testing.T, w *world) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	must(t, w.Close(ctx))
}

func TestNothingIsRecordedWhenNothingHappened(t *testing.T) {
	w := newWorld(t, Options{})
	clock := clockwork.NewFakeClock()
	w.recorder.clock = clock
	w.recorder.Begin()
	w.settle()
	if n := w.count(eventlog.StateRecorded); n != 1 {
		t.Fatalf("%d records at the start", n)
	}
	// intervals lets n intervals go by, and the recorder wait for the next.
	intervals := func(n int) {
		must(t, clock.BlockUntilContext(t.Context(), 1))
		for range n {
			clock.Advance(recordInterval)
			must(t, clock.BlockUntilContext(t.Context(), 1))
		}
	}
	intervals(3)
	if n := w.count(eventlog.StateRecorded); n != 1 {
		t.Fatalf("%d records in silence", n)
	}
	must(t, w.put(eventlog.KindData, []byte("x")))
	intervals(2)
	if n := w.count(eventlog.StateRecorded); n != 2 {
		t.Fatalf("%d records after one event", n)
	}
	closeStore(t, w)
	must(t, w.recorder.Close(t.Context()))
	// A clean end is one more event, so that its object is not empty.
	if n := w.count(eventlog.StateRecorded); n != 3 {
		t.Fatalf("%d records at the end", n)
	}
}

func TestAStoppedViewEndsTheRecordingWithAReason(t *testing.T) {
	w := newWorld(t, Options{})
	w.recorder.Begin()
	must(t, w.put(eventlog.KindData, []byte("x")))
	w.still.shut()
	before := w.committed()
	pending := later(func() error { return w.put(eventlog.KindData, []byte("y")) })
	must(t, w.events.WaitCommitted(t.Context(), before))
	w.stopView()
	wantsUnavailable(t, <-pending)
	if err := w.recorder.Close(t.Context()); err == nil {
		t.Fatal("a digest of a stopped view was recorded")
	}
}

// laggard is a view that has passed the record kept, and no later one.
type laggard struct {
	*projector.View
	kept eventlog.Seq
}

func (v laggard) Kept() (eventlog.Seq, projector.Digest) { return v.kept, projector.Digest{} }

func TestAViewThatHasNotPassedTheLastRecordIsLeftOutOfTheNext(t *testing.T) {
	w := newWorld(t, Options{})
	first := w.committed()
	recorder := NewRecorder(w.events, []Recorded{w.machines.View, laggard{w.blocks.View, first - 1}}, nil, 0, quiet)
	recorder.last = first
	must(t, w.put(eventlog.KindData, []byte("x")))
	must(t, recorder.recordPrevious())
	w.settle()
	history := w.history()
	if last := history[len(history)-1]; last.Type != eventlog.StateRecorded || len(last.Views) != 0 {
		t.Errorf("recorded %+v", last)
	}
	before := recorder.last
	must(t, w.put(eventlog.KindData, []byte("y")))
	must(t, recorder.recordPrevious())
	history = w.history()
	if last := history[len(history)-1]; len(last.Views) != 1 || last.Views[0].Name != "machine" || last.Views[0].AsOf != before {
		t.Errorf("recorded %+v", last)
	}
}

// refusing is a log that refuses records for a while, for a reason that may pass.
type refusing struct {
	*eventlog.Log
	mu   sync.Mutex
	left int // owned by mu; records still to be refused
}

func (l *refusing) Append(ev eventlog.Event, body *eventlog.Body) *eventlog.Pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left > 0 {
		l.left--
		ev.Type = eventlog.Type(255) // no log takes that in
	}
	return l.Log.Append(ev, body)
}

func TestARecordThatIsRefusedIsWrittenLater(t *testing.T) {
	w := newWorld(t, Options{})
	clock := clockwork.NewFakeClock()
	log := &refusing{Log: w.events}
	recorder := NewRecorder(log, []Recorded{w.machines.View, w.blocks.View}, w.opts.Views, 1<<20, quiet)
	recorder.clock = clock
	w.settle()
	recorder.Begin()
	w.settle()
	must(t, w.put(eventlog.KindData, []byte("x")))
	log.mu.Lock()
	log.left = 2
	log.mu.Unlock()
	before := w.count(eventlog.StateRecorded)
	for _, pause := range []time.Duration{recordInterval, recordPause, recordInterval, recordPause, recordInterval} {
		must(t, clock.BlockUntilContext(t.Context(), 1))
		clock.Advance(pause)
	}
	must(t, clock.BlockUntilContext(t.Context(), 1))
	if n := w.count(eventlog.StateRecorded); n != before+1 {
		t.Errorf("%d records after two that were refused, want 1", n-before)
	}
	must(t, recorder.Close(t.Context()))
}

func TestWhatTheLogCannotTakeNowIsToldApart(t *testing.T) {
	w := newWorld(t, Options{})
	for _, c := range []struct {
		err      error
		diskFull bool
	}{{eventlog.ErrNotNow, false}, {eventlog.ErrDiskFull, true}} {
		w.intercept(func(eventlog.Event, *eventlog.Body, func(eventlog.Event, *eventlog.Body) promise) promise {
			return refusedPromise{fmt.Errorf("%w: %w", c.err, syscall.EMFILE)}
		})
		err := w.put(eventlog.KindData, []byte("x"))
		if c.diskFull {
			wants(t, err, ErrDiskFull)
		} else {
			wantsUnavailable(t, err)
		}
		w.intercept(nil)
		must(t, w.put(eventlog.KindData, []byte("x"))) // its locks were let go
		must(t, w.Delete(t.Context(), "test", laptop, ref(eventlog.KindData, []byte("x"))))
	}
}

// refusedPromise is an append that is certainly not in the log.
type refusedPromise struct{ err error }

func (p refusedPromise) Wait() (eventlog.Seq, error) { return 0, p.err }
