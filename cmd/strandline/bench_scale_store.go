// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/bench"
)

// requests counts those that the store gets while small blocks are stored and
// archived.
func (b *scaleBench) requests(ctx context.Context) (err error) {
	if err := b.startStore(ctx); err != nil || b.store == nil {
		return errors.Join(err, needsStore("requests"))
	}
	door, err := bench.NewSlowStore(b.store.Endpoint, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, door.Close()) }()
	if err := b.initialise(ctx, "requests", strings.Replace(b.spec("requests"), b.store.Endpoint, door.Endpoint, 1)); err != nil {
		return err
	}
	err = b.serving(ctx, "requests", func(s *benchServer) error { return b.count(ctx, s, door) }, withoutCheckpoints...)
	return errors.Join(err, b.remove("requests"))
}

// needsStore says that a part is left out.
func needsStore(part string) error {
	slog.Info("not measured without --minio", "part", part)
	return nil
}

func (b *scaleBench) count(ctx context.Context, s *benchServer, door *bench.SlowStore) error {
	target, err := s.target("bench/load")
	if err != nil {
		return err
	}
	before := door.Requests()
	load := bench.Load{Op: bench.OpPut, Size: 4 << 10, Clients: 32, Lock: true, Duration: 24 * time.Hour, MaxOps: b.blocks}
	results, err := b.load(ctx, load, 1, bench.Running("strandline", target))
	if err != nil {
		return err
	}
	if err := target.Commit(ctx); err != nil {
		return err
	}
	requests := float64(door.Requests() - before)
	b.figures.add(requests, "requests", "", "to the store, until %d blocks of 4 KiB are archived, stored at %.0f a second", b.blocks, results[0].OpsPerSecond())
	b.figures.add(requests/float64(b.blocks), "requests", "under 0.001", "of that, for a block")
	return nil
}

// packSize is that of restic's packs, and of the blocks that are read cold.
const packSize = 16 << 20

// readings are whole blocks and parts, with one reader and with several.
var readings = []bench.Reading{
	{Clients: 1, Least: 1 << 20, Most: 4 << 20},
	{Clients: 4, Least: 1 << 20, Most: 4 << 20},
	{Clients: 1},
	{Clients: 4},
}

// cold reads blocks through a server that has nothing of them but the views,
// and from the store.
func (b *scaleBench) cold(ctx context.Context) error {
	if err := b.startStore(ctx); err != nil || b.store == nil {
		return errors.Join(err, needsStore("cold"))
	}
	blocks, spec := bench.NewBlocks(b.packs, packSize), b.spec("cold")
	if err := b.storeAll(ctx, spec, blocks); err != nil {
		return err
	}
	if _, err := b.recover(ctx, "cold", spec); err != nil {
		return err
	}
	direct, err := directly(ctx, spec, blocks)
	if err != nil {
		return err
	}
	for _, how := range readings {
		if err := b.compareReads(ctx, how, blocks, direct); err != nil {
			return fmt.Errorf("read %s: %w", how, err)
		}
	}
	return b.remove("cold")
}

// storeAll makes an archive that holds the blocks, and forgets the server that
// it came from.
func (b *scaleBench) storeAll(ctx context.Context, spec string, blocks *bench.Blocks) error {
	if err := b.initialise(ctx, "writer", spec); err != nil {
		return err
	}
	err := b.serving(ctx, "writer", func(s *benchServer) error {
		target, err := s.target("bench/load")
		if err != nil {
			return err
		}
		return errors.Join(blocks.Store(ctx, target, 4), target.Commit(ctx))
	})
	return errors.Join(err, b.remove("writer"))
}

// directly opens the blocks where the archive's events say that they lie.
func directly(ctx context.Context, spec string, blocks *bench.Blocks) (bench.Opener, error) {
	bucket, err := openBucket(spec, false)
	if err != nil {
		return nil, err
	}
	archive, err := archiver.Open(ctx, bucket)
	if err != nil {
		return nil, err
	}
	places := map[string]eventlog.Placement{}
	for batch, err := range archive.Follow(ctx, eventlog.FirstSeq) {
		if err != nil {
			return nil, err
		}
		for _, entry := range batch.Entries {
			if entry.Event.Type == eventlog.BlockStored {
				places[hex.EncodeToString(entry.Event.Block)] = entry.Placement
			}
		}
	}
	for _, name := range blocks.Names() {
		if places[name].Ordinal == 0 {
			return nil, fmt.Errorf("block %s is not in %v", name, bucket)
		}
	}
	return func(ctx context.Context, block int, at, n int64) (io.ReadCloser, error) {
		place := places[blocks.Names()[block]]
		return archive.OpenRange(ctx, place.Ordinal, place.Offset+uint64(at), uint64(n))
	}, nil
}

// compareReads reads through a server that was just started and from the
// store, in turns, every second round the other way round.
func (b *scaleBench) compareReads(ctx context.Context, how bench.Reading, blocks *bench.Blocks, direct bench.Opener) error {
	var served, straight time.Duration
	throughServer := func() error {
		return b.serving(ctx, "cold", func(s *benchServer) error {
			target, err := s.target("bench/load")
			if err != nil {
				return err
			}
			open, hangUp := blocks.From(target)
			defer hangUp()
			took, err := blocks.Read(ctx, how, open)
			served += took
			return err
		}, withoutCheckpoints...)
	}
	fromStore := func() error {
		took, err := blocks.Read(ctx, how, direct)
		straight += took
		return err
	}
	turns := []func() error{throughServer, fromStore}
	for range b.rounds {
		for _, turn := range turns {
			if err := turn(); err != nil {
				return err
			}
		}
		slices.Reverse(turns)
	}
	bytes := float64(blocks.Bytes()) * float64(b.rounds)
	b.figures.add(bytes/straight.Seconds()/(1<<20), "MiB/s", "", "%s, from the store", how)
	b.figures.add(straight.Seconds()/served.Seconds(), "times", "at least 0.9", "of that, cold through a server")
	return nil
}
