// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

// epochsWorld archives so many epochs, each of so many objects of so many
// events, the last object of an epoch and the first of the next being one.
func epochsWorld(t *testing.T, epochs, objects, events int) (w *world, total uint64) {
	t.Helper()
	w = &world{t: t, bucket: buckettest.NewMemory(), engine: kv.InMemory(quiet), history: modeltest.NewHistory(1, func() []eventlog.ViewState { return nil })}
	for epoch := range epochs {
		if epoch > 0 {
			w.history.Start(false)
		}
		for i := range objects * events {
			w.history.Open(fmt.Sprintf("account-%d-%d", epoch, i))
		}
	}
	entries := w.history.Log.Entries()
	total = uint64(len(entries))
	must(t, archiver.Init(t.Context(), w.bucket, logID, time.Unix(0, entries[0].Event.Time)))
	for len(entries) > 0 {
		n := min(events, len(entries))
		w.objects++
		w.put(uint64(w.objects), entries[:n])
		entries = entries[n:]
	}
	return w, total
}

func TestEventsAreCountedFromAFewTrailers(t *testing.T) {
	for _, test := range []struct{ epochs, objects, events int }{{1, 1, 9}, {1, 40, 3}, {2, 1, 5}, {3, 20, 4}, {40, 2, 6}, {200, 3, 2}} {
		w, total := epochsWorld(t, test.epochs, test.objects, test.events)
		reads := 0
		faulty := buckettest.NewFaulty(w.bucket)
		archive := archiver.At(faulty, logID)
		objects, err := archive.Objects(t.Context(), 1)
		must(t, err)
		faulty.Set(buckettest.Hooks{Before: func(context.Context, buckettest.Op, string) error {
			reads++
			return nil
		}})
		counted, err := countEvents(t.Context(), archive, objects)
		must(t, err)
		if test.epochs <= 3 && counted != total || counted < total*9/10 || counted > total*2 {
			t.Errorf("%+v: counted %d events of %d", test, counted, total)
		}
		if reads > 2*(countReads+2) {
			t.Errorf("%+v: %d reads", test, reads)
		}
	}
}

func TestASampleEndsWhenItsTimeOrItsRoomDoes(t *testing.T) {
	w, total := epochsWorld(t, 1, 40, 3)
	for _, test := range []struct {
		name          string
		time          time.Duration
		disk          uint64
		least, atMost uint64 // events
	}{
		{"all of it", time.Hour, 1 << 40, total, total},
		{"no time", 0, 1 << 40, 1, 3},
		{"little room", time.Hour, 60 * eventBytes, 12, 48},
		{"no room", time.Hour, 0, 1, 3},
	} {
		found, err := Look(t.Context(), archiver.At(w.bucket, logID), nil, 0)
		must(t, err)
		scratch := t.TempDir()
		sample, err := found.Sample(t.Context(), kv.OnDisk(quiet), scratch, nil, test.time, test.disk)
		must(t, err)
		if events := sample.Events + sample.Tail; events < test.least || events > test.atMost {
			t.Errorf("%s: %d events of %d, want %d to %d", test.name, events, total, test.least, test.atMost)
		}
		if sample.Tail > 0 && sample.TailSeconds <= 0 {
			t.Errorf("%s: %+v", test.name, sample)
		}
		if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
			t.Errorf("%s: %v is left, %v", test.name, left, err)
		}
	}
}

func TestTooLittleDiskIsToldBeforeAnythingIsBuilt(t *testing.T) {
	w := newWorld(t, 31, 100)
	opts := w.options("new")
	full := errors.New("the disk is full")
	var asked uint64
	opts.Room = func(need uint64) error {
		asked = need
		return full
	}
	if _, err := Run(t.Context(), opts); !errors.Is(err, full) {
		t.Fatalf("got %v", err)
	}
	found, err := Look(t.Context(), opts.Archive, nil, 0)
	must(t, err)
	if want := found.Disk; asked > want || asked < want*9/10 { // less what the notes take
		t.Errorf("asked for %d bytes, want about %d", asked, want)
	}
	if there, err := w.engine.Exists("new/block" + ".rebuild"); err != nil || there {
		t.Errorf("a view was begun: %v", err)
	}
	// What an interrupted recovery left counts.
	must(t, os.WriteFile(filepath.Join(opts.Scratch, "run"), make([]byte, asked), 0o600))
	opts.Room = func(need uint64) error {
		asked = need
		return nil
	}
	result, err := Run(t.Context(), opts)
	must(t, err)
	w.check("new", result)
	if asked != 0 {
		t.Errorf("asked for %d bytes more", asked)
	}
}

