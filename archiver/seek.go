// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"cmp"
	"context"
	"slices"

	"github.com/strandline-project/strandline/eventlog"
)

// span says which seqs an ordinal covers.
type span struct {
	ordinal     uint64
	first, last eventlog.Seq
}

// spans are what is known of where seqs lie: some ordinals, ascending, not
// necessarily neighbours. They only save reading; any of them may be forgotten.
type spans []span

const maxSpans = 1 << 16 // 1.5 MiB

// learn notes what a verified trailer says.
func (a *Archive) learn(t *eventlog.Trailer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t.FirstOrdinal != t.LastOrdinal {
		return
	}
	s := span{t.FirstOrdinal, t.First, t.Last}
	at, known := slices.BinarySearchFunc(a.spans, s.ordinal, spanOrdinal)
	if known {
		a.spans[at] = s
		return
	}
	a.spans = slices.Insert(a.spans, at, s)
	if len(a.spans) > maxSpans { // keep every second: the search stays short
		kept := a.spans[:0]
		for i := 0; i < len(a.spans); i += 2 {
			kept = append(kept, a.spans[i])
		}
		a.spans = kept
	}
}

func spanOrdinal(s span, ordinal uint64) int { return cmp.Compare(s.ordinal, ordinal) }

// span returns what is known of ordinal.
func (a *Archive) span(ordinal uint64) (span, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, known := slices.BinarySearchFunc(a.spans, ordinal, spanOrdinal)
	if !known {
		return span{}, false
	}
	return a.spans[at], true
}

// floor returns the highest ordinal known to begin at or before seq; 1 when
// none is.
func (a *Archive) floor(seq eventlog.Seq) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, _ := slices.BinarySearchFunc(a.spans, seq, func(s span, seq eventlog.Seq) int {
		if s.first <= seq {
			return -1
		}
		return 1
	})
	if at == 0 {
		return 1
	}
	return a.spans[at-1].ordinal
}

// seek lists the objects from the one that covers seq on, or, when none does,
// from the first after it (see Find). Objects before a hole come with its
// error. The index objects are those of the listed runs.
func (a *Archive) seek(ctx context.Context, seq eventlog.Seq) ([]ObjectInfo, []IndexInfo, error) {
	objects, indexes, listErr := a.objects(ctx, a.floor(seq))
	if seq <= eventlog.FirstSeq {
		return objects, indexes, listErr
	}
	from, err := a.Find(ctx, objects, seq)
	if err != nil {
		return nil, nil, err
	}
	return objects[from:], indexes, listErr
}

// Find returns which of the listed objects covers seq, or, when none does, is
// the first after it. It reads a trailer for each step of a binary search, and
// none twice.
func (a *Archive) Find(ctx context.Context, objects []ObjectInfo, seq eventlog.Seq) (int, error) {
	low, high := 0, len(objects) // objects[:low] end before seq, objects[high:] do not
	for low < high {
		middle := (low + high) / 2
		last, err := a.lastSeq(ctx, objects[middle])
		if err != nil {
			return 0, err
		}
		if last < seq {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, nil
}

// lastSeq returns the last seq that object covers.
func (a *Archive) lastSeq(ctx context.Context, object ObjectInfo) (eventlog.Seq, error) {
	if s, ok := a.span(object.Last); ok {
		return s.last, nil
	}
	trailer, err := a.Trailer(ctx, object)
	if err != nil {
		return 0, err
	}
	return trailer.Last, nil
}
