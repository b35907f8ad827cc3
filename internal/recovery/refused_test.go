// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"encoding/binary"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

// victim is an object in the middle of w that has some events.
func (w *world) victim() (object archiver.ObjectInfo, trailer *eventlog.Trailer, entries []eventlog.Entry) {
	w.t.Helper()
	archive := archiver.At(w.bucket, logID)
	objects, err := archive.Objects(w.t.Context(), 1)
	must(w.t, err)
	for _, object := range objects[len(objects)/3:] {
		trailer, footer, err := archive.Metadata(w.t.Context(), object)
		must(w.t, err)
		if len(footer.Entries) > 2 {
			return object, trailer, footer.Entries
		}
	}
	w.t.Fatal("all objects are small")
	return
}

// replaceFooter makes raw the footer of the object that trailer is of, with
// every checksum right; says is the size that the trailer states of it.
func (w *world) replaceFooter(object archiver.ObjectInfo, trailer *eventlog.Trailer, raw []byte, says uint64) {
	footer := eventlog.CompressFooter(raw)
	trailer.FooterSize, trailer.FooterRawSize, trailer.FooterSum = uint64(len(footer)), says, eventlog.Checksum(footer)
	w.bucket.Set(object.Key(), eventlog.AppendTrailer(append([]byte(eventlog.ObjectMagic), footer...), trailer))
}

// An archive whose objects are each whole for all that their checksums tell,
// and wrong together or inside, is refused by name, with what to do: nothing is
// written to it, and no view is there.
func TestAnArchiveThatIsWrongIsRefused(t *testing.T) {
	const restore = "restore this object from another copy"
	entrySize := func(w *world, change func(size uint32) uint32) {
		object, trailer, entries := w.victim()
		raw := eventlog.AppendFooter(nil, entries, nil, 0)
		size := raw[footerHead-20:]
		binary.LittleEndian.PutUint32(size, change(binary.LittleEndian.Uint32(size)))
		w.replaceFooter(object, trailer, raw, uint64(len(raw)))
	}
	for name, test := range map[string]struct {
		wrong func(w *world)
		is    error
		todo  string
	}{
		"a range that leaves events out": {func(w *world) {
			object, _, entries := w.victim()
			w.put(object.First, entries[1:])
		}, eventlog.ErrObjectDamaged, restore},
		"a range that has an event of the object before": {func(w *world) {
			object, _, entries := w.victim()
			again := w.history.Log.Entries()
			at := slices.IndexFunc(again, func(e eventlog.Entry) bool { return e.Event.Seq == entries[0].Event.Seq })
			w.put(object.First, append(slices.Clone(again[at-1:at]), entries...))
		}, eventlog.ErrObjectDamaged, restore},
		"two objects for one ordinal": {func(w *world) {
			object, _, _ := w.victim()
			data, _ := w.bucket.Get(object.Key())
			object.Revision++
			w.bucket.Set(object.Key(), data)
		}, eventlog.ErrDamaged, "keep a copy of the other elsewhere and remove it from the bucket"},
		"an event longer than its footer": {func(w *world) {
			entrySize(w, func(uint32) uint32 { return 1 << 31 })
		}, eventlog.ErrObjectDamaged, restore},
		"an event that ends in the next one": {func(w *world) {
			entrySize(w, func(size uint32) uint32 { return size + 1 })
		}, eventlog.ErrObjectDamaged, restore},
		"a payload longer than its object": {func(w *world) {
			object, trailer, entries := w.victim()
			raw := eventlog.AppendFooter(nil, entries, nil, 0)
			binary.LittleEndian.PutUint64(raw[footerHead-8:], 1<<40)
			w.replaceFooter(object, trailer, raw, uint64(len(raw)))
		}, eventlog.ErrObjectDamaged, restore},
		"a footer shorter than its trailer says": {func(w *world) {
			object, trailer, entries := w.victim()
			raw := eventlog.AppendFooter(nil, entries, nil, 0)
			w.replaceFooter(object, trailer, raw, uint64(len(raw))+1)
		}, eventlog.ErrObjectDamaged, restore},
		"more events than its trailer says": {func(w *world) {
			object, trailer, entries := w.victim()
			raw := eventlog.AppendFooter(nil, entries, nil, 0)
			trailer.Events--
			w.replaceFooter(object, trailer, raw, uint64(len(raw)))
		}, eventlog.ErrObjectDamaged, restore},
		"a decompression bomb": {func(w *world) {
			object, trailer, _ := w.victim()
			w.replaceFooter(object, trailer, make([]byte, 4*eventlog.MaxFooter), 100)
		}, eventlog.ErrObjectDamaged, restore},
		"a decompression bomb that says so": {func(w *world) {
			object, trailer, _ := w.victim()
			w.replaceFooter(object, trailer, make([]byte, eventlog.MaxFooter+1), eventlog.MaxFooter+1)
		}, eventlog.ErrObjectDamaged, restore},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 7000, 80)
			object, _, _ := w.victim()
			test.wrong(w)
			before := w.contents()
			faulty := buckettest.NewFaulty(w.bucket)
			opts := w.options("new")
			opts.Archive, opts.Engine = archiver.At(faulty, logID), kv.InMemory(quiet)
			_, err := Run(t.Context(), opts)
			if !errors.Is(err, test.is) || !strings.Contains(err.Error(), object.Key()) && !strings.Contains(err.Error(), object.String()) || !strings.Contains(err.Error(), test.todo) {
				t.Errorf("%v, want %v of %s and %q", err, test.is, object.Key(), test.todo)
			}
			if puts, deletes := faulty.Calls(buckettest.Put), faulty.Calls(buckettest.Delete); puts+deletes != 0 || !maps.Equal(w.contents(), before) {
				t.Errorf("the bucket was written to: %d puts, %d deletes", puts, deletes)
			}
			for _, p := range []projector.Projector{projector.Machines(), projector.Blocks()} {
				if there, err := opts.Engine.Exists(filepath.Join("new", p.Name())); err != nil || there {
					t.Errorf("the %s view is there: %v", p.Name(), err)
				}
			}
		})
	}
}

// contents is all that lies in the bucket, by key.
func (w *world) contents() map[string]string {
	all := map[string]string{}
	for _, key := range w.bucket.Keys() {
		data, _ := w.bucket.Get(key)
		all[key] = string(data)
	}
	return all
}
