// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/internal/bench"
)

// scaleBench is `bench scale`: one run of it.
type scaleBench struct {
	measurement
	archive bench.Archive // whose events are in the views
	names   int           // blocks of the machine that is listed
	blocks  int           // small ones, for which requests to the store are counted
	packs   int           // large ones, which are read cold
	clients int           // that store large blocks at once
	time    time.Duration
	rounds  int
	only    string
}

func newBenchScale(g *globals) *cobra.Command {
	b := scaleBench{archive: bench.Archive{Payload: 16}}
	cmd := &cobra.Command{
		Use:   "scale",
		Short: "Measure a server that holds many blocks, and reads from its archive",
		Long: `Measures what grows with what a server holds, part by part (--only names them),
and prints each figure with the goal that it is held to. Nothing else should run
meanwhile.

  views     recovers a synthetic archive and serves it: its start, and storing
            blocks into a machine that has many and into a new one, in turns
            with a server that holds nothing
  list      a list of all blocks of a machine that has many
  requests  those that the store gets while small blocks are stored
  cold      reads of large blocks that only the archive has, in turns with
            reads of the same bytes from the store
  memory    of the server, while many clients store large blocks

The parts requests and cold need --minio, and memory uses it.`,
		Example: "  strandline bench scale --minio /usr/local/bin/minio\n" +
			"  strandline bench scale --events 122000000 --machines 50 --blocks 1000000 --minio /usr/local/bin/minio --dir /mnt/disk\n" +
			"  strandline bench scale --only 'list|views' --names 100000 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			parts, err := b.parts()
			if err != nil {
				return err
			}
			return b.run(cmd.Context(), g, cmd.OutOrStdout(), func(ctx context.Context) error {
				for _, part := range parts {
					if err := part(ctx); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.IntVar(&b.archive.Events, "events", 1_000_000, "events in the views")
	f.IntVar(&b.archive.Machines, "machines", 10, "machines they belong to")
	f.IntVar(&b.names, "names", 1_000_000, "blocks of the machine that is listed, at least")
	f.IntVar(&b.blocks, "blocks", 100_000, "blocks of 4 KiB for which requests to the store are counted")
	f.IntVar(&b.packs, "packs", 32, "blocks of 16 MiB that are read cold")
	f.IntVar(&b.clients, "clients", 64, "clients that store blocks of 16 MiB at once, four each")
	f.DurationVar(&b.time, "time", 3*time.Second, "time for each turn of storing blocks")
	f.IntVar(&b.rounds, "rounds", 4, "how often turns are taken; even numbers are fair")
	f.StringVar(&b.only, "only", "", "regular expression: only the parts whose name matches")
	b.bind(f, "MinIO program to start for archives")
	return cmd
}

// parts are those that were asked for, in their order.
func (b *scaleBench) parts() (parts []func(context.Context) error, err error) {
	if min(b.archive.Events, b.archive.Machines, b.names, b.blocks, b.packs, b.clients, b.rounds) < 1 || b.time <= 0 {
		return nil, usagef("every number and --time must be positive: write --events 1000000 --machines 10")
	}
	b.archive.Objects = objectsOf(b.archive.Events)
	if err := b.archive.Check(); err != nil {
		return nil, usagef("%v: write --events 1000000 --machines 10", err)
	}
	only, err := regexp.Compile(b.only)
	if err != nil {
		return nil, usagef("--only %s: not a regular expression: %w", b.only, err)
	}
	for _, part := range []struct {
		name    string
		measure func(context.Context) error
	}{{"views", b.views}, {"list", b.list}, {"requests", b.requests}, {"cold", b.cold}, {"memory", b.memory}} {
		if only.MatchString(part.name) {
			parts = append(parts, part.measure)
		}
	}
	if len(parts) == 0 {
		return nil, usagef("--only %s matches no part: write something like --only list", b.only)
	}
	return parts, nil
}

// withoutCheckpoints keeps a server from taking one at its end.
var withoutCheckpoints = []string{"--checkpoint-every", "0"}

// views measures a server with many events in its views.
func (b *scaleBench) views(ctx context.Context) error {
	spec, err := b.fill(ctx, "views", &b.archive)
	if err != nil {
		return err
	}
	if _, err := b.recover(ctx, "views", spec, "--full"); err != nil {
		return err
	}
	name := fmt.Sprintf("start of a server with %d events in its views", b.archive.Events)
	began := time.Now()
	err = b.serving(ctx, "views", func(s *benchServer) error {
		b.figures.add(time.Since(began).Seconds(), "s", "under 5", "%s, just recovered", name)
		return b.puts(ctx, s)
	}, withoutCheckpoints...)
	if err != nil {
		return err
	}
	began = time.Now()
	err = b.serving(ctx, "views", func(*benchServer) error {
		b.figures.add(time.Since(began).Seconds(), "s", "under 5", "%s, after a clean end", name)
		return nil
	}, withoutCheckpoints...)
	return errors.Join(err, b.remove("views"))
}

// puts stores blocks next to many, beside many, and into an empty server.
func (b *scaleBench) puts(ctx context.Context, s *benchServer) error {
	among, err := s.target(b.archive.Paths[0])
	if err != nil {
		return err
	}
	beside, err := s.target("bench/load")
	if err != nil {
		return err
	}
	load := bench.Load{Op: bench.OpPut, Size: 1 << 10, Clients: 32, Lock: true, Duration: b.time, MaxOps: 200_000}
	results, err := b.load(ctx, load, b.rounds, bench.Running("a machine with many blocks", among), bench.Running("a new machine beside", beside),
		servePeer("an empty server", b.self, nil, dirArchive))
	if err != nil {
		return err
	}
	empty := results[2].OpsPerSecond()
	f := &b.figures
	f.add(empty, "puts/s", "", "storing 1 KiB blocks, 32 clients, on an empty server")
	f.add(results[0].OpsPerSecond()/empty, "times", "at least 0.7", "of that, into a machine with about %d blocks, %d events in the views", b.archive.Events/b.archive.Machines*82/100, b.archive.Events)
	f.add(results[1].OpsPerSecond()/empty, "times", "at least 0.7", "of that, into a new machine beside them")
	return nil
}

// list measures lists of a machine that has many blocks.
func (b *scaleBench) list(ctx context.Context) error {
	archive := bench.Archive{Events: b.names + b.names/4 + 100, Machines: 1, Payload: 16} // four in five store a block that is not deleted
	archive.Objects = objectsOf(archive.Events)
	spec, err := b.fill(ctx, "list", &archive)
	if err != nil {
		return err
	}
	if _, err := b.recover(ctx, "list", spec, "--full"); err != nil {
		return err
	}
	err = b.serving(ctx, "list", func(s *benchServer) error { return b.lists(ctx, s, archive.Paths[0]) }, withoutCheckpoints...)
	return errors.Join(err, b.remove("list"))
}

// lists measures them plain and as restic gets them, and the server's memory.
func (b *scaleBench) lists(ctx context.Context, s *benchServer, machine string) error {
	target, err := s.target(machine)
	if err != nil {
		return err
	}
	before, err := bench.RSS(s.pid())
	if err != nil {
		return err
	}
	plain, err := listings(ctx, target, false)
	if err != nil {
		return err
	}
	names := plain[0].Names
	if names < b.names {
		return fmt.Errorf("a list has %d names, %d blocks are there at least", names, b.names)
	}
	f := &b.figures
	f.add(milliseconds(plain[0].FirstByte), "ms", "under 20", "first byte of a list of %d blocks, the server's first one", names)
	f.add(milliseconds(median(plain, func(l *bench.Listing) time.Duration { return l.FirstByte })), "ms", "under 20", "of a later one")
	whole := median(plain, func(l *bench.Listing) time.Duration { return l.Whole - l.FirstByte })
	f.add(float64(names)/whole.Seconds(), "names/s", "1,000,000", "streamed behind it")
	gzipped, err := listings(ctx, target, true)
	if err != nil {
		return err
	}
	whole = median(gzipped, func(l *bench.Listing) time.Duration { return l.Whole - l.FirstByte })
	f.add(float64(names)/whole.Seconds(), "names/s", "", "the same gzipped, as restic asks for it")
	return b.growth(ctx, s, target, before)
}

// listed is how often a list is read.
const listed = 5

func listings(ctx context.Context, target bench.Target, gzipped bool) (all []bench.Listing, err error) {
	for range listed {
		l, err := target.List(ctx, gzipped)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func median(all []bench.Listing, of func(*bench.Listing) time.Duration) time.Duration {
	var values []time.Duration
	for i := range all {
		values = append(values, of(&all[i]))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// growth measures the memory that lists take: what the first ones left, caches
// of the views among it, and how much more a later one needs. Where the system
// does not tell, nothing is measured.
func (b *scaleBench) growth(ctx context.Context, s *benchServer, target bench.Target, before int64) error {
	if before == 0 {
		return nil
	}
	if err := bench.ForgetPeakRSS(s.pid()); err != nil {
		return err
	}
	after, err := bench.RSS(s.pid())
	if err != nil {
		return err
	}
	if _, err := listings(ctx, target, false); err != nil {
		return err
	}
	peak, err := bench.PeakRSS(s.pid())
	if err != nil {
		return err
	}
	f := &b.figures
	f.add(float64(before)/(1<<20), "MiB", "", "resident memory before the first list")
	f.add(float64(after)/(1<<20), "MiB", "", "after %d lists", 2*listed)
	f.add(float64(max(peak-after, 0))/(1<<20), "MiB", "under 32", "that it grows by at most in %d more", listed)
	return nil
}

// memory measures that of a server whose clients all store large blocks.
func (b *scaleBench) memory(ctx context.Context) error {
	if err := b.startStore(ctx); err != nil {
		return err
	}
	peer := servePeer("strandline", b.self, nil, func(string) string { return b.spec("memory") })
	load := bench.Load{Op: bench.OpPut, Size: 16 << 20, Clients: b.clients, Lock: true, Duration: b.time, MaxOps: 4 * b.clients}
	results, err := b.load(ctx, load, 1, peer)
	if err != nil {
		return err
	}
	if results[0].PeakRSS == 0 {
		slog.Info("this system does not tell a process's memory: not measured")
		return nil
	}
	b.figures.add(float64(results[0].PeakRSS)/(1<<20), "MiB", "under 512", "resident memory while %d clients store 16 MiB blocks", b.clients)
	return os.RemoveAll(b.path("archive-memory"))
}
