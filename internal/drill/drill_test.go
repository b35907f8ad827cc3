// SPDX-License-Identifier: Apache-2.0

package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/archiver/dir"
	"github.com/strandline-project/strandline/archiver/s3"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/internal/testkit"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

func run(t *testing.T, o Options) *Result {
	t.Helper()
	result, err := Run(t.Context(), o)
	must(t, err)
	return result
}

func TestADrillOfAGoodArchivePasses(t *testing.T) {
	w := newWorld(t, 90)
	o, faulty := w.options()
	w.copyLive(&o)
	o.Rate = 1 << 20
	result := run(t, o)
	d := result.Drill
	if d.Verdict != eventlog.DrillPassed || d.Reason != "" || d.Mode != "full" || len(result.Remarks) > 0 {
		t.Errorf("%+v", result)
	}
	if d.Live != w.seq || d.RTO <= 0 || d.Began.IsZero() || d.Ended.Sub(d.Began) < d.RTO || d.Rate != 1<<20 {
		t.Errorf("%+v", d)
	}
	if d.Blocks != 92 || d.Machine == 0 { // one is there twice, and once deleted
		t.Errorf("%d blocks read back, of machine %s all", d.Blocks, d.Machine)
	}
	if r := result.Recovery; r.Upto != w.seq || r.Compared < 8 || r.Objects != w.objects() || len(r.Phases) < 4 {
		t.Errorf("%+v", r)
	}
	if faulty.Calls(buckettest.Put)+faulty.Calls(buckettest.Delete) != 0 {
		t.Error("it wrote to the archive")
	}
}

func (w *world) objects() uint64 { return w.ordinal }

// What is wrong with an archive, or with the live views, is found, and told.
func TestADrillFinds(t *testing.T) {
	for name, c := range map[string]struct {
		harm   func(w *world, o *Options)
		reason string
	}{
		"a flipped byte of a block": {func(w *world, _ *Options) {
			place := w.stored[33].Placement
			w.bucket.Flip(archiver.Shipped(place.Ordinal).Key(), 8*int(place.Offset+place.Length-1))
		}, "are not what was stored"},
		"a missing object": {func(w *world, _ *Options) { w.bucket.Remove(archiver.Shipped(3).Key()) }, "ordinals 3 to 3"},
		"a damaged footer": {func(w *world, _ *Options) {
			key := archiver.Shipped(2).Key()
			data, _ := w.bucket.Get(key)
			w.bucket.Flip(key, 8*(len(data)-200))
		}, "damaged object"},
		"a wrong recorded digest": {func(w *world, _ *Options) {
			asOf, digest := w.live[1].Kept()
			digest[0]++
			w.add(eventlog.Event{Type: eventlog.StateRecorded, Views: []eventlog.ViewState{{Name: "block", Version: 1, Digest: digest, AsOf: asOf}}}, nil)
			w.shipUnseen()
		}, "digest-as-recorded"},
		"a live row that was changed behind its digest's back": {func(w *world, o *Options) {
			w.copyLive(o)
			key, value := liveRow(w.t, w.engine, filepath.Join(o.Live, "block"))
			value[12]++ // its length
			tamper(w.t, w.engine, filepath.Join(o.Live, "block"), key, value)
		}, "than its own digest says"},
		"a live row that is gone": {func(w *world, o *Options) {
			w.copyLive(o)
			key, _ := liveRow(w.t, w.engine, filepath.Join(o.Live, "block"))
			tamper(w.t, w.engine, filepath.Join(o.Live, "block"), key, nil)
		}, "the live block view has other rows"},
		"a live view that the archive's next events do not fit": {func(w *world, o *Options) {
			w.copyLive(o)
			w.store(w.machines[0], eventlog.KindData, []byte("more"))
			w.entries[0].Event.Machine = 99
			w.entries[0].Raw = eventlog.AppendEvent(nil, &w.entries[0].Event)
			w.shipUnseen()
		}, "known-machine"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 60)
			o, _ := w.options()
			c.harm(w, &o)
			result := run(t, o)
			if result.Drill.Verdict != eventlog.DrillFailed || !strings.Contains(result.Drill.Reason, c.reason) {
				t.Errorf("%s: %q, want %q", result.Drill.Verdict, result.Drill.Reason, c.reason)
			}
			if result.Drill.Ended.IsZero() || len(result.Drill.Reason) > eventlog.MaxName {
				t.Errorf("%+v", result.Drill)
			}
		})
	}
}

