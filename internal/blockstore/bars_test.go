// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/strandline-project/strandline/eventlog"
)

// lossyWorld is a server after a lossy start: alice/laptop held a lock then,
// and is barred; alice/desktop held none.
func lossyWorld(t *testing.T) *world { return lossyWorldAt(t, nil) }

func lossyWorldAt(t *testing.T, clock clockwork.Clock) *world {
	w := newWorld(t, Options{Clock: clock})
	must(t, w.Register(t.Context(), "test", Path{"alice", "desktop"}))
	must(t, w.put(eventlog.KindLock, []byte("old lock")))
	must(t, w.put(eventlog.KindData, []byte("old data")))
	w.restart(w.id(laptop))
	return w
}

func wantsBarred(t *testing.T, err error) *Barred {
	t.Helper()
	var b *Barred
	if !errors.As(err, &b) {
		t.Fatalf("got %v, want Barred", err)
	}
	return b
}

// locks lists alice/laptop's locks.
func (w *world) lockCount() int {
	w.t.Helper()
	names, err := w.names(eventlog.KindLock)
	must(w.t, err)
	return len(names)
}

// clockWorld is lossyWorld with a clock of its own, whose server waits for
// the end of the bar.
func clockWorld(t *testing.T) (*world, *clockwork.FakeClock) {
	clock := clockwork.NewFakeClockAt(time.Now())
	w := lossyWorldAt(t, clock)
	return w, clock
}

// waitsForTheEnd returns when the server waits for the end of a bar.
func waitsForTheEnd(t *testing.T, clock *clockwork.FakeClock) {
	t.Helper()
	must(t, clock.BlockUntilContext(t.Context(), 1))
}

// waitsForNoOldLock returns when all barred machines wait for a new lock.
func (w *world) waitsForNoOldLock(t *testing.T) {
	t.Helper()
	eventually(t, "the old locks are gone", func() bool {
		bars, err := w.Bars(t.Context())
		must(t, err)
		return !slices.ContainsFunc(bars, func(b Bar) bool { return !b.Waiting })
	})
}

// endsWithALock checks that the bar, whose time is over, still refuses all that
// the cut-off session may send, and ends with a new lock.
func (w *world) endsWithALock(t *testing.T) {
	t.Helper()
	for _, kind := range []eventlog.Kind{eventlog.KindData, eventlog.KindIndex, eventlog.KindRoot} {
		b := wantsBarred(t, w.put(kind, []byte("of a session that slept")))
		for _, part := range []string{"new backup", "strandline release alice/laptop", "rustic", "--no-lock"} {
			if !strings.Contains(b.Reason, part) {
				t.Errorf("it does not say %q: %s", part, b.Reason)
			}
		}
	}
	must(t, w.put(eventlog.KindLock, []byte("new lock")))
	must(t, w.put(eventlog.KindRoot, []byte("root")))
	bars, err := w.Bars(t.Context())
	must(t, err)
	if len(bars) != 0 {
		t.Errorf("bars %+v", bars)
	}
}

func TestABarredMachineMayReadAndDeleteItsLocksAndNothingElse(t *testing.T) {
	w := lossyWorld(t)
	for _, kind := range []eventlog.Kind{eventlog.KindData, eventlog.KindIndex, eventlog.KindRoot, eventlog.KindKey, eventlog.KindConfig, eventlog.KindLock} {
		wantsBarred(t, w.put(kind, []byte("new")))
		if kind != eventlog.KindLock {
			wantsBarred(t, w.remove(kind, []byte("old data")))
		}
	}
	got, err := w.get(ref(eventlog.KindData, []byte("old data")))
	must(t, err)
	if string(got) != "old data" {
		t.Fatal("other bytes")
	}
	desktop := Path{"alice", "desktop"}
	must(t, w.Put(t.Context(), "test", desktop, ref(eventlog.KindData, []byte("x")), bytes.NewReader([]byte("x")), 1))
	must(t, w.remove(eventlog.KindLock, []byte("old lock")))
	wantsBarred(t, w.put(eventlog.KindData, []byte("new"))) // still: no new session was begun
}

