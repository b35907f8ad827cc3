// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// Store turns requests into events and reads blocks. A write takes one way:
//
//	may it be -> receive and hash the body -> lock machine and block ->
//	look in the views -> append -> committed -> applied by every view ->
//	unlock -> archived, if the kind of block demands it -> answered
//
// Invariants:
//
//   - Whoever decides something about a block holds its lock, and a lock is
//     let go only when every view shows the event it was taken for. So a
//     client reads its own writes, and no block is stored twice.
//   - An event whose fate is not known keeps its locks until the process ends.
//   - What is absent is called absent only while the views are sure of it.
//
// All methods may be called by any goroutine.
type Store struct {
	opts   Options
	log    *slog.Logger
	append func(eventlog.Event, *eventlog.Body) promise // the log's, or a test's
	locks  lockTable
	memory memoryLocks
	quota  quota
	clock  steadyClock
	pages  *pages
	mode   atomic.Pointer[modeState]

	background context.Context // ends when Close begins
	cancel     context.CancelFunc
	keepers    sync.WaitGroup // goroutines that live as long as the Store

	mu      sync.Mutex
	closing bool           // owned by mu
	running sync.WaitGroup // writes, and the events that outlive them; added to under mu or by one of them
	served  time.Time      // owned by mu; when serving began, zero before
	halted  chan struct{}  // closed when haltErr is set
	haltErr error          // owned by mu; why there will be no write any more
}

// New returns the application, which refuses everything until SetMode. The
// caller closes it before the log and the views.
func New(opts Options) *Store {
	opts.setDefaults()
	s := &Store{
		opts: opts, log: opts.Logger,
		append: func(ev eventlog.Event, body *eventlog.Body) promise { return opts.Log.Append(ev, body) },
		locks:  lockTable{locks: map[lockName]*fairLock{}},
		memory: newMemoryLocks(),
		quota:  quota{max: opts.MaxSize, accounts: map[eventlog.Seq]*usage{}},
		clock:  steadyClock{wall: opts.Clock.Now},
		halted: make(chan struct{}),
	}
	s.background, s.cancel = context.WithCancel(context.Background())
	s.pages = newPages(s.background, opts.Archive, opts.Gone, opts.CacheBytes)
	s.mode.Store(&modeState{mode: Starting, reason: "the server is starting"})
	for _, view := range opts.Views {
		s.keepers.Go(func() { s.watch(view) })
	}
	return s
}

// watch halts all writes when a view stops.
func (s *Store) watch(view Progress) {
	select {
	case <-view.Stopped():
		s.halt(view.Err())
	case <-s.background.Done():
	}
}

// halt ends all writes, those that wait and those to come: what the views or
// the log hold is not known any more, until the server is started again.
func (s *Store) halt(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.haltErr != nil {
		return
	}
	s.haltErr = err
	close(s.halted)
	if s.closing {
		return // nobody is served any more
	}
	s.log.Error("no more writes: they are refused until the server is started again", "err", err)
}

// haltedBy returns the refusal of a halted Store, nil while it is not.
func (s *Store) haltedBy() error {
	s.mu.Lock()
	err := s.haltErr
	s.mu.Unlock()
	if err == nil {
		err = s.opts.Log.Err()
	}
	if err == nil {
		return nil
	}
	return &Unavailable{Reason: "the server has stopped taking writes, its operator must look at it; nothing is lost", RetryAfter: retryLong, Err: err}
}

// How long a client should wait before it tries again.
const (
	retrySoon = 5 * time.Second
	retryLong = 30 * time.Second
)

// enter begins a write; leave ends it. Close waits for those between.
func (s *Store) enter() (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, &Unavailable{Reason: "the server is shutting down", RetryAfter: retrySoon}
	}
	s.running.Add(1)
	return s.running.Done, nil
}

// Close refuses new writes, and waits for those under way and for their
// events to be applied, at most until ctx ends. It does not wait for a view
// that has stopped. Reads go on; their read-ahead ends.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.cancel()
	done := make(chan struct{})
	go func() {
		s.running.Wait()
		s.keepers.Wait()
		s.pages.wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("shutting down: writes are still under way: %w", ctx.Err())
	}
}

// promise is what an Append returns; *eventlog.Pending is one.
type promise interface {
	Wait() (eventlog.Seq, error)
}

// outcome is what became of an event.
type outcome struct {
	seq eventlog.Seq
	err error
}

// write appends ev, which the locks of h cover, and returns its seq once
// every view has applied it. The locks belong to the event, not to the
// client's patience: when ctx ends first, the event goes on without it.
func (s *Store) write(ctx context.Context, h *held, ev eventlog.Event, body *eventlog.Body) (eventlog.Seq, error) {
	h.retain()
	kind, changes := ev.Type, changesOf(&ev)
	pending := s.append(ev, body)
	result := make(chan outcome, 1)
	s.running.Go(func() { result <- s.carry(pending, changes, h) })
	select {
	case o := <-result:
		if o.err != nil {
			return 0, fmt.Errorf("%s: %w", kind, o.err)
		}
		return o.seq, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("%s: the client did not wait for it: %w", kind, context.Cause(ctx))
	}
}

// carry brings an event from the queue into every view and lets its locks go
// then, or never.
func (s *Store) carry(pending promise, changes usageChanges, h *held) outcome {
	seq, err := pending.Wait()
	if errors.Is(err, eventlog.ErrPoisoned) {
		// Not known: the next start may find the event. Its locks stay, so that
		// nobody decides anything on a view that may be wrong.
		s.halt(err)
		return outcome{err: s.haltedBy()}
	}
	if err != nil {
		h.release()
		return outcome{err: s.refused(err)}
	}
	// COMMITTED. A crash from here on leaves the event in the log, and the
	// views take it in at the next start.
	for _, view := range s.opts.Views {
		if err := view.WaitApplied(context.Background(), seq); err != nil {
			s.halt(err)
			return outcome{err: s.haltedBy()}
		}
	}
	s.quota.applied(changes, seq)
	h.release()
	if s.opts.Log.Err() != nil { // fenced meanwhile: nothing is acknowledged any more
		return outcome{err: s.haltedBy()}
	}
	return outcome{seq: seq}
}

// refused explains why an event is certainly not in the log.
func (s *Store) refused(err error) error {
	if s.opts.Log.Err() != nil {
		return s.haltedBy()
	}
	switch {
	case errors.Is(err, eventlog.ErrDiskFull):
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	case errors.Is(err, eventlog.ErrNotNow):
		return &Unavailable{Reason: "the server can store nothing now: nothing was stored, a retry may succeed", RetryAfter: retrySoon, Err: err}
	}
	return fmt.Errorf("the log refused it: %w", err)
}
