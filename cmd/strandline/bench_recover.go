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
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/internal/bench"
	"github.com/strandline-project/strandline/projector/kv"
)

// recoverBench is what bench recover prints.
type recoverBench struct {
	Events     int     `json:"events"`
	Objects    int     `json:"objects"`
	FillSecs   float64 `json:"fill_seconds"`
	Seconds    float64 `json:"recover_seconds"` // of recover itself, as it says
	PerSecond  float64 `json:"events_per_second"`
	PeakMemory int64   `json:"peak_memory_bytes"`
}

func newBenchRecover(g *globals) *cobra.Command {
	archive := bench.Archive{Payload: 16}
	var dir string
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Measure how fast a lost server is rebuilt from a directory archive",
		Long: `Writes a synthetic archive as 'bench archive' does, and measures recover in a
process of its own.`,
		Example: "  strandline bench recover --events 1000000",
		RunE: func(cmd *cobra.Command, _ []string) error {
			archive.Objects = max(archive.Objects, 1+archive.Events/10_000)
			if err := archive.Check(); err != nil {
				return usagef("%v: write --events 1000000 --machines 10", err)
			}
			return runBenchRecover(cmd.Context(), g, archive, dir, cmd.OutOrStdout())
		},
	}
	cmd.Flags().IntVar(&archive.Events, "events", 1_000_000, "events in the archive")
	cmd.Flags().IntVar(&archive.Machines, "machines", 10, "machines they belong to")
	cmd.Flags().IntVar(&archive.Objects, "objects", 0, "objects that they lie in (0: one for 10,000 events)")
	cmd.Flags().BoolVar(&archive.NoIndex, "no-index", false, "leave the index objects out, to see what they are worth")
	cmd.Flags().StringVar(&dir, "dir", "", "directory on the disk to measure (default: the system's for temporary files)")
	return cmd
}

func runBenchRecover(ctx context.Context, g *globals, archive bench.Archive, dir string, out io.Writer) (err error) {
	scratch, err := os.MkdirTemp(dir, "strandline-bench-")
	if err != nil {
		return fmt.Errorf("make a directory for the measurement: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	spec := "dir:" + filepath.Join(scratch, "archive")
	bucket, err := openBucket(spec, true)
	if err != nil {
		return err
	}
	began := time.Now()
	archive.Engine, archive.Scratch = kv.OnDisk(slog.Default()), filepath.Join(scratch, "fill")
	if _, err := archive.Write(ctx, bucket, spec, nil); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	result := recoverBench{Events: archive.Events, FillSecs: time.Since(began).Seconds()}
	if err := result.measure(ctx, filepath.Join(scratch, "recovered"), spec); err != nil {
		return err
	}
	return g.print(out, result, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%d events in %d objects recovered in %.2f s: %.0f events/s, peak memory %d MiB (filled in %.1f s)\n",
			result.Events, result.Objects, result.Seconds, result.PerSecond, result.PeakMemory>>20, result.FillSecs)
		return err
	})
}

func (r *recoverBench) measure(ctx context.Context, data, spec string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	text, err := exec.CommandContext(ctx, self, "recover", "--json", "--data", data, "--archive", spec).Output()
	if err != nil {
		return fmt.Errorf("strandline recover: %w", err)
	}
	var recovered recoverResult
	if err := json.Unmarshal(text, &recovered); err != nil {
		return fmt.Errorf("strandline recover: %w", err)
	}
	r.Objects, r.Seconds, r.PerSecond = recovered.Objects, recovered.Seconds, float64(r.Events)/recovered.Seconds
	r.PeakMemory = recovered.PeakMemory
	return nil
}
