// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// Where things stand in an index object; see docs/FORMAT.md.
const (
	indexEntry = 16 + eventlog.TrailerSize
	indexEnd   = 80
	footerHead = 24 + 20 // of a footer of one event, before that event
)

// indexed is what the index object of the first run has of an object.
type indexed struct {
	key                    string
	data                   []byte // of the index object, a copy
	directory, end, stored []byte // in data; stored is the object's trailer
	offset                 int    // of its footer in data
	trailer                *eventlog.Trailer
}

func (w *world) indexed(ordinal uint64) *indexed {
	w.t.Helper()
	x := &indexed{key: archiver.IndexInfo{Run: 1}.Key(), offset: 8} // the magic
	data, ok := w.bucket.Get(x.key)
	if !ok {
		w.t.Fatalf("there is no %s", x.key)
	}
	x.data = bytes.Clone(data)
	x.directory, x.end = x.data[len(data)-indexEnd-archiver.RunSize*indexEntry:len(data)-indexEnd], x.data[len(data)-indexEnd:]
	var err error
	for i := range int(ordinal) {
		if i > 0 {
			x.offset += int(x.trailer.FooterSize)
		}
		x.stored = x.directory[i*indexEntry+16:][:eventlog.TrailerSize]
		x.trailer, err = eventlog.DecodeTrailer(x.stored)
		must(w.t, err)
	}
	return x
}

// lie puts the footer raw in the place of the one of ordinal in the index
// object of the first run, with every checksum right. It does not when raw
// takes more or fewer bytes there, or is not as decodable as it is to be.
func (w *world) lie(ordinal uint64, raw []byte, decodable bool) bool {
	w.t.Helper()
	x := w.indexed(ordinal)
	trailer := x.trailer
	footer := eventlog.CompressFooter(raw)
	if len(footer) != int(trailer.FooterSize) || len(raw) != int(trailer.FooterRawSize) {
		return false
	}
	trailer.FooterSum = eventlog.Checksum(footer)
	if _, err := eventlog.OpenFooter(trailer, footer); err != nil {
		return false
	}
	if _, err := eventlog.DecodeFooter(trailer, footer); (err == nil) != decodable {
		return false
	}
	copy(x.data[x.offset:], footer)
	copy(x.stored, eventlog.AppendTrailer(nil, trailer))
	binary.LittleEndian.PutUint32(x.end[56:], eventlog.Checksum(x.directory))
	binary.LittleEndian.PutUint32(x.end[indexEnd-4:], eventlog.Checksum(x.end[:indexEnd-4]))
	w.bucket.Set(x.key, x.data)
	return true
}

// lieAboutASum puts other bytes of the footer in the place of a checksum of a
// payload's chunks in the index object: what compresses as well. It returns the
// event of that payload.
func (w *world) lieAboutASum(rng *rand.Rand) eventlog.Seq {
	w.t.Helper()
	for range 100_000 {
		ordinal := 1 + rng.Uint64N(archiver.RunSize)
		x := w.indexed(ordinal)
		footer, err := eventlog.DecodeFooter(x.trailer, x.data[x.offset:][:x.trailer.FooterSize])
		must(w.t, err)
		place := &footer.Entries[0].Placement
		if place.Length == 0 {
			continue
		}
		raw, truth := footer.Entries[0].Raw, place.Sums
		at, from := 4*rng.IntN(len(truth)/4), rng.IntN(len(raw)-3)
		place.Sums = slices.Concat(truth[:at], raw[from:from+4], truth[at+4:])
		if !bytes.Equal(place.Sums, truth) && w.lie(ordinal, eventlog.AppendFooter(nil, footer.Entries, footer.Cleaned, footer.Horizon), true) {
			return footer.Entries[0].Event.Seq
		}
	}
	w.t.Fatal("no checksum can be lied about")
	return 0
}

