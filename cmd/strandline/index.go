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
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/archiver"
)

func newIndex(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "index",
		Short: "List, verify and rebuild an archive's index objects",
		Long: `An index object holds the metadata of 256 objects, so that a recovery reads one
instead of 256. The server writes it when the 256 are archived. No event depends
on it: one that is missing or damaged costs a recovery time, and nothing else.

How many reads are under way at once is found out, and shown; --read-concurrency
bounds it, and so does a line "MIN-MAX" in a file that 'verify' and 'rebuild'
name when they begin, at any time while they run.`,
		Example: "  strandline index list --archive dir:/mnt/backup/strandline\n" +
			"  strandline index verify --archive dir:/mnt/backup/strandline\n" +
			"  strandline index rebuild --archive dir:/mnt/backup/strandline",
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newIndexList(g), newIndexVerify(g), newIndexRebuild(g))
	return cmd
}

// indexWork is what an index command works on.
type indexWork struct {
	*archiver.Archive
	bucket *archiver.AdaptiveBucket
	waited *waitedFor // below bucket
	out    io.Writer
}

// indexCommand is a command that works on the index objects of --archive, and
// has further settings.
func indexCommand(cmd *cobra.Command, run func(context.Context, *indexWork) error, settings ...string) *cobra.Command {
	load := bindConfig(cmd, append(settings, "archive")...)
	var bounds readBounds
	bounds.bind(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load.load()
		if err != nil {
			return err
		}
		if err := cfg.checkArchive(); err != nil {
			return withCode(exitUsage, err)
		}
		opened, err := openBucket(cfg.Archive, false)
		if err != nil {
			return err
		}
		work := newIndexWork(exclusive(opened, cfg.SingleWriter), &bounds, cmd.OutOrStdout())
		if work.Archive, err = archiver.Open(cmd.Context(), work.bucket); err != nil {
			return err
		}
		return run(cmd.Context(), work)
	}
	return cmd
}

func newIndexWork(opened archiver.Bucket, bounds *readBounds, out io.Writer) *indexWork {
	waited := &waitedFor{Bucket: opened}
	return &indexWork{bucket: archiver.Adaptive(waited, bounds.AdaptiveOptions), waited: waited, out: out}
}

// indexLine is one run in what the index commands print.
type indexLine struct {
	First   uint64   `json:"first_ordinal"`
	Last    uint64   `json:"last_ordinal"`
	Key     string   `json:"key,omitempty"` // of the index object that counts; absent: there is none
	Bytes   int64    `json:"bytes,omitempty"`
	State   string   `json:"state"` // listed, whole, missing, damaged, written
	Why     string   `json:"why,omitempty"`
	Damaged []string `json:"damaged_objects,omitempty"` // that only the index object describes
}

// indexResult is what the index commands print.
type indexResult struct {
	Archive string      `json:"archive"`
	Runs    []indexLine `json:"runs"`
	Seconds float64     `json:"seconds"`
}

func newIndexList(g *globals) *cobra.Command {
	return indexCommand(&cobra.Command{
		Use:     "list",
		Short:   "Print which index objects the archive lists; reads none of them",
		Example: "  strandline index list --archive dir:/mnt/backup/strandline",
	}, func(ctx context.Context, work *indexWork) error {
		began := time.Now()
		indexes, err := work.IndexObjects(ctx, 1)
		if err != nil {
			return err
		}
		result := indexResult{Archive: work.bucket.String(), Runs: []indexLine{}}
		for _, info := range indexes {
			first, last := info.Ordinals()
			result.Runs = append(result.Runs, indexLine{First: first, Last: last, Key: info.Key(), Bytes: info.Size, State: "listed"})
		}
		return g.printIndex(work.out, &result, began)
	})
}

func newIndexVerify(g *globals) *cobra.Command {
	return indexCommand(&cobra.Command{
		Use:   "verify",
		Short: "Read every index object and hold it against its objects; changes nothing",
		Long: `Reads every index object whole, and of each object of its run the last 144
bytes, which tell every byte of it apart from any other. Ends with exit code 6
when a complete run has no whole index object, and with 5 when an object's own
metadata is damaged and only the index object has it.`,
		Example: "  strandline index verify --archive dir:/mnt/backup/strandline",
	}, func(ctx context.Context, work *indexWork) error {
		dir, err := os.MkdirTemp("", indexTemp)
		if err != nil { // it is for nothing else
			slog.Warn("how many reads are under way at once cannot be changed while this runs", "err", err)
		} else {
			defer func() { _ = os.RemoveAll(dir) }() // a file of bounds, if anything
		}
		return g.checkRuns(ctx, work, dir, func(ctx context.Context, each func(archiver.RunReport) error) error {
			return work.VerifyIndex(ctx, 1, each)
		})
	})
}

