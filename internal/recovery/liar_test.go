// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
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

// lie puts the footer raw in the place of the one of ordinal in the index
// object of the first run, with every checksum right. It does not when raw
// takes more or fewer bytes there, or is not as decodable as it is to be.
func (w *world) lie(ordinal uint64, raw []byte, decodable bool) bool {
	w.t.Helper()
	key := archiver.IndexInfo{Run: 1}.Key()
	data, ok := w.bucket.Get(key)
	if !ok {
		w.t.Fatalf("there is no %s", key)
	}
	data = bytes.Clone(data)
	directory, end := data[len(data)-indexEnd-archiver.RunSize*indexEntry:len(data)-indexEnd], data[len(data)-indexEnd:]
	offset := 8 // the magic
	for i := range int(ordinal) - 1 {
		t, err := eventlog.DecodeTrailer(directory[i*indexEntry+16:][:eventlog.TrailerSize])
		must(w.t, err)
		offset += int(t.FooterSize)
	}
	stored := directory[int(ordinal-1)*indexEntry+16:][:eventlog.TrailerSize]
	trailer, err := eventlog.DecodeTrailer(stored)
	must(w.t, err)
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
	copy(data[offset:], footer)
	copy(stored, eventlog.AppendTrailer(nil, trailer))
	binary.LittleEndian.PutUint32(end[56:], eventlog.Checksum(directory))
	binary.LittleEndian.PutUint32(end[indexEnd-4:], eventlog.Checksum(end[:indexEnd-4]))
	w.bucket.Set(key, data)
	return true
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

// An event that cannot be decoded where the index object has it is read from
// its own object; somebody is told.
func TestAnIndexObjectWithAnEventThatDoesNotDecodeCostsAWarning(t *testing.T) {
	for seed := range max(1, seeds(4)) {
		w := newWorld(t, 6100+seed, 550)
		key := w.apart()[0]
		w.lieWithGarbage(rand.New(rand.NewPCG(seed, 2)))
		heard := &warnings{Handler: slog.DiscardHandler}
		opts := w.options("new")
		opts.Archive.SetLogger(slog.New(heard))
		result, err := Run(t.Context(), opts)
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
			continue
		}
		w.check("new", result)
		if len(heard.said) != 1 || !strings.Contains(heard.said[0], strings.TrimSuffix(key, ".0000")) {
			t.Errorf("seed %d: it warned %q, want one warning of %s", seed, heard.said, key)
		}
	}
}
