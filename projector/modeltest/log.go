// SPDX-License-Identifier: Apache-2.0

// Package modeltest holds what tests of the views need: a log in memory
// (Log), random histories that are valid (History), and a reference model of
// both views in plain maps (Model) to compare the real ones with.
package modeltest

import (
	"context"
	"iter"
	"sort"
	"sync"

	"github.com/strandline-project/strandline/eventlog"
)

// Log is a log in memory, a projector.Source. It may be appended to while it
// is followed.
type Log struct {
	BatchSize int              // entries a batch has at most; 0: 7
	Cleaned   []eventlog.Range // stated with every batch
	Horizon   eventlog.Seq     // stated with every batch

	mu      sync.Mutex
	entries []eventlog.Entry
	calls   int
}

// Append adds entries, which the caller no longer changes.
func (l *Log) Append(entries ...eventlog.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, entries...)
}

// Entries returns all entries so far; they must not be changed.
func (l *Log) Entries() []eventlog.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries[:len(l.entries):len(l.entries)]
}

// Last returns the seq of the last entry, 0 when there is none.
func (l *Log) Last() eventlog.Seq { return eventlog.Batch{Entries: l.Entries()}.Last() }

// Calls returns how often Follow was called.
func (l *Log) Calls() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls
}

// Cut drops all entries after the event last, as the loss of a machine does.
func (l *Log) Cut(last eventlog.Seq) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = l.entries[:after(l.entries, last)]
}

func after(entries []eventlog.Entry, last eventlog.Seq) int {
	return sort.Search(len(entries), func(i int) bool { return entries[i].Event.Seq > last })
}

// Follow yields the entries from the event from on that are there when it is
// called.
func (l *Log) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	l.mu.Lock()
	l.calls++
	l.mu.Unlock()
	entries := l.Entries()
	if from > 0 {
		entries = entries[after(entries, from-1):]
	}
	size := l.BatchSize
	if size == 0 {
		size = 7
	}
	return func(yield func(eventlog.Batch, error) bool) {
		for len(entries) > 0 {
			if ctx.Err() != nil {
				yield(eventlog.Batch{}, context.Cause(ctx))
				return
			}
			n := min(size, len(entries))
			if !yield(eventlog.Batch{Entries: entries[:n], Cleaned: l.Cleaned, Horizon: l.Horizon}, nil) {
				return
			}
			entries = entries[n:]
		}
	}
}
