// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/strandline-project/strandline/eventlog"
)

// answered says whether do waits for the archive, which is away until then.
func (w *world) answered(t *testing.T, do func() error) (waits bool) {
	t.Helper()
	w.away.shut()
	result := later(do)
	waits = true
	select {
	case err := <-result:
		must(t, err)
		waits = false
	case <-w.waiting():
	}
	w.away.lift()
	if waits {
		must(t, <-result)
	}
	return waits
}

// waiting is closed when somebody waits for the archive: the committer has
// closed a generation that is not archived.
func (w *world) waiting() <-chan struct{} {
	done := make(chan struct{})
	shipped, log := w.shipped.Load(), w.events
	go func() {
		defer close(done)
		_, _ = log.NextClosed(context.Background(), shipped) // ends with the log, at the latest
	}()
	return done
}

func TestWhichAnswersWaitForTheArchive(t *testing.T) {
	kinds := []eventlog.Kind{eventlog.KindData, eventlog.KindIndex, eventlog.KindRoot, eventlog.KindKey, eventlog.KindLock, eventlog.KindConfig}
	stores := map[Ack]string{
		AckCommitPoints: ".irklc", // data is answered when committed, within a session
		AckArchived:     "dirklc",
		AckCommitted:    "......",
	}
	deletes := map[Ack]string{
		AckCommitPoints: "...k.c",
		AckArchived:     "dirklc",
		AckCommitted:    "......",
	}
	for ack, want := range stores {
		for i, kind := range kinds {
			t.Run(fmt.Sprintf("ack %d of %s", ack, kind), func(t *testing.T) {
				w := newWorld(t, Options{Ack: ack})
				must(t, w.put(eventlog.KindLock, []byte("session")))
				must(t, w.events.WaitArchived(t.Context(), w.committed()))
				content := bytesOf(1, 100)
				if got := w.answered(t, func() error { return w.put(kind, content) }); got != (want[i] != '.') {
					t.Errorf("store: waits %v", got)
				}
				if got := w.answered(t, func() error { return w.remove(kind, content) }); got != (deletes[ack][i] != '.') {
					t.Errorf("delete: waits %v", got)
				}
			})
		}
	}
}

func (w *world) committed() eventlog.Seq {
	seq, _ := w.events.Committed()
	return seq
}

func TestDataWithoutAYoungArchivedLockWaitsForTheArchive(t *testing.T) {
	cases := map[string]struct {
		lock  bool
		later time.Duration // by the wall clock, after the lock
		waits bool
	}{
		"no lock":                            {false, 0, true},
		"a lock of 24 minutes":               {true, 24 * time.Minute, false},
		"a lock of 26 minutes":               {true, 26 * time.Minute, true},
		"the clock has jumped an hour ahead": {true, time.Hour, true},
		"the clock has gone back":            {true, -time.Hour, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			clock := clockwork.NewFakeClockAt(time.Now())
			w := newWorld(t, Options{Clock: clock})
			if c.lock {
				must(t, w.put(eventlog.KindLock, []byte("lock")))
			}
			clock.Advance(c.later)
			if got := w.answered(t, func() error { return w.put(eventlog.KindData, bytesOf(1, 10)) }); got != c.waits {
				t.Errorf("it waits: %v", got)
			}
		})
	}
}

func TestAClockThatWentAheadAndBackMakesNoOldLockYoung(t *testing.T) {
	clock := clockwork.NewFakeClockAt(time.Now())
	w := newWorld(t, Options{Clock: clock})
	must(t, w.put(eventlog.KindLock, []byte("lock")))
	clock.Advance(time.Hour)
	must(t, w.put(eventlog.KindData, bytesOf(1, 10)))
	clock.Advance(-time.Hour)
	if !w.answered(t, func() error { return w.put(eventlog.KindData, bytesOf(2, 10)) }) {
		t.Fatal("it did not wait")
	}
}

func TestALockThatIsNotArchivedMakesNoSession(t *testing.T) {
	w := newWorld(t, Options{})
	w.away.shut()
	lock := later(func() error { return w.put(eventlog.KindLock, []byte("lock")) })
	eventually(t, "the lock is seen", func() bool { names, err := w.names(eventlog.KindLock); return err == nil && len(names) == 1 })
	data := later(func() error { return w.put(eventlog.KindData, []byte("data")) })
	eventually(t, "the data is seen", func() bool { names, err := w.names(eventlog.KindData); return err == nil && len(names) == 1 })
	select {
	case err := <-data:
		t.Fatalf("data was answered before the lock was archived: %v", err)
	case <-time.After(20 * time.Millisecond): // nothing to wait for: it must not come
	}
	w.away.lift()
	must(t, <-lock)
	must(t, <-data)
}