// lieAboutALength makes the index object say of a stored block that it is of
// another length. It returns that block's ordinal.
func (w *world) lieAboutALength(rng *rand.Rand) uint64 {
	w.t.Helper()
	entries := w.history.Log.Entries()
	for range 100_000 {
		ordinal := 1 + rng.Uint64N(archiver.RunSize)
		event := entries[ordinal-1].Event
		if event.Type != eventlog.BlockStored || event.Length < 2 {
			continue
		}
		event.Length += 1 + rng.Uint64N(event.Length/2)
		told := eventlog.Entry{Event: event, Raw: eventlog.AppendEvent(nil, &event)}
		if w.lie(ordinal, eventlog.AppendFooter(nil, []eventlog.Entry{told}, nil, 0), true) {
			return ordinal
		}
	}
	w.t.Fatal("no length can be lied about")
	return 0
}

// lieWithGarbage changes one bit of one event in the index object, so that it
// cannot be decoded.
func (w *world) lieWithGarbage(rng *rand.Rand) {
	w.t.Helper()
	entries := w.history.Log.Entries()
	for range 100_000 {
		ordinal := 1 + rng.Uint64N(archiver.RunSize)
		entry := eventlog.Entry{Event: entries[ordinal-1].Event, Raw: entries[ordinal-1].Raw}
		raw := eventlog.AppendFooter(nil, []eventlog.Entry{entry}, nil, 0)
		raw[footerHead+rng.IntN(len(raw)-footerHead)] ^= 1 << rng.IntN(8)
		if w.lie(ordinal, raw, false) {
			return
		}
	}
	w.t.Fatal("every event can be decoded")
}

// warnings are what was logged.
type warnings struct {
	slog.Handler
	mu   sync.Mutex
	said []string // owned by mu
}

func (w *warnings) Enabled(context.Context, slog.Level) bool { return true }

func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	w.said = append(w.said, text)
	return nil
}

// An index object that says something else than its objects, with every
// checksum right, cannot be told from a right one by itself. The digests that
// the log recorded tell: the recovery is refused, and goes on neither to other
// rows nor, once the index object is away, from what it had built on it.
func TestAnIndexObjectThatLiesAboutAnEventIsNeverBelievedToTheEnd(t *testing.T) {
	for seed := range max(1, seeds(4)) {
		w := newWorld(t, 6000+seed, 550)
		key := w.apart()[0]
		w.lieAboutALength(rand.New(rand.NewPCG(seed, 1)))
		opts := w.options("new")
		opts.Archive.SetLogger(quiet)
		result, err := Run(t.Context(), opts)
		var violation *projector.Violation
		if err == nil {
			w.check("new", result)
			t.Fatalf("seed %d: the lie was not in the index object", seed)
		}
		if !errors.As(err, &violation) || violation.Rule != projector.RuleDigest {
			t.Errorf("seed %d: %v, want a violation of %s", seed, err, projector.RuleDigest)
		}
		if !strings.Contains(err.Error(), "strandline index verify") {
			t.Errorf("seed %d: it does not say what tells: %v", seed, err)
		}
		w.bucket.Remove(key)
		again, err := Run(t.Context(), opts)
		if err == nil {
			w.check("new", again)
		} else if !errors.As(err, &violation) {
			t.Errorf("seed %d: gone on with: %v", seed, err)
		}
		result, err = Run(t.Context(), w.options("anew"))
		must(t, err)
		w.check("anew", result)
	}
}

