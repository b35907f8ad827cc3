// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

// apart archives w's history anew, an object for each event, with the index
// objects of the complete runs.
func (w *world) apart() (indexes []string) {
	w.t.Helper()
	entries := w.history.Log.Entries()
	w.bucket, w.objects = buckettest.NewMemory(), len(entries)
	must(w.t, archiver.Init(w.t.Context(), w.bucket, logID, time.Unix(0, entries[0].Event.Time)))
	for i := range entries {
		w.put(uint64(i+1), entries[i:i+1])
	}
	must(w.t, archiver.At(w.bucket, logID).RebuildIndex(w.t.Context(), w.t.TempDir(), 1, func(r archiver.RunReport) error {
		indexes = append(indexes, r.Index.Key())
		return r.Err
	}))
	return indexes
}

func TestWhatIsRecoveredIsTheSameWithAnyIndexObjectDeletedOrDamaged(t *testing.T) {
	for seed := range max(1, seeds(8)) {
		w := newWorld(t, 5000+seed, 550)
		indexes := w.apart()
		if len(indexes) == 0 {
			t.Fatalf("%d events make no run", w.objects)
		}
		whole := w.bucket
		for _, breakIt := range []func(key string){
			func(string) {},
			func(key string) { w.bucket.Remove(key) },
			func(key string) { w.bucket.Set(key, nil) },
			func(key string) {
				data, _ := w.bucket.Get(key)
				w.bucket.Flip(key, int(seed*7919)%(8*len(data)))
			},
		} {
			for _, key := range indexes {
				w.bucket = whole.Clone()
				breakIt(key)
				opts := w.options("new")
				opts.Archive.SetLogger(quiet)
				result, err := Run(t.Context(), opts)
				must(t, err)
				w.check("new", result)
				must(t, errors.Join(w.engine.Remove("new/machine"), w.engine.Remove("new/block")))
			}
		}
		w.bucket = whole
	}
}

// The whole of a recovery, not its reading of footers alone, keeps to the
// number of requests.
func TestARecoveryTakesFewRequests(t *testing.T) {
	w := newWorld(t, 9, 850)
	indexes := w.apart()
	runs := len(indexes)
	faulty := buckettest.NewFaulty(w.bucket)
	opts := w.options("new")
	opts.Archive = archiver.At(faulty, logID)
	opts.Room = func(uint64) error { return nil }
	result, err := Run(t.Context(), opts)
	must(t, err)
	w.check("new", result)
	requests := faulty.Calls(buckettest.Get) + faulty.Calls(buckettest.Head) + faulty.Calls(buckettest.List)
	if most := w.objects/100 + 300; requests > most {
		t.Errorf("%d requests for %d objects, want at most %d", requests, w.objects, most)
	}
	found, err := Look(t.Context(), opts.Archive, nil, 0)
	must(t, err)
	if tail := w.objects % archiver.RunSize; found.Cost.Indexed != w.objects-tail || found.Cost.Single != tail || found.Cost.Gets != uint64(runs) {
		t.Errorf("it is said to cost %+v", found.Cost)
	}
	for _, key := range w.bucket.Keys() {
		if strings.HasPrefix(key, archiver.IndexPrefix) {
			data, _ := w.bucket.Get(key)
			found.Cost.Bytes -= uint64(len(data))
		}
	}
	if found.Cost.Bytes != 0 {
		t.Errorf("the bytes to read of index objects are off by %d", int64(found.Cost.Bytes))
	}
	var metadata uint64
	for ordinal := range w.objects { // there are no payloads
		data, _ := w.bucket.Get(archiver.Shipped(uint64(ordinal + 1)).Key())
		metadata += uint64(len(data) - len(eventlog.ObjectMagic))
	}
	for _, indexed := range []bool{true, false} {
		if got := found.Cost.Metadata; got < metadata*9/10 || got > metadata*5/4 {
			t.Errorf("indexed %v: %d bytes of metadata, want about %d", indexed, got, metadata)
		}
		for _, key := range indexes {
			w.bucket.Remove(key)
		}
		found, err = Look(t.Context(), opts.Archive, nil, 0)
		must(t, err)
	}
}
