// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"fmt"
	"sync"

	"github.com/strandline-project/strandline/eventlog"
)

// quota bounds what an account holds: the live blocks that the machine view
// counts and those on their way in.
type quota struct {
	max uint64 // bytes; 0: no bound

	mu       sync.Mutex
	reserved map[eventlog.Seq]uint64 // owned by mu; bytes on their way in, per account
}

// counts says whether blocks of that kind need room. Locks do not: without
// one, a client cannot even make room.
func (q *quota) counts(kind eventlog.Kind) bool { return q.max != 0 && kind != eventlog.KindLock }

// reservation is room for a body. The nil reservation is none.
type reservation struct {
	quota   *quota
	account eventlog.Seq
	bytes   uint64
	room    int64 // bytes that were left before this reservation
}

// reserve reserves n bytes for an account. What is reserved counts until it
// is given back, after the views count the block itself. The views are read
// under the mutex: a block given back between their figure and ours would
// else be in neither, and one more would fit than there is room for.
func (s *Store) reserve(ctx context.Context, account eventlog.Seq, n uint64) (*reservation, error) {
	q := &s.quota
	q.mu.Lock()
	defer q.mu.Unlock()
	totals, err := s.opts.Machines.AccountTotals(ctx, account)
	if err != nil {
		return nil, fmt.Errorf("adding up account %s: %w", account, err)
	}
	used := totals.Bytes + q.reserved[account]
	if used >= q.max || n > q.max-used {
		return nil, fmt.Errorf("%w: %d of %d bytes used", ErrQuota, used, q.max)
	}
	q.reserved[account] += n
	return &reservation{quota: q, account: account, bytes: n, room: int64(q.max - used)}, nil
}

func (r *reservation) giveBack() {
	if r == nil {
		return
	}
	q := r.quota
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.reserved[r.account] -= r.bytes; q.reserved[r.account] == 0 {
		delete(q.reserved, r.account)
	}
	r.bytes = 0
}
