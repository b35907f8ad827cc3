// SPDX-License-Identifier: Apache-2.0

package eventlog_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit/hostile"
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
	footer, err := eventlog.DecodeFooter(&trailer, stored)
	if again, otherErr := decodeOneByOne(&trailer, stored); !reflect.DeepEqual(again, footer) || fmt.Sprint(otherErr) != fmt.Sprint(err) {
		panic(fmt.Sprintf("decoded at once: %v, %v; one by one: %v, %v", footer, err, again, otherErr))
	}
	return footer, err
}

// decodeOneByOne is DecodeFooter by way of Packed.Follow.
func decodeOneByOne(trailer *eventlog.Trailer, stored []byte) (*eventlog.Footer, error) {
	packed, err := eventlog.OpenFooter(trailer, stored)
	if err != nil {
		return nil, err
	}
	footer := &eventlog.Footer{Entries: make([]eventlog.Entry, 0, packed.Events()), Cleaned: packed.Cleaned, Horizon: packed.Horizon}
	for batch, err := range packed.Follow(context.Background(), 0) {
		if err != nil {
			return nil, err
		}
		footer.Entries = append(footer.Entries, batch.Entries...)
	}
	return footer, nil
}

func TestAPackedFooterIsFollowedFromAnyEventToAnyOther(t *testing.T) {
	b := newBuilder()
	for i := range uint32(1000) {
		b.add(eventlog.Event{Seq: eventlog.MakeSeq(2, i+1), Type: eventlog.BlockStored, Actor: fmt.Sprint("user:", i/100), Kind: eventlog.KindData, Length: uint64(i % 3)})
	}
	object := b.object()
	trailer := b.trailer
	packed, err := eventlog.OpenFooter(&trailer, object[trailer.FooterOffset:trailer.FooterOffset+trailer.FooterSize])
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ from, upto, first, last uint32 }{
		{0, 0, 1, 1000}, {1, 1000, 1, 1000}, {128, 128, 128, 128}, {129, 0, 129, 1000}, {500, 2000, 500, 1000}, {1000, 0, 1000, 1000}, {1001, 0, 0, 0}, {7, 6, 0, 0},
	} {
		p := packed
		if tc.upto != 0 {
			p = packed.UpTo(eventlog.MakeSeq(2, tc.upto))
		}
		var got []eventlog.Entry
		for batch, err := range p.Follow(t.Context(), eventlog.MakeSeq(2, tc.from)) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, batch.Entries...)
		}
		var want []eventlog.Entry
		if tc.first != 0 {
			want = b.entries[tc.first-1 : tc.last]
		}
		if len(got) != len(want) {
			t.Fatalf("%+v: %d entries, want %d", tc, len(got), len(want))
		}
		for i := range want {
			if !bytes.Equal(got[i].Raw, want[i].Raw) || got[i].Event.Actor != want[i].Event.Actor || got[i].Placement.Offset != want[i].Placement.Offset {
				t.Errorf("%+v: entry %d is %+v, want %+v", tc, i, got[i], want[i])
			}
		}
	}
	if packed.Events() != 1000 {
		t.Errorf("%d events", packed.Events())
	}
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
	for _, block := range hostile.Blocks(hostile.Facts{Epoch: 1, Ordinal: 1, Next: 1<<32 + 1, Offset: 8}, 0) {
		f.Add(block.Bytes)
	}
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

// What is in no digest must, where a copy of a footer says it, follow from the
// events, which are. Of an object itself it is taken as it is: a block that is
// damaged is no reason not to read the others.
func TestWhatACopySaysOfPayloadsFollowsFromTheEvents(t *testing.T) {
	build := func() *builder {
		b := newBuilder()
		for i, length := range []uint64{50, 3*eventlog.ChunkSize + 7, 50} {
			b.add(eventlog.Event{Seq: eventlog.MakeSeq(3, uint32(i+1)), Type: eventlog.BlockStored, Length: length})
			e := &b.entries[i]
			e.Event.Checksum = eventlog.JoinedChecksum(e.Placement.Sums, length)
			e.Raw = eventlog.AppendEvent(nil, &e.Event)
		}
		return b
	}
	for name, c := range map[string]struct {
		change func(b *builder)
		want   error // of a copy
	}{
		"the truth":                    {func(*builder) {}, nil},
		"another sum":                  {func(b *builder) { b.entries[0].Placement.Sums[1] ^= 4 }, eventlog.ErrObjectDamaged},
		"another sum of several":       {func(b *builder) { b.entries[1].Placement.Sums[6] ^= 1 }, eventlog.ErrObjectDamaged},
		"two sums, one for the other":  {func(b *builder) { s := b.entries[1].Placement.Sums; copy(s[8:], slices.Concat(s[12:], s[8:12])) }, eventlog.ErrObjectDamaged},
		"no payload, and a gap":        {func(b *builder) { b.entries[1].Placement = eventlog.Placement{} }, eventlog.ErrObjectDamaged},
		"the last payload is left out": {func(b *builder) { b.entries[2].Placement = eventlog.Placement{} }, eventlog.ErrObjectDamaged},
		"another one in a payload's gap": {func(b *builder) {
			b.entries[1].Placement = b.entries[2].Placement
			b.entries[2].Placement = eventlog.Placement{}
		}, eventlog.ErrObjectDamaged},
	} {
		b := build()
		b.object()
		c.change(b)
		raw := eventlog.AppendFooter(nil, b.entries, nil, 0)
		stored := eventlog.CompressFooter(raw)
		b.trailer.FooterSize, b.trailer.FooterRawSize, b.trailer.FooterSum = uint64(len(stored)), uint64(len(raw)), eventlog.Checksum(stored)
		packed, err := eventlog.OpenFooter(&b.trailer, stored)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := packed.Decode(); err != nil && name != "another one in a payload's gap" {
			t.Errorf("%s, of an object: %v", name, err)
		}
		packed.Copy = true
		if footer, err := packed.Decode(); !errors.Is(err, c.want) {
			t.Errorf("%s, of a copy: %+v, %v", name, footer, err)
		}
		for batch, err := range packed.UpTo(b.trailer.Last).Follow(t.Context(), b.trailer.First) {
			if err != nil && !errors.Is(err, c.want) {
				t.Errorf("%s, one by one: %+v, %v", name, batch, err)
			}
		}
	}
}
