// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/projector"
)

// verdict is what a comparison ends in.
type verdict string

// The verdicts.
const (
	verdictEqual    verdict = "equal"
	verdictABehind  verdict = "a-is-a-prefix" // of B
	verdictBBehind  verdict = "b-is-a-prefix" // of A
	verdictDiverged verdict = "diverged"      // other events
	verdictDiffer   verdict = "differ"        // other rows, from the same events as far as is known
)

// compareResult is what compare prints.
type compareResult struct {
	Verdict verdict `json:"verdict"`
	A       *side   `json:"a"`
	B       *side   `json:"b"`
	// Behind is how many events the one that is a prefix lacks; absent when
	// they could not be counted.
	Behind  uint64                  `json:"behind,omitempty"`
	Fork    *forkReport             `json:"fork,omitempty"` // where the logs differ first
	Views   []*projector.Difference `json:"views"`
	Names   map[eventlog.Seq]string `json:"machine_names,omitempty"` // of those that differ, account/machine
	Remarks []string                `json:"remarks,omitempty"`
}

// forkReport is a fork for machines.
type forkReport struct {
	Seq eventlog.Seq    `json:"seq"`
	At  string          `json:"at"`
	A   *eventlog.Event `json:"a"` // the next event that each has
	B   *eventlog.Event `json:"b"`
}

// comparison is one run of compare. Sides are looked at, never changed: what
// has to move is copied into scratch first.
type comparison struct {
	engine   projector.Engine
	scratch  string
	progress *progress.Progress
	bounds   archiver.AdaptiveOptions // of the reads of an archive

	lower, higher *side // the same as A and B, by their ends; equal ends: A, B
	result        *compareResult
}

// run compares two sides. The result is whole when there is no error.
func (c *comparison) run(ctx context.Context, specs [2]string) (_ *compareResult, err error) {
	c.result = &compareResult{Names: map[eventlog.Seq]string{}}
	for i, at := range []**side{&c.result.A, &c.result.B} {
		s, err := c.openSide(ctx, string(rune('A'+i)), specs[i])
		defer func() { err = errors.Join(err, s.close()) }()
		if err != nil {
			return nil, err
		}
		*at = s
	}
	a, b := c.result.A, c.result.B
	if a.LogID != b.LogID {
		return nil, fmt.Errorf("%w: %s is of log %s, %s of log %s; there is nothing to compare", archiver.ErrOtherLog, a.Name, a.LogID, b.Name, b.LogID)
	}
	c.lower, c.higher = a, b
	if b.End < a.End {
		c.lower, c.higher = b, a
	}
	if err := c.compareLogs(ctx); err != nil {
		return nil, err
	}
	if c.result.Fork != nil {
		return c.result, c.diverged(ctx)
	}
	if err := c.compareViews(ctx); err != nil {
		return nil, err
	}
	return c.result, c.judge(ctx)
}

// compareLogs looks whether the lower side's last event is the higher one's,
// byte for byte, and if not, where the logs part. A log that cannot be read is
// remarked on: then only rows are compared.
func (c *comparison) compareLogs(ctx context.Context) error {
	c.progress.Start("compare the logs", 0)
	var last [2]*eventlog.Entry
	for i, s := range []*side{c.lower, c.higher} {
		if s.log == nil {
			continue
		}
		entry, err := projector.EventAt(ctx, s.log, c.lower.End)
		switch {
		case err == nil && entry == nil && s == c.lower:
			err = fmt.Errorf("it does not hold event %s, its last", s.End)
		case err == nil:
			last[i] = entry
			continue
		case ctx.Err() != nil:
			return err
		}
		s.log, s.Unread = nil, err.Error()
	}
	for _, s := range []*side{c.result.A, c.result.B} {
		if s.log == nil {
			c.remark("the log of %s could not be read: %s", s.label, s.Unread)
		}
	}
	if c.lower.log == nil || c.higher.log == nil {
		return nil
	}
	if last[1] != nil && bytes.Equal(last[0].Raw, last[1].Raw) {
		return nil
	}
	fork, err := projector.FindFork(ctx, c.result.A.log, c.result.B.log)
	if err != nil {
		return fmt.Errorf("looking for the place where A and B part, somewhere up to %s: %w", c.lower.End, err)
	}
	c.result.Fork = &forkReport{Seq: fork.Seq, At: fork.Seq.String(), A: fork.A, B: fork.B}
	return nil
}

