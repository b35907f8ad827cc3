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
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/bench"
	"github.com/strandline-project/strandline/internal/durable"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

func newRecover(g *globals) *cobra.Command {
	var asked recoverFlags
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Rebuild a server's whole state from the archive alone",
		Long: `Builds the new state directory --data from the archive. It lists the objects and
proves that none is missing, takes the newest checkpoint of the views that is
whole, reads the footers (never a payload) of what came after, projects those
events in order, compares every digest that the lost server recorded, and adds
the digests up from all rows. A checkpoint that is damaged is passed over by
itself, and named; --full uses none, and projects every event from the first on.

It claims nothing and writes nothing to the archive, so it is safe at any time,
even while a server still runs. Interrupted, the same command goes on; until it
is finished the directory cannot be served. Afterwards, look around with
'strandline serve --hold', or take over with 'strandline serve --take-over'.

--plan says beforehand what would be read, what is missing, how much disk it
takes and how long, from a sample of a few seconds that it projects on the disk
of --data and removes. --until builds the state as of an event or a time, for
looking. --check-all lists every event that breaks a rule, and keeps nothing of
what it builds in --scratch; --waive goes on past exactly those that it names.

While it runs it answers at --admin, as a server does: 'strandline status' shows
the phase, how far it is, how fast, for how long, what binds it and what would
help, and /metrics the same. Where that address is taken it goes on without;
--admin '' leaves it out.

How many reads are under way at once is found out; --read-concurrency bounds
it, and so does a line "MIN-MAX" in the file DATA/read-concurrency, at any time
while recover runs.`,
		Example: `  strandline recover --data /var/lib/strandline-new --archive dir:/mnt/backup/strandline
  strandline recover --plan --data /var/lib/strandline-new --archive dir:/mnt/backup/strandline
  strandline recover --full --data /var/lib/strandline-new --archive dir:/mnt/backup/strandline
  strandline recover --until 2026-11-20T12:00:00Z --data /var/tmp/look --archive dir:/mnt/backup/strandline
  strandline recover --check-all --archive dir:/mnt/backup/strandline
  strandline recover --waive delete-names-store@7.1234 --data /var/lib/strandline-new --archive dir:/mnt/backup/strandline`,
	}
	load := bindConfig(cmd, "data", "archive", "single-writer", "admin")
	asked.bind(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load.load()
		if err != nil {
			return err
		}
		if err := asked.parse(); err != nil {
			return withCode(exitUsage, err)
		}
		return runRecover(cmd.Context(), g, &cfg, &asked, cmd.OutOrStdout())
	}
	return cmd
}

// recoverResult is what recover prints.
type recoverResult struct {
	LogID    eventlog.ID  `json:"log_id"`
	Data     string       `json:"data"`
	Archive  string       `json:"archive"`
	Objects  int          `json:"objects"`
	Bytes    int64        `json:"archive_bytes"`
	Last     eventlog.Seq `json:"last_seq"`
	LastAt   string       `json:"last"`
	LastTime time.Time    `json:"last_time"`
	Events   uint64       `json:"events"` // projected by this run
	Clean    bool         `json:"clean_end"`
	Seconds  float64      `json:"seconds"`
	// PeakMemory is the most bytes that this process had resident, 0 where the
	// system does not tell.
	PeakMemory int64          `json:"peak_memory_bytes,omitempty"`
	Views      []viewRecovery `json:"views"`

	// Checkpoint is what it began from; nil: the first event. Fallbacks are
	// checkpoints that could not be used.
	Checkpoint *recovery.Checkpoint `json:"checkpoint,omitempty"`
	Fallbacks  []recovery.Fallback  `json:"fallbacks,omitempty"`

	Waived []archiver.Waiver  `json:"waived,omitempty"`
	Unused []archiver.Waiver  `json:"waivers_not_needed,omitempty"`
	Reads  archiver.ReadStats `json:"reads"`
	AsOf   bool               `json:"as_of,omitempty"` // not up to the archive's end: for looking
}

// viewRecovery is one view of a recoverResult.
type viewRecovery struct {
	Name     string           `json:"name"`
	Position eventlog.Seq     `json:"position"`
	Digest   projector.Digest `json:"digest"`
	Compared uint64           `json:"digests_compared"` // recorded by the lost server, and equal
	Skipped  uint64           `json:"digests_skipped"`
}