// shipUnseen ships what the live views are not shown.
func (w *world) shipUnseen() {
	live := w.live
	w.live = nil
	w.ship()
	w.live = live
}

// The archive has gone on since the live views were copied: they are brought
// up to its end.
// What is damaged and costs nothing but time makes no drill fail; it is told.
func TestADrillTellsOfADamagedIndexObject(t *testing.T) {
	w := newWorld(t, 3)
	for w.ordinal < archiver.RunSize {
		w.record()
		w.ship()
	}
	var key string
	must(t, archiver.At(w.bucket, logID).RebuildIndex(t.Context(), t.TempDir(), 1, func(r archiver.RunReport) error {
		key = r.Index.Key()
		return r.Err
	}))
	for _, damaged := range []bool{false, true} {
		if damaged {
			data, _ := w.bucket.Get(key)
			w.bucket.Flip(key, 8*len(data)-1)
		}
		opts, _ := w.options()
		result, err := Run(t.Context(), opts)
		must(t, err)
		if result.Drill.Verdict != eventlog.DrillPassed {
			t.Errorf("damaged %v: %+v", damaged, result.Drill)
		}
		told := slices.ContainsFunc(result.Remarks, func(remark string) bool {
			return strings.Contains(remark, "index object") && strings.Contains(remark, key)
		})
		if told != damaged {
			t.Errorf("damaged %v: the remarks are %q", damaged, result.Remarks)
		}
	}
}

func TestALiveViewThatIsBehindTheArchiveIsBroughtUp(t *testing.T) {
	w := newWorld(t, 30)
	o, _ := w.options()
	w.copyLive(&o)
	w.store(w.machines[1], eventlog.KindData, []byte("later"))
	w.ship()
	if result := run(t, o); result.Drill.Verdict != eventlog.DrillPassed || result.Drill.Live != w.seq {
		t.Errorf("%+v", result.Drill)
	}
}

// A copy that is ahead of the archive tells nothing: that is no verdict.
func TestALiveViewThatIsAheadCannotBeCompared(t *testing.T) {
	w := newWorld(t, 30)
	o, _ := w.options()
	w.copyLive(&o)
	w.bucket.Remove(archiver.Shipped(w.ordinal).Key())
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "try again") {
		t.Error(err)
	}
}

func TestADrillGoesOnThroughAStoreThatFailsNowAndThen(t *testing.T) {
	w := newWorld(t, 60)
	o, faulty := w.options()
	faulty.Set(throttling(5))
	if result := run(t, o); result.Drill.Verdict != eventlog.DrillPassed {
		t.Errorf("%+v", result.Drill)
	}
}

// A byte that is wrong once, on the way, is no damage.
func TestABreakInATransferIsReadAgain(t *testing.T) {
	w := newWorld(t, 30)
	o, faulty := w.options()
	var cuts atomic.Int64
	faulty.Set(buckettest.Hooks{Cut: func(string) int64 {
		if cuts.Add(1)%3 == 0 {
			return 10
		}
		return -1
	}})
	if result := run(t, o); result.Drill.Verdict != eventlog.DrillPassed {
		t.Errorf("%+v", result.Drill)
	}
}

// That there is no room, or no answer, says nothing of the archive.
func TestADrillThatCannotBeDoneHasNoVerdict(t *testing.T) {
	w := newWorld(t, 30)
	o, _ := w.options()
	full := errors.New("too little disk")
	o.Room = func(uint64) error { return full }
	if _, err := Run(t.Context(), o); !errors.Is(err, full) {
		t.Error(err)
	}
	o, faulty := w.options()
	ctx, cancel := context.WithCancel(t.Context())
	faulty.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, _ string) error {
		if op == buckettest.Get {
			cancel()
		}
		return nil
	}})
	if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// What is read back is bounded, and what that left out is told.
func TestWhatIsReadBackIsBounded(t *testing.T) {
	w := newWorld(t, 90)
	o, _ := w.options()
	o.Sample, o.MachineBlocks = 10, 5
	if result := run(t, o); result.Drill.Blocks < 10 || result.Drill.Blocks > 15 || len(result.Remarks) != 1 {
		t.Errorf("%+v", result)
	}
	o, _ = w.options()
	o.SampleBytes, o.MachineBytes = 1, 1
	if result := run(t, o); result.Drill.Blocks == 0 || result.Drill.Blocks > 4 || len(result.Remarks) != 2 {
		t.Errorf("%+v", result)
	}
	o, _ = w.options()
	o.Sample, o.MachineBlocks = 0, 0
	if result := run(t, o); result.Drill.Blocks != 0 || result.Drill.Verdict != eventlog.DrillPassed {
		t.Errorf("%+v", result)
	}
}

