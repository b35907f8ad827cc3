// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"iter"

	"github.com/strandline-project/strandline/eventlog"
)

// UpTo returns history as it ends with the event last. What lies behind it is
// not read: it may be broken.
func UpTo(history eventlog.History, last eventlog.Seq) eventlog.History { return upTo{history, last} }

type upTo struct {
	history eventlog.History
	last    eventlog.Seq
}

func (u upTo) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		if from > u.last {
			return
		}
		for batch, err := range u.history.Follow(ctx, from) {
			end := len(batch.Entries)
			for end > 0 && batch.Entries[end-1].Event.Seq > u.last {
				end--
			}
			whole := end == len(batch.Entries) && batch.Last() < u.last
			batch.Entries = batch.Entries[:end]
			if (err != nil || end > 0) && !yield(batch, err) || err != nil || !whole {
				return
			}
		}
	}
}

// blamed remembers that the history could not be read.
type blamed struct {
	history eventlog.History
	err     error // read it when nobody follows any more
}

func (b *blamed) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		for batch, err := range b.history.Follow(ctx, from) {
			if err != nil {
				b.err = err
			}
			if !yield(batch, err) {
				return
			}
		}
	}
}
