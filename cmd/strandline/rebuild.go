// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/durable"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

// rebuildFlags is what rebuild can be asked for beside where.
type rebuildFlags struct {
	view, asOf, to string
	moment         moment
	concurrency    readBounds
}

func newRebuild(g *globals) *cobra.Command {
	var asked rebuildFlags
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Project one view anew from the first event",
		Long: `Projects the view --view of the state directory --data anew, from the first event
in the archive to the last in the local log, into a directory beside it, checks
every recorded digest on the way, and swaps. The server must be stopped. A view
is never the truth: nothing can be lost by this.

With --to the view is built from the archive alone into that folder, and nothing
else is touched: the server may run, and --archive may stand for --data. --as-of
builds it as of an event or a time. 'inspect view NAME --views DIR' looks at it,
and so can any program that imports projector.

How many reads of the archive are under way at once is found out, and shown;
--read-concurrency bounds it, and so does a line "MIN-MAX" in the file
read-concurrency of --data, or of --to, at any time while it runs.`,
		Example: `  strandline rebuild --data /var/lib/strandline --view block
  strandline rebuild --data /var/lib/strandline --view block --as-of 7.1234 --to /var/tmp/then
  strandline rebuild --archive dir:/mnt/backup/strandline --view machine --as-of 2026-11-20T12:00:00Z --to /var/tmp/then`,
	}
	load := bindConfig(cmd, "data", "archive")
	cmd.Flags().StringVar(&asked.view, "view", "", "view to rebuild: "+strings.Join(viewNames(), " or "))
	cmd.Flags().StringVar(&asked.asOf, "as-of", "", "with --to: build it as of this event (7.1234) or time (2026-11-20T12:00:00Z)")
	cmd.Flags().StringVar(&asked.to, "to", "", "folder to build the view in, from the archive alone, instead of replacing that of --data")
	asked.concurrency.bind(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load.load()
		if err != nil {
			return err
		}
		p, err := asked.parse(&cfg)
		if err != nil {
			return err
		}
		if asked.to != "" {
			return runRebuildAside(cmd.Context(), g, &cfg, p, &asked, cmd.OutOrStdout())
		}
		return runRebuild(cmd.Context(), g, &cfg, p, &asked, cmd.OutOrStdout())
	}
	return cmd
}

// parse reads what can be read without the archive.
func (f *rebuildFlags) parse(cfg *Config) (projector.Projector, error) {
	p, err := projectorNamed(f.view)
	if err != nil {
		return nil, err
	}
	if f.to == "" && f.asOf != "" {
		return nil, usagef("--as-of: a server's view is never replaced by an older one: name a folder for it with --to DIR")
	}
	if f.asOf != "" {
		if f.moment, err = parseMoment(f.asOf); err != nil {
			return nil, usagef("--as-of: %w, or a time such as 2026-11-20T12:00:00Z", err)
		}
	}
	if f.to == "" || cfg.Archive == "" {
		return p, withCode(exitUsage, cfg.checkData())
	}
	return p, cfg.checkArchive()
}

func viewNames() []string { return slices.Sorted(maps.Keys(projectors())) }

func projectorNamed(name string) (projector.Projector, error) {
	p, ok := projectors()[name]
	if !ok {
		return nil, usagef("--view %s: there is no such view; write --view %s", name, strings.Join(viewNames(), " or --view "))
	}
	return p, nil
}

// rebuildResult is what rebuild prints.
type rebuildResult struct {
	View     string           `json:"view"`
	Position eventlog.Seq     `json:"position"`
	Digest   projector.Digest `json:"digest"`
	Seconds  float64          `json:"seconds"`
	// Waived is what was gone on past, because the log itself waives it.
	Waived []archiver.Waiver `json:"waived,omitempty"`
}

