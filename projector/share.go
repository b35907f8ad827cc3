// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"

	"github.com/strandline-project/strandline/eventlog"
)

// CatchUp brings the views of all runners up to the source's end, side by
// side, while the events are read once. A view that stops does not hold up
// the others; all errors are returned, joined.
func CatchUp(ctx context.Context, source Source, runners ...*Runner) error {
	followers := make([]follower, len(runners))
	for i, r := range runners {
		followers[i] = r
	}
	return share(ctx, source, followers)
}

// follower is a view that can be brought up to a source's end.
type follower interface {
	Position() eventlog.Seq
	CatchUp(ctx context.Context, source Source) error
}

func share(ctx context.Context, source Source, followers []follower) error {
	shared := &sharing{source: source, from: ^eventlog.Seq(0)}
	for range followers {
		shared.readers = append(shared.readers, &sharedReader{sharing: shared,
			batches: make(chan sharedBatch, sharedAhead), done: make(chan struct{})})
	}
	for _, r := range followers {
		shared.from = min(shared.from, r.Position())
	}
	errs := make([]error, len(followers))
	var all sync.WaitGroup
	for i, r := range followers {
		all.Go(func() {
			defer shared.readers[i].finish()
			errs[i] = r.CatchUp(ctx, shared.readers[i])
		})
	}
	shared.read(ctx)
	all.Wait()
	return errors.Join(distinct(errs)...)
}

// distinct leaves out what several views say in the same words: that the
// source failed them all.
func distinct(errs []error) []error {
	var different []error
	for _, err := range errs {
		same := func(other error) bool { return err != nil && other.Error() == err.Error() }
		if err != nil && !slices.ContainsFunc(different, same) {
			different = append(different, err)
		}
	}
	return different
}

// sharedAhead is how many batches the fastest view may be ahead of the
// slowest.
const sharedAhead = 4

// sharing is one reading of a source for several views.
type sharing struct {
	source  Source
	from    eventlog.Seq // the lowest position of all views
	readers []*sharedReader
}

type sharedBatch struct {
	batch eventlog.Batch
	err   error
}

// read hands every batch to every reader that is not done, the source's error
// among them.
func (s *sharing) read(ctx context.Context) {
	defer func() {
		for _, r := range s.readers {
			close(r.batches)
		}
	}()
	from := eventlog.FirstSeq
	if s.from != 0 {
		from = s.from.Next()
	}
	for batch, err := range s.source.Follow(ctx, from) {
		if !s.hand(sharedBatch{batch, err}) {
			return
		}
	}
}

// hand gives b to every reader; false when none is left.
func (s *sharing) hand(b sharedBatch) bool {
	left := false
	for _, r := range s.readers {
		select {
		case r.batches <- b:
			left = true
		case <-r.done:
		}
	}
	return left
}

// sharedReader is the source that one of the views sees.
type sharedReader struct {
	*sharing
	batches chan sharedBatch
	done    chan struct{} // closed by finish
	once    sync.Once
	used    bool
}

// finish says that the view wants no more.
func (r *sharedReader) finish() { r.once.Do(func() { close(r.done) }) }

// Follow yields what the reading yields, from the event from on. A second
// call, to explain a violation, reads the source itself.
func (r *sharedReader) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	if r.used {
		return r.source.Follow(ctx, from)
	}
	r.used = true
	return func(yield func(eventlog.Batch, error) bool) {
		defer r.finish()
		for b := range r.batches {
			if b.err == nil {
				b.batch.Entries = since(b.batch.Entries, from)
				if len(b.batch.Entries) == 0 && len(b.batch.Cleaned) == 0 {
					continue
				}
			}
			if !yield(b.batch, b.err) || b.err != nil {
				return
			}
		}
	}
}

// since returns the entries from the event from on.
func since(entries []eventlog.Entry, from eventlog.Seq) []eventlog.Entry {
	for i := range entries {
		if entries[i].Event.Seq >= from {
			return entries[i:]
		}
	}
	return nil
}
