// SPDX-License-Identifier: Apache-2.0

package projector_test

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

// busyLog is the log of 16 machines that store n-24 blocks under random
// names and delete every tenth again.
func busyLog(n int) *modeltest.Log {
	history := modeltest.NewHistory(1, nil)
	account := history.Open("bench")
	var machines []eventlog.Seq
	for i := range 16 {
		machines = append(machines, history.Register(account, string(rune('a'+i))))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var waiting []eventlog.Event
	var entries []eventlog.Entry
	for range n {
		e := eventlog.Event{Type: eventlog.BlockStored, Account: account, Machine: machines[rng.IntN(len(machines))],
			Kind: eventlog.KindData, Block: make([]byte, 32), Length: 60 << 10, Checksum: rng.Uint32(), Actor: "user:bench"}
		for i := 0; i < 32; i += 8 {
			binary.LittleEndian.PutUint64(e.Block[i:], rng.Uint64())
		}
		if len(waiting) > 0 && rng.IntN(10) == 0 {
			old := waiting[len(waiting)-1]
			waiting = waiting[:len(waiting)-1]
			e = eventlog.Event{Type: eventlog.BlockDeleted, Account: account, Machine: old.Machine, Kind: old.Kind,
				Block: old.Block, Length: old.Length, Checksum: old.Checksum, Undoes: old.Seq, Actor: "user:bench"}
		}
		entry := history.Next(e)
		if rng.IntN(5) == 0 && e.Type == eventlog.BlockStored {
			waiting = append(waiting, entry.Event)
		}
		entries = append(entries, entry)
	}
	history.Log.Append(entries...)
	history.Log.BatchSize = 2048
	return history.Log
}

// BenchmarkBothViews projects a million events from memory into both views
// on disk, as a rebuild or a recovery does, to the end: flushed and closed.
func BenchmarkBothViews(b *testing.B) {
	log := busyLog(1_000_000)
	b.ResetTimer()
	for range b.N {
		dir := b.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "views"), 0o700); err != nil {
			b.Fatal(err)
		}
		v := openViews(b, kv.OnDisk(quiet), dir+"/", projector.Bulk)
		v.catchUp(log)
		v.close()
	}
	b.ReportMetric(float64(b.N*len(log.Entries()))/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkLiveBatches applies events in small commits, as a server at work
// does.
func BenchmarkLiveBatches(b *testing.B) {
	log := busyLog(200_000)
	log.BatchSize = 16
	b.ResetTimer()
	for range b.N {
		v := openViews(b, kv.OnDisk(quiet), b.TempDir()+"/", projector.Live)
		v.catchUp(log)
		v.close()
	}
	b.ReportMetric(float64(b.N*len(log.Entries()))/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkLoad builds both views on disk from a million events in memory by
// sorted runs, and adds up their digests from the rows.
func BenchmarkLoad(b *testing.B) {
	log := busyLog(1_000_000)
	b.ResetTimer()
	for range b.N {
		load := projector.Load{Engine: kv.OnDisk(quiet), Dir: b.TempDir(), Scratch: filepath.Join(b.TempDir(), "runs"), Input: "bench",
			Upto: log.Last(), Projectors: []projector.Projector{projector.Machines(), projector.Blocks()}, Log: quiet}
		done, err := load.Run(b.Context(), log)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		b.Log(done)
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N*len(log.Entries()))/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkRecompute(b *testing.B) {
	log := busyLog(1_000_000)
	load := projector.Load{Engine: kv.OnDisk(quiet), Dir: b.TempDir(), Scratch: filepath.Join(b.TempDir(), "runs"), Input: "bench",
		Upto: log.Last(), Projectors: []projector.Projector{projector.Blocks()}, Log: quiet}
	if _, err := load.Run(b.Context(), log); err != nil {
		b.Fatal(err)
	}
	view, err := projector.OpenBlockView(load.Engine, filepath.Join(load.Dir, "block"), projector.ReadOnly, quiet)
	if err != nil {
		b.Fatal(err)
	}
	defer view.Close()
	b.ResetTimer()
	for range b.N {
		if _, _, err := view.Recompute(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(log.Entries()))/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkLatest looks blocks up in a view of 200,000 events: as a put does
// one that is not there, and one that is.
func BenchmarkLatest(b *testing.B) {
	log := busyLog(200_000)
	v := openViews(b, kv.OnDisk(quiet), b.TempDir()+"/", projector.Live)
	defer v.close()
	v.catchUp(log)
	entries := log.Entries()
	for _, absent := range []bool{true, false} {
		b.Run(map[bool]string{true: "new", false: "known"}[absent], func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				ev := &entries[100+(i*7919)%(len(entries)-100)].Event
				name := ev.Block
				if absent {
					name = append([]byte(nil), name...)
					name[31]++
				}
				if _, found, err := v.blocks.Latest(ev.Machine, ev.Kind, name); err != nil || found == absent {
					b.Fatal(found, err)
				}
			}
		})
	}
}
