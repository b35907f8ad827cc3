// SPDX-License-Identifier: Apache-2.0

package eventlog_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit/hostile"
)

// builder makes objects for tests.
type builder struct {
	trailer  eventlog.Trailer
	payloads []byte // magic and payloads
	entries  []eventlog.Entry
	cleaned  []eventlog.Range
	horizon  eventlog.Seq
}

func newBuilder() *builder {
	return &builder{
		trailer: eventlog.Trailer{
			LogID: eventlog.ID{9, 8, 7}, Writer: eventlog.ID{1, 2, 3}, Epoch: 3,
			FirstOrdinal: 5, LastOrdinal: 5, ClosedAt: 1795435200000000000,
		},
		payloads: []byte(eventlog.ObjectMagic),
	}
}

// add appends an event, with a payload of its length when it brings one.
func (b *builder) add(event eventlog.Event) {
	entry := eventlog.Entry{Event: event, Raw: eventlog.AppendEvent(nil, &event)}
	if event.Type == eventlog.BlockStored && event.Reuses == 0 && event.Length > 0 {
		payload := make([]byte, event.Length)
		for i := range payload {
			payload[i] = byte(i + int(event.Seq))
		}
		entry.Placement = eventlog.Placement{Ordinal: b.trailer.FirstOrdinal, Offset: uint64(len(b.payloads)), Length: event.Length, Sums: chunkSums(payload)}
		b.payloads = append(b.payloads, payload...)
	}
	b.entries = append(b.entries, entry)
}

func chunkSums(payload []byte) []byte {
	var sums []byte
	for len(payload) > 0 {
		n := min(len(payload), eventlog.ChunkSize)
		sums = binary.LittleEndian.AppendUint32(sums, eventlog.Checksum(payload[:n]))
		payload = payload[n:]
	}
	return sums
}

func (b *builder) object() []byte {
	if n := len(b.entries); n > 0 && b.trailer.First == 0 {
		b.trailer.First, b.trailer.Last = b.entries[0].Event.Seq, b.entries[n-1].Event.Seq
	}
	b.trailer.PayloadBytes = uint64(len(b.payloads) - len(eventlog.ObjectMagic))
	b.trailer.PayloadSum = eventlog.Checksum(b.payloads)
	return eventlog.AppendMetadata(bytes.Clone(b.payloads), &b.trailer, b.entries, b.cleaned, b.horizon)
}

// decode reads an object as an archive's reader does, payload sum included.
func decode(object []byte) (*eventlog.Trailer, *eventlog.Footer, error) {
	if len(object) < eventlog.TrailerSize {
		return nil, nil, eventlog.ErrObjectDamaged
	}
	trailer, err := eventlog.DecodeTrailer(object[len(object)-eventlog.TrailerSize:])
	if err != nil {
		return nil, nil, err
	}
	if err := trailer.Check(int64(len(object))); err != nil {
		return nil, nil, err
	}
	if sum := eventlog.Checksum(object[:trailer.FooterOffset]); sum != trailer.PayloadSum {
		return nil, nil, fmt.Errorf("%w: payloads", eventlog.ErrObjectDamaged)
	}
	footer, err := eventlog.DecodeFooter(trailer, object[trailer.FooterOffset:trailer.FooterOffset+trailer.FooterSize])
	return trailer, footer, err
}

// small is an object of a few events of every shape.
func small() *builder {
	b := newBuilder()
	for i, length := range []uint64{100, 0, 70_000, 1} {
		b.add(eventlog.Event{Seq: eventlog.MakeSeq(2, uint32(i+8)), Type: eventlog.BlockStored, Actor: "user:alice", Kind: eventlog.KindData, Length: length})
	}
	b.add(eventlog.Event{Seq: eventlog.MakeSeq(2, 12), Type: eventlog.BlockStored, Reuses: eventlog.MakeSeq(2, 8), Length: 100})
	b.add(eventlog.Event{Seq: eventlog.MakeSeq(3, 1), Type: eventlog.EpochStarted, Actor: "server"})
	return b
}