func (c *comparison) remark(format string, args ...any) {
	c.result.Remarks = append(c.result.Remarks, fmt.Sprintf(format, args...))
}

// diverged compares the views of two sides that have nothing more in common
// as they stand, to tell which machines are concerned.
func (c *comparison) diverged(ctx context.Context) error {
	c.result.Verdict = verdictDiverged
	return c.compareAt(ctx, c.result.A.End, c.result.B.End)
}

// compareViews compares the views at the newest event that both sides can be
// brought to. A side that is only a log is built there; of two that have views
// the lower one is brought up, so that the rows of both are looked at.
func (c *comparison) compareViews(ctx context.Context) error {
	if c.higher.root == "" {
		// Whatever the lower one has, the higher one's log has too.
		return c.compareAt(ctx, c.lower.End, c.lower.End)
	}
	if c.lower.End != c.higher.End && c.higher.log == nil {
		return withCode(exitUnavailable, fmt.Errorf("A ends at %s, B at %s, and nothing tells what lies between: the log of %s could not be read: %s",
			c.result.A.End, c.result.B.End, c.higher.label, c.higher.Unread))
	}
	err := c.compareAt(ctx, c.higher.End, c.higher.End)
	if violation := (*projector.Violation)(nil); !errors.As(err, &violation) || c.lower.root == "" {
		return err
	}
	// What the lower side's rows are, the next events must not meet.
	c.remark("%s could not be brought up to %s: %v", c.lower.label, c.higher.End, err)
	c.result.Views = nil
	return c.compareAt(ctx, c.lower.End, c.lower.End)
}

// compareAt compares A's views as of one event with B's as of another.
func (c *comparison) compareAt(ctx context.Context, seqA, seqB eventlog.Seq) error {
	rootA, err := c.at(ctx, c.result.A, seqA, c.higher)
	if err != nil {
		return err
	}
	rootB, err := c.at(ctx, c.result.B, seqB, c.higher)
	if err != nil {
		return err
	}
	for _, name := range viewNames() {
		c.progress.Start("compare the "+name+" views", 0)
		d, err := projector.Compare(ctx, c.engine, filepath.Join(rootA, name), filepath.Join(rootB, name), projectors()[name], slog.Default())
		if err != nil {
			return fmt.Errorf("comparing the %s views: %w", name, err)
		}
		c.result.Views = append(c.result.Views, &d)
		for _, root := range []string{rootA, rootB} {
			if err := c.name(d.Machines, root); err != nil {
				return err
			}
		}
	}
	return nil
}

// name finds the names of machines in the machine view of one side. One that
// it does not know is left out.
func (c *comparison) name(machines []eventlog.Seq, root string) (err error) {
	if len(machines) == 0 {
		return nil
	}
	view, err := projector.OpenMachineView(c.engine, filepath.Join(root, projector.Machines().Name()), projector.ReadOnly, slog.Default())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	for _, id := range machines {
		machine, known, err := view.Machine(id)
		if err != nil || !known {
			continue // its row may be the damaged one, which is told in any case
		}
		if account, known, err := view.Account(machine.Owner); err == nil && known {
			name, other := account.Name+"/"+machine.Name, c.result.Names[id]
			if other != "" && other != name { // what A calls so is another one in B
				name = other + " or " + name
			}
			c.result.Names[id] = name
		}
	}
	return nil
}

// judge draws the conclusion from views at the same event.
func (c *comparison) judge(ctx context.Context) error {
	for _, d := range c.result.Views {
		if !d.Equal() {
			c.result.Verdict = verdictDiffer
			return nil
		}
	}
	switch {
	case c.lower.End == c.higher.End:
		c.result.Verdict = verdictEqual
		return nil
	case c.lower == c.result.A:
		c.result.Verdict = verdictABehind
	default:
		c.result.Verdict = verdictBBehind
	}
	if c.higher.log == nil {
		return nil
	}
	for batch, err := range c.higher.log.Follow(ctx, c.lower.End.Next()) {
		if err != nil {
			return fmt.Errorf("counting the events after %s: %w", c.lower.End, err)
		}
		c.result.Behind += uint64(len(batch.Entries))
	}
	return nil
}
