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

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/bench"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/projector/kv"
)

// archiveBench is what bench archive prints.
type archiveBench struct {
	Archive string       `json:"archive"`
	Events  int          `json:"events"`
	Objects int          `json:"objects"`
	Last    eventlog.Seq `json:"last_seq"`
	Seconds float64      `json:"seconds"`
}

func newBenchArchive(g *globals) *cobra.Command {
	var archive bench.Archive
	var spec, dir string
	cmd := &cobra.Command{
		Use:   "archive",
		Short: "Write a synthetic archive, to try recovery at scale",
		Long: `Writes an archive with the shapes of a real one into --archive, which must hold
none: 90 % of the events store a block, 8 % delete one, the rest are locks,
recorded digests and machines that change hands. The digests are right, so a
recovery from it proves itself. Complete runs get their index objects. It does not go through a server: ten million
events take about half a minute.`,
		Example: "  strandline bench archive --archive dir:/mnt/scratch/archive --events 10000000 --machines 50 --objects 1000",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := archive.Check(); err != nil {
				return usagef("%v", err)
			}
			return runBenchArchive(cmd.Context(), g, &archive, spec, dir, cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&spec, "archive", "", "where to write it: dir:PATH or s3://BUCKET/PREFIX?endpoint=URL")
	flags.IntVar(&archive.Events, "events", 1_000_000, "events, at least")
	flags.IntVar(&archive.Machines, "machines", 10, "machines they belong to")
	flags.IntVar(&archive.Objects, "objects", 100, "objects that they lie in")
	flags.IntVar(&archive.Payload, "payload", 16, "bytes of each block")
	flags.Uint64Var(&archive.Seed, "seed", 1, "the same seed makes the same events")
	flags.BoolVar(&archive.NoIndex, "no-index", false, "leave the index objects out, to see what they are worth")
	flags.StringVar(&dir, "dir", "", "directory for temporary files (default: the system's)")
	return cmd
}

func runBenchArchive(ctx context.Context, g *globals, archive *bench.Archive, spec, dir string, out io.Writer) (err error) {
	bucket, err := openBucket(spec, true)
	if err != nil {
		return err
	}
	if archive.Scratch, err = os.MkdirTemp(dir, "strandline-bench-"); err != nil {
		return fmt.Errorf("make a directory for temporary files: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(archive.Scratch)) }()
	archive.Engine = kv.OnDisk(slog.Default())
	bar := progress.New(os.Stderr, slog.Default())
	defer bar.Close()
	began := time.Now()
	bar.Start("write objects", int64(archive.Objects))
	objects := 0
	last, err := archive.Write(ctx, bucket, spec, func(n int) {
		bar.Add(int64(n - objects))
		objects = n
	})
	if err != nil {
		return err
	}
	bar.Done()
	bar.Close()
	result := archiveBench{Archive: bucket.String(), Events: archive.Events, Objects: objects + 1, Last: last, Seconds: time.Since(began).Seconds()}
	return g.print(out, result, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%d events up to %s in %v, in %.1f s\n", result.Events, result.Last, bucket, result.Seconds)
		return err
	})
}
