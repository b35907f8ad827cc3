// SPDX-License-Identifier: Apache-2.0

package projector_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

// shell is a projector that a test makes misbehave.
type shell struct {
	projector.Projector
	project func(*eventlog.Entry) error
}

func (s shell) Project(entry *eventlog.Entry, changes *projector.Changes) error {
	if err := s.project(entry); err != nil {
		return err
	}
	return s.Projector.Project(entry, changes)
}

func openRunner(t *testing.T, p projector.Projector) (*projector.View, *projector.Runner) {
	t.Helper()
	view, err := projector.Open(kv.InMemory(quiet), "view", p, projector.Live, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := view.Close(); err != nil {
			t.Error(err)
		}
	})
	return view, projector.NewRunner(view, quiet)
}

// run starts r and returns what ends it and gives its error.
func run(t *testing.T, r *projector.Runner, source projector.Source) (stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx, source) }()
	return sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
}

func TestARunningViewIsWokenOrLooksByItself(t *testing.T) {
	h := modeltest.NewHistory(1, nil)
	_, r := openRunner(t, projector.Machines())
	stop := run(t, r, h.Log)
	defer stop()
	for i := range 20 {
		h.Step()
		if i%2 == 0 {
			r.Wake()
		}
		if err := r.WaitApplied(t.Context(), h.Log.Last()); err != nil {
			t.Fatal(err)
		}
		if r.Position() != h.Log.Last() {
			t.Errorf("position %s, want %s", r.Position(), h.Log.Last())
		}
	}
	if r.Err() != nil {
		t.Error(r.Err())
	}
}

