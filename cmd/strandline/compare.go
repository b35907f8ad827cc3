// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

func newCompare(g *globals) *cobra.Command {
	var scratch string
	var bounds readBounds
	cmd := &cobra.Command{
		Use:   "compare A B",
		Short: "Compare two states of a log: directories, archives, running servers",
		Long: `Compares what two places hold of the same log. Each is one of

  DIR                   a state directory that no server uses
  dir:PATH, s3://...    an archive; @SEQ or @TIME behind it: as of then
  http://127.0.0.1:8001 the admin address of a running server

It tells whether they are equal, one is a prefix of the other and how many
events it is behind, or they diverge and at which event. The views of both are
brought to one event, in copies, and their digests added up anew from the rows;
where they differ it names the machines and the first rows. Deleted blocks are
no part of a digest and are not compared. Neither place is changed.

Those of sides that diverge are compared as they stand, which names the machines
concerned, and as of the newest event that both have, built from their logs,
which tells whether they were equal before. Where a log no longer gives that, a
note says so.

How many reads of an archive are under way at once is found out, and shown;
--read-concurrency bounds it, and so does a line "MIN-MAX" in a file that is
named when the comparison begins, at any time while it runs.

Ends with 0 if they are equal, 9 if one is a prefix of the other, 6 if they
differ.`,
		Example: "  strandline compare /var/lib/strandline dir:/mnt/backup/strandline\n" +
			"  strandline compare http://127.0.0.1:8001 s3://backup/strandline@7.1234",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCompare(cmd.Context(), g, [2]string{args[0], args[1]}, scratch, &bounds, cmd.OutOrStdout())
		},
	}
	bounds.bind(cmd.Flags())
	cmd.Flags().StringVar(&scratch, "scratch", "", "directory on a disk with room for copies of both sides' views (default: the system's for temporary files)")
	return cmd
}

