// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/strandline-project/strandline/eventlog"
)

// Fork is the first place where two logs differ.
type Fork struct {
	Seq    eventlog.Seq    // of the first event that not both have
	A, B   *eventlog.Event // the next one that each has, from Seq on
	Common eventlog.Seq    // the last event that both have; 0: none was read
}

// ErrNoFork says that of two logs each says what the other does, as far as
// both go.
var ErrNoFork = errors.New("the logs do not differ as far as both go")

// FindFork reads two logs side by side, from the event from on, and returns
// the first event that is not the same in both, byte for byte. Events that one
// of them states as cleaned away are not compared. A log that goes on where the
// other ends is no fork: then it is ErrNoFork.
func FindFork(ctx context.Context, a, b Source, from eventlog.Seq) (*Fork, error) {
	heads := [2]*logHead{newLogHead(ctx, a, from), newLogHead(ctx, b, from)}
	defer heads[0].stop()
	defer heads[1].stop()
	common := eventlog.Seq(0)
	for {
		for i, name := range []string{"A", "B"} {
			if err := heads[i].advance(); err != nil {
				return nil, fmt.Errorf("read the log of %s after event %s: %w", name, heads[i].last, err)
			}
		}
		x, y := heads[0].entry, heads[1].entry
		switch {
		case x == nil || y == nil:
			return nil, ErrNoFork
		case x.Event.Seq == y.Event.Seq && bytes.Equal(x.Raw, y.Raw):
			common = x.Event.Seq
			heads[0].take()
			heads[1].take()
		case x.Event.Seq < y.Event.Seq && heads[1].gone.contains(x.Event.Seq):
			heads[0].take()
		case y.Event.Seq < x.Event.Seq && heads[0].gone.contains(y.Event.Seq):
			heads[1].take()
		default:
			return &Fork{Seq: min(x.Event.Seq, y.Event.Seq), A: &x.Event, B: &y.Event, Common: common}, nil
		}
	}
}

// logHead is the next event of a log.
type logHead struct {
	next  func() (eventlog.Batch, error, bool)
	stop  func()
	batch []eventlog.Entry // what is left of it
	gone  gone
	entry *eventlog.Entry // nil at the log's end
	last  eventlog.Seq    // taken
}

func newLogHead(ctx context.Context, source Source, from eventlog.Seq) *logHead {
	next, stop := iter.Pull2(source.Follow(ctx, from))
	return &logHead{next: next, stop: stop}
}

// advance sets entry, unless it is set.
func (h *logHead) advance() error {
	for h.entry == nil {
		if len(h.batch) > 0 {
			h.entry, h.batch = &h.batch[0], h.batch[1:]
			return nil
		}
		batch, err, more := h.next()
		if err != nil || !more {
			return err
		}
		h.gone.take(&batch)
		h.batch = batch.Entries
	}
	return nil
}

func (h *logHead) take() { h.last, h.entry = h.entry.Event.Seq, nil }

// EventAt returns the event seq of a log, nil when the log has none of that
// number.
func EventAt(ctx context.Context, source Source, seq eventlog.Seq) (*eventlog.Entry, error) {
	for batch, err := range source.Follow(ctx, seq) {
		if err != nil {
			return nil, fmt.Errorf("look for event %s: %w", seq, err)
		}
		if len(batch.Entries) > 0 {
			if entry := &batch.Entries[0]; entry.Event.Seq == seq {
				return entry, nil
			}
			return nil, nil
		}
	}
	return nil, nil
}
