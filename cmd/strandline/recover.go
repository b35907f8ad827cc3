// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/bench"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/projector"
)

func newRecover(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Rebuild a server's whole state from the archive alone",
		Long: `Builds the new state directory --data from the archive. It lists the objects and
proves that none is missing, reads their footers (never a payload), projects
every event in order, and compares every digest that the lost server recorded.

It claims nothing and writes nothing to the archive, so it is safe at any time,
even while a server still runs. Interrupted, the same command goes on; until it
is finished the directory cannot be served. Afterwards, look around with
'strandline serve --hold', or take over with 'strandline serve --take-over'.`,
		Example: "  strandline recover --data /var/lib/strandline-new --archive dir:/mnt/backup/strandline",
	}
	load := bindConfig(cmd, "data", "archive", "single-writer")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load.load()
		if err != nil {
			return err
		}
		return runRecover(cmd.Context(), g, &cfg, cmd.OutOrStdout())
	}
	return cmd
}

// recovery is one run of recover.
type recovery struct {
	cfg      *Config
	archive  *archiver.Archive
	dir      *archiver.StateDir
	views    *viewSet
	progress *progress.Progress
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
}

// viewRecovery is one view of a recoverResult.
type viewRecovery struct {
	Name     string           `json:"name"`
	Position eventlog.Seq     `json:"position"`
	Digest   projector.Digest `json:"digest"`
	Compared uint64           `json:"digests_compared"` // recorded by the lost server, and equal
	Skipped  uint64           `json:"digests_skipped"`
}

func runRecover(ctx context.Context, g *globals, cfg *Config, out io.Writer) (err error) {
	if err := cfg.resolve(); err != nil {
		return err
	}
	bucket, err := openBucket(cfg.Archive, false)
	if err != nil {
		return err
	}
	archive, err := archiver.Open(ctx, bucket)
	if err != nil {
		return err
	}
	r := &recovery{cfg: cfg, archive: archive, progress: progress.New(os.Stderr, slog.Default())}
	defer r.progress.Close()
	result, err := r.run(ctx)
	if err != nil {
		return fmt.Errorf("recovering %s from %v: %w", cfg.Data, bucket, err)
	}
	return g.print(out, result, func(w io.Writer) error { return printRecovery(w, result) })
}

func (r *recovery) run(ctx context.Context) (result *recoverResult, err error) {
	began := time.Now()
	if r.dir, err = r.openDir(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.dir.Close()) }()
	r.progress.Start("list", 0)
	// What claims say of the archive's end is taken in here: an archive that
	// ends before has lost something.
	if _, err := r.archive.HighestClaim(ctx); err != nil {
		return nil, err
	}
	objects, err := r.archive.Objects(ctx, 1)
	if err != nil {
		return nil, err
	}
	if len(objects) == 0 {
		return nil, fmt.Errorf("%w: there is no object at all", archiver.ErrHole)
	}
	trailer, _, err := r.archive.Metadata(ctx, objects[len(objects)-1])
	if err != nil {
		return nil, err
	}
	r.progress.Add(int64(len(objects)))
	result = &recoverResult{
		LogID: r.archive.LogID(), Data: r.cfg.Data, Archive: r.cfg.Archive, Objects: len(objects),
		Last: trailer.Last, LastAt: trailer.Last.String(), Clean: trailer.CleanEnd(),
	}
	for _, object := range objects {
		result.Bytes += object.Size
	}
	if err := r.project(ctx, trailer.Last, result); err != nil {
		return nil, err
	}
	if err := r.finish(trailer); err != nil {
		return nil, err
	}
	result.Seconds = time.Since(began).Seconds()
	if peak, err := bench.PeakRSS(os.Getpid()); err == nil {
		result.PeakMemory = peak
	}
	return result, nil
}