// Blocks of all machines and of all kinds come out of the sample.
func TestTheSampleIsOverAllMachinesAndKinds(t *testing.T) {
	w := newWorld(t, 300)
	o, _ := w.options()
	o.Sample, o.MachineBlocks = 100, 0
	d := &drill{Options: o, result: &Result{}}
	must(t, d.recover(t.Context()))
	must(t, d.readBack(t.Context()))
	if d.result.Drill.Blocks != 100 || len(d.findings) > 0 {
		t.Errorf("%+v, %v", d.result, d.findings)
	}
}

// checkpoints has one, of the live views.
type checkpoints struct {
	*world
	seq     eventlog.Seq
	damaged bool
}

func (c *checkpoints) List(context.Context) ([]recovery.Checkpoint, error) {
	return []recovery.Checkpoint{{Name: "one", Seq: c.seq}}, nil
}

func (c *checkpoints) Restore(_ context.Context, _ recovery.Checkpoint, dir string) error {
	if c.damaged {
		return fmt.Errorf("%w: a file is cut short", recovery.ErrUnfit)
	}
	for _, view := range c.live {
		if err := view.Checkpoint(filepath.Join(dir, view.Name())); err != nil {
			return err
		}
	}
	return nil
}

func TestADrillBeginsFromACheckpointWhenAsked(t *testing.T) {
	for _, damaged := range []bool{false, true} {
		w := newWorld(t, 30)
		o, _ := w.options()
		o.Mode, o.Checkpoints = FromCheckpoint, &checkpoints{w, w.seq, damaged}
		result := run(t, o)
		if result.Drill.Verdict != eventlog.DrillPassed || result.Drill.Mode != "checkpoint" || (result.Recovery.Checkpoint == "one") == damaged {
			t.Errorf("damaged %v: %+v, %+v", damaged, result.Drill, result.Recovery)
		}
		if (len(result.Fallbacks) == 1) != damaged || (len(result.Remarks) == 2) != damaged {
			t.Errorf("damaged %v: %+v, %q", damaged, result.Fallbacks, result.Remarks)
		}
		o, _ = w.options()
		o.Checkpoints = &checkpoints{w, w.seq, damaged} // not asked for
		if result := run(t, o); result.Recovery.Checkpoint != "" {
			t.Errorf("%+v", result.Recovery)
		}
	}
}

func TestADrillWritesNothing(t *testing.T) {
	memory := buckettest.NewMemory()
	bucket := Limits{Requests: 1, Read: 1}.Bucket(memory)
	if err := bucket.PutIfAbsent(t.Context(), "key", archiver.BytesBody([]byte("x"))); !errors.Is(err, ErrReadOnly) {
		t.Error(err)
	}
	if err := bucket.Delete(t.Context(), "key"); !errors.Is(err, ErrReadOnly) || len(memory.Keys()) > 0 {
		t.Error(err, memory.Keys())
	}
}

// What is read takes at least the time that it may.
func TestADrillKeepsToItsLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := buckettest.NewMemory()
		memory.Set("key", make([]byte, 1<<20))
		bucket := Limits{Requests: 2, Read: 256 << 10}.Bucket(memory)
		began := time.Now()
		r, err := bucket.GetRange(t.Context(), "key", 0, -1)
		must(t, err)
		if n, err := io.Copy(io.Discard, r); n != 1<<20 || err != nil {
			t.Error(n, err)
		}
		must(t, r.Close())
		if took := time.Since(began); took < 3*time.Second || took > 5*time.Second {
			t.Errorf("a mebibyte at a quarter of one a second took %v", took)
		}
		began = time.Now()
		for range 10 {
			if _, err := bucket.Head(t.Context(), "key"); err != nil {
				t.Error(err)
			}
		}
		for _, err := range bucket.List(t.Context(), "", "") {
			must(t, err)
		}
		if took := time.Since(began); took < 4*time.Second || took > 6*time.Second {
			t.Errorf("11 requests at 2 a second took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r, err = bucket.GetRange(ctx, "key", 0, -1)
		must(t, err)
		if _, err := io.Copy(io.Discard, r); err == nil {
			t.Error("the context's end is not heeded")
		}
		must(t, r.Close())
	})
}

