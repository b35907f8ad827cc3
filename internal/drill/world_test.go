// SPDX-License-Identifier: Apache-2.0

package drill

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	quiet = slog.New(slog.DiscardHandler)
	logID = eventlog.ID{1, 2, 3}
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is an archive with blocks that have bytes, and the live views of its
// server.
type world struct {
	t        *testing.T
	bucket   *buckettest.Memory
	engine   projector.Engine
	live     []*projector.View
	ordinal  uint64
	seq      eventlog.Seq
	entries  []eventlog.Entry // of the object in the making
	payload  []byte           // of it, magic included
	machines []eventlog.Seq
	account  eventlog.Seq
	stored   []eventlog.Entry
	random   *rand.Rand
}

// newWorld makes an archive of three machines with so many blocks together,
// one of which is stored again from what is kept.
func newWorld(t *testing.T, blocks int) *world {
	t.Helper()
	w := &world{t: t, bucket: buckettest.NewMemory(), engine: kv.InMemory(quiet), random: rand.New(rand.NewPCG(1, 2))}
	must(t, archiver.Init(t.Context(), w.bucket, logID, time.Unix(1, 0)))
	for _, p := range []projector.Projector{projector.Machines(), projector.Blocks()} {
		view, err := projector.Open(w.engine, filepath.Join("live", p.Name()), p, projector.Live, quiet)
		must(t, err)
		t.Cleanup(func() { must(t, view.Close()) })
		w.live = append(w.live, view)
	}
	w.add(eventlog.Event{Type: eventlog.EpochStarted, Writer: eventlog.ID{4}, Host: "here", Cause: "init"}, nil)
	w.add(eventlog.Event{Type: eventlog.LogCreated, LogID: logID, Format: 1}, nil)
	w.account = w.add(eventlog.Event{Type: eventlog.AccountOpened, Name: "alice"}, nil)
	for _, name := range []string{"laptop", "tower", "phone"} {
		w.machines = append(w.machines, w.add(eventlog.Event{Type: eventlog.MachineRegistered, Account: w.account, Name: name}, nil))
	}
	w.ship()
	for i := range blocks {
		w.store(w.machines[i%len(w.machines)], eventlog.KindData, w.content(1+w.random.IntN(3*eventlog.ChunkSize)))
		if i%20 == 19 {
			w.record()
			w.ship()
		}
	}
	w.store(w.machines[0], eventlog.KindConfig, []byte("config"))
	w.store(w.machines[0], eventlog.KindRoot, nil)
	first := w.stored[0].Event
	w.add(eventlog.Event{Type: eventlog.BlockDeleted, Account: w.account, Machine: first.Machine, Kind: first.Kind, Block: first.Block, Length: first.Length, Checksum: first.Checksum, Undoes: first.Seq}, nil)
	w.add(eventlog.Event{Type: eventlog.BlockStored, Account: w.account, Machine: first.Machine, Kind: first.Kind, Block: first.Block, Length: first.Length, Checksum: first.Checksum, Reuses: first.Seq}, nil)
	w.record()
	w.ship()
	w.record()
	w.ship()
	return w
}

func (w *world) content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(w.random.Uint32())
	}
	return b
}

func (w *world) store(machine eventlog.Seq, kind eventlog.Kind, content []byte) {
	e := eventlog.Event{Type: eventlog.BlockStored, Account: w.account, Machine: machine, Kind: kind, Length: uint64(len(content)), Checksum: eventlog.Checksum(content)}
	if kind != eventlog.KindConfig {
		sum := sha256.Sum256(content)
		e.Block = sum[:]
	}
	w.add(e, content)
	w.stored = append(w.stored, w.entries[len(w.entries)-1])
}

// record writes the live views' digests as of the record before.
func (w *world) record() {
	var states []eventlog.ViewState
	for _, view := range w.live {
		if asOf, digest := view.Kept(); asOf != 0 {
			states = append(states, eventlog.ViewState{Name: view.Name(), Version: view.Version(), Digest: digest, AsOf: asOf})
		}
	}
	w.add(eventlog.Event{Type: eventlog.StateRecorded, Views: states}, nil)
}

