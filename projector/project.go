// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/strandline-project/strandline/eventlog"
)

// project brings views forward over every event that source yields after
// their positions. It is the one way there is: live, at start-up, in a rebuild
// and in a recovery. On an error a view stands, committed, right before the
// event that could not be applied; the others go on to the source's end.
func project(ctx context.Context, source Source, lanes ...*lane) error {
	errs := make([]error, len(lanes))
	for batch, err := range source.Follow(ctx, firstOf(lanes)) {
		if err != nil {
			return fail(errs, lanes, err)
		}
		left := false
		for i, l := range lanes {
			if errs[i] == nil {
				errs[i] = l.apply(&batch)
			}
			left = left || errs[i] == nil
		}
		if !left {
			return errors.Join(distinct(errs)...)
		}
	}
	if ctx.Err() != nil { // a source may just end then
		return fail(errs, lanes, context.Cause(ctx))
	}
	for i, l := range lanes {
		if errs[i] == nil {
			errs[i] = l.settle(true)
		}
	}
	return errors.Join(distinct(errs)...)
}

// firstOf returns the first event that a lane does not have.
func firstOf(lanes []*lane) eventlog.Seq {
	lowest := lanes[0].position
	for _, l := range lanes {
		lowest = min(lowest, l.position)
	}
	if lowest == 0 {
		return eventlog.FirstSeq
	}
	return lowest.Next()
}

// fail ends all lanes that have not failed, because their source did.
func fail(errs []error, lanes []*lane, err error) error {
	for i, l := range lanes {
		if errs[i] == nil {
			errs[i] = errors.Join(&sourceError{l.projector.Name(), l.position, err}, l.settle(true))
		}
	}
	return errors.Join(errs...)
}

// sourceError says that events could not be had, which tells nothing about
// the view.
type sourceError struct {
	view     string
	position eventlog.Seq
	err      error
}

func (e *sourceError) Error() string {
	return fmt.Sprintf("%s view: read the events after %s: %v", e.view, e.position, e.err)
}

func (e *sourceError) Unwrap() error { return e.err }

// lane is a view under way: what project keeps between two events. One
// goroutine at a time owns it.
type lane struct {
	projector Projector
	sink      sink
	settled   func()                // called after every commit
	tolerate  func(*Violation) bool // nil: none

	position eventlog.Seq // the last event applied, committed or not
	time     int64        // of that event
	gone     gone
	changes  Changes
}

// apply applies a batch. What panics is a violation of the event in progress;
// nothing is committed then, because nobody knows what is half done.
func (l *lane) apply(batch *eventlog.Batch) (err error) {
	var entry *eventlog.Entry
	defer func() {
		if cause := recover(); cause != nil && entry != nil {
			err = newViolation(rulePanic, l.projector.Name(), entry, nil, "%v\n%s", cause, debug.Stack())
		} else if cause != nil {
			panic(cause)
		}
	}()
	l.gone.take(batch)
	entries := since(batch.Entries, l.position+1)
	for i := range entries {
		entry = &entries[i]
		if err := l.event(entry); err != nil && !l.tolerated(err) {
			return errors.Join(err, l.settle(true))
		}
		l.position, l.time = entry.Event.Seq, entry.Event.Time
	}
	return l.settle(false)
}

// tolerated reports whether the projection goes on past err, as if the event
// were not there.
func (l *lane) tolerated(err error) bool {
	violation := (*Violation)(nil)
	return l.tolerate != nil && errors.As(err, &violation) && violation.Rule != rulePanic && l.tolerate(violation)
}

// event applies one event, in whole or not at all.
func (l *lane) event(entry *eventlog.Entry) error {
	e := &entry.Event
	last, err := l.follows(entry)
	if err != nil {
		return err
	}
	if !e.Type.Emitted() {
		return newViolation(RuleType, l.projector.Name(), entry, nil,
			"this build does not know what an event of type %s means; a later version wrote it, use that one", e.Type)
	}
	if e.Type == eventlog.BlockDeleted && l.gone.contains(e.Undoes) {
		return nil // store and delete cancel out, and the store was cleaned away first
	}
	l.changes.reset()
	if err := l.projector.Project(entry, &l.changes); err != nil {
		return newViolation(RuleForm, l.projector.Name(), entry, err, "%v", err)
	}
	if e.Type == eventlog.BlockStored && l.gone.contains(e.Reuses) {
		l.changes.dropHistoryRequirements()
	}
	if err := l.sink.apply(entry, &l.changes); err != nil {
		return err
	}
	if e.Type == eventlog.StateRecorded {
		return l.sink.compare(entry, last, l.gone.horizon)
	}
	return nil
}

