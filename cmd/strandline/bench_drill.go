// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/strandline-project/strandline/internal/bench"
	"github.com/strandline-project/strandline/internal/drill"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/progress"
)

// beside measures storing blocks while drills of everything run one after the
// other on the same machine, and without.
func (b *recoverBench) beside(ctx context.Context, s *benchServer) error {
	if b.ingest == 0 {
		return nil
	}
	target, err := s.target("bench/load")
	if err != nil {
		return err
	}
	alone := bench.Running("alone", target)
	drilled := bench.Peer{Name: "beside a drill", Start: func(ctx context.Context, dir string) (*bench.Instance, error) {
		instance, err := alone.Start(ctx, dir)
		if err != nil {
			return nil, err
		}
		drills := repeatDrills(ctx, &httpapi.Client{Addr: s.admin})
		instance.Stop = drills.stop
		return instance, drills.await(ctx)
	}}
	load := bench.Load{Op: bench.OpPut, Size: 64 << 10, Clients: 4, Lock: true, Duration: b.ingest, MaxOps: 50_000}
	results, err := b.load(ctx, load, 2, drilled, alone)
	if err != nil {
		return err
	}
	with, without := &results[0], &results[1]
	f := &b.figures
	f.add(with.OpsPerSecond()/without.OpsPerSecond(), "times", "", "storing 64 KiB blocks, 4 clients, while a drill of all %d events runs, of without", b.archive.Events)
	f.add(float64(without.P99.Microseconds())/1000, "ms", "", "the slowest 1 in 100 of them take longer than, without a drill")
	f.add(float64(with.P99.Microseconds())/1000, "ms", "", "the same while it runs")
	return nil
}

// repeated are drills of a server, one after the other.
type repeated struct {
	began chan struct{} // closed when the first one is under way
	over  chan struct{} // closed to begin no other
	ended chan error
}

func repeatDrills(ctx context.Context, client *httpapi.Client) *repeated {
	d := &repeated{began: make(chan struct{}), over: make(chan struct{}), ended: make(chan error, 1)}
	go func() { d.ended <- d.run(ctx, client) }()
	return d
}

func (d *repeated) run(ctx context.Context, client *httpapi.Client) error {
	var first sync.Once
	for {
		raw, err := client.Drill(ctx, httpapi.DrillRequest{Mode: string(drill.Full), Sample: -1}, func(progress.Snapshot) { first.Do(func() { close(d.began) }) })
		if err != nil {
			return err
		}
		var result drill.Result
		if err := json.Unmarshal(raw, &result); err != nil {
			return fmt.Errorf("read what a drill found: %w", err)
		}
		if err := judgeDrill(&result); err != nil {
			return err
		}
		select {
		case <-d.over:
			return nil
		default:
		}
	}
}

// await returns when the first drill is under way.
func (d *repeated) await(ctx context.Context) error {
	select {
	case <-d.began:
		return nil
	case err := <-d.ended:
		d.ended <- err
		return fmt.Errorf("a drill ended before it was seen to run: %w", err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stop waits for the end of the present drill.
func (d *repeated) stop() error {
	close(d.over)
	return <-d.ended
}
