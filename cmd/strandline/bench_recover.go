// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/internal/bench"
	"github.com/strandline-project/strandline/projector/kv"
)

// recoverBench is `bench recover`: one run of it.
type recoverBench struct {
	measurement
	archive bench.Archive
	large   int // events of a second, larger archive; 0: none
	ingest  time.Duration

	indexing time.Duration // what the index objects of archive took
}

func newBenchRecover(g *globals) *cobra.Command {
	b := recoverBench{archive: bench.Archive{Payload: 16}}
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Measure how fast a lost server is rebuilt",
		Long: `Writes a synthetic archive as 'bench archive' does, into a directory or, with
--minio, into a MinIO server that it starts, and recovers from it, each time in
a process of its own: from the first event, next to a plain load of the same
rows into Pebble; with 50 ms added to every request of the store; and from a
checkpoint, until the server serves again. Then it measures what drills of the
whole archive, taking and uploading a checkpoint, recording digests and index
objects cost while blocks are stored. It prints each figure with the goal that
it is held to. Nothing else should run meanwhile.`,
		Example: "  strandline bench recover --events 1000000\n  strandline bench recover --events 10000000 --large 100000000 --minio /usr/local/bin/minio --dir /mnt/disk",
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.archive.Objects = max(b.archive.Objects, objectsOf(b.archive.Events))
			if err := b.archive.Check(); err != nil {
				return usagef("%v: write --events 1000000 --machines 10", err)
			}
			return b.run(cmd.Context(), g, cmd.OutOrStdout(), b.measure)
		},
	}
	f := cmd.Flags()
	f.IntVar(&b.archive.Events, "events", 1_000_000, "events in the archive")
	f.IntVar(&b.archive.Machines, "machines", 10, "machines they belong to")
	f.IntVar(&b.archive.Objects, "objects", 0, "objects that they lie in (0: one for 5,000 events, as of a server that stores 1,000 blocks a second)")
	f.IntVar(&b.large, "large", 0, "events of a second archive, to see how the rate holds (0: none)")
	b.bind(f, "MinIO program to start for the archive (default: a directory archive)")
	f.DurationVar(&b.ingest, "ingest", 5*time.Second, "time for each turn of storing blocks with and without what recovery needs (0: not measured)")
	return cmd
}

func (b *recoverBench) measure(ctx context.Context) error {
	if err := b.startStore(ctx); err != nil {
		return err
	}
	b.archive.NoIndex = true // so that they can be measured
	spec, err := b.fill(ctx, "a", &b.archive)
	if err != nil {
		return err
	}
	if err := b.index(ctx, spec); err != nil {
		return err
	}
	whole, err := b.full(ctx, spec)
	if err != nil {
		return err
	}
	if err := b.plain(ctx, spec, whole); err != nil {
		return err
	}
	if err := b.slow(ctx, spec); err != nil {
		return err
	}
	if err := b.checkpoint(ctx, spec); err != nil {
		return err
	}
	if err := b.overhead(ctx); err != nil || b.large == 0 {
		return err
	}
	return b.larger(ctx, whole)
}

// index writes the archive's index objects, as a server's indexer does.
func (b *recoverBench) index(ctx context.Context, spec string) error {
	bucket, err := openBucket(spec, false)
	if err != nil {
		return err
	}
	archive, err := archiver.Open(ctx, bucket)
	if err != nil {
		return err
	}
	began := time.Now()
	err = archive.RebuildIndex(ctx, b.scratch, 1, func(archiver.RunReport) error { return nil })
	b.indexing = time.Since(began)
	return err
}

// full recovers from the first event.
func (b *recoverBench) full(ctx context.Context, spec string) (*recoverResult, error) {
	r, err := b.recover(ctx, "full", spec, "--full")
	if err != nil {
		return nil, err
	}
	events := float64(b.archive.Events)
	f := &b.figures
	f.add(events/r.Seconds, "events/s", "1,000,000", "recovery of %d events from the first one", b.archive.Events)
	f.add(r.Seconds, "s", "", "its time")
	f.add(float64(r.PeakMemory)/(1<<20), "MiB", "under 1,024", "its resident memory")
	f.add(float64(r.Reads.Requests), "requests", fmt.Sprintf("at most %d", b.archive.Objects/100+300), "its requests for %d objects", b.archive.Objects)
	f.add(float64(r.Reads.Bytes)/float64(b.archive.Metadata), "times", "at most 1.1", "bytes that it read, of the metadata's %d", b.archive.Metadata)
	return r, nil
}

// plain loads the same rows plainly.
func (b *recoverBench) plain(ctx context.Context, spec string, whole *recoverResult) error {
	bucket, err := openBucket(spec, false)
	if err != nil {
		return err
	}
	archive, err := archiver.Open(ctx, archiver.Adaptive(bucket, archiver.AdaptiveOptions{}))
	if err != nil {
		return err
	}
	events, took, err := bench.PlainLoad(ctx, kv.OnDisk(slog.Default()), b.path("plain"), archive)
	if err != nil {
		return err
	}
	rate := float64(events) / took.Seconds()
	b.figures.add(rate, "events/s", "", "plain batches of the block view's rows, for comparison")
	b.figures.add(float64(b.archive.Events)/whole.Seconds/rate, "times", "at least 4", "recovery, of plain batches")
	return os.RemoveAll(b.path("plain"))
}

const slowBy = 50 * time.Millisecond

// slow recovers from a store that is far away, and through the same door from
// one that is not: the door takes some of the cores, too.
func (b *recoverBench) slow(ctx context.Context, spec string) error {
	if b.store == nil {
		return nil
	}
	near, err := b.through(ctx, spec, 0)
	if err != nil {
		return err
	}
	far, err := b.through(ctx, spec, slowBy)
	if err != nil {
		return err
	}
	b.figures.add(far/near, "times", "at most 1.3", "its time with %s added to every request, of the time without", slowBy)
	return nil
}

// through returns how many seconds a recovery takes through a door that lets
// every request wait.
func (b *recoverBench) through(ctx context.Context, spec string, delay time.Duration) (seconds float64, err error) {
	door, err := bench.NewSlowStore(b.store.Endpoint, delay)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, door.Close()) }()
	r, err := b.recover(ctx, "slow", strings.Replace(spec, b.store.Endpoint, door.Endpoint, 1), "--full")
	if err != nil {
		return 0, err
	}
	return r.Seconds, os.RemoveAll(b.path("slow"))
}

// larger recovers from a larger archive.
func (b *recoverBench) larger(ctx context.Context, whole *recoverResult) error {
	archive := b.archive
	archive.NoIndex, archive.Events, archive.Objects = false, b.large, max(b.archive.Objects, 1+b.large/10_000)
	spec, err := b.fill(ctx, "large", &archive)
	if err != nil {
		return err
	}
	r, err := b.recover(ctx, "large", spec, "--full")
	if err != nil {
		return err
	}
	rate := float64(b.large) / r.Seconds
	f := &b.figures
	f.add(rate, "events/s", "", "recovery of %d events from the first one", b.large)
	f.add(rate*whole.Seconds/float64(b.archive.Events), "times", "at least 0.8", "the same, of the rate at %d", b.archive.Events)
	f.add(float64(r.PeakMemory)/(1<<20), "MiB", "under 1,024", "its resident memory")
	f.add(float64(r.Reads.Requests), "requests", fmt.Sprintf("at most %d", archive.Objects/100+300), "its requests for %d objects", archive.Objects)
	f.add(float64(r.Reads.Bytes)/float64(archive.Metadata), "times", "at most 1.1", "bytes that it read, of the metadata's %d", archive.Metadata)
	return nil
}
