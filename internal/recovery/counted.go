// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"iter"
	"sync/atomic"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
)

// Counted tells p of every batch of history: one for each object, where that
// is an archive; and how long it was waited for. events, which may be nil,
// counts what the batches hold.
func Counted(history eventlog.History, p *progress.Progress, events *atomic.Uint64) eventlog.History {
	return counted{history, p, events}
}

type counted struct {
	history  eventlog.History
	progress *progress.Progress
	events   *atomic.Uint64
}

func (c counted) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		began := time.Now()
		for batch, err := range c.history.Follow(ctx, from) {
			c.progress.Wait(time.Since(began))
			if !yield(batch, err) {
				return
			}
			c.progress.Add(1)
			c.progress.AddEvents(len(batch.Entries))
			if c.events != nil {
				c.events.Add(uint64(len(batch.Entries)))
			}
			began = time.Now()
		}
	}
}