func TestAnObjectReadsBack(t *testing.T) {
	b := small()
	trailer, footer, err := decode(b.object())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*trailer, b.trailer) {
		t.Errorf("the trailer reads back as %+v, want %+v", *trailer, b.trailer)
	}
	if !reflect.DeepEqual(footer.Entries, b.entries) {
		t.Errorf("the entries read back as %+v, want %+v", footer.Entries, b.entries)
	}
	if footer.Cleaned != nil || footer.Horizon != 0 || trailer.CleanEnd() {
		t.Errorf("nothing was cleaned: %+v", footer)
	}
}

func TestACleanedObjectReadsBack(t *testing.T) {
	s := eventlog.MakeSeq
	b := newBuilder()
	b.trailer.LastOrdinal, b.trailer.Flags = 9, eventlog.FlagCleanEnd
	b.trailer.First, b.trailer.Last = s(1, 5), s(3, 9)
	b.horizon = s(3, 4)
	b.cleaned = []eventlog.Range{{First: s(1, 5), Last: s(1, 9)}, {First: s(1, 11), Last: s(1, 11)}, {First: s(3, 2), Last: s(3, 9)}}
	b.add(eventlog.Event{Seq: s(1, 10), Type: eventlog.BlockStored, Length: 10})
	b.add(eventlog.Event{Seq: s(3, 1), Type: eventlog.EpochStarted})
	trailer, footer, err := decode(b.object())
	if err != nil {
		t.Fatal(err)
	}
	if !trailer.CleanEnd() || footer.Horizon != b.horizon || !reflect.DeepEqual(footer.Cleaned, b.cleaned) || len(footer.Entries) != 2 {
		t.Errorf("reads back as %+v %+v", trailer, footer)
	}
}

func TestAnObjectOfWhichAllWasCleanedReadsBack(t *testing.T) {
	b := newBuilder()
	b.trailer.First, b.trailer.Last = eventlog.MakeSeq(1, 5), eventlog.MakeSeq(1, 9)
	b.cleaned = []eventlog.Range{{First: b.trailer.First, Last: b.trailer.Last}}
	if _, footer, err := decode(b.object()); err != nil || len(footer.Entries) > 0 {
		t.Errorf("%+v, %v", footer, err)
	}
}

func TestEveryFlippedBitOfAnObjectIsFound(t *testing.T) {
	b := newBuilder()
	for i := range 3 {
		b.add(eventlog.Event{Seq: eventlog.MakeSeq(3, uint32(i+1)), Type: eventlog.BlockStored, Actor: "a", Length: 40})
	}
	object := b.object()
	for bit := range len(object) * 8 {
		object[bit/8] ^= 1 << (bit % 8)
		_, _, err := decode(object)
		if !errors.Is(err, eventlog.ErrObjectDamaged) {
			t.Errorf("bit %d of byte %d of %d: %v", bit%8, bit/8, len(object), err)
		}
		object[bit/8] ^= 1 << (bit % 8)
	}
}

func TestEveryCutOfAnObjectIsFound(t *testing.T) {
	object := newSmallest()
	for n := range len(object) {
		if _, _, err := decode(object[:n]); !errors.Is(err, eventlog.ErrObjectDamaged) {
			t.Errorf("the first %d of %d bytes: %v", n, len(object), err)
		}
		if _, _, err := decode(object[n+1:]); !errors.Is(err, eventlog.ErrObjectDamaged) {
			t.Errorf("without the first %d of %d bytes: %v", n+1, len(object), err)
		}
	}
}

func newSmallest() []byte {
	b := newBuilder()
	b.add(eventlog.Event{Seq: eventlog.MakeSeq(3, 1), Type: eventlog.BlockStored, Length: 20})
	return b.object()
}