func TestTheRefusalOfABarTellsAllTheClientNeeds(t *testing.T) {
	w := lossyWorld(t)
	b := wantsBarred(t, w.put(eventlog.KindRoot, []byte("root")))
	bars, err := w.Bars(t.Context())
	must(t, err)
	if len(bars) != 1 || bars[0].Path != laptop || bars[0].Machine != w.id(laptop) {
		t.Fatalf("bars %+v", bars)
	}
	for _, part := range []string{
		"alice/laptop", bars[0].Lost.UTC().Format(time.RFC3339), bars[0].Until.UTC().Format("2006-01-02T15:04"),
		"--no-lock", "restic unlock", "strandline release alice/laptop",
	} {
		if !strings.Contains(b.Reason, part) {
			t.Errorf("it does not say %q: %s", part, b.Reason)
		}
	}
	if b.Machine != "alice/laptop" {
		t.Errorf("machine %q", b.Machine)
	}
}

func TestABarEndsWithANewLockAfterTheOldOnesAreGone(t *testing.T) {
	w := lossyWorld(t)
	must(t, w.remove(eventlog.KindLock, []byte("old lock")))
	must(t, w.put(eventlog.KindLock, []byte("new lock")))
	must(t, w.put(eventlog.KindData, []byte("new data")))
	history := w.history()
	for i, ev := range history {
		if ev.Type != eventlog.HoldReleased {
			continue
		}
		next := history[i+1]
		if next.Type != eventlog.BlockStored || next.Kind != eventlog.KindLock || ev.Machine != w.id(laptop) {
			t.Fatalf("%+v is followed by %+v", ev, next)
		}
		return
	}
	t.Fatal("the bar was not lifted by an event")
}

func TestParallelNewLocksLiftABarOnce(t *testing.T) {
	w := lossyWorld(t)
	must(t, w.remove(eventlog.KindLock, []byte("old lock")))
	var results []<-chan error
	for i := range 8 {
		results = append(results, later(func() error { return w.put(eventlog.KindLock, bytesOf(i, 20)) }))
	}
	for _, result := range results {
		must(t, <-result)
	}
	if n := w.count(eventlog.HoldReleased); n != 1 || w.lockCount() != 8 {
		t.Fatalf("%d releases, %d locks", n, w.lockCount())
	}
}

func TestTheOperatorReleasesAMachine(t *testing.T) {
	w := lossyWorld(t)
	released, err := w.Release(t.Context(), "operator", laptop)
	must(t, err)
	if !released || w.lockCount() != 0 {
		t.Fatalf("released %v, %d locks left", released, w.lockCount())
	}
	if w.events.Archived() < w.committed() {
		t.Error("it is not archived")
	}
	must(t, w.put(eventlog.KindData, []byte("new")))
	released, err = w.Release(t.Context(), "operator", laptop)
	must(t, err)
	if released {
		t.Fatal("released twice")
	}
	_, err = w.Release(t.Context(), "operator", Path{"bob", "x"})
	wants(t, err, ErrNoMachine)
}

func TestABarEndsAfterThirtyMinutesOfServing(t *testing.T) {
	w, clock := clockWorld(t)
	waitsForTheEnd(t, clock)
	clock.Advance(barTime - time.Second)
	wantsBarred(t, w.put(eventlog.KindRoot, []byte("root")))
	if w.lockCount() != 1 {
		t.Fatal("the lock went too early")
	}
	clock.Advance(time.Second)
	w.waitsForNoOldLock(t)
	// The session that slept through the bar finds its lock gone: the block view
	// may follow the machine view, which tells of bars, a moment later.
	eventually(t, "the old lock is no longer listed", func() bool { return w.lockCount() == 0 })
	if n := w.count(eventlog.HoldReleased); n != 0 {
		t.Fatalf("%d bars were lifted, and no new session was seen", n)
	}
	w.endsWithALock(t)
	for _, ev := range w.history() {
		if ev.Type == eventlog.BlockDeleted && ev.Kind == eventlog.KindLock && ev.Actor != "server" {
			t.Errorf("%+v", ev)
		}
	}
}

func TestASessionThatSleptThroughABarIsRefusedAfterARestartToo(t *testing.T) {
	w, clock := clockWorld(t)
	waitsForTheEnd(t, clock)
	clock.Advance(barTime)
	w.waitsForNoOldLock(t)
	w.restart()
	w.endsWithALock(t) // at once: the old locks are gone
	w.restart()
	must(t, w.put(eventlog.KindRoot, []byte("another root")))
}

