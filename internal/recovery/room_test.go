// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
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
		for range objects * events {
			w.history.Open("name")
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
		{"little room", time.Hour, 30 * eventBytes, 30, 32},
		{"no room", time.Hour, 0, 1, 3},
	} {
		sample, err := Sample(t.Context(), archiver.At(w.bucket, logID), kv.InMemory(quiet), t.TempDir(), test.time, test.disk)
		must(t, err)
		if sample.Events < test.least || sample.Events > test.atMost {
			t.Errorf("%s: %d events of %d, want %d to %d", test.name, sample.Events, total, test.least, test.atMost)
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
	if want := uint64(len(w.history.Log.Entries())) * eventBytes; asked > want || asked < want*9/10 { // less what the note takes
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
