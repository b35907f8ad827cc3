// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"unsafe"

	"golang.org/x/sync/semaphore"

	"github.com/strandline-project/strandline/eventlog"
)

var _ eventlog.History = (*Archive)(nil)

// Footers are read ahead of the reader: so many at once, and no more decoded
// than fit the budget (a single larger one goes alone).
const (
	readsAhead  = 64
	aheadBudget = 64 << 20 // bytes
)

// Follow yields every archived event from seq from on, in order, a batch for
// each object, up to the archive's end when it was called; called again from
// there, it reads the list anew. It proves on the way that nothing is missing:
// ordinals are dense, each object covers what comes right after the one before
// it, and everything begins at eventlog.FirstSeq when that is asked for. A
// hole or a damaged object ends it with an error that names it, after all
// events that stand before. A from below the horizon, but not FirstSeq, is
// eventlog.ErrCleaned.
func (a *Archive) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		err := a.follow(ctx, from, func(batch eventlog.Batch) bool { return yield(batch, nil) })
		if err != nil && !errors.Is(err, errStop) {
			yield(eventlog.Batch{}, fmt.Errorf("follow the archive from %v: %w", from, err))
		}
	}
}

// errStop says that the caller's loop has ended.
var errStop = errors.New("stop")

func (a *Archive) follow(ctx context.Context, from eventlog.Seq, yield func(eventlog.Batch) bool) error {
	objects, holeErr := a.seek(ctx, from)
	if holeErr != nil && !errors.Is(holeErr, ErrHole) {
		return holeErr
	}
	tiler := a.newTiler(objects)
	var carried []eventlog.Range // of objects that have no entries left
	err := a.readAhead(ctx, objects, func(m *metadata) error {
		if err := tiler.next(m.trailer); err != nil {
			return a.objectError(m.object, err)
		}
		if from > eventlog.FirstSeq && from < m.footer.Horizon {
			return fmt.Errorf("%w (history is complete from %v on)", eventlog.ErrCleaned, m.footer.Horizon)
		}
		batch := trim(m.footer, from)
		batch.Cleaned = append(carried, batch.Cleaned...)
		carried = nil
		if len(batch.Entries) == 0 {
			carried = batch.Cleaned
			return nil
		}
		if !yield(batch) {
			return errStop
		}
		return nil
	})
	if err != nil {
		return err
	}
	return holeErr
}

// trim returns what footer says of the seqs from from on.
func trim(footer *eventlog.Footer, from eventlog.Seq) eventlog.Batch {
	batch := eventlog.Batch{Entries: footer.Entries, Cleaned: footer.Cleaned, Horizon: footer.Horizon}
	for len(batch.Entries) > 0 && batch.Entries[0].Event.Seq < from {
		batch.Entries = batch.Entries[1:]
	}
	for len(batch.Cleaned) > 0 && batch.Cleaned[0].Last < from {
		batch.Cleaned = batch.Cleaned[1:]
	}
	return batch
}

// tiler proves that covered ranges tile.
type tiler struct {
	last  eventlog.Seq // of the object before
	known bool         // last is; it is not when reading begins in the middle
}

func (a *Archive) newTiler(objects []ObjectInfo) *tiler {
	if len(objects) == 0 {
		return &tiler{}
	}
	if objects[0].First == 1 {
		return &tiler{known: true} // nothing stands before the first ordinal
	}
	before, known := a.span(objects[0].First - 1)
	return &tiler{last: before.last, known: known}
}

func (t *tiler) next(trailer *eventlog.Trailer) error {
	if t.known && !trailer.First.Follows(t.last) {
		return fmt.Errorf("%w: it covers %v to %v, but the ordinal before it ends at %v: events are missing between",
			eventlog.ErrObjectDamaged, trailer.First, trailer.Last, t.last)
	}
	t.last, t.known = trailer.Last, true
	return nil
}

// metadata is what one object says, on its way from a read to its use.
type metadata struct {
	object   ObjectInfo
	trailer  *eventlog.Trailer
	footer   *eventlog.Footer
	err      error
	weight   int64         // of the budget, held until used
	admitted chan struct{} // closed once weight is held, or never will be
	done     chan struct{} // closed when the fields above are set
}

// readAhead calls use with the metadata of each object, in order, while the
// next ones are being read. It returns the first error, after all its
// goroutines have ended.
func (a *Archive) readAhead(ctx context.Context, objects []ObjectInfo, use func(*metadata) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	budget := semaphore.NewWeighted(aheadBudget)
	queue := make(chan *metadata, readsAhead)
	running.Go(func() {
		defer close(queue)
		before := make(chan struct{})
		close(before)
		for _, object := range objects {
			m := &metadata{object: object, admitted: make(chan struct{}), done: make(chan struct{})}
			select {
			case queue <- m:
			case <-ctx.Done():
				return
			}
			after := before
			running.Go(func() { a.read(ctx, m, budget, after) })
			before = m.admitted
		}
	})
	for m := range queue {
		<-m.done
		if m.err != nil {
			return m.err
		}
		if err := use(m); err != nil {
			return err
		}
		budget.Release(m.weight)
	}
	return context.Cause(ctx)
}

// read fills m. Budget is taken in the order of the objects (after is closed
// when the object before has had its turn), so the one whose turn it is to be
// used never waits for memory that later ones hold.
func (a *Archive) read(ctx context.Context, m *metadata, budget *semaphore.Weighted, after <-chan struct{}) {
	defer close(m.done)
	admit := sync.OnceFunc(func() { close(m.admitted) })
	defer admit()
	m.trailer, m.footer, m.err = a.metadata(ctx, m.object, func(t *eventlog.Trailer) error {
		select {
		case <-after:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		weight := min(decodedSize(t), aheadBudget)
		if err := budget.Acquire(ctx, weight); err != nil {
			return fmt.Errorf("wait for memory: %w", err)
		}
		m.weight = weight
		admit()
		return nil
	})
}

// decodedSize is about what a footer takes in memory while it is decoded.
func decodedSize(t *eventlog.Trailer) int64 {
	return int64(t.FooterSize) + int64(t.FooterRawSize) + int64(t.Events)*int64(unsafe.Sizeof(eventlog.Entry{}))
}
