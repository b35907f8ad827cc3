// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// This file is how a list of the log's objects becomes one that can be relied
// on. Ordinals are dense, so it is known which name comes next: that a list
// lacks an object says nothing, only the answer to a question by name does.

const (
	maxHeads = 256 // objects that are found by name before the list is read again
	maxHoles = 64  // holes that are looked for after the first
)

// walk goes along the ordinals from next on. Each round reads the list, and
// asks by name for what it lacks up to its end, and behind its end until one is
// absent. What was found by name must stand in the list of the next round, which
// begins after it was put. A list that goes on lacking it is an older state.
type walk struct {
	archive *Archive
	list    func(ctx context.Context, from uint64) ([]ObjectInfo, error)
	last    uint64 // ordinal where it ends; 0: with the archive

	sure  []ObjectInfo    // dense, and listed
	next  uint64          // the ordinal behind them
	seen  uint64          // the last ordinal that was listed or found by name
	named map[uint64]bool // ordinals that an earlier round found by name
}

// run returns the objects up to the end. Those before the first hole come with
// the *HoleError.
func (w *walk) run(ctx context.Context) ([]ObjectInfo, error) {
	w.named = map[uint64]bool{}
	for attempt := 0; ; {
		r := &round{walk: w, next: w.next}
		if err := r.read(ctx); err != nil {
			return nil, err
		}
		trouble := w.trouble(r)
		kept := w.keep(r)
		switch {
		case trouble == nil && len(r.named) == 0:
			return w.sure, nil
		case trouble == nil: // the list is read again, and must have them
			continue
		case kept: // a list that comes nearer is waited for
			attempt = 0
		}
		if attempt == asksAgain {
			return append(w.sure, r.dense...), trouble
		}
		if err := Pause(ctx, firstPause<<attempt); err != nil {
			return nil, fmt.Errorf("list %v: %w while looking again: %w", w.archive.bucket, err, trouble)
		}
		attempt++
	}
}

// trouble says what is wrong with a round, nil when nothing is.
func (w *walk) trouble(r *round) error {
	for _, ordinal := range r.named {
		if w.named[ordinal] {
			err := fmt.Errorf("%w: its list lacks %s, which is there by name; try again, and if that goes on, find out why the list of this bucket is not complete",
				ErrOlderState, Shipped(ordinal).Key())
			w.archive.warnOnce("list of "+LogPrefix, "the archive's list lacks objects that are there", "archive", w.archive.bucket.String(), "error", err)
			return fmt.Errorf("list %v: %w", w.archive.bucket, err)
		}
	}
	if r.hole == nil {
		return nil
	}
	if w.named[r.hole.First] {
		return fmt.Errorf("%w: it was there a moment ago: %w", ErrOlderState, r.hole)
	}
	return r.hole
}

// keep moves what is sure out of r: the objects before the first that the list
// lacks.
func (w *walk) keep(r *round) bool {
	n := len(r.dense)
	if len(r.named) > 0 {
		n = slices.IndexFunc(r.dense, func(o ObjectInfo) bool { return o.First == r.named[0] })
	}
	w.sure = append(w.sure, r.dense[:n]...)
	r.dense = r.dense[n:]
	if n > 0 {
		w.next = w.sure[len(w.sure)-1].Last + 1
	}
	for _, ordinal := range r.named {
		w.named[ordinal] = true
	}
	return n > 0
}

// round is one reading of the list.
type round struct {
	walk  *walk
	dense []ObjectInfo // from the walk's next on, up to the first hole
	named []uint64     // those of them that the list lacks
	next  uint64       // the ordinal that nothing was seen of yet
	found int          // objects found by name
	hole  *HoleError   // nil: none so far
}

// read reads the list and asks by name for what it lacks. A hole that is known
// is not hidden by a store that does not say whether there are others.
func (r *round) read(ctx context.Context) error {
	listed, err := r.walk.list(ctx, r.walk.next)
	if err != nil {
		return err
	}
	err = r.along(ctx, listed)
	if r.hole != nil && ctx.Err() == nil {
		r.hole.More = r.hole.More || err != nil || r.full()
		err = nil
	}
	return err
}

// full reports whether so many were found by name that the list is to be read
// again first.
func (r *round) full() bool { return r.found == maxHeads }

func (r *round) along(ctx context.Context, listed []ObjectInfo) error {
	for _, object := range listed {
		if err := r.upTo(ctx, object.First); err != nil || r.full() {
			return err
		}
		if r.hole == nil {
			r.dense = append(r.dense, object)
		} else if r.hole.More {
			return nil
		}
		r.next = object.Last + 1
		r.walk.seen = max(r.walk.seen, object.Last)
	}
	end := r.walk.last
	if end == 0 {
		end = max(r.walk.archive.lastExpected(), r.walk.seen)
	}
	if err := r.upTo(ctx, end+1); err != nil || r.hole != nil || r.full() || r.walk.last != 0 {
		return err
	}
	return r.byName(ctx, maxOrdinal)
}

// upTo asks for what the list lacks before ordinal.
func (r *round) upTo(ctx context.Context, ordinal uint64) error {
	if r.next >= ordinal {
		return nil
	}
	if err := r.byName(ctx, ordinal-1); err != nil || r.next == ordinal || r.full() {
		return err
	}
	hole := Hole{r.next, ordinal - 1}
	switch {
	case r.hole == nil:
		r.hole = &HoleError{Hole: hole, Bucket: r.walk.archive.bucket.String()}
	case len(r.hole.Later) == maxHoles:
		r.hole.More = true
	default:
		r.hole.Later = append(r.hole.Later, hole)
	}
	r.next = ordinal
	return nil
}

// byName asks for the ordinals up to last, until one is absent or the round is
// full.
func (r *round) byName(ctx context.Context, last uint64) error {
	for r.next <= last && !r.full() {
		object := Shipped(r.next)
		err := retry(ctx, readLimit, func() error {
			info, err := r.walk.archive.bucket.Head(ctx, object.Key())
			object.Size = info.Size
			return err
		})
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("ask %v for %v, which its list lacks: %w", r.walk.archive.bucket, object, err)
		}
		if r.hole == nil {
			r.dense, r.named = append(r.dense, object), append(r.named, object.First)
		}
		r.walk.seen = max(r.walk.seen, object.Last)
		r.found++
		r.next++
	}
	return nil
}