func TestAnAnswerThatNeedsNoEventWaitsForTheOneThatMadeItTrue(t *testing.T) {
	for name, again := range map[string]func(w *world) error{
		"stored again":  func(w *world) error { return w.put(eventlog.KindKey, []byte("key")) },
		"deleted again": func(w *world) error { return w.remove(eventlog.KindKey, []byte("key")) },
		"registered again": func(w *world) error {
			return w.Register(context.Background(), "test", Path{"bob", "new"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{AckTimeout: 50 * time.Millisecond})
			if name == "deleted again" {
				must(t, w.put(eventlog.KindKey, []byte("key")))
			}
			w.away.shut()
			wantsUnavailable(t, again(w)) // the first time, it makes the event
			events := w.committed()
			wantsUnavailable(t, again(w))
			if w.committed() != events {
				t.Fatal("a second event")
			}
			w.away.lift()
			must(t, again(w))
			if w.committed() != events {
				t.Fatal("a second event")
			}
		})
	}
}

func TestAnArchiveThatIsAwayIsA503AndNothingIsLost(t *testing.T) {
	w := newWorld(t, Options{AckTimeout: 20 * time.Millisecond})
	w.away.shut()
	wantsUnavailable(t, w.put(eventlog.KindRoot, []byte("root")))
	got, err := w.get(ref(eventlog.KindRoot, []byte("root")))
	must(t, err)
	if string(got) != "root" {
		t.Fatal("other bytes")
	}
	w.away.lift()
	must(t, w.put(eventlog.KindRoot, []byte("root")))
	if n := w.count(eventlog.BlockStored); n != 1 {
		t.Fatalf("%d stores", n)
	}
}

// result is a promise that a test has decided on.
type result struct {
	seq eventlog.Seq
	err error
}

func (r result) Wait() (eventlog.Seq, error) { return r.seq, r.err }

func TestAnEventThatFailedAndIsNotInTheLogLeavesNoTrace(t *testing.T) {
	w := newWorld(t, Options{})
	refusal := errors.New("the rules say no")
	w.intercept(func(_ eventlog.Event, body *eventlog.Body, _ func(eventlog.Event, *eventlog.Body) promise) promise {
		body.Release()
		return result{err: refusal}
	})
	content := bytesOf(1, 100)
	wants(t, w.put(eventlog.KindData, content), refusal)
	_, err := w.Stat(t.Context(), laptop, ref(eventlog.KindData, content))
	wants(t, err, ErrNotFound)
	w.intercept(nil)
	must(t, w.put(eventlog.KindData, content))
}

func TestAnEventWhoseFateIsNotKnownKeepsItsLocks(t *testing.T) {
	for name, done := range map[string]bool{"failed and not done": false, "failed but done": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{})
			content := bytesOf(1, 100)
			must(t, w.put(eventlog.KindData, content))
			began, poison := make(chan struct{}), make(chan struct{})
			w.intercept(func(ev eventlog.Event, body *eventlog.Body, real func(eventlog.Event, *eventlog.Body) promise) promise {
				if done {
					_, err := real(ev, body).Wait()
					must(t, err)
				} else {
					body.Release()
				}
				close(began)
				<-poison
				return result{err: fmt.Errorf("%w: write: input/output error", eventlog.ErrPoisoned)}
			})
			deleted := later(func() error { return w.remove(eventlog.KindData, content) })
			<-began
			again := later(func() error { return w.put(eventlog.KindData, content) })
			eventually(t, "the put waits for the block's lock", func() bool {
				w.locks.mu.Lock()
				defer w.locks.mu.Unlock()
				f := w.locks.locks[blockLock(w.id(laptop), ref(eventlog.KindData, content)).name]
				return f != nil && len(f.queue) == 1
			})
			close(poison)
			wantsUnavailable(t, <-deleted)
			wantsUnavailable(t, <-again) // not "stored": the delete may come to light
			wantsUnavailable(t, w.put(eventlog.KindData, bytesOf(2, 10)))
			wantsUnavailable(t, w.remove(eventlog.KindData, bytesOf(2, 10)))
			wantsUnavailable(t, w.Register(t.Context(), "test", Path{"bob", "x"}))
		})
	}
}

