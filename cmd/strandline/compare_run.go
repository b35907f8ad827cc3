// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/internal/recovery"
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

// comparison is one run of compare. Sides are looked at, never changed: what
// has to move is copied into scratch first.
type comparison struct {
	engine   projector.Engine
	scratch  string
	progress *progress.Progress
	archives archives // that the sides are read from

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

func (c *comparison) remark(format string, args ...any) {
	c.result.Remarks = append(c.result.Remarks, fmt.Sprintf(format, args...))
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
	return c.compareAt(ctx, c.lower.End, c.lower.End)
}

// compareAt compares A's views as of one event with B's as of another, for the
// result.
func (c *comparison) compareAt(ctx context.Context, seqA, seqB eventlog.Seq) (err error) {
	c.result.Views, err = c.differences(ctx, seqA, seqB)
	return err
}

// differences compares A's views as of one event with B's as of another.
func (c *comparison) differences(ctx context.Context, seqA, seqB eventlog.Seq) (views []*projector.Difference, err error) {
	rootA, err := c.at(ctx, c.result.A, seqA, c.higher)
	if err != nil {
		return nil, err
	}
	rootB, err := c.at(ctx, c.result.B, seqB, c.higher)
	if err != nil {
		return nil, err
	}
	for _, name := range viewNames() {
		c.progress.Start("compare the "+name+" views", 0)
		d, err := projector.Compare(ctx, c.engine, filepath.Join(rootA, name), filepath.Join(rootB, name), projectors()[name], slog.Default())
		if err != nil {
			return nil, fmt.Errorf("comparing the %s views: %w", name, err)
		}
		views = append(views, &d)
		for _, root := range []string{rootA, rootB} {
			if err := c.name(d.Machines, root); err != nil {
				return nil, err
			}
		}
	}
	return views, nil
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

func allEqual(views []*projector.Difference) bool {
	return !slices.ContainsFunc(views, func(d *projector.Difference) bool { return !d.Equal() })
}

// judge draws the conclusion from views at the same event.
func (c *comparison) judge(ctx context.Context) error {
	if !allEqual(c.result.Views) {
		c.result.Verdict = verdictDiffer
		return nil
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
	c.progress.Start("count what is behind (batches)", 0)
	for batch, err := range recovery.Counted(c.higher.log, c.progress, nil).Follow(ctx, c.lower.End.Next()) {
		if err != nil {
			return fmt.Errorf("counting the events after %s: %w", c.lower.End, err)
		}
		c.result.Behind += uint64(len(batch.Entries))
	}
	return nil
}
