// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Limits of an object's metadata; a decoder refuses what is over them before
// it allocates anything. Whoever fills an object keeps below them with
// FooterEntrySize.
const (
	MaxEvents = 65536    // events in one object
	MaxFooter = 64 << 20 // bytes of a footer, as stored and decompressed
)

// Footer says what an object holds. Decompressed, all integers little-endian:
//
//	 0 magic "SLFT"
//	 4 entries          u32
//	 8 cleaned ranges   u32
//	12 zero             u32
//	16 horizon          u64
//	24 cleaned ranges   each first u64, last u64
//	   entries          each event size u32, payload offset u64, payload length u64,
//	                    event bytes, CRC32C u32 of each 64 KiB of the payload
//
// Entries and cleaned ranges together cover every seq that the trailer says,
// in order, each once. Payloads lie between the object's magic and its footer,
// in the order of their events, and do not overlap. Length and offset are 0
// for an entry without a payload here.
type Footer struct {
	Entries []Entry
	Cleaned []Range // seqs gone from the covered range, ascending, each within one epoch
	Horizon Seq     // history below it is incomplete; 0: nothing was ever cleaned
}

const (
	footerMagic     = "SLFT"
	footerHeadSize  = 24
	rangeSize       = 16
	entryHeadSize   = 20
	footerSumSize   = 4
	footerFirstByte = uint64(len(ObjectMagic)) // where payloads begin
)

// FooterEntrySize returns how many bytes of a footer e takes, decompressed.
// The bytes of all entries, with FooterOverhead, stay within MaxFooter.
func FooterEntrySize(e *Entry) int { return entryHeadSize + len(e.Raw) + len(e.Placement.Sums) }

// FooterOverhead is what a footer without cleaned ranges takes besides its
// entries, with room for the compressor to find nothing to compress.
const FooterOverhead = footerHeadSize + MaxFooter/128

// AppendFooter appends the uncompressed footer to b. An entry contributes its
// Raw bytes and its Placement; nothing is checked here.
func AppendFooter(b []byte, entries []Entry, cleaned []Range, horizon Seq) []byte {
	le := binary.LittleEndian
	b = append(b, footerMagic...)
	b = le.AppendUint32(b, uint32(len(entries)))
	b = le.AppendUint32(b, uint32(len(cleaned)))
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, uint64(horizon))
	for _, r := range cleaned {
		b = le.AppendUint64(b, uint64(r.First))
		b = le.AppendUint64(b, uint64(r.Last))
	}
	for i := range entries {
		e := &entries[i]
		b = le.AppendUint32(b, uint32(len(e.Raw)))
		b = le.AppendUint64(b, footerOffset(&e.Placement))
		b = le.AppendUint64(b, e.Placement.Length)
		b = append(b, e.Raw...)
		b = append(b, e.Placement.Sums...)
	}
	return b
}

// footerOffset is 0 for an empty payload, wherever the payload file stood.
func footerOffset(p *Placement) uint64 {
	if p.Length == 0 {
		return 0
	}
	return p.Offset
}

// The codecs are made on first use and kept: each holds some MiB of tables.
var (
	footerEncoder = sync.OnceValue(func() *zstd.Encoder {
		encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
		if err != nil {
			panic(fmt.Sprintf("eventlog: zstd encoder: %v", err)) // wrong options, never data
		}
		return encoder
	})
	footerDecoder = sync.OnceValue(func() *zstd.Decoder {
		decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxFooter))
		if err != nil {
			panic(fmt.Sprintf("eventlog: zstd decoder: %v", err)) // wrong options, never data
		}
		return decoder
	})
)

// CompressFooter returns what AppendFooter made as an object stores it. It may
// be called from several goroutines, one after the other is served.
func CompressFooter(raw []byte) []byte {
	return footerEncoder().EncodeAll(raw, nil)
}

// DecodeFooter reads the footer that t describes from its stored bytes. Every
// length, range and order is checked against t; the entries' placements carry
// t's first ordinal. The result shares memory with nothing the caller has; its
// entries share one buffer among them.
func DecodeFooter(t *Trailer, compressed []byte) (*Footer, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	raw, err := decompressFooter(t, compressed)
	if err != nil {
		return nil, err
	}
	counts, err := readFooterHead(t, raw)
	if err != nil {
		return nil, err
	}
	footer := &Footer{Horizon: Seq(binary.LittleEndian.Uint64(raw[16:]))}
	rest := raw[footerHeadSize:]
	for range counts.cleaned {
		footer.Cleaned = append(footer.Cleaned, Range{
			First: Seq(binary.LittleEndian.Uint64(rest)), Last: Seq(binary.LittleEndian.Uint64(rest[8:])),
		})
		rest = rest[rangeSize:]
	}
	if footer.Entries, err = readEntries(t, rest, counts.entries); err != nil {
		return nil, err
	}
	return footer, footer.checkCover(t)
}

func decompressFooter(t *Trailer, compressed []byte) ([]byte, error) {
	if uint64(len(compressed)) != t.FooterSize {
		return nil, t.damaged("%d bytes of footer, want %d", len(compressed), t.FooterSize)
	}
	if sum := Checksum(compressed); sum != t.FooterSum {
		return nil, t.damaged("the footer's checksum is %08x, the trailer says %08x", sum, t.FooterSum)
	}
	raw, err := footerDecoder().DecodeAll(compressed, make([]byte, 0, t.FooterRawSize))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", t.damaged("the footer does not decompress"), err)
	}
	if uint64(len(raw)) != t.FooterRawSize {
		return nil, t.damaged("the footer decompresses to %d bytes, want %d", len(raw), t.FooterRawSize)
	}
	return raw, nil
}