func runRebuild(ctx context.Context, g *globals, cfg *Config, p projector.Projector, asked *rebuildFlags, out io.Writer) (err error) {
	name := p.Name()
	dir, err := archiver.OpenStateDir(cfg.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	bucket, log, err := offlineLog(ctx, dir, &asked.concurrency)
	if err != nil {
		return err
	}
	path := filepath.Join(dir.Path("views"), name)
	if err := roomBeside(ctx, path, archiver.At(bucket, dir.State().LogID)); err != nil {
		return err
	}
	bar := newBar(bucket, cfg.Data)
	defer bar.Close()
	defer obeyBounds(ctx, dir.Path(boundsName), bucket)()
	bar.Start("project "+name+" (batches)", 0)
	began := time.Now()
	engine := kv.OnDisk(slog.Default())
	result := rebuildResult{View: name}
	granted := recovery.NewGranted(log, dir.State().Waivers, slog.Default())
	err = granted.Build(ctx, func(tolerate func(*projector.Violation) bool) error {
		var err error
		result.Position, result.Digest, err = projector.RebuildTolerating(ctx, engine, path, path+".runs", p, recovery.Counted(log, bar, nil), 0, tolerate, slog.Default())
		return err
	})
	if err != nil {
		return fmt.Errorf("rebuilding the %s view: %w", name, err)
	}
	if err := projector.Swap(engine, path, slog.Default()); err != nil {
		return fmt.Errorf("swapping in the rebuilt %s view: %w", name, err)
	}
	bar.Done()
	bar.Close()
	result.Seconds, result.Waived = time.Since(began).Seconds(), granted.Used()
	return g.print(out, result, func(w io.Writer) error {
		out := printer{w: w}
		out.say("%s view rebuilt up to seq %s in %.2f s, digest %s\n", name, result.Position, result.Seconds, result.Digest)
		out.waived("", result.Waived)
		return out.err
	})
}

// roomBeside refuses a rebuild of the block view at path that the disk has no
// room for. (The others are small.) It is an estimate from the archive: where
// that does not answer, the rebuild itself says what it lacks.
func roomBeside(ctx context.Context, path string, archive *archiver.Archive) error {
	if filepath.Base(path) != projector.Blocks().Name() {
		return nil
	}
	need, err := recovery.Disk(ctx, archive, projector.Building(path), path+".runs")
	if err != nil {
		slog.Warn("how much disk the rebuild takes is not known", "err", err)
		return context.Cause(ctx)
	}
	free, err := freeDisk(path)
	if err == nil && need > free {
		return withCode(exitRefused, fmt.Errorf("a rebuild takes about %s of disk beside the view that is there, and %s are free where %s is: make room; nothing was changed",
			humanize.IBytes(need), humanize.IBytes(free), path))
	}
	return err
}

// runRebuildAside builds a view from an archive in a folder of its own.
func runRebuildAside(ctx context.Context, g *globals, cfg *Config, p projector.Projector, asked *rebuildFlags, out io.Writer) error {
	spec := cfg.Archive
	if spec == "" {
		state, err := archiver.ReadState(cfg.Data)
		if err != nil {
			return err
		}
		spec = state.Archive
	}
	bucket, archive, err := openForRecovery(ctx, spec, &asked.concurrency)
	if err != nil {
		return err
	}
	bar := newBar(bucket, asked.to)
	defer bar.Close()
	defer obeyBounds(ctx, filepath.Join(asked.to, boundsName), bucket)()
	began := time.Now()
	until, err := asked.moment.resolve(ctx, archive, bar)
	if err != nil {
		return err
	}
	scratch := filepath.Join(asked.to, p.Name()+".recovery")
	built, err := recovery.Run(ctx, recovery.Options{
		Archive: archive, Engine: kv.OnDisk(slog.Default()), Dir: asked.to, Scratch: scratch, Until: until, Granted: true,
		Projectors: []projector.Projector{p}, Room: roomAt(asked.to, "--to"), Progress: bar,
	})
	if err == nil {
		err = durable.RemoveAll(scratch) // a crash before leaves what the same command ends
	}
	if err != nil {
		return fmt.Errorf("building the %s view of %v in %s: %w", p.Name(), bucket, asked.to, err)
	}
	bar.Close()
	view := built.Views[0]
	result := rebuildResult{View: view.View, Position: view.Position, Digest: view.Digest, Seconds: time.Since(began).Seconds(), Waived: built.Waived}
	return g.print(out, result, func(w io.Writer) error {
		out := printer{w: w}
		out.say("%s view built in %s up to seq %s in %.2f s, digest %s\n", view.View, filepath.Join(asked.to, view.View), view.Position, result.Seconds, view.Digest)
		out.waived("", result.Waived)
		return out.err
	})
}

// offlineLog reads the log of a locked state directory that no server uses:
// the archive, then the local generations behind its end.
func offlineLog(ctx context.Context, dir *archiver.StateDir, bounds *readBounds) (*archiver.AdaptiveBucket, eventlog.History, error) {
	state := dir.State()
	opened, err := openBucket(state.Archive, false)
	if err != nil {
		return nil, nil, err
	}
	bucket := archiver.Adaptive(opened, bounds.AdaptiveOptions)
	wal, err := readWAL(dir)
	if err != nil {
		return nil, nil, err
	}
	if damage := wal.Damage(); damage != nil {
		return nil, nil, damage
	}
	log, err := archiver.Standing(ctx, archiver.At(bucket, state.LogID), wal)
	return bucket, log, err
}

// readWAL reads the WAL of a state directory; applied are the seqs that views
// stand at.
func readWAL(dir *archiver.StateDir, applied ...eventlog.Seq) (*eventlog.WAL, error) {
	state := dir.State()
	return eventlog.ReadWAL(dir.Path("wal"), dir.Path("aside"), state.LogID, state.Bounds(applied...))
}