func TestTablesAreWrittenAtThePaceThatIsAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &pacedFile{TableFile: discard{}, engine: Limits{Write: 1 << 20}.Engine(t.Context(), nil).(*pacedEngine)}
		began := time.Now()
		for i := range 4096 {
			must(t, f.Set(fmt.Appendf(nil, "%08d", i), make([]byte, 1016)))
		}
		if took := time.Since(began); took < 3*time.Second || took > 5*time.Second {
			t.Errorf("4 MiB at one a second took %v", took)
		}
	})
}

type discard struct{ projector.TableFile }

func (discard) Set(_, _ []byte) error { return nil }

// A drill that was killed leaves a directory that nobody holds: the next one
// removes it, and nothing else.
func TestWhatAKilledDrillLeftIsRemoved(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "drill")
	if removed, err := Sweep(parent); err != nil || removed != nil {
		t.Error(removed, err)
	}
	running, err := NewScratch(parent)
	must(t, err)
	killed, err := NewScratch(parent)
	must(t, err)
	must(t, os.WriteFile(killed.Path("rows"), []byte("x"), 0o600))
	must(t, killed.lock.Close()) // as the end of a process does
	young, old, other := filepath.Join(parent, scratchPrefix+"young"), filepath.Join(parent, scratchPrefix+"old"), filepath.Join(parent, "other")
	for _, path := range []string{young, old, other} {
		must(t, os.Mkdir(path, 0o700))
	}
	must(t, os.Chtimes(old, time.Time{}, time.Now().Add(-2*orphanAge)))
	next, err := NewScratch(parent)
	must(t, err)
	for path, want := range map[string]bool{running.Path(): true, killed.Path(): false, young: true, old: false, other: true, next.Path(): true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %v", path, err == nil)
		}
	}
	must(t, errors.Join(running.Remove(), next.Remove()))
	if _, err := os.Stat(next.Path()); !os.IsNotExist(err) {
		t.Error(err)
	}
}

// The same on real stores: a directory, and MinIO.
func TestADrillOfARealStore(t *testing.T) {
	t.Run("directory", func(t *testing.T) {
		bucket, err := dir.Create("dir:" + filepath.Join(t.TempDir(), "archive"))
		must(t, err)
		drillOf(t, bucket)
	})
	t.Run("MinIO", func(t *testing.T) {
		server := testkit.MinIO(t)
		for _, variable := range server.Environ() {
			name, value, _ := strings.Cut(variable, "=")
			t.Setenv(name, value)
		}
		bucket, err := s3.Open(server.Spec())
		must(t, err)
		drillOf(t, bucket)
	})
}

func drillOf(t *testing.T, bucket archiver.Bucket) {
	t.Helper()
	w := newWorld(t, 60)
	for _, key := range w.bucket.Keys() {
		data, _ := w.bucket.Get(key)
		must(t, bucket.PutIfAbsent(t.Context(), key, archiver.BytesBody(data)))
	}
	o, _ := w.options()
	limits := Limits{Requests: 1000, Read: 100 << 20, Write: 100 << 20}
	o.Archive = archiver.At(limits.Bucket(bucket), logID)
	o.Engine = limits.Engine(t.Context(), kv.OnDisk(quiet))
	o.Live = filepath.Join(o.Scratch, "live")
	must(t, os.MkdirAll(o.Live, 0o700))
	for _, view := range w.live {
		from := projectorOf(view)
		to := filepath.Join(o.Live, view.Name())
		r, out := io.Pipe()
		go func() { out.CloseWithError(view.Export(t.Context(), out)) }()
		_, err := projector.Import(t.Context(), kv.OnDisk(quiet), to, from, r)
		must(t, err)
	}
	if result := run(t, o); result.Drill.Verdict != eventlog.DrillPassed || result.Drill.Live != w.seq || result.Drill.Blocks != 62 {
		t.Errorf("%+v", result.Drill)
	}
}

func projectorOf(view *projector.View) projector.Projector {
	if view.Name() == projector.Machines().Name() {
		return projector.Machines()
	}
	return projector.Blocks()
}
