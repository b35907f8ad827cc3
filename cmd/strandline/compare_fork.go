// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
)

// forkReport is a fork for machines.
type forkReport struct {
	Seq    eventlog.Seq    `json:"seq"`
	At     string          `json:"at"`
	A      *eventlog.Event `json:"a"` // the next event that each has
	B      *eventlog.Event `json:"b"`
	Common *commonReport   `json:"common,omitempty"` // absent: they have no event in common
}

// commonReport is the newest event that both logs have. The views as of it are
// built from the log of each side.
type commonReport struct {
	Seq   eventlog.Seq            `json:"seq"`
	At    string                  `json:"at"`
	Equal *bool                   `json:"equal,omitempty"` // absent: a remark says why the views were not compared
	Views []*projector.Difference `json:"views,omitempty"`
}

// compareLogs looks whether the lower side's last event is the higher one's,
// byte for byte, and if not, where the logs part. A log that cannot be read is
// remarked on: then only rows are compared.
func (c *comparison) compareLogs(ctx context.Context) error {
	c.progress.Start("compare the logs (batches)", 0)
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
	logs := [2]eventlog.History{recovery.Counted(c.result.A.log, c.progress, nil), recovery.Counted(c.result.B.log, c.progress, nil)}
	fork, err := projector.FindFork(ctx, logs[0], logs[1], c.surelyCommon(ctx))
	if err != nil {
		return fmt.Errorf("looking for the place where A and B part, somewhere up to %s: %w", c.lower.End, err)
	}
	report := &forkReport{Seq: fork.Seq, At: fork.Seq.String(), A: fork.A, B: fork.B}
	if fork.Common != 0 {
		report.Common = &commonReport{Seq: fork.Common, At: fork.Common.String()}
	}
	c.result.Fork = report
	return nil
}

// surelyCommon returns an event that both logs have, for what comes before it
// need not be read: the first one of a local log, whose archive may be out of
// reach. Else it is the first event of all.
func (c *comparison) surelyCommon(ctx context.Context) eventlog.Seq {
	a, b := c.result.A, c.result.B
	first := max(a.local, b.local)
	if first == 0 || first > c.lower.End {
		return eventlog.FirstSeq
	}
	x, errA := projector.EventAt(ctx, a.log, first)
	y, errB := projector.EventAt(ctx, b.log, first)
	if errA != nil || errB != nil || x == nil || y == nil || !bytes.Equal(x.Raw, y.Raw) {
		return eventlog.FirstSeq
	}
	return first
}

// diverged compares the views of two sides that part: as they stand, to tell
// which machines are concerned, and before, to tell whether anything but that
// differs.
func (c *comparison) diverged(ctx context.Context) error {
	c.result.Verdict = verdictDiverged
	if err := c.compareAt(ctx, c.result.A.End, c.result.B.End); err != nil {
		return err
	}
	common := c.result.Fork.Common
	if common == nil {
		c.remark("A and B have no event in common")
		return nil
	}
	// What follows takes a rebuild of both sides: who breaks it off knows this.
	slog.Info("A and B DIVERGE; their views before that are compared now", "seq", c.result.Fork.Seq.String(), "common", common.At)
	views, err := c.differences(ctx, common.Seq, common.Seq)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil: // the verdict stands without it
		c.remark("whether the views were equal as of %s, the newest event that both have, is not known: %v", common.Seq, err)
		return nil
	}
	equal := allEqual(views)
	common.Equal, common.Views = &equal, views
	return nil
}