func TestTrailersThatCannotBeAreRefused(t *testing.T) {
	for name, change := range map[string]func(*eventlog.Trailer){
		"no log":                     func(t *eventlog.Trailer) { t.LogID = eventlog.ID{} },
		"no writer":                  func(t *eventlog.Trailer) { t.Writer = eventlog.ID{} },
		"ordinal 0":                  func(t *eventlog.Trailer) { t.FirstOrdinal = 0 },
		"ordinals backwards":         func(t *eventlog.Trailer) { t.LastOrdinal = t.FirstOrdinal - 1 },
		"no first seq":               func(t *eventlog.Trailer) { t.First = 0 },
		"seqs backwards":             func(t *eventlog.Trailer) { t.Last = t.First - 1 },
		"a last seq of counter 0":    func(t *eventlog.Trailer) { t.Last = 3 << 32 },
		"an epoch below its events":  func(t *eventlog.Trailer) { t.Epoch = 2 },
		"epoch 0":                    func(t *eventlog.Trailer) { t.Epoch = 0 },
		"too many events":            func(t *eventlog.Trailer) { t.Events = eventlog.MaxEvents + 1 },
		"a footer too long":          func(t *eventlog.Trailer) { t.FooterSize = eventlog.MaxFooter + 1 },
		"a footer too long inside":   func(t *eventlog.Trailer) { t.FooterRawSize = eventlog.MaxFooter + 1 },
		"no footer":                  func(t *eventlog.Trailer) { t.FooterSize = 0 },
		"an empty footer":            func(t *eventlog.Trailer) { t.FooterRawSize = 0 },
		"a footer over the payloads": func(t *eventlog.Trailer) { t.FooterOffset-- },
		"a footer far away":          func(t *eventlog.Trailer) { t.FooterOffset++ },
		"payloads beyond all bounds": func(t *eventlog.Trailer) { t.PayloadBytes, t.FooterOffset = math.MaxUint64-7, 0 },
		"an offset that wraps":       func(t *eventlog.Trailer) { t.PayloadBytes, t.FooterOffset = math.MaxUint64-100, math.MaxUint64-92 },
	} {
		t.Run(name, func(t *testing.T) {
			b := small()
			b.object()
			change(&b.trailer)
			if got, err := eventlog.DecodeTrailer(eventlog.AppendTrailer(nil, &b.trailer)); !errors.Is(err, eventlog.ErrObjectDamaged) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	if err := (&eventlog.Trailer{}).Check(eventlog.TrailerSize); !errors.Is(err, eventlog.ErrObjectDamaged) {
		t.Errorf("the zero trailer: %v", err)
	}
}

func TestATrailerFitsOneSizeOnly(t *testing.T) {
	b := small()
	size := int64(len(b.object()))
	for delta, want := range map[int64]bool{0: true, -1: false, 1: false, -size: false, -size - 1: false} {
		if err := b.trailer.Check(size + delta); (err == nil) != want {
			t.Errorf("%d bytes: %v", size+delta, err)
		}
	}
}

func TestALaterVersionOfAnObjectIsNotDamage(t *testing.T) {
	for name, change := range map[string]func([]byte){
		"version":        func(b []byte) { b[8]++ },
		"flags":          func(b []byte) { b[11] = 0x80 },
		"reserved bytes": func(b []byte) { b[132] = 1 },
	} {
		b := small()
		b.object()
		raw := eventlog.AppendTrailer(nil, &b.trailer)
		change(raw)
		binary.LittleEndian.PutUint32(raw[140:], eventlog.Checksum(raw[:140]))
		if _, err := eventlog.DecodeTrailer(raw); !errors.Is(err, eventlog.ErrObjectVersion) {
			t.Errorf("%s: %v, want ErrObjectVersion", name, err)
		}
	}
}

func TestGoldenObject(t *testing.T) {
	b := newBuilder()
	for _, event := range emitted()[:13] { // those that there were when the file was made
		if event.Length == 70_000 && event.Reuses == 0 {
			event.Length = 700 // keeps the file small
		}
		b.add(event)
	}
	b.trailer.First, b.trailer.Last = eventlog.FirstSeq, eventlog.MakeSeq(3, 2)
	object := b.object()
	footerAt, trailerAt := b.trailer.FooterOffset, len(object)-eventlog.TrailerSize

	// What the compressor makes of the footer may change with its version;
	// what it holds may not. So the golden object is read, not compared.
	golden(t, "object.footer", eventlog.AppendFooter(nil, b.entries, b.cleaned, b.horizon))
	b.trailer.FooterSize, b.trailer.FooterSum = 1, 1
	golden(t, "object.trailer", eventlog.AppendTrailer(nil, &b.trailer))
	if !bytes.Equal(object[:footerAt], b.payloads) || trailerAt <= int(footerAt) {
		t.Errorf("footer at %d, trailer at %d of %d bytes", footerAt, trailerAt, len(object))
	}
	stored := goldenObject(t, object)
	_, footer, err := decode(stored)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(footer.Entries, b.entries) {
		t.Errorf("the golden object reads as %+v", footer.Entries)
	}
}

func TestAnyTrailerReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		epoch := rapid.Uint32Min(1).Draw(t, "epoch")
		first := rapid.Uint32Min(1).Draw(t, "first")
		ordinal := rapid.Uint64Range(1, math.MaxUint64-9).Draw(t, "ordinal")
		payload := rapid.Uint64Max(1<<40).Draw(t, "payload")
		trailer := eventlog.Trailer{
			LogID: eventlog.ID{1}, Writer: eventlog.ID{2}, Epoch: epoch, FirstOrdinal: ordinal, LastOrdinal: ordinal + rapid.Uint64Max(9).Draw(t, "more"),
			First: eventlog.MakeSeq(epoch, first), Last: eventlog.MakeSeq(epoch, rapid.Uint32Min(first).Draw(t, "last")),
			Events: rapid.Uint32Max(eventlog.MaxEvents).Draw(t, "events"), PayloadBytes: payload, FooterOffset: payload + 8,
			PayloadSum: rapid.Uint32().Draw(t, "sum"), FooterSum: rapid.Uint32().Draw(t, "footer sum"),
			FooterSize:    rapid.Uint64Range(1, eventlog.MaxFooter).Draw(t, "footer"),
			FooterRawSize: rapid.Uint64Range(1, eventlog.MaxFooter).Draw(t, "raw"),
			Flags:         rapid.Uint16Max(1).Draw(t, "flags"), ClosedAt: rapid.Int64().Draw(t, "closed at"),
		}
		raw := eventlog.AppendTrailer(nil, &trailer)
		if len(raw) != eventlog.TrailerSize {
			t.Fatalf("%d bytes", len(raw))
		}
		if got, err := eventlog.DecodeTrailer(raw); err != nil || *got != trailer {
			t.Errorf("reads back as %+v, %v", got, err)
		}
	})
}

