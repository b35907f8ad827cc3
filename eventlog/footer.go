// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"encoding/binary"
	"fmt"
	"slices"
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
	size := footerHeadSize + len(cleaned)*rangeSize
	for i := range entries {
		size += FooterEntrySize(&entries[i])
	}
	b = append(slices.Grow(b, size), footerMagic...)
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
	p, err := OpenFooter(t, compressed)
	if err != nil {
		return nil, err
	}
	return p.Decode()
}

// Decode decodes all entries at once.
func (p *Packed) Decode() (*Footer, error) {
	footer := &Footer{Entries: make([]Entry, p.count), Cleaned: p.Cleaned, Horizon: p.Horizon}
	r := p.reader()
	for i := range footer.Entries {
		if err := r.next(&footer.Entries[i]); err != nil {
			return nil, err
		}
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	return footer, nil
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
