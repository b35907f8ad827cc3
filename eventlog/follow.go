// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
)

// followBatch is the most entries that Follow yields at once.
const followBatch = 4096

// recentGenerations is how many closed generations keep their entries in
// memory for readers that are nearly up to date.
const recentGenerations = 2

// Follow yields every committed event from seq from on, in order, in batches
// that are never empty: from the archive what the WAL no longer holds, then
// from the WAL or memory, without the caller seeing the seams. At the end it
// asks wait for more, which gets the seq before the next one wanted and
// returns when there may be something after it; WaitCommitted is one, the
// feed's waker another. Follow ends, after yielding an error, with ctx, with
// wait's error, or with ErrCleaned (see History).
func (l *Log) Follow(ctx context.Context, from Seq, wait func(ctx context.Context, after Seq) error) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		f := follower{l: l, next: max(from, FirstSeq)}
		for {
			more, err := f.drain(ctx, yield)
			if !more {
				return
			}
			if err == nil {
				err = wait(ctx, f.next-1)
			}
			if err != nil {
				yield(Batch{}, err)
				return
			}
		}
	}
}

// ReadTo is Follow without waiting: it ends behind the last event committed
// when it is reached.
func (l *Log) ReadTo(ctx context.Context, from Seq) iter.Seq2[Batch, error] {
	end := errors.New("end")
	return func(yield func(Batch, error) bool) {
		for batch, err := range l.Follow(ctx, from, func(context.Context, Seq) error { return end }) {
			if errors.Is(err, end) || !yield(batch, err) {
				return
			}
		}
	}
}

// follower is one reader's place in the log.
type follower struct {
	l    *Log
	next Seq // the least seq still wanted
	last Seq // the last one yielded; 0 before the first
}

// drain yields what is committed. more is false when the consumer has had
// enough.
func (f *follower) drain(ctx context.Context, yield func(Batch, error) bool) (more bool, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return true, err
		}
		if committed, _ := f.l.Committed(); f.next > committed {
			return true, nil
		}
		entries, local, err := f.l.local(f.next)
		switch {
		case err != nil:
			return true, err
		case local:
			more = f.yieldAll(entries, yield)
		default:
			more, err = f.older(ctx, yield)
		}
		if !more || err != nil {
			return more, err
		}
	}
}

func (f *follower) yieldAll(entries []Entry, yield func(Batch, error) bool) (more bool) {
	for chunk := range slices.Chunk(entries, followBatch) {
		if !f.yield(Batch{Entries: chunk}, yield) {
			return false
		}
	}
	return true
}

func (f *follower) yield(batch Batch, yield func(Batch, error) bool) (more bool) {
	f.last = batch.Last()
	if n := len(batch.Cleaned); n > 0 {
		f.last = max(f.last, batch.Cleaned[n-1].Last)
	}
	f.next = f.last + 1
	return yield(batch, nil)
}

// local returns the entries from seq from on that one local generation holds,
// false when the archive must be asked.
func (l *Log) local(from Seq) ([]Entry, bool, error) {
	g := l.localOf(from)
	if g == nil {
		return nil, false, nil
	}
	entries, err := g.Entries()
	if err != nil && g.gone() { // it was dropped just now, so it is archived
		return nil, false, nil
	}
	return after(entries, from), true, err
}

// localOf returns the local generation that holds the first event from seq
// from on, nil when an older one may hold it.
func (l *Log) localOf(from Seq) *Generation {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.gens, func(g *Generation) bool { return g.lastSeq() >= from })
	if i < 0 {
		return nil
	}
	// Between two epochs no event is missing though the numbers jump; but only
	// the generation right before can vouch for that.
	first, _ := l.gens[i].Seqs()
	if first > from && (i == 0 || l.gens[i-1].Ordinal != l.gens[i].Ordinal-1) {
		return nil
	}
	return l.gens[i]
}

// after returns the entries from seq from on.
func after(entries []Entry, from Seq) []Entry {
	i, _ := slices.BinarySearchFunc(entries, from, func(e Entry, seq Seq) int { return cmp.Compare(e.Event.Seq, seq) })
	return entries[i:]
}

// older yields what the history has. Where that is nothing, the next event is
// the first of a local generation.
func (f *follower) older(ctx context.Context, yield func(Batch, error) bool) (more bool, err error) {
	if f.l.opts.History == nil {
		return true, fmt.Errorf("seq %s is older than this WAL, and there is no archive to read it from", f.next)
	}
	local := f.l.firstLocal(f.next) // what is dropped from here on is in the history by then
	before := f.next
	for batch, err := range f.l.opts.History.Follow(ctx, f.next) {
		if err != nil {
			return true, fmt.Errorf("reading the archive from seq %s: %w", f.next, err)
		}
		if len(batch.Entries) > 0 && !f.yield(batch, yield) {
			return false, nil
		}
	}
	if f.next != before {
		return true, nil
	}
	return f.jump(local, yield)
}

// firstLocal returns the first local generation whose events are not below
// from.
func (l *Log) firstLocal(from Seq) *Generation {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.gens, func(g *Generation) bool { return g.lastSeq() >= from })
	if i < 0 {
		return nil
	}
	return l.gens[i]
}

// jump goes on at a local generation when the archive ends right before it:
// the numbers between belong to no event, because an epoch was cut there. The
// start procedure has proven that no ordinal is missing in between.
func (f *follower) jump(g *Generation, yield func(Batch, error) bool) (more bool, err error) {
	if g == nil {
		return true, fmt.Errorf("seq %s is neither in this WAL nor in the archive", f.next)
	}
	first, _ := g.Seqs()
	if f.last != 0 && !first.Follows(f.last) || first.Counter() != 1 {
		return true, fmt.Errorf("seq %s is neither in the archive nor in this WAL, which goes on at %s", f.next, first)
	}
	entries, err := g.Entries()
	if err != nil && g.gone() {
		return true, nil // look again: the history has it now
	}
	if err != nil {
		return true, err
	}
	return f.yieldAll(entries, yield), nil
}