func runRecover(ctx context.Context, g *globals, cfg *Config, asked *recoverFlags, out io.Writer) (err error) {
	if asked.checkAll { // needs no state directory
		return checkAll(ctx, g, cfg, asked, out)
	}
	if err := cfg.resolve(); err != nil {
		return err
	}
	bucket, archive, err := openForRecovery(ctx, cfg.Archive, &asked.concurrency)
	if err != nil {
		return err
	}
	if asked.plan {
		return printPlan(ctx, g, cfg, asked, bucket, archive, out)
	}
	bar := newBar(bucket, cfg.Data)
	defer bar.Close()
	result, err := recoverInto(ctx, cfg, asked, bucket, archive, bar)
	if err != nil {
		return fmt.Errorf("recovering %s from %v: %w", cfg.Data, bucket, err)
	}
	bar.Close() // what is printed stays below the bars
	return g.print(out, result, func(w io.Writer) error { return printRecovery(w, result) })
}

// openForRecovery opens an archive to read much of it.
func openForRecovery(ctx context.Context, spec string, bounds *readBounds) (*archiver.AdaptiveBucket, *archiver.Archive, error) {
	opened, err := openBucket(spec, false)
	if err != nil {
		return nil, nil, err
	}
	bucket := archiver.Adaptive(opened, bounds.AdaptiveOptions)
	archive, err := archiver.Open(ctx, bucket)
	return bucket, archive, err
}

// newBar shows the progress of what reads bucket, which may be nil, and writes
// to the volume of disk.
func newBar(bucket *archiver.AdaptiveBucket, disk string) *progress.Progress {
	bar := progress.New(os.Stderr, slog.Default())
	if bucket == nil {
		bar.Explain(nil, disk)
		return bar
	}
	bar.Explain(readingOf(bucket), disk)
	return bar
}

// readingOf tells a progress what is read of bucket.
func readingOf(bucket *archiver.AdaptiveBucket) func() progress.Reading {
	return func() progress.Reading {
		s := bucket.Stats()
		return progress.Reading{Requests: s.Requests, Bytes: s.Bytes, InFlight: s.InFlight, Latency: s.Latency, Limit: s.Limit, Min: s.Min, Max: s.Max}
	}
}

// recoverInto builds the state directory from the archive.
func recoverInto(ctx context.Context, cfg *Config, asked *recoverFlags, bucket *archiver.AdaptiveBucket, archive *archiver.Archive, bar *progress.Progress) (result *recoverResult, err error) {
	began := time.Now()
	until, err := asked.asOf.resolve(ctx, archive, bar)
	if err != nil {
		return nil, err
	}
	dir, err := recoveryDir(cfg, archive.LogID())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	defer obeyBounds(ctx, dir.Path(boundsName), bucket)()
	defer (&recovering{
		cfg: cfg, logID: archive.LogID(), bucket: bucket, progress: bar, started: began,
		dir: cfg.Data, reason: "the state is being built from the archive",
	}).serve()()
	built, err := recovery.Run(ctx, recovery.Options{
		Archive: archive, Engine: kv.OnDisk(slog.Default()), Dir: dir.Path("views"), Scratch: dir.Path(recoveryScratch),
		Checkpoints: newShelf(archive, dir.Path(recoveryScratch), bar), Full: asked.full,
		Until: until, Waivers: asked.waivers, Room: asked.roomAt(cfg.Data, "--data"), Progress: bar,
	})
	if errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("%w: make room, then give the same command again: it goes on where it was", err)
	}
	if err != nil {
		return nil, err
	}
	result = describeRecovery(cfg, archive, built, time.Since(began))
	result.Waived, result.Unused, result.Reads = built.Waived, asked.unused(built.Waived), bucket.Stats()
	if err := writeReport(dir, built, result, bar); err != nil {
		return nil, err
	}
	return result, finishRecovery(dir, built, result.Waived)
}

// recoveryScratch is the folder of a state directory that is there while it
// is being recovered.
const recoveryScratch = "recovery"