// Waits that are pending when the view stops, however it does, and those that
// come later, are told why, at once.
func TestEveryWaitResolvesWhenTheViewStops(t *testing.T) {
	trouble := errors.New("the disk is on fire")
	var source projector.Source
	tests := []struct {
		name    string
		project func(*eventlog.Entry) error
		source  func(*modeltest.Log) projector.Source
		want    func(error) bool
	}{
		{"by a violation", func(e *eventlog.Entry) error { return trouble }, nil,
			func(err error) bool { return errors.Is(err, trouble) }},
		{"by a panic of its projector", func(e *eventlog.Entry) error { panic("index out of range, or so") }, nil,
			func(err error) bool { return strings.Contains(err.Error(), "index out of range, or so") }},
		{"by a source that panics", nil, func(l *modeltest.Log) projector.Source { return panicking{} },
			func(err error) bool { return strings.Contains(err.Error(), "source, not view") }},
		{"by history that was cleaned away", nil, func(l *modeltest.Log) projector.Source { return &failing{log: l, err: eventlog.ErrCleaned} },
			func(err error) bool { return errors.Is(err, eventlog.ErrCleaned) }},
		{"by shutting down", nil, func(l *modeltest.Log) projector.Source { return &modeltest.Log{} },
			func(err error) bool { return errors.Is(err, context.Canceled) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := modeltest.NewHistory(1, nil)
			p := shell{projector.Machines(), func(e *eventlog.Entry) error { return nil }}
			if test.project != nil {
				p.project = func(e *eventlog.Entry) error {
					if e.Event.Seq == h.Log.Last() {
						return test.project(e)
					}
					return nil
				}
			}
			source = h.Log
			if test.source != nil {
				source = test.source(h.Log)
			}
			_, r := openRunner(t, p)
			pending := make(chan error, 1)
			go func() { pending <- r.WaitApplied(t.Context(), h.Log.Last()) }()
			stop := run(t, r, source)
			if test.name == "by shutting down" {
				stop()
			}
			<-r.Stopped()
			for _, err := range []error{stop(), r.Err(), <-pending, r.WaitApplied(t.Context(), h.Log.Last())} {
				if err == nil || !test.want(err) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

type panicking struct{}

func (panicking) Follow(context.Context, eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(func(eventlog.Batch, error) bool) { panic("source, not view") }
}

// A panic is a violation of the event in progress: it names it, and what came
// before it in the same batch is not half there.
func TestAPanicNamesItsEvent(t *testing.T) {
	h := modeltest.NewHistory(1, nil)
	for range 30 {
		h.Step()
	}
	bad := h.Log.Entries()[17].Event.Seq
	view, r := openRunner(t, shell{projector.Machines(), func(e *eventlog.Entry) error {
		if e.Event.Seq == bad {
			panic("oops")
		}
		return nil
	}})
	violation := (*projector.Violation)(nil)
	if err := r.CatchUp(t.Context(), h.Log); !errors.As(err, &violation) || violation.Seq != bad {
		t.Errorf("got %v", err)
	}
	if r.Position() != h.Log.Entries()[13].Event.Seq {
		t.Errorf("position %s, want the end of the batch before", r.Position())
	}
	if _, digest := view.Digest(); true {
		if _, rows, err := view.Recompute(t.Context()); err != nil || rows != digest {
			t.Errorf("digest %s, rows %s, %v", digest, rows, err)
		}
	}
}

func TestAWaitEndsWithItsContext(t *testing.T) {
	_, r := openRunner(t, projector.Blocks())
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the client has gone")
	cancel(gone)
	if err := r.WaitApplied(ctx, 7); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

// mapEngine keeps one store in a map, without goroutines of its own, so that
// a Runner over it can run in fake time.
type mapEngine struct{ projector.Engine }

type mapStore struct {
	projector.Store
	rows map[string][]byte
}

type mapBatch struct {
	store *mapStore
	rows  map[string][]byte // nil: delete
}

func (mapEngine) Exists(string) (bool, error) { return false, nil }
func (mapEngine) Remove(string) error         { return nil }
func (mapEngine) Open(string, projector.Use) (projector.Store, error) {
	return &mapStore{rows: map[string][]byte{}}, nil
}

func (s *mapStore) Get(into, key []byte) ([]byte, bool, error) {
	value, found := s.rows[string(key)]
	return append(into, value...), found, nil
}

func (s *mapStore) Lookup() projector.Snapshot { return mapLookup{mapStore: s} }

// mapLookup is of use until the next commit.
type mapLookup struct {
	projector.Snapshot
	*mapStore
}

func (l mapLookup) Get(into, key []byte) ([]byte, bool, error) { return l.mapStore.Get(into, key) }
func (mapLookup) Close() error                                 { return nil }

func (s *mapStore) NewBatch() projector.WriteBatch { return &mapBatch{s, map[string][]byte{}} }
func (s *mapStore) Close() error                   { return nil }

func (b *mapBatch) Set(key, value []byte) error {
	b.rows[string(key)] = bytes.Clone(value)
	return nil
}

func (b *mapBatch) Delete(key []byte) error {
	b.rows[string(key)] = nil
	return nil
}

func (b *mapBatch) Commit() error {
	for key, value := range b.rows {
		if value == nil {
			delete(b.store.rows, key)
		} else {
			b.store.rows[key] = value
		}
	}
	clear(b.rows)
	return nil
}

func (b *mapBatch) Close() error { return nil }

// A source that fails is tried again, with growing pauses; a view whose
// source never works again stops in the end.
func TestARunningViewTriesItsSourceAgain(t *testing.T) {
	for _, recovers := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			h := modeltest.NewHistory(1, nil)
			view := openView(t, mapEngine{}, "view", projector.Machines(), projector.Live)
			defer closeView(t, view)
			r := projector.NewRunner(view, quiet)
			trouble := errors.New("the archive is away")
			start := time.Now()
			stop := run(t, r, &failing{log: h.Log, err: trouble, quits: recovers})
			if recovers {
				if err := r.WaitApplied(t.Context(), h.Log.Last()); err != nil {
					t.Error(err)
				}
				if err := stop(); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
				return
			}
			<-r.Stopped()
			if err := stop(); !errors.Is(err, trouble) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(start); took < 10*time.Second || took > time.Minute {
				t.Errorf("gave up after %s", took)
			}
		})
	}
}

// An hour without descriptors is no reason to stop: it passes.
func TestARunningViewOutlastsWhatMayPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := modeltest.NewHistory(1, nil)
		view := openView(t, mapEngine{}, "view", projector.Machines(), projector.Live)
		defer closeView(t, view)
		r := projector.NewRunner(view, quiet)
		ctx, back := context.WithCancel(t.Context())
		stop := run(t, r, &untilThen{log: h.Log, then: ctx, err: fmt.Errorf("reading the footer: %w", syscall.EMFILE)})
		time.Sleep(time.Hour)
		back()
		if err := r.WaitApplied(t.Context(), h.Log.Last()); err != nil {
			t.Error(err)
		}
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// untilThen is a source that fails until then is over.
type untilThen struct {
	log  projector.Source
	then context.Context
	err  error
}

func (s *untilThen) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	if s.then.Err() != nil {
		return s.log.Follow(ctx, from)
	}
	return func(yield func(eventlog.Batch, error) bool) { yield(eventlog.Batch{}, s.err) }
}

// Nobody wakes the view, and it looks after 50 ms.
func TestARunningViewLooksWithoutBeingWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := modeltest.NewHistory(1, nil)
		view := openView(t, mapEngine{}, "view", projector.Machines(), projector.Live)
		defer closeView(t, view)
		r := projector.NewRunner(view, quiet)
		stop := run(t, r, h.Log)
		defer stop()
		for range 10 {
			synctest.Wait()
			h.Step()
			start := time.Now()
			if err := r.WaitApplied(t.Context(), h.Log.Last()); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > 50*time.Millisecond {
				t.Errorf("applied after %s", took)
			}
		}
	})
}

// Queries run while the view moves; each sees whole events only.
func TestReadingWhileApplying(t *testing.T) {
	h := modeltest.NewHistory(5, nil)
	account := h.Open("alice")
	machine := h.Register(account, "laptop")
	for range 300 { // pairs: at every whole event an even number, or one more, of blocks
		name := h.Name()
		h.Store(machine, eventlog.KindData, name, 10, false)
	}
	view, err := projector.OpenBlockView(kv.InMemory(quiet), "view", projector.Live, quiet)
	if err != nil {
		t.Fatal(err)
	}
	r := projector.NewRunner(view.View, quiet)
	stop := run(t, r, h.Log)
	last := 0
	for last < 300 {
		n, err := view.Count(t.Context(), machine, eventlog.KindData)
		if err != nil || n < last {
			t.Fatalf("%d blocks after %d, %v", n, last, err)
		}
		last = n
	}
	stop()
	if err := view.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := view.Live(machine, eventlog.KindData, nameA); err == nil {
		t.Error("a closed view answers")
	}
	for range view.List(t.Context(), machine, eventlog.KindData, 0) {
		break // an error, which a caller that wants no more does not get twice
	}
}
