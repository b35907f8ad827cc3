// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// lockScript runs requests for one lock in a bubble. Each takes the lock and
// keeps it until told to let go; the journal tells who got it, in order.
type lockScript struct {
	table   lockTable
	halted  chan struct{}
	mu      sync.Mutex
	journal []string
	leaves  map[string]chan struct{}
	cancel  map[string]context.CancelFunc
	wg      sync.WaitGroup
}

func newLockScript() *lockScript {
	return &lockScript{
		table: lockTable{locks: map[lockName]*fairLock{}}, halted: make(chan struct{}),
		leaves: map[string]chan struct{}{}, cancel: map[string]context.CancelFunc{},
	}
}

// ask starts a request; names that begin with "x" want the lock exclusively.
func (s *lockScript) ask(names ...string) {
	for _, name := range names {
		ctx, cancel := context.WithCancel(context.Background())
		leave := make(chan struct{})
		s.leaves[name], s.cancel[name] = leave, cancel
		s.wg.Go(func() {
			l := machineLock(eventlog.FirstSeq, strings.HasPrefix(name, "x"))
			if err := s.table.lock(ctx, s.halted, l); err != nil {
				s.note(name + " gone")
				return
			}
			s.note(name)
			<-leave
			s.table.unlock(l)
		})
		synctest.Wait()
	}
}

func (s *lockScript) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.journal = append(s.journal, what)
}

func (s *lockScript) letGo(names ...string) {
	for _, name := range names {
		close(s.leaves[name])
		synctest.Wait()
	}
}

func (s *lockScript) leave(name string) {
	s.cancel[name]()
	synctest.Wait()
}

func (s *lockScript) expect(t *testing.T, want ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.journal, want) {
		t.Fatalf("it went %q, want %q", s.journal, want)
	}
}

func (s *lockScript) end(t *testing.T) {
	for _, cancel := range s.cancel {
		cancel()
	}
	s.wg.Wait()
	if len(s.table.locks) != 0 {
		t.Errorf("%d locks are remembered that nobody holds", len(s.table.locks))
	}
}

func TestLocksAreFair(t *testing.T) {
	cases := map[string]func(t *testing.T, s *lockScript){
		"shared ones are held together": func(t *testing.T, s *lockScript) {
			s.ask("a", "b", "c")
			s.expect(t, "a", "b", "c")
			s.letGo("b", "a", "c")
		},
		"exclusive ones come one by one, in order": func(t *testing.T, s *lockScript) {
			s.ask("x1", "x2", "x3")
			s.expect(t, "x1")
			s.letGo("x1")
			s.expect(t, "x1", "x2")
			s.letGo("x2", "x3")
			s.expect(t, "x1", "x2", "x3")
		},
		"a shared one does not overtake an exclusive one that waits": func(t *testing.T, s *lockScript) {
			s.ask("a", "x", "b")
			s.expect(t, "a")
			s.letGo("a")
			s.expect(t, "a", "x")
			s.letGo("x")
			s.expect(t, "a", "x", "b")
			s.letGo("b")
		},
		"whoever has gone is dropped when its turn comes": func(t *testing.T, s *lockScript) {
			s.ask("x1", "x2", "x3")
			s.leave("x2")
			s.expect(t, "x1", "x2 gone")
			s.letGo("x1")
			s.expect(t, "x1", "x2 gone", "x3")
			s.letGo("x3")
		},
		"an exclusive one that has gone lets those behind it join": func(t *testing.T, s *lockScript) {
			s.ask("a", "x", "b")
			s.leave("x")
			slices.Sort(s.journal) // both hear of it at once
			s.expect(t, "a", "b", "x gone")
			s.letGo("a", "b")
		},
		"the last in the queue may go": func(t *testing.T, s *lockScript) {
			s.ask("x1", "x2")
			s.leave("x2")
			s.letGo("x1")
			s.ask("y")
			s.expect(t, "x1", "x2 gone", "y")
			s.letGo("y")
		},
		"a halt sends everyone who waits away, and no holder": func(t *testing.T, s *lockScript) {
			s.ask("x1", "x2", "x3")
			close(s.halted)
			synctest.Wait()
			if len(s.journal) != 3 || s.journal[0] != "x1" {
				t.Fatalf("it went %q", s.journal)
			}
			s.letGo("x1")
		},
	}
	for name, run := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLockScript()
				run(t, s)
				s.end(t)
			})
		})
	}
}

func TestARequestThatIsGoneBeforeItAsksGetsNoLock(t *testing.T) {
	table := lockTable{locks: map[lockName]*fairLock{}}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("hung up")
	cancel(cause)
	wants(t, table.lock(ctx, nil, machineLock(1, true)), cause)
	if len(table.locks) != 0 {
		t.Fatal("the lock is remembered")
	}
}

// TestLocksExcludeUnderLoad lets goroutines come, go and give up at random.
func TestLocksExcludeUnderLoad(t *testing.T) {
	table := lockTable{locks: map[lockName]*fairLock{}}
	var shared, exclusive, granted atomic.Int64
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(g)))
			for range 400 {
				l := machineLock(1, random.IntN(3) == 0)
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.IntN(200))*time.Microsecond)
				if table.lock(ctx, nil, l) == nil {
					granted.Add(1)
					if l.exclusive {
						if exclusive.Add(1) != 1 || shared.Load() != 0 {
							t.Error("an exclusive holder is not alone")
						}
						exclusive.Add(-1)
					} else {
						shared.Add(1)
						if exclusive.Load() != 0 {
							t.Error("a shared holder beside an exclusive one")
						}
						shared.Add(-1)
					}
					table.unlock(l)
				}
				cancel()
			}
		})
	}
	all.Wait()
	if len(table.locks) != 0 || granted.Load() == 0 {
		t.Fatalf("%d locks left, %d granted", len(table.locks), granted.Load())
	}
}

func TestTakeGivesBackWhatItHasWhenItCannotHaveAll(t *testing.T) {
	s := &Store{locks: lockTable{locks: map[lockName]*fairLock{}}, halted: make(chan struct{})}
	busy := blockLock(1, Ref{Kind: eventlog.KindData})
	must(t, s.locks.lock(t.Context(), nil, busy))
	ctx, cancel := context.WithCancelCause(t.Context())
	result := later(func() error { _, err := s.take(ctx, machineLock(1, true), busy); return err })
	eventually(t, "the second lock is waited for", func() bool {
		s.locks.mu.Lock()
		defer s.locks.mu.Unlock()
		return len(s.locks.locks[busy.name].queue) == 1
	})
	gone := fmt.Errorf("hung up")
	cancel(gone)
	wants(t, <-result, gone)
	must(t, s.locks.lock(t.Context(), nil, machineLock(1, true)))
}