func TestTheOperatorReleasesAMachineWhoseClientHoldsNoLocks(t *testing.T) {
	w, clock := clockWorld(t)
	waitsForTheEnd(t, clock)
	clock.Advance(barTime)
	w.waitsForNoOldLock(t)
	wantsBarred(t, w.put(eventlog.KindRoot, []byte("root")))
	released, err := w.Release(t.Context(), "operator", laptop)
	must(t, err)
	if !released {
		t.Error("it was not barred")
	}
	must(t, w.put(eventlog.KindRoot, []byte("root")))
}

func TestTheTimeOfABarBeginsAnewAfterARestart(t *testing.T) {
	w, clock := clockWorld(t)
	waitsForTheEnd(t, clock)
	clock.Advance(barTime - time.Minute)
	w.restart() // not lossy, but the bar stands in the view
	waitsForTheEnd(t, clock)
	clock.Advance(barTime - time.Minute)
	wantsBarred(t, w.put(eventlog.KindRoot, []byte("root")))
	clock.Advance(time.Minute)
	w.waitsForNoOldLock(t)
	w.endsWithALock(t)
}

func TestASecondLossKeepsTheBarAndALaterLockIsOld(t *testing.T) {
	w := lossyWorld(t)
	w.restart(w.id(laptop))
	wantsBarred(t, w.put(eventlog.KindLock, []byte("new lock")))
	_, err := w.Release(t.Context(), "operator", laptop)
	must(t, err)
	must(t, w.put(eventlog.KindLock, []byte("new lock")))
	w.restart(w.id(laptop))
	wantsBarred(t, w.put(eventlog.KindLock, []byte("newer lock")))
	must(t, w.remove(eventlog.KindLock, []byte("new lock")))
	must(t, w.put(eventlog.KindLock, []byte("newer lock")))
}

func TestOldLocksThatCannotBeDeletedAreTriedAgain(t *testing.T) {
	w, clock := clockWorld(t)
	failures := 0
	w.intercept(func(ev eventlog.Event, body *eventlog.Body, real func(eventlog.Event, *eventlog.Body) promise) promise {
		if ev.Type == eventlog.BlockDeleted && failures == 0 {
			failures++
			return result{err: errors.New("not now")}
		}
		return real(ev, body)
	})
	waitsForTheEnd(t, clock)
	clock.Advance(barTime)
	waitsForTheEnd(t, clock) // of the pause after the failure
	wantsBarred(t, w.put(eventlog.KindRoot, []byte("root")))
	if w.lockCount() != 1 {
		t.Fatal("the lock is gone although its delete failed")
	}
	clock.Advance(barRetry)
	w.waitsForNoOldLock(t)
	w.endsWithALock(t)
}

func TestNoBarIsLiftedBeforeServing(t *testing.T) {
	clock := clockwork.NewFakeClockAt(time.Now())
	w := emptyWorld(t, Options{Clock: clock})
	w.hold = true
	w.start(nil)
	w.SetMode(Serving, "")
	must(t, w.Register(t.Context(), "test", laptop))
	must(t, w.put(eventlog.KindLock, []byte("old lock")))
	w.restart(w.id(laptop))
	clock.Advance(2 * barTime) // nobody waits for it
	bars, err := w.Bars(t.Context())
	must(t, err)
	if len(bars) != 1 || !bars[0].Until.IsZero() {
		t.Fatalf("bars %+v", bars)
	}
	w.SetMode(Serving, "")
	b := wantsBarred(t, w.put(eventlog.KindRoot, []byte("root")))
	if !strings.Contains(b.Reason, clock.Now().Add(barTime).UTC().Format(time.RFC3339)) {
		t.Errorf("it does not say until when: %s", b.Reason)
	}
	waitsForTheEnd(t, clock)
	clock.Advance(barTime - time.Second)
	if n := w.count(eventlog.HoldReleased) + w.count(eventlog.BlockDeleted); n != 0 {
		t.Fatalf("%d events ended a bar early", n)
	}
}
