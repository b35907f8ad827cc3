// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/checkpoint"
	"github.com/strandline-project/strandline/internal/drill"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/projector/kv"
)

// drillFlags is how a drill is asked for.
type drillFlags struct {
	full, checkpoint bool
	sample           int
	archive, scratch string
	rate             Size
	concurrency      readBounds
}

func newDrill(g *globals) *cobra.Command {
	var asked drillFlags
	cmd := &cobra.Command{
		Use:   "drill",
		Short: "Practise a recovery, and prove that it gives what it should",
		Long: `Rebuilds the views from the archive into a scratch directory, by the very code
that recovers, compares every digest recorded on the way, and reads blocks back:
random ones over all machines, and, up to a bound, all of one random machine,
each chunk with its checksum and each block with its name.

Without --archive it asks the running server at --admin, which also compares the
rows of its live views and puts the verdict into the log (drill_completed). With
--archive it drills an archive alone, from anywhere: it only reads.

How many reads are under way at once is found out, and shown. With --archive
--read-concurrency bounds it, and so does a line "MIN-MAX" in a file that is
named when the drill begins, at any time while it runs.

The time from nothing to verified views is the RTO. The server measures it under
the limits of its drills (--drill-read-rate, idle priority): a recovery, which
has none, is faster.

Ends with 0 if the drill passed, 5 if something is missing or damaged, 6 if live
views differ from what the archive makes, and otherwise with the reason why it
could not be done.`,
		Example: "  strandline drill\n" +
			"  strandline drill --admin 127.0.0.1:8001 --full --sample 500\n" +
			"  strandline drill --archive s3://backup/strandline --scratch /var/tmp --json",
	}
	client := adminClient(cmd)
	asked.rate = 0
	flags := cmd.Flags()
	flags.BoolVar(&asked.full, "full", false, "rebuild from the first event")
	flags.BoolVar(&asked.checkpoint, "from-checkpoint", false, "rebuild from the newest checkpoint")
	flags.IntVar(&asked.sample, "sample", -1, "random blocks to read back (default: 64, or as the server was told)")
	flags.StringVar(&asked.archive, "archive", "", "drill this archive, without a server: dir:PATH or s3://BUCKET/PREFIX?endpoint=URL")
	flags.StringVar(&asked.scratch, "scratch", "", "with --archive: directory on a disk with room for the views (default: the system's for temporary files)")
	flags.Var(&asked.rate, "read-rate", "with --archive: bytes a second to read at most (default: no limit)")
	asked.concurrency.bind(flags)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := asked.check(cmd); err != nil {
			return withCode(exitUsage, err)
		}
		result, err := asked.do(cmd.Context(), client)
		if err != nil {
			return err
		}
		if err := g.print(cmd.OutOrStdout(), result, func(w io.Writer) error { return printDrill(w, result) }); err != nil {
			return err
		}
		return judgeDrill(result)
	}
	return cmd
}

func (f *drillFlags) check(cmd *cobra.Command) error {
	changed := cmd.Flags().Changed
	switch {
	case f.full && f.checkpoint:
		return errors.New("--full and --from-checkpoint exclude each other: leave one of them out")
	case f.sample < -1 || f.sample == -1 && changed("sample"):
		return fmt.Errorf("--sample %d: write a number from 0 on", f.sample)
	case f.archive != "" && changed("admin"):
		return errors.New("--archive drills without a server, --admin asks one: leave one of them out")
	case f.archive == "" && (changed("scratch") || changed("read-rate") || changed("read-concurrency")):
		return errors.New("--scratch, --read-rate and --read-concurrency are for --archive; the server has --drill-dir and --drill-read-rate")
	case f.archive != "":
		return (&Config{Archive: f.archive}).checkArchive()
	}
	return nil
}

func (f *drillFlags) mode() drill.Mode {
	switch {
	case f.full:
		return drill.Full
	case f.checkpoint:
		return drill.FromCheckpoint
	}
	return ""
}

// do asks the server, or drills the archive.
func (f *drillFlags) do(ctx context.Context, client *httpapi.Client) (*drill.Result, error) {
	if f.archive != "" {
		return f.alone(ctx)
	}
	watch := newDrillWatch(os.Stderr, slog.Default())
	defer watch.close()
	raw, err := client.Drill(ctx, httpapi.DrillRequest{Mode: string(f.mode()), Sample: f.sample}, watch.show)
	var undone *httpapi.DrillError
	if errors.As(err, &undone) {
		return nil, withCode(undone.Code, fmt.Errorf("the drill could not be done: %w", err))
	}
	if err != nil {
		return nil, asked(err)
	}
	var result drill.Result
	if err := json.Unmarshal(raw, &result); err != nil {
		return nil, fmt.Errorf("the server's answer is not what a drill finds: %w", err)
	}
	return &result, nil
}