func (w *world) add(e eventlog.Event, content []byte) eventlog.Seq {
	if w.payload == nil {
		w.payload = []byte(eventlog.ObjectMagic)
	}
	w.seq = max(w.seq+1, eventlog.FirstSeq)
	e.Seq, e.Time, e.Actor = w.seq, int64(w.seq)*1e6, "server"
	if e.Type == eventlog.AccountOpened {
		e.Account = e.Seq
	}
	if e.Type == eventlog.MachineRegistered {
		e.Machine = e.Seq
	}
	entry := eventlog.Entry{Event: e, Raw: eventlog.AppendEvent(nil, &e)}
	if len(content) > 0 {
		entry.Placement = eventlog.Placement{Ordinal: w.ordinal + 1, Offset: uint64(len(w.payload)), Length: uint64(len(content))}
		for rest := content; len(rest) > 0; rest = rest[min(len(rest), eventlog.ChunkSize):] {
			entry.Placement.Sums = binary.LittleEndian.AppendUint32(entry.Placement.Sums, eventlog.Checksum(rest[:min(len(rest), eventlog.ChunkSize)]))
		}
		w.payload = append(w.payload, content...)
	}
	w.entries = append(w.entries, entry)
	return e.Seq
}

// ship puts the object and lets the live views have it.
func (w *world) ship() {
	w.t.Helper()
	w.ordinal++
	last := w.entries[len(w.entries)-1].Event
	trailer := eventlog.Trailer{LogID: logID, Epoch: 1, Writer: eventlog.ID{4}, FirstOrdinal: w.ordinal, LastOrdinal: w.ordinal, First: w.entries[0].Event.Seq, Last: last.Seq,
		PayloadBytes: uint64(len(w.payload) - len(eventlog.ObjectMagic)), PayloadSum: eventlog.Checksum(w.payload), ClosedAt: last.Time}
	w.bucket.Set(archiver.Shipped(w.ordinal).Key(), eventlog.AppendMetadata(w.payload, &trailer, w.entries, nil, 0))
	w.entries, w.payload = nil, nil
	for _, view := range w.live {
		must(w.t, projector.CatchUp(w.t.Context(), archiver.At(w.bucket, logID), projector.NewRunner(view, quiet)))
	}
}

// options is a drill of all there is; its bucket counts and bears faults.
func (w *world) options() (Options, *buckettest.Faulty) {
	faulty := buckettest.NewFaulty(w.bucket)
	scratch, err := NewScratch(w.t.TempDir())
	must(w.t, err)
	w.t.Cleanup(func() { must(w.t, scratch.Remove()) })
	return Options{
		Archive: archiver.At(Limits{}.Bucket(faulty), logID), Engine: w.engine, Scratch: scratch.Path(), Log: quiet, Memory: 4000,
		Sample: 1000, SampleBytes: 1 << 30, MachineBlocks: 1000, MachineBytes: 1 << 30, Seed: 7,
	}, faulty
}

// copyLive copies the live views as they are, as a server does.
func (w *world) copyLive(o *Options) {
	w.t.Helper()
	o.Live = filepath.Join("copies", filepath.Base(o.Scratch))
	for _, view := range w.live {
		must(w.t, view.Checkpoint(filepath.Join(o.Live, view.Name())))
	}
}

// tamper changes what a store holds, behind every digest's back.
func tamper(t *testing.T, engine projector.Engine, dir string, key, value []byte) {
	t.Helper()
	store, err := engine.Open(dir, projector.Live)
	must(t, err)
	batch := store.NewBatch()
	if value == nil {
		err = batch.Delete(key)
	} else {
		err = batch.Set(key, value)
	}
	must(t, errors.Join(err, batch.Commit(), batch.Close(), store.Close()))
}

// liveRow returns key and value of a live block's row.
func liveRow(t *testing.T, engine projector.Engine, dir string) (key, value []byte) {
	t.Helper()
	store, err := engine.Open(dir, projector.ReadOnly)
	must(t, err)
	snapshot := store.Snapshot()
	cursor, err := snapshot.Range([]byte{1}, []byte{2})
	must(t, err)
	if !cursor.Next() {
		t.Fatal("there is no block")
	}
	key, value = bytes.Clone(cursor.Key()), bytes.Clone(cursor.Value())
	must(t, errors.Join(cursor.Close(), snapshot.Close(), store.Close()))
	return key, value
}

// throttling fails some calls as a store does that has enough.
func throttling(percent uint64) buckettest.Hooks {
	random := rand.New(rand.NewPCG(3, 4))
	calls := make(chan struct{}, 1)
	return buckettest.Hooks{Before: func(context.Context, buckettest.Op, string) error {
		calls <- struct{}{}
		defer func() { <-calls }()
		if random.Uint64N(100) < percent {
			return archiver.ErrThrottled
		}
		return nil
	}}
}
