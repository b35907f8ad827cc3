// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"context"
	"iter"
	"sync"
)

// fakeHistory is an archive in memory.
type fakeHistory struct {
	mu      sync.Mutex
	batches []Batch // owned by mu
	err     error   // owned by mu; yielded after the last batch
	ordinal uint64  // owned by mu; of the last batch
}

// add archives the generation of an ordinal.
func (h *fakeHistory) add(ordinal uint64, batch Batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.batches, h.ordinal = append(h.batches, batch), ordinal
}

// end returns the last archived event and the ordinal after it.
func (h *fakeHistory) end() (last Event, next uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.batches) == 0 {
		return Event{}, 1
	}
	entries := h.batches[len(h.batches)-1].Entries
	return entries[len(entries)-1].Event, h.ordinal + 1
}

func (h *fakeHistory) Follow(_ context.Context, from Seq) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		h.mu.Lock()
		batches, err := h.batches, h.err
		h.mu.Unlock()
		for _, b := range batches {
			if b.Last() < from {
				continue
			}
			b.Entries = after(b.Entries, from)
			if !yield(b, nil) {
				return
			}
		}
		if err != nil {
			yield(Batch{}, err)
		}
	}
}
