// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"
)

// NextClosed returns the closed generation with the least ordinal above
// after, waiting for it. It returns the error that stopped the log, ErrClosed
// after an orderly Close, once there will be none any more.
func (l *Log) NextClosed(ctx context.Context, after uint64) (*Generation, error) {
	for {
		l.mu.Lock()
		g, ended, err, changed := l.closedLocked(after), l.ended, l.err, l.changed
		l.mu.Unlock()
		switch {
		case g != nil:
			return g, nil
		case ended, err != nil && !errors.Is(err, ErrClosed):
			return nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// closedLocked returns the next generation after the given ordinal, nil unless
// it is closed: generations close in order.
func (l *Log) closedLocked(after uint64) *Generation {
	i := slices.IndexFunc(l.gens, func(g *Generation) bool { return g.Ordinal > after })
	if i < 0 || !l.gens[i].closed() {
		return nil
	}
	return l.gens[i]
}

// MarkArchived moves the archived watermark over g: its object is in the
// bucket, and the bucket was still ours after that. The upload took d.
// A log that was fenced does not move it any more.
func (l *Log) MarkArchived(g *Generation, d time.Duration) {
	last := g.lastSeq()
	l.mu.Lock()
	moves := !l.fenced && last > l.archived
	l.mu.Unlock()
	if !moves {
		return
	}
	l.limits.archived(g.weight(), d) // who hears that it is archived finds room
	l.mu.Lock()
	if !l.fenced { // meanwhile
		l.archived = last
		l.changedLocked()
	}
	copies := l.copiesLocked()
	l.mu.Unlock()
	l.limits.keepCopies(copies, false)
	l.nudge() // the next cut may have waited for this
}

// ArchiveAway says that the bucket does not answer: ingest is not paced by it
// until the next MarkArchived; only the limits hold.
func (l *Log) ArchiveAway() { l.limits.unreachable() }

// Local returns the generations at hand, ascending. The last ones may not be
// closed yet.
func (l *Log) Local() []*Generation {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.gens)
}

// Drop removes the oldest local generation if it is archived. The caller has
// seen its object in a later LIST and read it back. A crash in the middle
// leaves a directory without one of its files, or none: the start procedure
// finds the ordinal in the archive and removes the rest.
func (l *Log) Drop(g *Generation) error {
	l.mu.Lock()
	if len(l.gens) == 0 || l.gens[0] != g || !g.closed() || g.lastSeq() > l.archived {
		l.mu.Unlock()
		return errors.New("dropping " + g.String() + ": only the oldest local generation may go, and only when it is archived")
	}
	l.gens = slices.Delete(slices.Clone(l.gens), 0, 1)
	l.doomed = append(l.doomed, g)
	doomed := l.doomed
	l.doomed = nil
	copies := l.copiesLocked()
	l.mu.Unlock()
	err := l.removeAll(doomed)
	l.limits.keepCopies(copies, true)
	return err
}

// removeAll removes the directories of dropped generations. One that cannot be
// removed now is tried again with the next, or else by the next start.
func (l *Log) removeAll(doomed []*Generation) error {
	var errs []error
	for _, g := range doomed {
		if err := g.remove(); err != nil {
			errs = append(errs, err)
			l.mu.Lock()
			l.doomed = append(l.doomed, g)
			l.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// OpenPayload returns the payload file of a local generation, false when it
// is not at hand any more: then the archive has it. The caller calls release
// when it is done. What is read must be checked against the placement's sums.
func (l *Log) OpenPayload(ordinal uint64) (r io.ReaderAt, release func(), ok bool, err error) {
	l.mu.Lock()
	i := slices.IndexFunc(l.gens, func(g *Generation) bool { return g.Ordinal == ordinal })
	var g *Generation
	if i >= 0 {
		g = l.gens[i]
	}
	l.mu.Unlock()
	if g == nil {
		return nil, nil, false, nil
	}
	f, ok, err := g.acquire()
	if !ok || err != nil {
		return nil, nil, false, err
	}
	return f, g.release, true, nil
}

// forgetLocked drops the entries of closed generations but the most recent
// ones from memory.
func (l *Log) forgetLocked() {
	kept := 0
	for _, g := range slices.Backward(l.gens) {
		if !g.closed() {
			continue
		}
		if kept++; kept > recentGenerations {
			if !g.forget() {
				return
			}
		}
	}
}
