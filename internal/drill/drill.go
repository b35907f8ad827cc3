// SPDX-License-Identifier: Apache-2.0

// Package drill practises a recovery: it builds a log's views from the archive
// into a scratch directory, by the very code that recovers, compares them with
// the digests that the log recorded and, where there is a running server, with
// the rows of its live views as of the same event, and reads blocks back from
// their rows to their bytes. It reads only: what it is given to read from
// should be Limited, which refuses everything else.
//
// How long it took from nothing to verified views is the RTO, measured under
// the drill's limits: a recovery, which has none, is faster.
package drill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
)

// Mode is from where a drill builds the views.
type Mode string

// The modes.
const (
	Full           Mode = "full"       // from the first event
	FromCheckpoint Mode = "checkpoint" // from the newest one that is good, if there is any
)

// Options of Run. Archive, Engine and Scratch must be set.
type Options struct {
	Archive *archiver.Archive
	Engine  projector.Engine
	// Scratch is a directory of this drill alone; the caller removes it.
	Scratch string
	// Live is a folder with copies of a running server's views, which are
	// moved on; "": there are none. What they include is archived.
	Live        string
	Mode        Mode                 // "": Full
	Checkpoints recovery.Checkpoints // for FromCheckpoint; nil: there are none

	Sample        int    // random blocks to read back, over all machines
	SampleBytes   uint64 // of which no more is begun on after so many bytes
	MachineBlocks int    // of one random machine: all its blocks, up to so many
	MachineBytes  uint64 // and so many bytes

	Rate     uint64 // what Archive's bucket is limited to, to be told; bytes a second
	Memory   int64  // see projector.Load
	Seed     uint64 // of what is chosen at random
	Room     func(bytes uint64) error
	Progress *progress.Progress // may be nil
	Log      *slog.Logger       // nil: slog.Default()
}

// Defaults of what is read back.
const (
	DefaultSample        = 64
	DefaultSampleBytes   = 1 << 30
	DefaultMachineBlocks = 256
	DefaultMachineBytes  = 256 << 20
)

// Result is what a drill found out.
type Result struct {
	Drill       eventlog.Drill         `json:"drill"`
	Recovery    *eventlog.Recovery     `json:"recovery,omitempty"` // nil: it did not come to verified views
	Views       []View                 `json:"views,omitempty"`
	Waived      []archiver.Waiver      `json:"waived,omitempty"`           // by the log itself: what the rebuilt views went on past
	Fallbacks   []recovery.Fallback    `json:"fallbacks,omitempty"`        // checkpoints that are of no use
	Differences []projector.Difference `json:"live_differences,omitempty"` // A: rebuilt, B: live
	Damaged     []string               `json:"damaged,omitempty"`          // blocks that were not whole, at most 20
	Remarks     []string               `json:"remarks,omitempty"`
}

// View is one view as it was rebuilt.
type View struct {
	Name     string           `json:"name"`
	Position eventlog.Seq     `json:"position"`
	Digest   projector.Digest `json:"digest"`
	Compared uint64           `json:"digests_compared"`
	Skipped  uint64           `json:"digests_skipped"`
}

// Run does a drill. What it finds wrong is in the result, with the verdict; an
// error means that it could not be done, which tells nothing of the archive.
func Run(ctx context.Context, opts Options) (*Result, error) {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	d := &drill{Options: opts, result: &Result{}}
	if d.Mode == "" {
		d.Mode = Full
	}
	out := &d.result.Drill
	out.Mode, out.Rate, out.Began = string(d.Mode), opts.Rate, time.Now().UTC()
	listening := &heard{Handler: d.Log.Handler()}
	d.Archive.SetLogger(slog.New(listening))
	for _, step := range []func(context.Context) error{d.recover, d.compareLive, d.readBack} {
		d.repeated = false
		err := step(ctx)
		if errors.Is(err, archiver.ErrOlderState) {
			d.Log.Warn("the archive answered with an older state; the step is done again", "pause", repeatPause, "error", err)
			if err := archiver.Pause(ctx, repeatPause); err != nil {
				return nil, err
			}
			d.repeated = true
			err = step(ctx)
		}
		if err != nil && (ctx.Err() != nil || !d.proves(err)) {
			return nil, err
		}
		if err != nil {
			d.found(err.Error())
			break // what follows stands on this
		}
	}
	d.Progress.Done()
	for _, warning := range listening.warnings() {
		d.remark("%s", warning)
	}
	out.Ended = time.Now().UTC()
	out.Verdict = eventlog.DrillPassed
	if len(d.findings) > 0 {
		out.Verdict, out.Reason = eventlog.DrillFailed, shorten(strings.Join(d.findings, "; "))
	}
	return d.result, nil
}

// repeatPause is how long a drill waits before it asks once more a store that
// contradicted itself.
const repeatPause = 30 * time.Second

type drill struct {
	Options
	result   *Result
	findings []string
	repeated bool // a step was done again, because the store had contradicted itself
}

func (d *drill) found(finding string) { d.findings = append(d.findings, finding) }

// shorten makes a text one that fits into an event.
func shorten(text string) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= eventlog.MaxName {
		return text
	}
	const dots = " ..."
	return strings.ToValidUTF8(text[:eventlog.MaxName-len(dots)], "") + dots
}

