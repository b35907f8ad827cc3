// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/strandline-project/strandline/eventlog"
)

var _ eventlog.History = (*Archive)(nil)

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

// FollowPacked is Follow for who decodes the events itself: it yields what
// each object says, the one that covers from first, in the order of the
// events; those of objects that have no events left, too.
func (a *Archive) FollowPacked(ctx context.Context, from eventlog.Seq) iter.Seq2[*eventlog.Packed, error] {
	return func(yield func(*eventlog.Packed, error) bool) {
		err := a.followMetadata(ctx, from, false, func(m *metadata) error {
			a.prepare(m)
			if !yield(m.packed, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(nil, fmt.Errorf("follow the archive from %v: %w", from, err))
		}
	}
}

// prepare says what to do when an entry does not decode, which is found out
// late: ask the object itself, if it was an index object that said so.
func (a *Archive) prepare(m *metadata) {
	m.packed.Explain = func(err error) error { return a.objectError(m.object, err) }
	if m.index == nil {
		return
	}
	index, upto := *m.index, m.trailer.Last
	m.packed.Again = func(ctx context.Context) (*eventlog.Packed, error) {
		a.warnOfIndex(index, fmt.Errorf("%w: entries of %v do not decode", ErrIndexUnusable, m.object))
		trailer, c, err := a.ownMetadata(ctx, m.object, tailSize, false, func(*eventlog.Trailer) error { return nil })
		if err != nil {
			return nil, err
		}
		if trailer.Last != upto {
			return nil, a.objectError(m.object, blameIndex(&index, fmt.Errorf("%w: it ends at %v, not at %v", eventlog.ErrObjectDamaged, trailer.Last, upto)))
		}
		c.packed.Explain = m.packed.Explain
		return c.packed, nil
	}
}

// errStop says that the caller's loop has ended.
var errStop = errors.New("stop")

func (a *Archive) follow(ctx context.Context, from eventlog.Seq, yield func(eventlog.Batch) bool) error {
	var carried []eventlog.Range // of objects that have no entries left
	return a.followMetadata(ctx, from, true, func(m *metadata) error {
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
}

// followMetadata calls use with what each object from the one that covers from
// on says, in order, after it has proven that nothing is missing before it.
func (a *Archive) followMetadata(ctx context.Context, from eventlog.Seq, whole bool, use func(*metadata) error) error {
	objects, indexes, holeErr := a.seek(ctx, from)
	if holeErr != nil && !errors.Is(holeErr, ErrHole) {
		return holeErr
	}
	tiler := a.newTiler(objects)
	var before *IndexInfo // the index object that the last object's metadata came from
	err := a.readAhead(ctx, objects, indexes, whole, func(m *metadata) error {
		if err := tiler.next(m.trailer); err != nil {
			if err = a.doubt(ctx, m, whole, tiler, err); err != nil {
				return a.objectError(m.object, blameIndex(before, err))
			}
		}
		before = m.index
		if from > eventlog.FirstSeq && from < m.packed.Horizon {
			return fmt.Errorf("%w (history is complete from %v on)", eventlog.ErrCleaned, m.packed.Horizon)
		}
		return use(m)
	})
	if err != nil {
		return err
	}
	return holeErr
}

// doubt asks the object itself when what an index object says of it does not
// follow what stood before.
func (a *Archive) doubt(ctx context.Context, m *metadata, whole bool, tiler *tiler, err error) error {
	if m.index == nil {
		return err
	}
	a.warnOfIndex(*m.index, fmt.Errorf("%w: of %v it says what does not fit: %w", ErrIndexUnusable, m.object, err))
	m.index = nil
	if m.trailer, m.contents, err = a.metadata(ctx, m.object, tailSize, whole, func(*eventlog.Trailer) error { return nil }); err != nil {
		return err
	}
	return tiler.next(m.trailer)
}

// blameIndex says when what does not fit may be an index object's fault: one
// that lies with right checksums was written by somebody.
func blameIndex(before *IndexInfo, err error) error {
	if before == nil {
		return err
	}
	return fmt.Errorf("%w (the ordinal before it was read from %s, which `strandline index verify` holds against the objects)", err, before.Key())
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