// alone drills an archive in this process.
func (f *drillFlags) alone(ctx context.Context) (result *drill.Result, err error) {
	parent := f.scratch
	if parent == "" {
		parent = os.TempDir()
	}
	scratch, err := drill.NewScratch(parent)
	if err != nil {
		return nil, fmt.Errorf("%w; write --scratch DIR", err)
	}
	defer func() { err = errors.Join(err, scratch.Remove()) }()
	request := drillRequest{
		Archive: f.archive, Scratch: scratch.Path(), Mode: f.mode(), Sample: drill.DefaultSample, Seed: rand.Uint64(),
		Limits: drill.Limits{Read: uint64(f.rate)},
	}
	if f.sample >= 0 {
		request.Sample = f.sample
	}
	bucket, err := openBucket(f.archive, false)
	if err != nil {
		return nil, err
	}
	tellBounds(scratch.Path(boundsName))
	work := &drillWork{drillRequest: request, bounds: f.concurrency.AdaptiveOptions, out: os.Stderr, log: slog.Default()}
	if result, err = work.do(ctx, bucket); err != nil {
		return nil, withCode(exitCode(err), fmt.Errorf("the drill could not be done: %w", err))
	}
	return result, nil
}

// drillRequest is what a drill is to do, and where.
type drillRequest struct {
	Archive string       `json:"archive"`
	LogID   eventlog.ID  `json:"log_id"` // that the archive must have; zero: any
	Scratch string       `json:"scratch"`
	Live    string       `json:"live,omitempty"`
	Mode    drill.Mode   `json:"mode"`
	Sample  int          `json:"sample"`
	Limits  drill.Limits `json:"limits"`
	Share   bool         `json:"share"` // the disk is a server's too: leave half of what is free
	Seed    uint64       `json:"seed"`
}

// drillWork is a drill in this process.
type drillWork struct {
	drillRequest
	bounds archiver.AdaptiveOptions
	out    *os.File // for bars, when it is a terminal; nil: none
	log    *slog.Logger
	watch  func(*progress.Progress) // told what to watch; may be nil
}

// drillReads bounds the reads under way at once of a limited drill.
const drillReads = 4

// do drills the archive in opened.
func (w *drillWork) do(ctx context.Context, opened archiver.Bucket) (*drill.Result, error) {
	bounds := w.bounds
	if w.Limits.Read > 0 && bounds.Max == 0 {
		bounds = archiver.AdaptiveOptions{Min: 1, Max: drillReads, Initial: 1}
	}
	bucket := archiver.Adaptive(w.Limits.Bucket(opened), bounds)
	bar := progress.New(w.out, w.log)
	defer bar.Close()
	bar.Explain(readingOf(bucket), w.Scratch)
	defer obeyBounds(ctx, filepath.Join(w.Scratch, boundsName), bucket)()
	if w.watch != nil {
		w.watch(bar)
	}
	archive, err := archiver.Open(ctx, bucket)
	if err != nil {
		return nil, err
	}
	if w.LogID != (eventlog.ID{}) && archive.LogID() != w.LogID {
		return nil, fmt.Errorf("%w: this server is of log %s, %v holds %s", archiver.ErrOtherLog, w.LogID, bucket, archive.LogID())
	}
	engine := w.Limits.Engine(ctx, kv.OnDisk(w.log))
	return drill.Run(ctx, drill.Options{
		Archive: archive, Engine: engine, Scratch: w.Scratch, Live: w.Live, Mode: w.Mode,
		Checkpoints: &checkpoint.Shelf{Archive: archive, Engine: engine, Scratch: filepath.Join(w.Scratch, "restore"), Progress: bar},
		Sample:      w.Sample, SampleBytes: drill.DefaultSampleBytes, MachineBlocks: drill.DefaultMachineBlocks, MachineBytes: drill.DefaultMachineBytes,
		Rate: w.Limits.Read, Seed: w.Seed, Room: w.room, Progress: bar, Log: w.log,
	})
}

