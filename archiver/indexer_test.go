// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

// elsewhere is a log that has no local generations any more.
type elsewhere struct{ archiver.Log }

func (elsewhere) Local() []*eventlog.Generation { return nil }

// indexing runs an Indexer on bucket until the function returned is called.
func indexing(t *testing.T, bucket archiver.Bucket, archived uint64) (*archiver.Indexer, func()) {
	x := &archiver.Indexer{Archive: archiver.At(bucket, testLog), Log: elsewhere{}, Epoch: 1, Scratch: t.TempDir(), Logger: quiet()}
	x.Archive.SetLogger(quiet())
	x.Archived(archived)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); x.Run(ctx) }()
	return x, func() { cancel(); <-done }
}

// expectIndexed checks that h has whole index objects of the runs, no others,
// and nothing else below index/.
func expectIndexed(t *testing.T, h *history, runs ...uint64) {
	t.Helper()
	var keys []string
	for _, key := range h.Keys() {
		if strings.HasPrefix(key, archiver.IndexPrefix) {
			keys = append(keys, key)
		}
	}
	var want []string
	for _, run := range runs {
		want = append(want, archiver.IndexInfo{Run: run}.Key())
	}
	if fmt.Sprint(keys) != fmt.Sprint(want) {
		t.Errorf("index objects %q, want %q", keys, want)
	}
	err := archiver.At(h, h.logID).VerifyIndex(t.Context(), 1, func(r archiver.RunReport) error {
		if r.Was == archiver.RunDamaged {
			return fmt.Errorf("%v: %w", r.Index, r.Why)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAnIndexerFillsWhatIsMissingAndThenEachRunAsItCompletes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 600, 1).index(t)
		h.Remove(index1)
		bucket := buckettest.NewFaulty(h)
		x, stop := indexing(t, bucket, 600)
		synctest.Wait()
		expectIndexed(t, h, 1, 2)
		if lists := bucket.Calls(buckettest.List); lists > 2 {
			t.Errorf("%d lists", lists)
		}
		for range 168 + 40 {
			h.ship(1, 1)
			x.Archived(h.ordinal)
			synctest.Wait()
			if want := []uint64{1, 2, 3}[:min(3, h.ordinal/256)]; h.ordinal%8 == 0 {
				expectIndexed(t, h, want...)
			}
		}
		if stats := x.Stats(); stats.Written != 2 || stats.Failed != 0 || stats.Missing != 0 || stats.Err != nil {
			t.Errorf("it says %+v", stats)
		}
		stop()
	})
}

func TestAnIndexerTriesAgainWhatFailed(t *testing.T) {
	for op, done := range map[buckettest.Op]bool{buckettest.Put: false, buckettest.Get: false, buckettest.List: false, buckettest.Head: false} {
		for _, done := range []bool{done, true} {
			synctest.Test(t, func(t *testing.T) {
				h := newHistory(t, 300, 1)
				bucket := buckettest.NewFaulty(h)
				bucket.FailNext(op, 30, done)
				x, stop := indexing(t, bucket, 300)
				time.Sleep(3 * time.Hour)
				expectIndexed(t, h, 1)
				if stats := x.Stats(); stats.Written != 1 || stats.Missing != 0 || stats.Err != nil {
					t.Errorf("%s fails, done %t: it says %+v", op, done, stats)
				}
				stop()
			})
		}
	}
}

func TestAnIndexerSaysWhileItCannot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 300, 1)
		bucket := buckettest.NewFaulty(h)
		bucket.Set(failing(buckettest.Put, archiver.IndexPrefix))
		x, stop := indexing(t, bucket, 300)
		time.Sleep(time.Hour)
		if stats := x.Stats(); stats.Missing != 1 || stats.Failed == 0 || !errors.Is(stats.Err, buckettest.ErrInjected) {
			t.Errorf("it says %+v", stats)
		}
		stop()
		expectIndexed(t, h)
	})
}

// A run that cannot have its index object keeps no other from its own.
func TestAnIndexerGoesOnPastADamagedObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 600, 1)
		flipEnd(h.Memory, archiver.Shipped(100).Key())
		x, stop := indexing(t, h, 600)
		time.Sleep(time.Hour)
		expectIndexed(t, h, 2)
		if stats := x.Stats(); stats.Missing != 1 || !errors.Is(stats.Err, eventlog.ErrObjectDamaged) {
			t.Errorf("it says %+v", stats)
		}
		stop()
	})
}

func TestAFencedIndexerWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 300, 1)
		h.Set(archiver.EpochKey(2), []byte(`{"log_id":"aa010000-0000-0000-0000-000000000000","epoch":2}`))
		x, stop := indexing(t, h, 300)
		time.Sleep(time.Hour)
		if !errors.Is(x.Stats().Err, archiver.ErrFenced) {
			t.Errorf("it says %+v", x.Stats())
		}
		stop()
		expectIndexed(t, h)
	})
}

// A server's own index object is made of its local copies, and each is held
// against the object in the bucket: 144 bytes of it.
func TestAServerWritesTheIndexObjectOfARunFromItsLocalCopies(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		archive := archiver.At(s.bucket, w.logID)
		x := &archiver.Indexer{Archive: archive, Log: s.log, Epoch: s.started.Head.Epoch, Scratch: s.dir.Path("spool"), Logger: quiet()}
		ordinal := func() uint64 {
			gens := s.log.Local()
			return gens[len(gens)-1].Ordinal
		}
		for ordinal() < 262 {
			s.store("a block")
			s.wait()
		}
		// One copy is not what it was any more: the archive counts.
		restore := w.empty(s.log.Local()[20].Path())
		var read atomic.Int64
		s.bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
			if op == buckettest.Get && strings.HasPrefix(key, archiver.LogPrefix) {
				read.Add(1)
			}
			return nil
		}})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		x.Archived(262)
		go func() { defer close(done); x.Run(ctx) }()
		synctest.Wait()
		cancel()
		<-done
		restore()
		if stats := x.Stats(); stats.Written != 1 || stats.Err != nil {
			t.Fatalf("it says %+v", stats)
		}
		if read := read.Load(); read != 256+1 {
			t.Errorf("%d reads of objects, want 256 of a trailer and one whole", read)
		}
		s.bucket.Set(noFaults)
		before := s.bucket.Calls(buckettest.Get)
		w.chain("the archive read by its index object", w.collect(archive))
		if n := s.bucket.Calls(buckettest.Get) - before; n > 20 {
			t.Errorf("%d reads", n)
		}
		s.stop()
	})
}

func TestIndexObjectsAreRebuiltFromTheFooters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole := newHistory(t, 600, 2).index(t)
		want, _ := whole.Get(index1)
		successor := archiver.IndexInfo{Run: 1, Revision: 1}.Key()
		for name, tc := range map[string]struct {
			breakIt func(h *history)
			key     string // that has the content then
			was     archiver.RunState
		}{
			"whole":     {func(*history) {}, index1, archiver.RunWhole},
			"missing":   {func(h *history) { h.Remove(index1) }, index1, archiver.RunMissing},
			"damaged":   {func(h *history) { h.Flip(index1, 100) }, successor, archiver.RunDamaged},
			"cut short": {func(h *history) { h.Set(index1, want[:9]) }, successor, archiver.RunDamaged},
			"that says something else of an object": {func(h *history) {
				relie(h, index1, func(_, d []byte) { d[7*indexEntry+16+124]++ }) // closed at
			}, successor, archiver.RunDamaged},
			"damaged in two revisions": {func(h *history) {
				h.Flip(index1, 100)
				h.Set(successor, nil)
			}, archiver.IndexInfo{Run: 1, Revision: 2}.Key(), archiver.RunDamaged},
		} {
			h := whole.fork()
			tc.breakIt(h)
			before := h.Clone()
			archive, _ := hearing(t, h)
			var reports []archiver.RunReport
			err := archive.RebuildIndex(t.Context(), t.TempDir(), 1, func(r archiver.RunReport) error {
				reports = append(reports, r)
				return nil
			})
			if err != nil || len(reports) != 2 {
				t.Fatalf("%s: %d reports, %v", name, len(reports), err)
			}
			r := reports[0]
			if got, _ := h.Get(tc.key); !bytes.Equal(got, want) || r.Was != tc.was || r.Index.Key() != tc.key || r.Written == (tc.was == archiver.RunWhole) {
				t.Errorf("%s: %+v", name, r)
			}
			for _, key := range before.Keys() { // nothing is written over
				was, _ := before.Get(key)
				if is, _ := h.Get(key); !bytes.Equal(was, is) {
					t.Errorf("%s: %s was changed", name, key)
				}
			}
		}
	})
}

