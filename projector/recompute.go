// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/strandline-project/strandline/eventlog"
)

// Recompute adds the digest up from the rows, which a kept sum never looks
// at. A result other than Digest's as of the same position means that the
// store lost or invented rows. The view must not move meanwhile. One goroutine
// reads the rows, the other cores hash them.
func (v *View) Recompute(ctx context.Context) (eventlog.Seq, Digest, error) {
	before := v.Position()
	total, err := v.recompute(ctx)
	if err != nil {
		return 0, Digest{}, fmt.Errorf("recompute the %s view's digest: %w", v.Name(), err)
	}
	if after := v.Position(); after != before {
		return 0, Digest{}, fmt.Errorf("recompute the %s view's digest: the view moved from %s to %s meanwhile", v.Name(), before, after)
	}
	return before, total.digest(), nil
}

// recomputeChunk is how many bytes of rows are handed to a hasher at once.
const recomputeChunk = 256 << 10

func (v *View) recompute(ctx context.Context) (total sum, err error) {
	workers := runtime.GOMAXPROCS(0)
	full, empty := make(chan []byte, workers), make(chan []byte, 2*workers)
	for range cap(empty) {
		empty <- nil
	}
	group, ctx := errgroup.WithContext(ctx)
	sums := make([]sum, workers)
	for i := range sums {
		hasher, err := newRowHasher(v.Name(), v.Version())
		if err != nil {
			return sum{}, err
		}
		group.Go(func() error {
			for chunk := range full {
				hashRows(hasher, chunk, &sums[i])
				empty <- chunk[:0]
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(full)
		return v.readLive(ctx, full, empty)
	})
	err = group.Wait()
	for i := range sums {
		total.addSum(&sums[i])
	}
	return total, err
}

// readLive sends all live rows in chunks, and takes used ones back.
func (v *View) readLive(ctx context.Context, full chan<- []byte, empty <-chan []byte) error {
	be := binary.BigEndian
	chunk := <-empty
	err := v.inSnapshot(func(snapshot Snapshot) error {
		for _, table := range v.projector.Tables() {
			if _, err := rangeOver(ctx, snapshot, table, false, nil, func(row Row) (bool, error) {
				chunk = be.AppendUint32(chunk, uint32(len(row.Key)))
				chunk = be.AppendUint32(chunk, uint32(len(row.Value)))
				chunk = be.AppendUint64(append(chunk, row.Table.ID), uint64(row.Seq))
				chunk = append(append(chunk, row.Key...), row.Value...)
				if len(chunk) >= recomputeChunk {
					full <- chunk
					chunk = <-empty
				}
				return true, nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		full <- chunk
	}
	return err
}

// hashRows adds the hashes of a chunk's rows to total.
func hashRows(hasher *rowHasher, chunk []byte, total *sum) {
	be := binary.BigEndian
	for len(chunk) > 0 {
		key, value := int(be.Uint32(chunk)), int(be.Uint32(chunk[4:]))
		table, seq := chunk[8], eventlog.Seq(be.Uint64(chunk[9:]))
		chunk = chunk[17:]
		total.add(hasher.row(table, chunk[:key], seq, chunk[key:key+value]))
		chunk = chunk[key+value:]
	}
}
