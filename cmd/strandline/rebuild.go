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
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

func newRebuild(g *globals) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Project one view anew from the first event, then swap",
		Long: `Projects the view --view of the state directory --data anew, from the first event
in the archive to the last in the local log, into a directory beside it, checks
every recorded digest on the way, and swaps. The server must be stopped. A view
is never the truth: nothing can be lost by this.`,
		Example: "  strandline rebuild --data /var/lib/strandline --view block",
	}
	load := bindConfig(cmd, "data")
	cmd.Flags().StringVar(&name, "view", "", "view to rebuild: "+strings.Join(viewNames(), " or "))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load.load()
		if err != nil {
			return err
		}
		return runRebuild(cmd.Context(), g, &cfg, name, cmd.OutOrStdout())
	}
	return cmd
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
}

func runRebuild(ctx context.Context, g *globals, cfg *Config, name string, out io.Writer) (err error) {
	p, err := projectorNamed(name)
	if err == nil {
		err = withCode(exitUsage, cfg.checkData())
	}
	if err != nil {
		return err
	}
	dir, err := archiver.OpenStateDir(cfg.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	log, err := offlineLog(ctx, dir)
	if err != nil {
		return err
	}
	bar := progress.New(os.Stderr, slog.Default())
	defer bar.Close()
	bar.Start("project "+name+" (batches)", 0)
	began := time.Now()
	path := filepath.Join(dir.Path("views"), name)
	engine := kv.OnDisk(slog.Default())
	position, digest, err := projector.Rebuild(ctx, engine, path, path+".runs", p, recovery.Counted(log, bar, nil), 0, slog.Default())
	if err != nil {
		return fmt.Errorf("rebuilding the %s view: %w", name, err)
	}
	if err := projector.Swap(engine, path, slog.Default()); err != nil {
		return fmt.Errorf("swapping in the rebuilt %s view: %w", name, err)
	}
	bar.Done()
	result := rebuildResult{View: name, Position: position, Digest: digest, Seconds: time.Since(began).Seconds()}
	return g.print(out, result, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s view rebuilt up to seq %s in %.2f s, digest %s\n", name, position, result.Seconds, digest)
		return err
	})
}

// offlineLog reads the log of a locked state directory that no server uses:
// the archive, then the local generations behind its end.
func offlineLog(ctx context.Context, dir *archiver.StateDir) (eventlog.History, error) {
	state := dir.State()
	bucket, err := openBucket(state.Archive, false)
	if err != nil {
		return nil, err
	}
	wal, err := readWAL(dir)
	if err != nil {
		return nil, err
	}
	if damage := wal.Damage(); damage != nil {
		return nil, damage
	}
	archive := archiver.At(bucket, state.LogID)
	return archiver.Standing(ctx, archive, wal)
}

// readWAL reads the WAL of a state directory; applied are the seqs that views
// stand at.
func readWAL(dir *archiver.StateDir, applied ...eventlog.Seq) (*eventlog.WAL, error) {
	state := dir.State()
	return eventlog.ReadWAL(dir.Path("wal"), dir.Path("aside"), state.LogID, state.Bounds(applied...))
}