// openDir makes the directory, or opens one that an interrupted recovery of
// the same log left.
func (r *recovery) openDir() (*archiver.StateDir, error) {
	dir, err := archiver.OpenStateDir(r.cfg.Data)
	if errors.Is(err, archiver.ErrNoState) {
		return archiver.CreateStateDir(r.cfg.Data, archiver.State{
			LogID: r.archive.LogID(), DirID: archiver.NewID(), Archive: r.cfg.Archive, SingleWriter: r.cfg.SingleWriter, Phase: archiver.PhaseRecovering,
		})
	}
	if err != nil {
		return nil, err
	}
	state := dir.State()
	switch {
	case state.Phase != archiver.PhaseRecovering:
		err = withCode(exitUsage, fmt.Errorf("%s is the state directory of a log already (%s); name a new directory", r.cfg.Data, state.Phase))
	case state.LogID != r.archive.LogID():
		err = fmt.Errorf("%s is being recovered from %w, %s; name a new directory", r.cfg.Data, archiver.ErrOtherLog, state.LogID)
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// project brings both views up to the archive's end. A run that was
// interrupted left them at some whole event; they go on from there.
func (r *recovery) project(ctx context.Context, last eventlog.Seq, result *recoverResult) (err error) {
	if r.views, err = openViews(r.dir.Path("views"), projector.Bulk, slog.Default()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.views.Close()) }()
	r.progress.Start("project objects", int64(result.Objects))
	var events atomic.Uint64
	if err := r.views.CatchUp(ctx, counted{upTo{r.archive, last}, r.progress, &events}, eventlog.Range{}); err != nil {
		return err
	}
	result.Events = events.Load()
	r.progress.Start("verify", 0)
	for _, view := range r.views.views() {
		position, digest, err := view.Recompute(ctx)
		if err != nil {
			return err
		}
		if _, kept := view.Digest(); position != last || digest != kept {
			return fmt.Errorf("%w: the %s view stands at %s with digest %s, its rows make %s; the archive ends at %s",
				eventlog.ErrDamaged, view.Name(), position, kept, digest, last)
		}
		compared, skipped := view.Recorded()
		result.Views = append(result.Views, viewRecovery{Name: view.Name(), Position: position, Digest: digest, Compared: compared, Skipped: skipped})
		result.LastTime = view.LastTime()
	}
	r.progress.Done()
	return nil
}

// finish makes the directory one that can be served. Before this line a crash
// leaves a recovery to be resumed; after it, a whole state.
func (r *recovery) finish(trailer *eventlog.Trailer) error {
	return r.dir.Update(func(state *archiver.State) {
		state.Phase, state.Clean = archiver.PhaseReady, true
		state.Archived = &archiver.ArchivedMark{Ordinal: trailer.LastOrdinal, Seq: trailer.Last}
	})
}

// upTo is a history that ends at last, also when the archive goes on growing.
type upTo struct {
	history eventlog.History
	last    eventlog.Seq
}

func (u upTo) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		if from > u.last {
			return
		}
		for batch, err := range u.history.Follow(ctx, from) {
			if !yield(batch, err) || err != nil || batch.Last() >= u.last {
				return
			}
		}
	}
}

// counted tells progress of every batch: one for each object, where the
// history is an archive.
type counted struct {
	history  eventlog.History
	progress *progress.Progress
	events   *atomic.Uint64 // may be nil
}

func (c counted) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		began := time.Now()
		for batch, err := range c.history.Follow(ctx, from) {
			waited := time.Since(began)
			began = time.Now()
			if !yield(batch, err) {
				return
			}
			c.progress.Add(1)
			if c.events != nil {
				c.events.Add(uint64(len(batch.Entries)))
			}
			if waited > time.Since(began) {
				c.progress.Bind("archive")
			} else {
				c.progress.Bind("projection (CPU and disk)")
			}
			began = time.Now()
		}
	}
}

func printRecovery(w io.Writer, r *recoverResult) error {
	fmt.Fprintf(w, "recovered %s from %s in %.2f s: %d events, %.0f a second\n", r.Data, r.Archive, r.Seconds, r.Events, float64(r.Events)/r.Seconds)
	fmt.Fprintf(w, "log %s up to seq %s of %s, %d objects\n", r.LogID, r.Last, r.LastTime.UTC().Format(time.RFC3339), r.Objects)
	for _, v := range r.Views {
		fmt.Fprintf(w, "%s view: digest %s, %d recorded digests compared and equal, %d skipped\n", v.Name, v.Digest, v.Compared, v.Skipped)
	}
	next := "strandline serve --data " + r.Data + " --no-auth"
	if !r.Clean {
		next += " --take-over"
		fmt.Fprintln(w, "the last server did not end cleanly: what it acknowledged as committed and had not archived is lost")
	}
	_, err := fmt.Fprintf(w, "\nLook around first: strandline serve --data %s --hold --no-auth\nThen serve:        %s\n", r.Data, next)
	return err
}