func TestARebuildSaysWhichRunCannotHaveItsIndexObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 520, 1)
		flipEnd(h.Memory, archiver.Shipped(9).Key())
		var reports []archiver.RunReport
		err := archiver.At(h, h.logID).RebuildIndex(t.Context(), t.TempDir(), 1, func(r archiver.RunReport) error {
			reports = append(reports, r)
			return nil
		})
		if err != nil || len(reports) != 2 || !errors.Is(reports[0].Err, eventlog.ErrObjectDamaged) || reports[0].Written || !reports[1].Written {
			t.Errorf("%+v, %v", reports, err)
		}
		expectIndexed(t, h, 2)
	})
}

// The copy of damaged metadata in a damaged index object is not lost by a
// rebuild.
func TestARebuildKeepsTheOnlyCopyOfAFooter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 256, 1).index(t)
		data, _ := h.Get(archiver.Shipped(9).Key())
		h.Flip(archiver.Shipped(9).Key(), len(data)*8-1) // its trailer
		h.Flip(index1, 9*8)                              // the first footer
		archive, _ := hearing(t, h)
		err := archive.RebuildIndex(t.Context(), t.TempDir(), 1, func(r archiver.RunReport) error { return r.Err })
		if err != nil {
			t.Fatal(err)
		}
		h.Remove(index1)
		entries, err := follow(t, archive, eventlog.FirstSeq)
		if err != nil {
			t.Fatal(err)
		}
		expectEntries(t, entries, h.entries)
		var damaged []archiver.ObjectInfo
		err = archive.VerifyIndex(t.Context(), 1, func(r archiver.RunReport) error {
			damaged = append(damaged, r.Damaged...)
			return nil
		})
		if err != nil || len(damaged) != 1 || damaged[0].First != 9 {
			t.Errorf("only described by the index object: %v, %v", damaged, err)
		}
	})
}

func TestTwoWritersOfAnIndexObjectAgree(t *testing.T) {
	h := newHistory(t, 256, 1)
	errs := make(chan error)
	for range 4 {
		go func() {
			errs <- archiver.At(h, h.logID).RebuildIndex(t.Context(), t.TempDir(), 1, func(r archiver.RunReport) error { return r.Err })
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	expectIndexed(t, h, 1)
}

func TestABuilderRefusesWhatCannotStandThere(t *testing.T) {
	h := newHistory(t, 3, 1)
	a := open(t, h)
	objects, err := a.Objects(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	part := func(i int) (archiver.ObjectInfo, *eventlog.Trailer, []byte) {
		trailer, err := a.Trailer(t.Context(), objects[i])
		if err != nil {
			t.Fatal(err)
		}
		data, _ := h.Get(objects[i].Key())
		return objects[i], trailer, data[trailer.FooterOffset:][:trailer.FooterSize]
	}
	b, err := archiver.NewIndexBuilder(t.TempDir(), h.logID, archiver.IndexInfo{Run: 1})
	if err != nil {
		t.Fatal(err)
	}
	object, trailer, footer := part(0)
	refused := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s was taken", what)
		}
	}
	refused("the second object first", b.Add(part(1)))
	refused("a footer cut short", b.Add(object, trailer, footer[1:]))
	refused("another footer", b.Add(object, trailer, make([]byte, len(footer))))
	larger := object
	larger.Size++
	refused("an object of another size", b.Add(larger, trailer, footer))
	if err := b.Add(object, trailer, footer); err != nil {
		t.Error(err)
	}
	refused("the same again", b.Add(object, trailer, footer))
	second, secondTrailer, secondFooter := part(1)
	apart := *secondTrailer
	apart.First++
	refused("a gap", b.Add(second, &apart, secondFooter))
	_, err = b.Put(t.Context(), h)
	refused("a run that is not complete", err)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// The local copy stays when the bucket's object is damaged, whatever an index
// object has of it.
func TestTheJanitorTrustsNoCopyOfMetadata(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		for gens := s.log.Local(); gens[len(gens)-1].Ordinal < 258; gens = s.log.Local() {
			s.store("a block")
			s.wait()
		}
		w.must(archiver.At(w.bucket, w.logID).RebuildIndex(context.Background(), s.dir.Path("spool"), 1, func(r archiver.RunReport) error { return r.Err }))
		time.Sleep(11 * time.Minute)
		gens := s.log.Local()
		flipEnd(w.bucket, archiver.Shipped(gens[0].Ordinal).Key())
		if err := s.janitor.Round(context.Background()); !errors.Is(err, eventlog.ErrObjectDamaged) {
			t.Errorf("the round ended with %v", err)
		}
		if left := s.log.Local(); len(left) != len(gens) {
			t.Errorf("%d of %d generations are left", len(left), len(gens))
		}
		s.stop()
	})
}