// sparse is a bucket whose objects have large payloads, of zeros that nobody
// stored and nobody reads: only what stands before and after them is there.
type sparse struct {
	*buckettest.Memory
	payload map[string]int64 // bytes, by key
}

func (s *sparse) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	begin := int64(len(eventlog.ObjectMagic))
	payload := s.payload[key]
	if payload == 0 {
		return s.Memory.GetRange(ctx, key, offset, length)
	}
	zeros := max(0, min(length, begin+payload-offset))
	r, err := s.Memory.GetRange(ctx, key, max(begin, offset-payload), length-zeros)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r)
	return io.NopCloser(io.MultiReader(bytes.NewReader(make([]byte, zeros)), bytes.NewReader(body))), errors.Join(err, r.Close())
}

func (s *sparse) List(ctx context.Context, prefix, after string) iter.Seq2[archiver.Info, error] {
	return func(yield func(archiver.Info, error) bool) {
		for info, err := range s.Memory.List(ctx, prefix, after) {
			info.Size += s.payload[info.Key]
			if !yield(info, err) {
				return
			}
		}
	}
}

// storedWorld archives so many blocks of length bytes, a few to an object.
func storedWorld(t *testing.T, blocks int, length uint64) (*world, *sparse) {
	t.Helper()
	w := &world{t: t, bucket: buckettest.NewMemory(), history: modeltest.NewHistory(1, func() []eventlog.ViewState { return nil })}
	s := &sparse{w.bucket, map[string]int64{}}
	machine := w.history.Register(w.history.Open("a"), "m")
	rng := rand.NewChaCha8([32]byte{7})
	for range blocks {
		name := make([]byte, 32)
		rng.Read(name)
		w.history.Store(machine, eventlog.KindData, name, length, false)
	}
	entries := w.history.Log.Entries()
	must(t, archiver.Init(t.Context(), w.bucket, logID, time.Unix(0, entries[0].Event.Time)))
	for len(entries) > 0 {
		n := min(8, len(entries))
		w.objects++
		s.put(w, uint64(w.objects), entries[:n], rng)
		entries = entries[n:]
	}
	return w, s
}

// put archives entries with their payloads, whose checksums nothing compresses.
func (s *sparse) put(w *world, ordinal uint64, entries []eventlog.Entry, rng *rand.ChaCha8) {
	var part []eventlog.Entry
	payload := uint64(0)
	for _, e := range entries {
		entry := eventlog.Entry{Event: e.Event, Raw: e.Raw}
		if length := e.Placement.Length; length > 0 {
			entry.Placement = eventlog.Placement{Offset: uint64(len(eventlog.ObjectMagic)) + payload, Length: length, Sums: make([]byte, len(e.Placement.Sums))}
			rng.Read(entry.Placement.Sums)
			last := entry.Placement.Sums[len(entry.Placement.Sums)-4:] // all of them make the event's
			joined := eventlog.JoinedChecksum(entry.Placement.Sums, length)
			binary.LittleEndian.PutUint32(last, binary.LittleEndian.Uint32(last)^joined^e.Event.Checksum)
			payload += length
		}
		part = append(part, entry)
	}
	last := entries[len(entries)-1].Event
	trailer := eventlog.Trailer{LogID: logID, Epoch: last.Seq.Epoch(), Writer: writer, FirstOrdinal: ordinal, LastOrdinal: ordinal,
		First: entries[0].Event.Seq, Last: last.Seq, PayloadBytes: payload, ClosedAt: last.Time}
	key := archiver.Shipped(ordinal).Key()
	s.payload[key] = int64(payload)
	w.bucket.Set(key, eventlog.AppendMetadata([]byte(eventlog.ObjectMagic), &trailer, part, nil, 0))
}