func runCompare(ctx context.Context, g *globals, specs [2]string, scratch string, bounds *readBounds, out io.Writer) (err error) {
	scratch, err = os.MkdirTemp(scratch, "strandline-compare-")
	if err != nil {
		return fmt.Errorf("make a directory for copies: %w; write --scratch DIR", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	tellBounds(filepath.Join(scratch, boundsName))
	c, stop := newComparison(ctx, scratch, bounds)
	result, err := c.run(ctx, specs)
	stop()
	if err != nil {
		return err
	}
	if err := g.print(out, result, func(w io.Writer) error { return printComparison(w, result) }); err != nil {
		return err
	}
	switch result.Verdict {
	case verdictEqual:
		return nil
	case verdictABehind, verdictBBehind:
		return withCode(exitBehind, errors.New("one is a prefix of the other"))
	}
	return withCode(exitDiffers, errors.New("A and B differ"))
}

// newComparison is a comparison that shows its progress and heeds the bounds in
// scratch until stop is called.
func newComparison(ctx context.Context, scratch string, bounds *readBounds) (c *comparison, stop func()) {
	c = &comparison{engine: kv.OnDisk(slog.Default()), scratch: scratch, progress: progress.New(os.Stderr, slog.Default())}
	c.archives.bounds = bounds.AdaptiveOptions
	c.progress.Explain(c.archives.reading, scratch)
	disobey := obeyBounds(ctx, filepath.Join(scratch, boundsName), &c.archives)
	return c, func() {
		disobey()
		c.progress.Done()
		c.progress.Close()
	}
}

// printer prints lines until one fails.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) say(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// waived tells of events that the log itself lets go.
func (p *printer) waived(whose string, waivers []archiver.Waiver) {
	for _, w := range waivers {
		p.say("%sWAIVED by the log itself: rule %s for event %s to %s\n", whose, w.Rule, w.Scope.First, w.Scope.Last)
	}
}

func printComparison(w io.Writer, r *compareResult) error {
	p := &printer{w: w}
	for _, s := range []*side{r.A, r.B} {
		p.say("%s: %s %s, up to seq %s\n", s.label, s.Kind, s.Name, s.End)
		p.waived(s.label+": ", s.Waived)
	}
	for _, remark := range r.Remarks {
		p.say("note: %s\n", remark)
	}
	p.verdict(r)
	if r.Fork != nil {
		p.common(r.Fork.Common, r.Names)
	}
	for _, d := range r.Views {
		p.difference(d, r.Names)
	}
	if r.Verdict == verdictDiffer {
		p.advice(r.Views)
	}
	return p.err
}

func (p *printer) verdict(r *compareResult) {
	switch r.Verdict {
	case verdictEqual:
		p.say("A and B are equal\n")
	case verdictABehind:
		p.say("A is a prefix of B, %s\n", behind(r.Behind))
	case verdictBBehind:
		p.say("B is a prefix of A, %s\n", behind(r.Behind))
	case verdictDiverged:
		p.say("A and B DIVERGE at seq %s\n  A says %s\n  B says %s\n", r.Fork.Seq, eventLine(r.Fork.A), eventLine(r.Fork.B))
	case verdictDiffer:
		p.say("A and B DIFFER\n")
	}
}

// common tells of the views before a fork, and then begins to tell of those
// after it.
func (p *printer) common(c *commonReport, names map[eventlog.Seq]string) {
	if c != nil && c.Equal != nil {
		outcome := "are EQUAL"
		if !*c.Equal {
			outcome = "DIFFER already"
		}
		p.say("as of seq %s, the newest event that both have, the views built from their logs %s:\n", c.Seq, outcome)
		for _, d := range c.Views {
			p.difference(d, names)
		}
		if !*c.Equal {
			p.advice(c.Views)
		}
	}
	p.say("as they stand:\n")
}

func (p *printer) difference(d *projector.Difference, names map[eventlog.Seq]string) {
	if d.Equal() {
		p.say("%s view: equal at seq %s, digest %s\n", d.View, d.A.Position, d.A.Rows)
		return
	}
	if d.A.Rows == d.B.Rows && d.A.Rows == d.A.Kept && d.B.Rows == d.B.Kept {
		p.say("%s view: the same rows, A as of seq %s, B as of seq %s, digest %s\n", d.View, d.A.Position, d.B.Position, d.A.Rows)
		return
	}
	p.say("%s view: DIFFERS\n  A at seq %s, digest %s (rows %s)\n  B at seq %s, digest %s (rows %s)\n",
		d.View, d.A.Position, d.A.Kept, d.A.Rows, d.B.Position, d.B.Kept, d.B.Rows)
	for _, machine := range d.Machines {
		p.say("  machine %s\n", strings.TrimSpace(machine.String()+" "+names[machine]))
	}
	for _, row := range d.Rows {
		p.say("  %s %s\n    A %s\n    B %s\n", row.Table, row.Key, orNone(row.A), orNone(row.B))
	}
}

func behind(events uint64) string {
	switch events {
	case 0:
		return "how many events behind is not known"
	case 1:
		return "1 event behind"
	}
	return fmt.Sprintf("%d events behind", events)
}

// advice says whose rows are wrong, where that can be told: the digest that a
// view carries along is what its events made of it.
func (p *printer) advice(views []*projector.Difference) {
	for _, d := range views {
		rightA, rightB := d.A.Kept == d.A.Rows, d.B.Kept == d.B.Rows
		if !rightA {
			p.say("the rows of A's %s view do not make its own digest: rebuild it\n", d.View)
		}
		if !rightB {
			p.say("the rows of B's %s view do not make its own digest: rebuild it\n", d.View)
		}
		if rightA && rightB && !d.Equal() {
			p.say("each %s view is right by its own digest: compare A and B with the archive\n", d.View)
		}
	}
}

func orNone(text string) string {
	if text == "" {
		return "(no such row)"
	}
	return text
}