func TestAClientThatHasGoneLeavesItsLockToItsEvent(t *testing.T) {
	w := newWorld(t, Options{})
	content := bytesOf(1, 100)
	r := ref(eventlog.KindData, content)
	w.still.shut() // views stand still
	ctx, cancel := context.WithCancel(t.Context())
	before := w.committed()
	first := later(func() error { return w.Put(ctx, "one", laptop, r, bytes.NewReader(content), 100) })
	must(t, w.events.WaitCommitted(t.Context(), before))
	cancel()
	wants(t, <-first, context.Canceled)
	second := later(func() error { return w.Put(context.Background(), "two", laptop, r, bytes.NewReader(content), 100) })
	other := later(func() error { return w.remove(eventlog.KindData, content) })
	select {
	case err := <-second:
		t.Fatalf("it was decided on views that lack the first event: %v", err)
	case err := <-other:
		t.Fatalf("it was decided on views that lack the first event: %v", err)
	case <-time.After(20 * time.Millisecond): // nothing to wait for: neither may come
	}
	w.still.lift()
	must(t, <-second)
	must(t, <-other)
	if n := w.count(eventlog.BlockDeleted); n != w.count(eventlog.BlockStored) && n != 1 {
		t.Fatalf("%d deletes", n)
	}
}

func TestAStoppedViewRefusesWritesAndDoubtsAbsence(t *testing.T) {
	w := newWorld(t, Options{})
	content, late, other := bytesOf(1, 100), bytesOf(2, 100), bytesOf(3, 100)
	must(t, w.put(eventlog.KindData, content))
	w.still.shut()
	before := w.committed()
	pending := later(func() error { return w.put(eventlog.KindData, late) })
	must(t, w.events.WaitCommitted(t.Context(), before))
	waiting := later(func() error { return w.remove(eventlog.KindData, late) })
	w.stopView()
	wantsUnavailable(t, <-pending)
	wantsUnavailable(t, <-waiting)
	wantsUnavailable(t, w.put(eventlog.KindData, other))
	wantsUnavailable(t, w.remove(eventlog.KindData, content))
	wantsUnavailable(t, w.Register(t.Context(), "test", Path{"bob", "x"}))

	got, err := w.get(ref(eventlog.KindData, content)) // what is sure is served
	must(t, err)
	if !bytes.Equal(got, content) {
		t.Fatal("other bytes")
	}
	for name, absent := range map[string]func() error{
		"stat": func() error { _, err := w.Stat(t.Context(), laptop, ref(eventlog.KindData, late)); return err },
		"open": func() error { _, err := w.get(ref(eventlog.KindData, late)); return err },
		"list": func() error { _, err := w.names(eventlog.KindData); return err },
		"unknown machine": func() error {
			_, err := w.Stat(t.Context(), Path{"bob", "x"}, Ref{Kind: eventlog.KindConfig})
			return err
		},
	} {
		err := absent()
		wantsUnavailable(t, err)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrNoMachine) {
			t.Errorf("%s: %v says that it is absent", name, err)
		}
	}
}

func TestAFencedLogAcknowledgesNothing(t *testing.T) {
	w := newWorld(t, Options{})
	must(t, w.put(eventlog.KindLock, []byte("lock")))
	w.still.shut()
	before := w.committed()
	pending := later(func() error { return w.put(eventlog.KindData, []byte("data")) })
	must(t, w.events.WaitCommitted(t.Context(), before))
	w.events.Fence(errors.New("another server owns the log"))
	w.still.lift()
	wantsUnavailable(t, <-pending)
	wantsUnavailable(t, w.put(eventlog.KindData, []byte("more")))
}

func TestCloseWaitsForEventsWhoseClientsHaveGone(t *testing.T) {
	w := newWorld(t, Options{})
	w.still.shut()
	ctx, cancel := context.WithCancel(t.Context())
	before := w.committed()
	put := later(func() error {
		return w.Put(ctx, "test", laptop, ref(eventlog.KindData, []byte("data")), bytes.NewReader([]byte("data")), 4)
	})
	must(t, w.events.WaitCommitted(t.Context(), before))
	cancel()
	wants(t, <-put, context.Canceled)
	short, cancelShort := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancelShort()
	wants(t, w.Close(short), context.DeadlineExceeded)
	wantsUnavailable(t, w.put(eventlog.KindData, []byte("late")))
	w.still.lift()
	must(t, w.Close(t.Context()))
	if w.runners[1].Position() != w.committed() {
		t.Fatal("the event was not applied")
	}
}

func TestCloseDoesNotWaitForAStoppedView(t *testing.T) {
	w := newWorld(t, Options{})
	w.still.shut()
	before := w.committed()
	put := later(func() error { return w.put(eventlog.KindData, []byte("data")) })
	must(t, w.events.WaitCommitted(t.Context(), before))
	w.stopView()
	wantsUnavailable(t, <-put)
	must(t, w.Close(t.Context()))
}