func FuzzDecodeTrailer(f *testing.F) {
	object := newSmallest()
	f.Add(object[len(object)-eventlog.TrailerSize:], int64(len(object)))
	f.Add(make([]byte, eventlog.TrailerSize), int64(0))
	for _, b := range hostile.Blocks(hostile.Facts{Epoch: 1, Ordinal: 1, Next: 1<<32 + 1, Offset: 8}, 0) {
		f.Add(b.Bytes[max(0, len(b.Bytes)-eventlog.TrailerSize):], int64(len(b.Bytes)+8))
	}
	f.Fuzz(func(t *testing.T, raw []byte, size int64) {
		if len(raw) == eventlog.TrailerSize { // past the checksum
			binary.LittleEndian.PutUint32(raw[140:], eventlog.Checksum(raw[:140]))
		}
		trailer, err := eventlog.DecodeTrailer(raw)
		if err != nil {
			return
		}
		if again := eventlog.AppendTrailer(nil, trailer); !bytes.Equal(again, raw) {
			t.Errorf("%x is written as %x", raw, again)
		}
		if trailer.Check(size) == nil && trailer.FooterOffset+trailer.FooterSize > uint64(size) {
			t.Errorf("a footer outside of %d bytes: %+v", size, trailer)
		}
	})
}