// What comes after the last digest is proven by nothing that the log recorded:
// the objects themselves are asked about it.
func TestAnIndexObjectThatLiesAboutTheLastEventsIsNotBelieved(t *testing.T) {
	begun := map[bool]int{}
	for seed := range max(2, seeds(8)) {
		w, s := newShelvedWorld(t, 6200+seed, 550)
		w.apart()
		ordinal := w.lieAboutALength(rand.New(rand.NewPCG(seed, 3)))
		until := w.history.Log.Entries()[ordinal-1].Event.Seq
		whole, lying := archiver.At(w.bucket, logID), w.bucket.Clone()
		must(t, whole.RebuildIndex(t.Context(), t.TempDir(), 1, func(r archiver.RunReport) error { return r.Err }))
		rebuilt := w.bucket
		for _, c := range append([]Checkpoint{{}}, s.taken...) {
			if c.Seq >= until {
				continue
			}
			begun[c.Seq > 0]++
			w.bucket = lying
			opts := w.options("new" + c.Name)
			opts.Archive.SetLogger(quiet)
			opts.Until = until
			if c.Seq > 0 {
				opts.Checkpoints = &shelf{engine: w.engine, taken: []Checkpoint{c}}
			}
			result, err := Run(t.Context(), opts)
			if !errors.Is(err, eventlog.ErrDamaged) || !strings.Contains(err.Error(), "strandline index rebuild") {
				t.Fatalf("seed %d, from %s up to the event lied about: %v, %+v", seed, c.Seq, err, result)
			}
			w.bucket = rebuilt
			opts.Archive = w.options("").Archive
			result, err = Run(t.Context(), opts)
			if err != nil {
				t.Errorf("seed %d, from %s with a right index object: %v", seed, c.Seq, err)
				continue
			}
			if (result.Checkpoint != nil) != (c.Seq > 0) || len(result.Fallbacks) > 0 {
				t.Errorf("seed %d: from %+v, passed over %+v", seed, result.Checkpoint, result.Fallbacks)
			}
			anew := w.options("anew" + c.Name)
			anew.Until = until
			told, err := Run(t.Context(), anew)
			must(t, err)
			for i, view := range result.Views {
				if view.Digest != told.Views[i].Digest {
					t.Errorf("seed %d, from %s: gone on with what the lie had built of the %s view", seed, c.Seq, view.View)
				}
			}
		}
	}
	if begun[true] == 0 || begun[false] == 0 {
		t.Errorf("begun from checkpoints: %v", begun)
	}
}

// checkPlacement looks whether the views in dir say of the payload of the event
// stored what the log says.
func (w *world) checkPlacement(dir string, stored eventlog.Seq) {
	w.t.Helper()
	machines, blocks := open(w.t, w.engine, dir)
	defer func() { must(w.t, errors.Join(machines.Close(), blocks.Close())) }()
	entries := w.history.Log.Entries()
	entry := entries[slices.IndexFunc(entries, func(e eventlog.Entry) bool { return e.Event.Seq == stored })]
	row, found, err := blocks.AsOf(entry.Event.Machine, entry.Event.Kind, entry.Event.Block, stored)
	must(w.t, err)
	if !found || row.Stored != stored {
		w.t.Fatalf("as of %s there is %v %+v", stored, found, row)
	}
	place, err := blocks.Placement(row)
	must(w.t, err)
	if !bytes.Equal(place.Sums, entry.Placement.Sums) {
		w.t.Errorf("the payload of %s has the checksums %x, want %x", stored, place.Sums, entry.Placement.Sums)
	}
}

// recoverWarned recovers w into "new", with the truth, and one warning of the
// index object at key.
func (w *world) recoverWarned(seed uint64, key string) {
	w.t.Helper()
	heard := &warnings{Handler: slog.DiscardHandler}
	opts := w.options("new")
	opts.Archive.SetLogger(slog.New(heard))
	result, err := Run(w.t.Context(), opts)
	if err != nil {
		w.t.Fatalf("seed %d: %v", seed, err)
	}
	w.check("new", result)
	if len(heard.said) != 1 || !strings.Contains(heard.said[0], strings.TrimSuffix(key, ".0000")) {
		w.t.Errorf("seed %d: it warned %q, want one warning of %s", seed, heard.said, key)
	}
}

// What an index object says of a payload's checksums is in no digest, but they
// must make the one that the event has, which is.
func TestAnIndexObjectThatLiesAboutAPayloadCostsAWarning(t *testing.T) {
	for seed := range max(2, seeds(8)) {
		w := newWorld(t, 6300+seed, 550)
		w.payloads = true
		key := w.apart()[0]
		lied := w.lieAboutASum(rand.New(rand.NewPCG(seed, 4)))
		w.recoverWarned(seed, key)
		w.checkPlacement("new", lied)
	}
}

// An event that cannot be decoded where the index object has it is read from
// its own object; somebody is told.
func TestAnIndexObjectWithAnEventThatDoesNotDecodeCostsAWarning(t *testing.T) {
	for seed := range max(1, seeds(4)) {
		w := newWorld(t, 6100+seed, 550)
		key := w.apart()[0]
		w.lieWithGarbage(rand.New(rand.NewPCG(seed, 2)))
		w.recoverWarned(seed, key)
	}
}