// proves reports whether err says something of the archive, not only that it
// could not be looked at. A store that contradicts itself does when it goes on.
func (d *drill) proves(err error) bool {
	if errors.Is(err, archiver.ErrOlderState) { // what holds of a moment is no loss
		return d.repeated
	}
	var violation *projector.Violation
	return errors.Is(err, archiver.ErrHole) || errors.Is(err, eventlog.ErrDamaged) || errors.Is(err, eventlog.ErrObjectDamaged) ||
		errors.Is(err, archiver.ErrOtherLog) || errors.Is(err, archiver.ErrNotFound) || errors.Is(err, errWrong) || errors.As(err, &violation)
}

// errWrong marks what a drill itself found to be wrong.
var errWrong = errors.New("the drill found a difference")

func (d *drill) viewsDir() string { return filepath.Join(d.Scratch, "views") }

// recover builds the views and compares every digest recorded on the way.
func (d *drill) recover(ctx context.Context) error {
	began := time.Now()
	opts := recovery.Options{
		Archive: d.Archive, Engine: d.Engine, Dir: d.viewsDir(), Scratch: filepath.Join(d.Scratch, "recovery"),
		Memory: d.Memory, Room: d.Room, Progress: d.Progress, More: true, Log: d.Log, Granted: true,
	}
	if d.Mode == FromCheckpoint {
		opts.Checkpoints = d.Checkpoints
	}
	built, err := recovery.Run(ctx, opts)
	if err != nil {
		return fmt.Errorf("rebuilding the views from %v: %w", d.Archive.Bucket(), err)
	}
	d.result.Drill.RTO = time.Since(began)
	d.result.Recovery, d.result.Fallbacks, d.result.Waived = built.Recovery(), built.Fallbacks, built.Waived
	for _, v := range built.Views {
		d.result.Views = append(d.result.Views, View{Name: v.View, Position: v.Position, Digest: v.Digest, Compared: v.Compared, Skipped: v.Skipped})
	}
	for _, f := range built.Fallbacks {
		d.remark("checkpoint %s is of no use: %s", f.Checkpoint, f.Reason)
	}
	if d.Mode == FromCheckpoint && built.Checkpoint == nil {
		d.remark("there was no checkpoint to begin from: the views were built from the first event")
	}
	return nil
}

func (d *drill) remark(format string, args ...any) {
	d.result.Remarks = append(d.result.Remarks, fmt.Sprintf(format, args...))
}

// compareLive brings the copies of the live views to the event that the
// archive ends with, by what it says, and compares all rows: a kept sum would
// not tell of one that was changed behind its back.
func (d *drill) compareLive(ctx context.Context) error {
	if d.Live == "" {
		return nil
	}
	d.result.Differences, d.findings = nil, nil // of a try before
	upto := d.result.Recovery.Upto
	for _, p := range []projector.Projector{projector.Machines(), projector.Blocks()} {
		live := filepath.Join(d.Live, p.Name())
		d.Progress.Start("bring the live "+p.Name()+" view up", 0)
		if err := d.bringUp(ctx, p, live, upto); err != nil {
			return err
		}
		d.Progress.Start("compare the "+p.Name()+" view with the live one", 0)
		difference, err := projector.Compare(ctx, d.Engine, filepath.Join(d.viewsDir(), p.Name()), live, p, d.Log)
		if err != nil {
			return fmt.Errorf("comparing with the live %s view: %w", p.Name(), err)
		}
		if !difference.Equal() {
			d.result.Differences = append(d.result.Differences, difference)
			d.found(differs(&difference))
		}
	}
	d.result.Drill.Live = upto
	return nil
}

// bringUp projects what the archive says after the event that a copy of a live
// view stands at.
func (d *drill) bringUp(ctx context.Context, p projector.Projector, dir string, upto eventlog.Seq) (err error) {
	view, err := projector.Open(d.Engine, dir, p, projector.Live, d.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	if view.Position() > upto {
		return fmt.Errorf("the live %s view stands at %s, the archive ends at %s: what lies between could not be compared; try again", p.Name(), view.Position(), upto)
	}
	log := recovery.Counted(recovery.UpTo(d.Archive, upto), d.Progress, nil)
	if err := projector.CatchUp(ctx, log, projector.NewRunner(view, d.Log)); err != nil {
		return fmt.Errorf("the live %s view, brought up to %s: %w", p.Name(), upto, err)
	}
	if view.Position() != upto {
		return fmt.Errorf("the live %s view came to %s, not to %s: %w", p.Name(), view.Position(), upto, errWrong)
	}
	return nil
}

// differs tells a difference in one line: whose rows, and where to look.
func differs(d *projector.Difference) string {
	text := fmt.Sprintf("as of %s the live %s view has other rows than the archive makes", d.A.Position, d.View)
	if d.B.Kept != d.B.Rows {
		text += ", and than its own digest says"
	}
	if len(d.Machines) > 0 {
		text += fmt.Sprintf("; machines %v", d.Machines[:min(len(d.Machines), 5)])
	}
	if len(d.Rows) > 0 {
		row := d.Rows[0]
		text += fmt.Sprintf("; first row %s of %s: archive %q, live %q", row.Key, row.Table, row.A, row.B)
	}
	return text
}