// follows checks that nothing is missing before entry, and returns the seq
// that stood right before it in the log, cleaned away or not.
func (l *lane) follows(entry *eventlog.Entry) (eventlog.Seq, error) {
	e := &entry.Event
	last := l.gone.bridge(l.position, e.Seq)
	if !e.Seq.Follows(last) {
		return 0, newViolation(RuleContiguous, l.projector.Name(), entry, nil,
			"it comes after event %s, and nothing states that what lies between was cleaned away", last)
	}
	if (e.Type == eventlog.EpochStarted) != (e.Seq.Counter() == 1) {
		return 0, newViolation(RuleForm, l.projector.Name(), entry, nil, "an epoch's first event, and no other, is its epoch_started")
	}
	if e.Type != eventlog.EpochStarted || e.Previous == last {
		return last, nil
	}
	if e.Previous < last {
		return 0, fmt.Errorf("%s view at %s: epoch %d starts after event %s: %w",
			l.projector.Name(), l.position, e.Seq.Epoch(), e.Previous, ErrAhead)
	}
	return 0, newViolation(RuleContiguous, l.projector.Name(), entry, nil,
		"the epoch starts after event %s, but the last one here is %s", e.Previous, last)
}

func (l *lane) settle(now bool) error {
	committed, err := l.sink.settle(l.position, l.time, now)
	if err != nil {
		return err
	}
	if committed {
		l.settled()
	}
	return nil
}

// gone is what a source stated as cleaned away. It need not outlive the
// process: a view that stops inside cleaned history starts from the first
// event again (eventlog.ErrCleaned).
type gone struct {
	ranges  []eventlog.Range // ascending
	horizon eventlog.Seq     // the highest stated
	lent    bool             // others read ranges, too
}

// lend returns what g is now, to be read and added to at the same time as g.
func (g *gone) lend() gone {
	g.lent = true
	return *g
}

func (g *gone) take(batch *eventlog.Batch) {
	g.horizon = max(g.horizon, batch.Horizon)
	if g.lent && len(batch.Cleaned) > 0 {
		g.ranges, g.lent = slices.Clone(g.ranges), false
	}
	for _, r := range batch.Cleaned {
		if n := len(g.ranges); n == 0 || r.First > g.ranges[n-1].Last {
			g.ranges = append(g.ranges, r)
		} else {
			g.ranges[n-1].Last = max(g.ranges[n-1].Last, r.Last)
		}
	}
}

// after returns the index of the first range that ends at or after seq.
func (g *gone) after(seq eventlog.Seq) int {
	i, _ := slices.BinarySearchFunc(g.ranges, seq, func(r eventlog.Range, seq eventlog.Seq) int {
		if r.Last < seq {
			return -1
		}
		return 1
	})
	return i
}

func (g *gone) contains(seq eventlog.Seq) bool {
	if seq == 0 || len(g.ranges) == 0 {
		return false
	}
	i := g.after(seq)
	return i < len(g.ranges) && g.ranges[i].Contains(seq)
}

// bridge returns the seq that the cleaned ranges between last and next lead
// to: last itself when none of them is adjacent.
func (g *gone) bridge(last, next eventlog.Seq) eventlog.Seq {
	if next == last+1 || len(g.ranges) == 0 {
		return last
	}
	for i := g.after(last); i < len(g.ranges) && g.ranges[i].First < next; i++ {
		r := g.ranges[i]
		if r.Last <= last {
			continue
		}
		if !r.First.Follows(last) && !r.Contains(last) {
			break
		}
		last = min(r.Last, next-1)
	}
	return last
}
