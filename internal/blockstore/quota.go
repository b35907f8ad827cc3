// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"fmt"
	"sync"

	"github.com/strandline-project/strandline/eventlog"
)

// quota bounds what an account holds: the live blocks that the machine view
// counts and those on their way in. The view is added up once for each account.
// From then on the total follows the events.
type quota struct {
	max uint64 // bytes; 0: no bound

	mu       sync.Mutex
	accounts map[eventlog.Seq]*usage // owned by mu; those that stored something since the start
}

// usage is what one account holds. While mu is held for a look into the view,
// the other accounts go on.
type usage struct {
	mu       sync.Mutex
	known    bool         // used and asOf are
	used     uint64       // bytes of live blocks
	asOf     eventlog.Seq // where the view stood when it was added up; later events were added since
	reserved uint64       // bytes on their way in
}

// counts says whether blocks of that kind need room. Locks do not: without
// one, a client cannot even make room.
func (q *quota) counts(kind eventlog.Kind) bool { return q.max != 0 && kind != eventlog.KindLock }

func (q *quota) of(account eventlog.Seq) *usage {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := q.accounts[account]
	if u == nil {
		u = &usage{}
		q.accounts[account] = u
	}
	return u
}

// reservation is room for a body. The nil reservation is none.
type reservation struct {
	usage *usage
	bytes uint64
	room  int64 // bytes that were left before this reservation
}

// reserve reserves n bytes for an account. What is reserved counts until it
// is given back, after the block itself counts: in between it counts twice,
// but never not at all.
func (s *Store) reserve(ctx context.Context, account eventlog.Seq, n uint64) (*reservation, error) {
	u := s.quota.of(account)
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.known {
		totals, asOf, err := s.opts.Machines.AccountTotals(ctx, account)
		if err != nil {
			return nil, fmt.Errorf("adding up account %s: %w", account, err)
		}
		u.known, u.used, u.asOf = true, totals.Bytes, asOf
	}
	limit, used := s.quota.max, u.used+u.reserved
	if used >= limit || n > limit-used {
		return nil, fmt.Errorf("%w: %d of %d bytes used", ErrQuota, used, limit)
	}
	u.reserved += n
	return &reservation{usage: u, bytes: n, room: int64(limit - used)}, nil
}

func (r *reservation) giveBack() {
	if r == nil {
		return
	}
	r.usage.mu.Lock()
	defer r.usage.mu.Unlock()
	r.usage.reserved -= r.bytes
	r.bytes = 0
}

// usageChanges is what an event does to the usage of accounts.
type usageChanges struct {
	account eventlog.Seq    // which has bytes more, or less
	bytes   int64           //
	anew    [2]eventlog.Seq // which are to be added up anew: a machine goes from one to the other
}

func changesOf(ev *eventlog.Event) usageChanges {
	switch ev.Type {
	case eventlog.BlockStored:
		return usageChanges{account: ev.Account, bytes: int64(ev.Length)}
	case eventlog.BlockDeleted:
		return usageChanges{account: ev.Account, bytes: -int64(ev.Length)}
	case eventlog.MachineReowned:
		return usageChanges{anew: [2]eventlog.Seq{ev.From, ev.To}}
	}
	return usageChanges{}
}

// applied takes in an event that every view shows, before the reservation for
// it is given back. An account that is added up later finds the event in the
// view.
func (q *quota) applied(c usageChanges, seq eventlog.Seq) {
	if q.max == 0 {
		return
	}
	if c.account != 0 {
		q.of(c.account).add(seq, c.bytes)
	}
	for _, account := range c.anew {
		if account != 0 {
			q.of(account).forget()
		}
	}
}

// add counts what an event changed, unless the view had it when it was added
// up, or will have.
func (u *usage) add(seq eventlog.Seq, bytes int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.known || seq <= u.asOf {
		return
	}
	u.used += uint64(bytes)
}

// forget makes the next reservation add the account up anew.
func (u *usage) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.known = false
}