// room refuses a drill that the disk has no room for. Where a server uses it
// too, half of what is free stays free.
func (w *drillWork) room(need uint64) error {
	free, err := freeDisk(w.Scratch)
	if err != nil {
		return err
	}
	usable := free
	if w.Share {
		usable /= 2
	}
	if need <= usable {
		return nil
	}
	return withCode(exitRefused, fmt.Errorf("a drill takes about %s of disk, and may take %s of the %s that are free in %s: make room, or name a larger disk (serve --drill-dir, drill --scratch)",
		humanize.IBytes(need), humanize.IBytes(usable), humanize.IBytes(free), w.Scratch))
}

// drillWatch shows the progress of a drill that a server does.
type drillWatch struct {
	bar   *progress.Progress
	last  progress.Snapshot
	reads atomic.Pointer[progress.Reads] // of the server's drill, now; nil: not known
}

func newDrillWatch(out *os.File, log *slog.Logger) *drillWatch {
	w := &drillWatch{bar: progress.New(out, log)}
	w.bar.Mirror(w.reading)
	return w
}

// reading is what the bar shows of the drill's reads. What they bring is told
// as it is (AddBytes), and so is what binds.
func (w *drillWatch) reading() progress.Reading {
	r := w.reads.Load()
	if r == nil {
		return progress.Reading{}
	}
	return progress.Reading{InFlight: r.InFlight, Limit: r.Limit, Min: r.Min, Max: r.Max}
}

func (w *drillWatch) show(now progress.Snapshot) {
	if now.Phase == "" {
		return
	}
	w.reads.Store(now.Reads)
	if now.Phase != w.last.Phase || !now.Began.Equal(w.last.Began) {
		w.bar.Start(now.Phase, now.Total)
		w.last = progress.Snapshot{}
	}
	w.bar.Add(now.Done - w.last.Done)
	w.bar.AddBytes(now.Bytes - w.last.Bytes)
	w.bar.AddEvents(int(now.Events - w.last.Events))
	w.bar.Bind(now.Binds)
	w.last = now
	if !now.Ended.IsZero() {
		w.bar.Done()
	}
}

func (w *drillWatch) close() {
	w.bar.Done()
	w.bar.Close()
}

// judgeDrill returns the error that a drill's command ends with.
func judgeDrill(r *drill.Result) error {
	switch {
	case r.Drill.Verdict == eventlog.DrillPassed:
		return nil
	case len(r.Differences) > 0:
		return withCode(exitDiffers, fmt.Errorf("the drill FAILED: %s", r.Drill.Reason))
	}
	return withCode(exitDamage, fmt.Errorf("the drill FAILED: %s", r.Drill.Reason))
}

func printDrill(w io.Writer, r *drill.Result) error {
	d := &r.Drill
	p := printer{w: w}
	verdict := "PASSED"
	if d.Verdict != eventlog.DrillPassed {
		verdict = "FAILED: " + d.Reason
	}
	p.say("drill (%s) in %.2f s: %s\n", d.Mode, d.Ended.Sub(d.Began).Seconds(), verdict)
	if rec := r.Recovery; rec != nil {
		p.say("rebuilt up to seq %s: %d objects, %d events; from nothing to verified views in %.2f s", rec.Upto, rec.Objects, rec.Events, d.RTO.Seconds())
		if d.Rate > 0 {
			p.say(", reading at most %s a second", humanize.IBytes(d.Rate))
		}
		p.say("\n")
		if p.err == nil {
			p.err = printPhases(w, rec.Phases)
		}
	}
	for _, v := range r.Views {
		p.say("%s view: digest %s, %d recorded digests compared and equal, %d skipped\n", v.Name, v.Digest, v.Compared, v.Skipped)
	}
	if d.Live != 0 {
		p.say("live views compared as of event %s: %d of %d differ\n", d.Live, len(r.Differences), len(r.Views))
	}
	p.say("%d blocks read back, %s", d.Blocks, humanize.IBytes(d.BlockSize))
	if d.Machine != 0 {
		p.say("; those of machine %s among them", d.Machine)
	}
	p.say("\n")
	p.waived("", r.Waived)
	for _, damaged := range r.Damaged {
		p.say("DAMAGED: %s\n", damaged)
	}
	for _, remark := range r.Remarks {
		p.say("note: %s\n", remark)
	}
	if d.Verdict != eventlog.DrillPassed {
		p.say("What to do: docs/OPERATIONS.md, \"a drill has failed\". Ended %s.\n", d.Ended.Format(time.RFC3339))
	}
	return p.err
}
