// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/strandline-project/strandline/eventlog"
)

// Recompute adds the digest up from the rows, which a kept sum never looks
// at. A result other than Digest's as of the same position means that the
// store lost or invented rows. The view must not move meanwhile. Each core
// reads and hashes ranges of keys of its own.
func (v *View) Recompute(ctx context.Context) (eventlog.Seq, Digest, error) {
	return v.RecomputeTelling(ctx, func(int, int) {})
}

// RecomputeTelling is Recompute; told hears how many ranges of keys of how many
// are done: of none at first, then of each, from any goroutine.
func (v *View) RecomputeTelling(ctx context.Context, told func(n, total int)) (eventlog.Seq, Digest, error) {
	before := v.Position()
	total, err := v.recompute(ctx, told)
	if err != nil {
		return 0, Digest{}, fmt.Errorf("recompute the %s view's digest: %w", v.Name(), err)
	}
	if after := v.Position(); after != before {
		return 0, Digest{}, fmt.Errorf("recompute the %s view's digest: the view moved from %s to %s meanwhile", v.Name(), before, after)
	}
	return before, total.digest(), nil
}

func (v *View) recompute(ctx context.Context, told func(n, total int)) (total sum, err error) {
	splits, err := v.store.Splits()
	if err != nil {
		return sum{}, err
	}
	ranges := liveRanges(v.projector.Tables(), splits)
	told(0, len(ranges))
	sums := make([]sum, runtime.GOMAXPROCS(0))
	err = v.inSnapshot(func(snapshot Snapshot) error {
		var next atomic.Int64 // of ranges
		group, ctx := errgroup.WithContext(ctx)
		for i := range sums {
			hasher, err := newRowHasher(v.Name(), v.Version())
			if err != nil {
				return errors.Join(err, group.Wait())
			}
			group.Go(func() error {
				for n := next.Add(1); n <= int64(len(ranges)); n = next.Add(1) {
					if err := ranges[n-1].hash(ctx, snapshot, hasher, &sums[i]); err != nil {
						return err
					}
					told(1, len(ranges))
				}
				return nil
			})
		}
		return group.Wait()
	})
	for i := range sums {
		total.addSum(&sums[i])
	}
	return total, err
}

// keyRange is live rows of one table: lower <= key < upper, the table's ID
// included.
type keyRange struct {
	table        *Table
	lower, upper []byte
}

// liveRanges parts the live rows of all tables at the splits, which ascend.
func liveRanges(tables []*Table, splits [][]byte) []keyRange {
	var ranges []keyRange
	for _, table := range tables {
		lower := []byte{table.ID}
		upper := successor(lower)
		for _, split := range splits {
			if bytes.Compare(split, lower) > 0 && (upper == nil || bytes.Compare(split, upper) < 0) {
				ranges = append(ranges, keyRange{table, lower, split})
				lower = split
			}
		}
		ranges = append(ranges, keyRange{table, lower, upper})
	}
	return ranges
}

// hash adds the hashes of the range's rows to total.
func (r *keyRange) hash(ctx context.Context, snapshot Snapshot, hasher *rowHasher, total *sum) (err error) {
	cursor, err := snapshot.Range(r.lower, r.upper)
	if err != nil {
		return err
	}
	rows := &rowCursor{cursor, r.table, false}
	defer func() { err = errors.Join(err, rows.close()) }()
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		row, ok, err := rows.next()
		if err != nil || !ok {
			return err
		}
		total.add(hasher.row(row.Table.ID, row.Key, row.Seq, row.Value))
	}
}
