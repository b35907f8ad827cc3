// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/strandline-project/strandline/internal/bench"
	"github.com/strandline-project/strandline/internal/httpapi"
)

// checkpoint lets a server that was recovered take a checkpoint, and then
// recovers from that until it serves.
func (b *recoverBench) checkpoint(ctx context.Context, spec string) error {
	taker, err := b.serve(ctx, "full", "--checkpoint-every", "1s")
	if err != nil {
		return err
	}
	began := time.Now()
	err = taker.await(ctx, func(s *httpapi.Status) bool { return s.Checkpoint != nil && s.Checkpoint.Seq != 0 })
	took := time.Since(began)
	if err = errors.Join(err, taker.stop(), os.RemoveAll(b.path("full"))); err != nil {
		return err
	}
	r, err := b.recover(ctx, "again", spec)
	if err != nil {
		return err
	}
	if r.Checkpoint == nil {
		return fmt.Errorf("the recovery did not begin from the checkpoint: %v", r.Fallbacks)
	}
	transfer, err := transferTime(b.path("again"))
	if err != nil {
		return err
	}
	began = time.Now()
	server, err := b.serve(ctx, "again")
	if err != nil {
		return err
	}
	started := time.Since(began).Seconds()
	f := &b.figures
	f.add(float64(r.Checkpoint.Bytes)/(1<<20), "MiB", "", "bytes of a checkpoint of %d events' views", b.archive.Events)
	f.add(100*took.Seconds()/time.Hour.Seconds(), "%", "under 5", "of the time, taking such a checkpoint every hour")
	f.add(transfer, "s", "", "the transfer of a checkpoint, every byte hashed")
	f.add(r.Seconds-transfer+started, "s", "under 5", "from a checkpoint until the server serves, without the transfer")
	f.add(started, "s", "", "of that, the server's start")
	if err := errors.Join(b.beside(ctx, server), server.stop()); err != nil {
		return err
	}
	return errors.Join(b.whileTaken(ctx, spec, took), os.RemoveAll(b.path("again")))
}

// transferTime is how long the recovery of a state directory restored a
// checkpoint, as its report says.
func transferTime(data string) (float64, error) {
	report, err := readReport(data)
	if err != nil {
		return 0, err
	}
	for _, phase := range report.Phases {
		if phase.Name == "restore a checkpoint (bytes)" {
			return phase.Ended.Sub(phase.Began).Seconds(), nil
		}
	}
	return 0, fmt.Errorf("the report of the recovery of %s tells of no checkpoint", data)
}

// overhead measures storing small blocks with what recovery wants of a server,
// digests even 16 times as often as by default, and without. (What an hourly
// checkpoint costs was measured with a large one, by whileTaken.)
func (b *recoverBench) overhead(ctx context.Context) error {
	if b.ingest == 0 {
		return nil
	}
	results, err := b.load(ctx, smallPuts(b.ingest), 10,
		servePeer("with", b.self, nil, dirArchive, "--record-every", "4096"),
		servePeer("without", b.self, nil, dirArchive, "--checkpoint-every", "0", "--record-every", "1000000000"))
	if err != nil {
		return err
	}
	with, without := results[0].OpsPerSecond(), results[1].OpsPerSecond()
	b.figures.add(with, "puts/s", "", "storing 1 KiB blocks, 32 clients, digests recorded every 4,096 events")
	b.figures.add(100*(1-with/without), "%", "under 5", "of that, slower than without them")
	b.figures.add(100*b.indexing.Seconds()/(float64(b.archive.Events)/with), "%", "under 5", "of the time that storing %d blocks so takes, writing their index objects", b.archive.Events)
	return nil
}

// smallPuts is the load to which events and their bookkeeping matter most.
func smallPuts(d time.Duration) bench.Load {
	return bench.Load{Op: bench.OpPut, Size: 1 << 10, Clients: 32, Lock: true, Duration: d, MaxOps: 400_000}
}