// recoveryDir makes the directory, or opens one that an interrupted recovery
// of the same log left.
func recoveryDir(cfg *Config, log eventlog.ID) (*archiver.StateDir, error) {
	dir, err := archiver.OpenStateDir(cfg.Data)
	if errors.Is(err, archiver.ErrNoState) {
		return archiver.CreateStateDir(cfg.Data, archiver.State{
			LogID: log, DirID: archiver.NewID(), Archive: cfg.Archive, SingleWriter: cfg.SingleWriter, Phase: archiver.PhaseRecovering,
		})
	}
	if err != nil {
		return nil, err
	}
	state := dir.State()
	switch {
	case state.Phase != archiver.PhaseRecovering:
		err = withCode(exitUsage, fmt.Errorf("%s is the state directory of a log already (%s); name a new directory", cfg.Data, state.Phase))
	case state.LogID != log:
		err = fmt.Errorf("%s is being recovered from %w, %s; name a new directory", cfg.Data, archiver.ErrOtherLog, state.LogID)
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// finishRecovery makes the directory one that can be served, and removes what
// lay between the phases.
func finishRecovery(dir *archiver.StateDir, built *recovery.Result, waived []archiver.Waiver) error {
	// The commit point of a recovery: a crash before this line leaves one to
	// be resumed, after it a whole state.
	err := dir.Update(func(state *archiver.State) {
		state.Phase, state.Clean = archiver.PhaseReady, true
		state.Archived = &archiver.ArchivedMark{Ordinal: built.LastOrdinal, Seq: built.ArchiveEnd}
		state.Waivers = waived
		if built.Last != built.ArchiveEnd {
			state.AsOf = built.Last // never served for writing: nothing to record
			return
		}
		state.Recovery = built.Recovery()
	})
	if err != nil {
		return err
	}
	if err := durable.RemoveAll(dir.Path(recoveryScratch)); err != nil {
		return fmt.Errorf("the state is whole, but its scratch folder is left: %w", err)
	}
	return nil
}

func describeRecovery(cfg *Config, archive *archiver.Archive, built *recovery.Result, took time.Duration) *recoverResult {
	result := &recoverResult{
		LogID: archive.LogID(), Data: cfg.Data, Archive: cfg.Archive, Objects: built.Objects, Bytes: built.Bytes,
		Last: built.Last, LastAt: built.Last.String(), Events: built.Events, Clean: built.Clean, Seconds: took.Seconds(),
		AsOf: built.Last != built.ArchiveEnd, Checkpoint: built.Checkpoint, Fallbacks: built.Fallbacks,
	}
	for _, view := range built.Views {
		result.Views = append(result.Views, viewRecovery{Name: view.View, Position: view.Position, Digest: view.Digest, Compared: view.Compared, Skipped: view.Skipped})
		result.LastTime = time.Unix(0, view.Time)
	}
	if peak, err := bench.PeakRSS(os.Getpid()); err == nil {
		result.PeakMemory = peak
	}
	return result
}

func printRecovery(w io.Writer, r *recoverResult) error {
	fmt.Fprintf(w, "recovered %s from %s in %.2f s: %d events, %.0f a second\n", r.Data, r.Archive, r.Seconds, r.Events, float64(r.Events)/r.Seconds)
	fmt.Fprintf(w, "log %s up to seq %s of %s, %d objects\n", r.LogID, r.Last, r.LastTime.UTC().Format(time.RFC3339), r.Objects)
	for _, f := range r.Fallbacks {
		fmt.Fprintf(w, "PASSED OVER: checkpoint %s: %s\n", f.Checkpoint, f.Reason)
	}
	if r.Checkpoint != nil {
		fmt.Fprintf(w, "from checkpoint %s as of event %s\n", r.Checkpoint.Name, r.Checkpoint.Seq)
	}
	for _, v := range r.Views {
		fmt.Fprintf(w, "%s view: digest %s, %d recorded digests compared and equal, %d skipped\n", v.Name, v.Digest, v.Compared, v.Skipped)
	}
	fmt.Fprintf(w, "%d requests, %s read, at most %d reads at once\n", r.Reads.Requests, humanize.IBytes(r.Reads.Bytes), r.Reads.Most)
	for _, waived := range r.Waived {
		fmt.Fprintf(w, "WAIVED: rule %s for event %s to %s\n", waived.Rule, waived.Scope.First, waived.Scope.Last)
	}
	if r.AsOf {
		_, err := fmt.Fprintf(w, "\nThis is the state as of that event, for looking: strandline serve --data %s --hold --no-auth\n", r.Data)
		return err
	}
	next := "strandline serve --data " + r.Data + " --no-auth"
	if !r.Clean {
		next += " --take-over"
		fmt.Fprintln(w, "the last server did not end cleanly: what it acknowledged as committed and had not archived is lost; or it is still running: then what it has not archived yet is not in here")
	}
	_, err := fmt.Fprintf(w, "\nLook around first: strandline serve --data %s --hold --no-auth\nThen serve:        %s\n", r.Data, next)
	return err
}