// indexTemp begins the names of the index commands' temporary directories.
const indexTemp = "strandline-index-"

func newIndexRebuild(g *globals) *cobra.Command {
	var scratch string
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Write the index objects that are missing or damaged, from the objects' footers",
		Long: `Verifies as 'index verify' does and writes what is missing. A damaged index
object gets a successor with the next revision, because nothing in an archive is
ever written over; the highest revision that is whole counts. It writes below
index/ and nowhere else, needs no server, and may run beside one: both write the
same, and what is put first counts. The last run gets its index object when its
256 objects are there. Ends with exit code 5 when a run cannot have one because
an object's own metadata is damaged.`,
		Example: "  strandline index rebuild --archive dir:/mnt/backup/strandline",
	}
	cmd.Flags().StringVar(&scratch, "dir", "", "directory for one run's footers at a time (default: the system's for temporary files)")
	return indexCommand(cmd, func(ctx context.Context, work *indexWork) (err error) {
		dir, err := os.MkdirTemp(scratch, indexTemp)
		if err != nil {
			return fmt.Errorf("make a directory for the footers: %w; name another place with --dir", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		return g.checkRuns(ctx, work, dir, func(ctx context.Context, each func(archiver.RunReport) error) error {
			return work.RebuildIndex(ctx, dir, 1, each)
		})
	}, "single-writer")
}

// checkRuns prints what check says of the runs, and ends with what is left to
// be told. Bounds are changed in dir; "": they cannot be.
func (g *globals) checkRuns(ctx context.Context, work *indexWork, dir string, check func(ctx context.Context, each func(archiver.RunReport) error) error) error {
	began := time.Now()
	if dir != "" {
		bounds := filepath.Join(dir, boundsName)
		tellBounds(bounds)
		defer obeyBounds(ctx, bounds, work.bucket)()
	}
	bar := newBar(work.bucket, dir)
	defer bar.Close()
	work.waited.progress = bar
	bar.Start("index objects", 0)
	result := indexResult{Archive: work.bucket.String(), Runs: []indexLine{}}
	lacking, lost := 0, 0
	err := check(ctx, func(r archiver.RunReport) error {
		bar.Add(1)
		line := lineOf(&r)
		if line.Key == "" {
			lacking++
		}
		lost += len(r.Damaged)
		if r.Err != nil {
			lost++
		}
		result.Runs = append(result.Runs, line)
		return nil
	})
	bar.Close()
	if err != nil {
		return err
	}
	err = g.printIndex(work.out, &result, began)
	switch {
	case err != nil:
		return err
	case lost > 0:
		return withCode(exitDamage, fmt.Errorf("objects of %s have damaged metadata (see above): restore them from another copy or from earlier versions of them", result.Archive))
	case lacking > 0:
		return withCode(exitDiffers, fmt.Errorf("%d of %d complete runs have no whole index object; `strandline index rebuild` writes them", lacking, len(result.Runs)))
	}
	return nil
}

func lineOf(r *archiver.RunReport) indexLine {
	line := indexLine{First: r.First, Last: r.Last, State: string(r.Was)}
	if r.Index.Run != 0 {
		line.Key, line.Bytes = r.Index.Key(), r.Index.Size
	}
	if r.Written {
		line.State = "written"
	}
	for _, err := range []error{r.Why, r.Err} {
		if err != nil {
			line.Why = strings.TrimPrefix(line.Why+"; "+oneLine(err), "; ")
		}
	}
	for _, object := range r.Damaged {
		line.Damaged = append(line.Damaged, object.Key())
	}
	return line
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func (g *globals) printIndex(out io.Writer, result *indexResult, began time.Time) error {
	result.Seconds = time.Since(began).Seconds()
	return g.print(out, result, func(w io.Writer) error {
		for _, line := range result.Runs {
			fmt.Fprintf(w, "%-8s ordinals %d-%d", line.State, line.First, line.Last)
			if line.Key != "" {
				fmt.Fprintf(w, "  %s, %s", line.Key, humanize.IBytes(uint64(line.Bytes)))
			}
			if line.Why != "" {
				fmt.Fprintf(w, "  (%s)", line.Why)
			}
			fmt.Fprintln(w)
			for _, key := range line.Damaged {
				fmt.Fprintln(w, "DAMAGED, and only the index object has its metadata:", key)
			}
		}
		_, err := fmt.Fprintf(w, "%d index objects looked at in %.1f s\n", len(result.Runs), result.Seconds)
		return err
	})
}
