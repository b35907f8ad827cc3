// SPDX-License-Identifier: Apache-2.0

package eventlog_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
)

// goldenObject returns the stored object, which is written with -update.
func goldenObject(t *testing.T, object []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", "object.golden")
	if *update {
		if err := os.WriteFile(path, object, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stored, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// decodeRaw decodes an uncompressed footer under a trailer that fits it.
func decodeRaw(trailer eventlog.Trailer, raw []byte) (*eventlog.Footer, error) {
	stored := eventlog.CompressFooter(raw)
	trailer.FooterSize, trailer.FooterRawSize = uint64(len(stored)), uint64(len(raw))
	trailer.FooterSum = eventlog.Checksum(stored)
	return eventlog.DecodeFooter(&trailer, stored)
}

func TestFootersThatDoNotCoverWhatTheTrailerSaysAreRefused(t *testing.T) {
	s := eventlog.MakeSeq
	r := func(first, last eventlog.Seq) eventlog.Range { return eventlog.Range{First: first, Last: last} }
	for _, tc := range []struct {
		name    string
		entries []eventlog.Seq
		cleaned []eventlog.Range
		ok      bool
	}{
		{"all there", []eventlog.Seq{s(1, 4), s(1, 5), s(1, 6)}, nil, true},
		{"one cleaned", []eventlog.Seq{s(1, 4), s(1, 6)}, []eventlog.Range{r(s(1, 5), s(1, 5))}, true},
		{"the first cleaned", []eventlog.Seq{s(1, 6)}, []eventlog.Range{r(s(1, 4), s(1, 5))}, true},
		{"the last cleaned", []eventlog.Seq{s(1, 4)}, []eventlog.Range{r(s(1, 5), s(1, 6))}, true},
		{"two ranges that touch", []eventlog.Seq{s(1, 6)}, []eventlog.Range{r(s(1, 4), s(1, 4)), r(s(1, 5), s(1, 5))}, true},
		{"one missing", []eventlog.Seq{s(1, 4), s(1, 6)}, nil, false},
		{"the first missing", []eventlog.Seq{s(1, 5), s(1, 6)}, nil, false},
		{"the last missing", []eventlog.Seq{s(1, 4), s(1, 5)}, nil, false},
		{"one too many", []eventlog.Seq{s(1, 4), s(1, 5), s(1, 6), s(1, 7)}, nil, false},
		{"one before", []eventlog.Seq{s(1, 3), s(1, 4), s(1, 5), s(1, 6)}, nil, false},
		{"one twice", []eventlog.Seq{s(1, 4), s(1, 5), s(1, 5), s(1, 6)}, nil, false},
		{"out of order", []eventlog.Seq{s(1, 5), s(1, 4), s(1, 6)}, nil, false},
		{"nothing", nil, nil, false},
		{"cleaned and there", []eventlog.Seq{s(1, 4), s(1, 5), s(1, 6)}, []eventlog.Range{r(s(1, 5), s(1, 5))}, false},
		{"a range backwards", []eventlog.Seq{s(1, 4), s(1, 6)}, []eventlog.Range{r(s(1, 5), s(1, 4))}, false},
		{"ranges out of order", []eventlog.Seq{s(1, 6)}, []eventlog.Range{r(s(1, 5), s(1, 5)), r(s(1, 4), s(1, 4))}, false},
		{"a range over an epoch's end", nil, []eventlog.Range{r(s(1, 4), s(2, 1))}, false},
		{"a range too long", []eventlog.Seq{s(1, 4)}, []eventlog.Range{r(s(1, 5), s(1, 7))}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBuilder()
			b.trailer.First, b.trailer.Last, b.cleaned = s(1, 4), s(1, 6), tc.cleaned
			for _, seq := range tc.entries {
				b.add(eventlog.Event{Seq: seq, Type: eventlog.HoldReleased})
			}
			if _, _, err := decode(b.object()); (err == nil) != tc.ok || err != nil && !errors.Is(err, eventlog.ErrObjectDamaged) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestPlacementsThatCannotBeAreRefused(t *testing.T) {
	for name, change := range map[string]func(p *eventlog.Placement){
		"within the magic":       func(p *eventlog.Placement) { p.Offset = 7 },
		"over the one before":    func(p *eventlog.Placement) { p.Offset-- },
		"behind the payloads":    func(p *eventlog.Placement) { p.Offset++ },
		"an offset that wraps":   func(p *eventlog.Placement) { p.Offset = math.MaxUint64 - 9 },
		"a length that wraps":    func(p *eventlog.Placement) { p.Length = math.MaxUint64 - 9 },
		"another length":         func(p *eventlog.Placement) { p.Length-- },
		"a length without sums":  func(p *eventlog.Placement) { p.Sums = nil },
		"a sum too many":         func(p *eventlog.Placement) { p.Sums = append(bytes.Clone(p.Sums), 1, 2, 3, 4) },
		"beyond the footer":      func(p *eventlog.Placement) { p.Offset = 1 << 40 },
		"longer than the object": func(p *eventlog.Placement) { p.Length = 1 << 40 },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBuilder()
			for i := range 2 {
				b.add(eventlog.Event{Seq: eventlog.MakeSeq(3, uint32(i+1)), Type: eventlog.BlockStored, Length: 50})
			}
			change(&b.entries[1].Placement)
			if _, footer, err := decode(b.object()); !errors.Is(err, eventlog.ErrObjectDamaged) {
				t.Errorf("%+v, %v", footer, err)
			}
		})
	}
}

func TestFootersThatLieAboutTheirLengthsAreRefusedBeforeAnythingIsAllocated(t *testing.T) {
	b := small()
	b.object()
	raw := eventlog.AppendFooter(nil, b.entries, nil, 0)
	put := binary.LittleEndian.PutUint32
	for name, change := range map[string]func(raw []byte) []byte{
		"no magic":           func(raw []byte) []byte { raw[0] = 'X'; return raw },
		"more entries":       func(raw []byte) []byte { put(raw[4:], 7); return raw },
		"a billion ranges":   func(raw []byte) []byte { put(raw[8:], 1<<30); return raw },
		"reserved bytes":     func(raw []byte) []byte { put(raw[12:], 1); return raw },
		"a horizon of 0.7":   func(raw []byte) []byte { put(raw[16:], 7); return raw },
		"an event too long":  func(raw []byte) []byte { put(raw[24:], eventlog.MaxEvent+1); return raw },
		"an event of 0":      func(raw []byte) []byte { put(raw[24:], 0); return raw },
		"an event past all":  func(raw []byte) []byte { put(raw[24:], math.MaxUint32); return raw },
		"cut in the head":    func(raw []byte) []byte { return raw[:20] },
		"cut in an entry":    func(raw []byte) []byte { return raw[:len(raw)-1] },
		"cut before one":     func(raw []byte) []byte { return raw[:24] },
		"bytes behind":       func(raw []byte) []byte { return append(raw, 0) },
		"nothing":            func([]byte) []byte { return []byte{0} },
		"an event of rubble": func(raw []byte) []byte { copy(raw[24+20:], "\xff\xff\xff\xff"); return raw },
	} {
		if footer, err := decodeRaw(b.trailer, change(bytes.Clone(raw))); !errors.Is(err, eventlog.ErrObjectDamaged) {
			t.Errorf("%s: %+v, %v", name, footer, err)
		}
	}
	if _, err := decodeRaw(b.trailer, raw); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

func TestADecompressionBombIsRefused(t *testing.T) {
	b := small()
	b.object()
	bomb := eventlog.CompressFooter(make([]byte, eventlog.MaxFooter+1))
	for _, says := range []uint64{100, eventlog.MaxFooter} {
		b.trailer.FooterSize, b.trailer.FooterRawSize = uint64(len(bomb)), says
		b.trailer.FooterSum = eventlog.Checksum(bomb)
		if _, err := eventlog.DecodeFooter(&b.trailer, bomb); !errors.Is(err, eventlog.ErrObjectDamaged) {
			t.Errorf("a footer that says %d bytes: %v", says, err)
		}
	}
}

func TestAFooterOfAnotherTrailerIsRefused(t *testing.T) {
	b := small()
	object := b.object()
	stored := object[b.trailer.FooterOffset : len(object)-eventlog.TrailerSize]
	for name, change := range map[string]func(t *eventlog.Trailer){
		"its checksum": func(t *eventlog.Trailer) { t.FooterSum++ },
		"its length":   func(t *eventlog.Trailer) { t.FooterSize++ },
		"its count":    func(t *eventlog.Trailer) { t.Events++ },
		"its inside":   func(t *eventlog.Trailer) { t.FooterRawSize++ },
		"nothing set":  func(t *eventlog.Trailer) { *t = eventlog.Trailer{} },
	} {
		trailer := b.trailer
		change(&trailer)
		if _, err := eventlog.DecodeFooter(&trailer, stored); !errors.Is(err, eventlog.ErrObjectDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheSizeOfAFooterIsKnownBeforeItIsMade(t *testing.T) {
	b := small()
	b.object()
	size := eventlog.FooterOverhead
	for i := range b.entries {
		size += eventlog.FooterEntrySize(&b.entries[i])
	}
	if raw := eventlog.AppendFooter(nil, b.entries, nil, 0); len(raw) > size || len(raw) < size-eventlog.FooterOverhead {
		t.Errorf("%d bytes, foreseen %d", len(raw), size)
	}
}

func FuzzDecodeFooter(f *testing.F) {
	b := small()
	b.object()
	f.Add(eventlog.AppendFooter(nil, b.entries, nil, 0))
	f.Add(eventlog.AppendFooter(nil, b.entries[:1], []eventlog.Range{{First: 1, Last: 2}}, eventlog.FirstSeq))
	trailer := b.trailer
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) == 0 || len(raw) > 1<<20 {
			return
		}
		if len(raw) >= 8 {
			trailer.Events = binary.LittleEndian.Uint32(raw[4:])
		}
		footer, err := decodeRaw(trailer, raw)
		if err != nil {
			return
		}
		again := eventlog.AppendFooter(nil, footer.Entries, footer.Cleaned, footer.Horizon)
		if !bytes.Equal(again, raw) {
			t.Errorf("%x is written as %x", raw, again)
		}
		for _, entry := range footer.Entries {
			if p := entry.Placement; p.Offset+p.Length > trailer.FooterOffset || uint64(len(p.Sums)) != 4*eventlog.Chunks(p.Length) {
				t.Errorf("placement %+v", p)
			}
		}
	})
}
