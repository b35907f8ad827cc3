// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"iter"
	"sync/atomic"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/projector"
)

// Counted tells p of every batch of history: one for each object, where that
// is an archive; and how long it was waited for. events, which may be nil,
// counts what the batches hold.
func Counted(history eventlog.History, p *progress.Progress, events *atomic.Uint64) eventlog.History {
	c := counted{history, p, events}
	if packed, ok := history.(projector.PackedSource); ok {
		return countedPacked{c, packed}
	}
	return c
}

type counted struct {
	history  eventlog.History
	progress *progress.Progress
	events   *atomic.Uint64
}

// countedPacked is counted for what need not be decoded.
type countedPacked struct {
	counted
	packed projector.PackedSource
}

func (c countedPacked) FollowPacked(ctx context.Context, from eventlog.Seq) iter.Seq2[*eventlog.Packed, error] {
	return counting(c.counted, c.packed.FollowPacked(ctx, from), (*eventlog.Packed).Events)
}

func (c counted) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return counting(c, c.history.Follow(ctx, from), func(b eventlog.Batch) int { return len(b.Entries) })
}

// counting tells of all that is yielded.
func counting[T any](c counted, all iter.Seq2[T, error], events func(T) int) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		over := c.progress.Waiting()
		defer func() { over() }() // of the last wait, which ends with the history
		for part, err := range all {
			over()
			over = func() {}
			if !yield(part, err) || err != nil {
				return
			}
			c.progress.Add(1)
			c.progress.AddEvents(events(part))
			if c.events != nil {
				c.events.Add(uint64(events(part)))
			}
			over = c.progress.Waiting()
		}
	}
}
