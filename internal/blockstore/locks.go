// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/strandline-project/strandline/eventlog"
)

// lockTable holds the locks under which writes are decided. They are taken in
// one order (names of accounts, machine, block), so nobody waits in a circle.
type lockTable struct {
	mu    sync.Mutex
	locks map[lockName]*fairLock // owned by mu; only those that are held
}

// lockName says what is locked: the name of an account, a machine, or one
// block of a machine.
type lockName struct {
	account string
	machine eventlog.Seq
	kind    eventlog.Kind // 0: the machine itself
	block   [32]byte
}

// lock is one lock to take.
type lock struct {
	name      lockName
	exclusive bool
}

func accountLock(name string) lock {
	return lock{name: lockName{account: name}, exclusive: true}
}

func machineLock(id eventlog.Seq, exclusive bool) lock {
	return lock{name: lockName{machine: id}, exclusive: exclusive}
}

func blockLock(id eventlog.Seq, ref Ref) lock {
	return lock{name: lockName{machine: id, kind: ref.Kind, block: ref.Name}, exclusive: true}
}

// held is what a write has locked, and the room that it has reserved. It is let
// go when the write itself and every event that it appended have released it.
type held struct {
	table    *lockTable
	locks    []lock
	reserved *reservation // of a quota; set before the event is appended
	refs     atomic.Int32
}

func (h *held) retain() { h.refs.Add(1) }

func (h *held) release() {
	if h.refs.Add(-1) > 0 {
		return
	}
	h.reserved.giveBack()
	for _, l := range slices.Backward(h.locks) {
		h.table.unlock(l)
	}
}

// take takes locks in the order given, first come, first served. It fails
// when ctx ends or the Store halts; then none is held.
func (s *Store) take(ctx context.Context, locks ...lock) (*held, error) {
	h := &held{table: &s.locks}
	h.retain()
	for _, l := range locks {
		if err := s.locks.lock(ctx, s.halted, l); err != nil {
			h.release()
			if errors.Is(err, errHalted) {
				return nil, s.haltedBy()
			}
			return nil, fmt.Errorf("waiting for other writes: %w", err)
		}
		h.locks = append(h.locks, l)
	}
	if err := s.haltedBy(); err != nil {
		h.release()
		return nil, err
	}
	return h, nil
}

// fairLock is one lock. All fields are owned by the table's mutex.
type fairLock struct {
	shared    int  // holders, if not exclusive
	exclusive bool // held by one
	queue     []*lockWaiter
}

type lockWaiter struct {
	ctx       context.Context
	exclusive bool
	granted   chan struct{} // closed under the table's mutex
}

func (t *lockTable) lock(ctx context.Context, halted <-chan struct{}, l lock) error {
	w := t.ask(ctx, l)
	if w == nil {
		return nil
	}
	select {
	case <-w.granted:
		return nil
	case <-halted:
		return t.abandon(l, w, errHalted)
	case <-ctx.Done():
		return t.abandon(l, w, context.Cause(ctx))
	}
}

// ask returns nil when the lock is granted at once, as nearly all are, else who
// waits for it.
func (t *lockTable) ask(ctx context.Context, l lock) *lockWaiter {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.locks[l.name]
	if f == nil {
		f = &fairLock{}
		t.locks[l.name] = f
	}
	if len(f.queue) == 0 && ctx.Err() == nil && f.holdLocked(l.exclusive) {
		return nil
	}
	w := &lockWaiter{ctx: ctx, exclusive: l.exclusive, granted: make(chan struct{})}
	f.queue = append(f.queue, w)
	t.grantLocked(l.name, f)
	return w
}

var errHalted = errors.New("no more writes")

// abandon takes w out of the queue, or gives back what it was just granted.
func (t *lockTable) abandon(l lock, w *lockWaiter, err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.locks[l.name]
	if f == nil { // its turn came, found it gone, and it was the last
		return err
	}
	select {
	case <-w.granted:
		f.letGoLocked(l.exclusive)
	default:
		if i := slices.Index(f.queue, w); i >= 0 {
			f.queue = slices.Delete(f.queue, i, i+1)
		}
	}
	t.grantLocked(l.name, f)
	return err
}

func (t *lockTable) unlock(l lock) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.locks[l.name]
	f.letGoLocked(l.exclusive)
	t.grantLocked(l.name, f)
}

// holdLocked takes the lock if those who hold it allow that.
func (f *fairLock) holdLocked(exclusive bool) bool {
	if f.exclusive || exclusive && f.shared > 0 {
		return false
	}
	if exclusive {
		f.exclusive = true
	} else {
		f.shared++
	}
	return true
}

func (f *fairLock) letGoLocked(exclusive bool) {
	if exclusive {
		f.exclusive = false
	} else {
		f.shared--
	}
}

// grantLocked serves the queue from its head: whoever is gone is dropped, and
// it ends at the first who has to wait on. A lock that nobody holds or wants
// is forgotten.
func (t *lockTable) grantLocked(name lockName, f *fairLock) {
	for len(f.queue) > 0 {
		w := f.queue[0]
		if w.ctx.Err() == nil {
			if !f.holdLocked(w.exclusive) {
				return
			}
			close(w.granted)
		}
		f.queue = f.queue[1:]
	}
	if !f.exclusive && f.shared == 0 {
		delete(t.locks, name)
	}
}
