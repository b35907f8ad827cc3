// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/strandline-project/strandline/internal/bench"
	"github.com/strandline-project/strandline/internal/checkpoint"
	"github.com/strandline-project/strandline/internal/httpapi"
)

// whileTaken measures storing small blocks on a server that holds all events,
// while it takes checkpoints one after the other, and while it takes none. When
// a turn begins the archive has no checkpoint, so that the first one is
// uploaded whole; a turn lasts at least for idle, which is how long that takes
// while nothing is stored, so that hardly anything else is measured.
func (b *recoverBench) whileTaken(ctx context.Context, spec string, idle time.Duration) error {
	if b.ingest == 0 {
		return nil
	}
	var longest time.Duration // until the first checkpoint of a turn was whole
	taking := bench.Peer{Name: "while checkpoints are taken", Start: func(ctx context.Context, dir string) (*bench.Instance, error) {
		if err := forgetCheckpoints(ctx, spec); err != nil {
			return nil, err
		}
		s, instance, err := b.again(ctx, dir, "--checkpoint-every", "1s")
		if err != nil {
			return nil, err
		}
		first := s.firstCheckpoint(ctx)
		instance.Stop = func() error {
			taken := <-first
			longest = max(longest, taken.took)
			return errors.Join(taken.err, s.stop())
		}
		return instance, nil
	}}
	without := bench.Peer{Name: "without", Start: func(ctx context.Context, dir string) (*bench.Instance, error) {
		_, instance, err := b.again(ctx, dir, "--checkpoint-every", "0")
		return instance, err
	}}
	results, err := b.load(ctx, smallPuts(max(b.ingest, idle)), 4, taking, without)
	if err != nil {
		return err
	}
	with := results[0].OpsPerSecond()
	slower := 100 * (1 - with/results[1].OpsPerSecond())
	f := &b.figures
	f.add(with, "puts/s", "", "storing 1 KiB blocks, 32 clients, while checkpoints of all %d events' views are taken", b.archive.Events)
	f.add(slower, "%", "", "of that, slower than while none is taken")
	f.add(longest.Seconds(), "s", "", "until such a checkpoint is taken and uploaded meanwhile")
	f.add(slower*longest.Seconds()/time.Hour.Seconds(), "%", "under 5", "slower, over an hour in which one is taken")
	return nil
}

// again starts a server on the recovered state, as something to measure.
func (b *recoverBench) again(ctx context.Context, dir string, flags ...string) (*benchServer, *bench.Instance, error) {
	s, err := b.serve(ctx, "again", flags...)
	if err != nil {
		return nil, nil, err
	}
	instance, err := s.instance(ctx, dir)
	if err != nil {
		return nil, nil, errors.Join(err, s.stop())
	}
	return s, instance, nil
}

// instance is the server as something to measure.
func (s *benchServer) instance(ctx context.Context, dir string) (*bench.Instance, error) {
	target, err := s.target("bench/load")
	if err != nil {
		return nil, err
	}
	instance, err := bench.Running("server", target).Start(ctx, dir)
	if err != nil {
		return nil, err
	}
	instance.Stop = s.stop
	return instance, nil
}

// taken is a checkpoint, or why there is none.
type taken struct {
	took time.Duration
	err  error
}

// firstCheckpoint waits beside for the first checkpoint of a server that has
// just started, the second that it settles for included. It asks seldom: what it
// asks costs the server something, too.
func (s *benchServer) firstCheckpoint(ctx context.Context) <-chan taken {
	first := make(chan taken, 1)
	began := time.Now()
	go func() {
		err := s.awaitEvery(ctx, 200*time.Millisecond, func(status *httpapi.Status) bool { return status.Checkpoint != nil && status.Checkpoint.Seq != 0 })
		first <- taken{time.Since(began), err}
	}()
	return first
}

// forgetCheckpoints removes all checkpoints from an archive.
func forgetCheckpoints(ctx context.Context, spec string) error {
	bucket, err := openBucket(spec, false)
	if err != nil {
		return err
	}
	for info, err := range bucket.List(ctx, checkpoint.Prefix, "") {
		if err == nil {
			err = bucket.Delete(ctx, info.Key)
		}
		if err != nil {
			return fmt.Errorf("remove the checkpoints before: %w", err)
		}
	}
	return nil
}