// weighing is an engine on a real disk that looks how much lies below root
// whenever files of rows are taken in or a view is moved.
type weighing struct {
	projector.Engine
	root string
	most atomic.Uint64
}

func (e *weighing) weigh() {
	size, err := SizeOf(e.root)
	if err == nil && size > e.most.Load() {
		e.most.Store(size)
	}
}

func (e *weighing) Open(dir string, use projector.Use) (projector.Store, error) {
	store, err := e.Engine.Open(dir, use)
	if err != nil {
		return nil, err
	}
	return &weighingStore{store, e}, nil
}

func (e *weighing) Move(from, to string) error {
	defer e.weigh()
	return e.Engine.Move(from, to)
}

type weighingStore struct {
	projector.Store
	engine *weighing
}

func (s *weighingStore) Ingest(ctx context.Context, names []string) error {
	s.engine.weigh()
	defer s.engine.weigh()
	return s.Store.Ingest(ctx, names)
}

// The estimate covers what was taken, of small and of large blocks, with index
// objects and without, and is not many times as much.
func TestARecoveryTakesNoMoreDiskThanItAsksFor(t *testing.T) {
	for _, test := range []struct {
		blocks  int
		length  uint64
		indexed bool
	}{{10000, 1000, true}, {10000, 1000, false}, {4000, 16 << 20, true}, {4000, 16 << 20, false}} {
		t.Run(fmt.Sprintf("%d blocks of %d bytes, indexed %v", test.blocks, test.length, test.indexed), func(t *testing.T) {
			_, bucket := storedWorld(t, test.blocks, test.length)
			archive := archiver.At(bucket, logID)
			if test.indexed {
				must(t, archive.RebuildIndex(t.Context(), t.TempDir(), 1, func(r archiver.RunReport) error { return r.Err }))
			}
			root := t.TempDir()
			engine := &weighing{Engine: kv.OnDisk(quiet), root: root}
			opts := Options{Archive: archive, Engine: engine, Dir: filepath.Join(root, "views"), Scratch: filepath.Join(root, "scratch"), Log: quiet, Memory: 1 << 20}
			var asked uint64
			opts.Room = func(need uint64) error {
				asked = need
				return nil
			}
			result, err := Run(t.Context(), opts)
			must(t, err)
			took := engine.most.Load()
			t.Logf("asked for %d bytes, took %d, %d for each of %d events", asked, took, took/result.Events, result.Events)
			if took > asked || asked > 4*took {
				t.Errorf("asked for %d bytes, took %d", asked, took)
			}
			if found, err := Look(t.Context(), archive, nil, 0); err != nil || found.Disk < asked || found.Disk > asked+asked/10 {
				t.Errorf("a look says %d, a recovery %d, %v", found.Disk, asked, err)
			}
		})
	}
}

// What lies beside a recovery's views is not its own: another view, or one of
// another name.
func TestWhatLiesBesideARecoveryIsNoRoom(t *testing.T) {
	w := newWorld(t, 32, 100)
	opts := w.options(filepath.Join(t.TempDir(), "views"))
	ask := func() (asked uint64) {
		t.Helper()
		opts.Room = func(need uint64) error {
			asked = need
			return errKilled
		}
		if _, err := Run(t.Context(), opts); !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		return asked
	}
	file := func(name string, size uint64) {
		t.Helper()
		path := filepath.Join(opts.Dir, name, "file")
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, make([]byte, size), 0o600))
	}
	need := ask()
	for _, other := range []string{"other", "block-of-another", "machine.old", "."} {
		file(other, 1000)
	}
	// The note of the phases is longer than before, and so is room.
	if again := ask(); again > need || again < need-500 {
		t.Errorf("asked for %d bytes, with others' files for %d", need, again)
	}
	file("block.rebuild", 1000)
	if again := ask(); again > need-1000 || again < need-2000 {
		t.Errorf("asked for %d bytes, with 1000 of its own for %d", need, again)
	}
}