type footerCounts struct{ entries, cleaned uint32 }

// readFooterHead checks the head and that raw can hold what it counts, so
// that nothing is allocated for a lie.
func readFooterHead(t *Trailer, raw []byte) (footerCounts, error) {
	if len(raw) < footerHeadSize || string(raw[:4]) != footerMagic {
		return footerCounts{}, t.damaged("no footer where the trailer says")
	}
	le := binary.LittleEndian
	counts := footerCounts{entries: le.Uint32(raw[4:]), cleaned: le.Uint32(raw[8:])}
	if reserved := le.Uint32(raw[12:]); reserved != 0 {
		return counts, t.damaged("reserved bytes of the footer are %08x", reserved)
	}
	if counts.entries != t.Events {
		return counts, t.damaged("%d entries in the footer, %d in the trailer", counts.entries, t.Events)
	}
	need := uint64(counts.cleaned)*rangeSize + uint64(counts.entries)*entryHeadSize
	if have := uint64(len(raw) - footerHeadSize); need > have {
		return counts, t.damaged("a footer of %d bytes for %d entries and %d ranges", have, counts.entries, counts.cleaned)
	}
	if horizon := Seq(le.Uint64(raw[16:])); horizon != 0 && !horizon.Valid() {
		return counts, t.damaged("a horizon of %v", horizon)
	}
	return counts, nil
}

// readEntries reads count entries, which must use up rest.
func readEntries(t *Trailer, rest []byte, count uint32) ([]Entry, error) {
	entries := make([]Entry, count)
	free := footerFirstByte // payloads before it belong to earlier entries
	for i := range entries {
		e := &entries[i]
		if i > 0 {
			e.Event.Actor = entries[i-1].Event.Actor // decoding reuses it when it is the same
		}
		size, err := readEntry(t, rest, e)
		if err != nil {
			return nil, fmt.Errorf("%w: entry %d", err, i)
		}
		rest = rest[size:]
		if p := &e.Placement; p.Length > 0 {
			if p.Offset < free || p.Offset > t.FooterOffset || p.Length > t.FooterOffset-p.Offset {
				return nil, t.damaged("payload of %v at %d+%d, want it within %d to %d",
					e.Event.Seq, p.Offset, p.Length, free, t.FooterOffset)
			}
			free = p.Offset + p.Length
		}
	}
	if len(rest) > 0 {
		return nil, t.damaged("%d bytes after the last entry of the footer", len(rest))
	}
	return entries, nil
}

// readEntry reads one entry from the start of b and returns its size there.
func readEntry(t *Trailer, b []byte, e *Entry) (int, error) {
	if len(b) < entryHeadSize {
		return 0, t.damaged("the footer ends within an entry")
	}
	le := binary.LittleEndian
	eventSize := uint64(le.Uint32(b))
	p := Placement{Ordinal: t.FirstOrdinal, Offset: le.Uint64(b[4:]), Length: le.Uint64(b[12:])}
	if eventSize == 0 || eventSize > MaxEvent || p.Length > t.PayloadBytes || p.Length == 0 && p.Offset != 0 {
		return 0, t.damaged("an event of %d bytes with a payload at %d+%d", eventSize, p.Offset, p.Length)
	}
	size := entryHeadSize + eventSize + Chunks(p.Length)*footerSumSize
	if size > uint64(len(b)) {
		return 0, t.damaged("the footer ends within an entry")
	}
	e.Raw = b[entryHeadSize : entryHeadSize+eventSize : entryHeadSize+eventSize]
	if err := e.Event.decode(e.Raw); err != nil {
		return 0, fmt.Errorf("%w: %w", t.damaged("an event does not decode"), err)
	}
	if p.Length > 0 {
		p.Sums = b[entryHeadSize+eventSize : size : size]
		if p.Length != e.Event.Length {
			return 0, t.damaged("a payload of %d bytes for %v, whose event says %d", p.Length, e.Event.Seq, e.Event.Length)
		}
	} else {
		p = Placement{}
	}
	e.Placement = p
	return int(size), nil
}

// checkCover checks that entries and cleaned ranges together are exactly the
// seqs that t covers: nothing missing, nothing twice, in order.
func (f *Footer) checkCover(t *Trailer) error {
	var prev Seq
	cleaned := f.Cleaned
	step := func(first, last Seq) error {
		switch {
		case prev == 0 && first != t.First, prev != 0 && !first.Follows(prev):
			return t.damaged("%v stands after %v: events are missing or out of order", first, prev)
		case !first.Valid() || last < first || last.Epoch() != first.Epoch():
			return t.damaged("a range %v", Range{first, last})
		}
		prev = last
		return nil
	}
	for i := range f.Entries {
		seq := f.Entries[i].Event.Seq
		for len(cleaned) > 0 && cleaned[0].First < seq {
			if err := step(cleaned[0].First, cleaned[0].Last); err != nil {
				return err
			}
			cleaned = cleaned[1:]
		}
		if err := step(seq, seq); err != nil {
			return err
		}
	}
	for _, r := range cleaned {
		if err := step(r.First, r.Last); err != nil {
			return err
		}
	}
	if prev != t.Last {
		return t.damaged("its events end at %v", prev)
	}
	return nil
}
