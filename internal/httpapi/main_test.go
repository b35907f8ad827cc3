// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/blockstore"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ Log = (*eventlog.Log)(nil)

// fakeLog keeps the contract of Log over a slice. The zero one is empty.
type fakeLog struct {
	mu       sync.Mutex
	entries  []eventlog.Entry
	cleaned  []eventlog.Range
	archived eventlog.Seq
	horizon  eventlog.Seq
	changed  chan struct{} // closed and replaced at each change
	waiting  chan struct{} // gets a token whenever a follower waits at the end; may be nil
	broken   error         // what reading ends with
	perBatch int
}

func newLog(n int) *fakeLog {
	l := &fakeLog{changed: make(chan struct{}), perBatch: 7}
	for i := range n {
		l.append(eventlog.MakeSeq(7, uint32(i+1)))
	}
	return l
}

func (l *fakeLog) append(seq eventlog.Seq) {
	l.update(func() {
		l.entries = append(l.entries, eventlog.Entry{Event: eventlog.Event{
			Seq: seq, Type: eventlog.BlockStored, Kind: eventlog.KindData, Block: make([]byte, 32), Time: int64(seq),
		}})
	})
}

func (l *fakeLog) archive(seq eventlog.Seq) { l.update(func() { l.archived = seq }) }

func (l *fakeLog) update(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *fakeLog) Committed() (eventlog.Seq, int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) == 0 {
		return 0, 0
	}
	last := l.entries[len(l.entries)-1].Event
	return last.Seq, last.Time
}

func (l *fakeLog) Archived() eventlog.Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.archived
}

func (l *fakeLog) WaitCommitted(ctx context.Context, after eventlog.Seq) error {
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if seq, _ := l.Committed(); seq > after {
			return nil
		}
		if l.waiting != nil {
			select {
			case l.waiting <- struct{}{}:
			default:
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (l *fakeLog) ReadTo(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		for {
			batch, err := l.next(from)
			if err != nil || len(batch.Entries) == 0 {
				if err != nil {
					yield(eventlog.Batch{}, err)
				}
				return
			}
			if !yield(batch, nil) {
				return
			}
			from = batch.Last() + 1
		}
	}
}

func (l *fakeLog) next(from eventlog.Seq) (batch eventlog.Batch, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if from != eventlog.FirstSeq && from < l.horizon {
		return batch, eventlog.ErrCleaned
	}
	for _, e := range l.entries {
		if e.Event.Seq >= from && len(batch.Entries) < l.perBatch {
			batch.Entries = append(batch.Entries, e)
		}
	}
	for _, r := range l.cleaned {
		if r.First >= from && r.Last <= batch.Last() {
			batch.Cleaned = append(batch.Cleaned, r)
		}
	}
	if len(batch.Entries) == 0 {
		return batch, l.broken
	}
	return batch, nil
}

func (l *fakeLog) Follow(ctx context.Context, from eventlog.Seq, wait func(context.Context, eventlog.Seq) error) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		var last eventlog.Seq
		for {
			for batch, err := range l.ReadTo(ctx, from) {
				if !yield(batch, err) || err != nil {
					return
				}
				last = batch.Last()
				from = last + 1
			}
			if err := wait(ctx, max(last, from-1)); err != nil {
				yield(eventlog.Batch{}, err)
				return
			}
		}
	}
}

// fakeServer answers what its fields say.
type fakeServer struct {
	mu       sync.Mutex
	status   Status
	panics   bool // Status does
	health   error
	ready    error
	log      Log
	views    []Copyable
	barred   map[blockstore.Path]bool
	releases int
	fail     error // of the next Release
	drill    *fakeDrill
	asked    DrillRequest
}

func (s *fakeServer) Drill(_ context.Context, r DrillRequest) (DrillRun, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = r
	if s.fail != nil {
		return nil, s.fail
	}
	return s.drill, nil
}

// fakeDrill ends when done is closed.
type fakeDrill struct {
	done   chan struct{}
	result string
	code   int
	err    error
	ended  []progress.Snapshot
}

func (d *fakeDrill) Phases() []progress.Snapshot { return d.ended }
func (d *fakeDrill) Snapshot() progress.Snapshot { return progress.Snapshot{Phase: "list", Done: 7} }
func (d *fakeDrill) Done() <-chan struct{}       { return d.done }
func (d *fakeDrill) Result() (json.RawMessage, int, error) {
	return json.RawMessage(d.result), d.code, d.err
}

func (s *fakeServer) Status() Status {
	if s.panics {
		panic("the status panicked")
	}
	return s.status
}
func (s *fakeServer) Health() error { return s.health }
func (s *fakeServer) Ready() error  { return s.ready }
func (s *fakeServer) Log() Log      { return s.log }

func (s *fakeServer) Copyable() []Copyable { return s.views }

func (s *fakeServer) Release(_ context.Context, p blockstore.Path) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	barred, known := s.barred[p]
	switch {
	case !known:
		return blockstore.ErrNoMachine
	case !barred:
		return ErrNotBarred
	}
	s.barred[p] = false
	s.releases++
	return nil
}

// serve runs the admin door on loopback, as the server does, and returns a
// client of it.
func serve(t *testing.T, s Server, hosts ...string) *Client {
	t.Helper()
	return serveUntil(context.Background(), t, s, hosts...)
}

// serveUntil is serve whose streams end with ctx.
func serveUntil(ctx context.Context, t *testing.T, s Server, hosts ...string) *Client {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write([]byte("strandline_ready 1\n")); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(ctx)
	server := NewServer(ctx, New(Options{Server: s, Metrics: metrics, Hosts: hosts, Logger: quiet}), quiet)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		cancel()
		bounded, stop := context.WithTimeout(context.Background(), testkit.Patience)
		defer stop()
		if err := server.Shutdown(bounded); err != nil {
			t.Errorf("shut down: %v", err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return &Client{Addr: listener.Addr().String()}
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	t.Cleanup(cancel)
	return ctx
}
