// SPDX-License-Identifier: Apache-2.0

// Package hostile makes the blocks that a client stores who means harm: bytes
// that look as if the server had written them. A client chooses what it stores
// and knows every public fact: the log's id, the ordinal of the open generation,
// the next seq, the time, and, when it is the only one, all that was stored
// before. So each block here is as good a forgery as can be.
//
// The bytes are made from docs/FORMAT.md, not with the code that they are to
// deceive. The package is for tests only.
package hostile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protowire"
)

// Facts are what a client knows when it makes its block.
type Facts struct {
	LogID, Writer [16]byte
	Epoch         uint32
	Ordinal       uint64  // of the open generation, in which the block will stand
	Next          uint64  // the seq that the block's event will have
	Entries       []Entry // of the open generation, those before the block
	Offset        uint64  // where the block will stand in the payload file
	Sum           uint32  // CRC32C of that file up to there
	Now           int64   // ns since 1970
}

// Entry is an event with the place of its payload.
type Entry struct {
	Seq            uint64
	Raw            []byte
	Offset, Length uint64
	Sums           []byte
}

// Block is a forgery and what it wants to be taken for.
type Block struct {
	Name  string
	Bytes []byte
}

// Blocks returns one block of each kind. Each begins with pad bytes that mean
// nothing: so many that no frame carries the block, or none.
func Blocks(f Facts, pad int) []Block {
	p := padded{Facts: f, pad: bytes.Repeat([]byte{0xA5}, pad)}
	p.Sum = crc32.Update(p.Sum, castagnoli, p.pad)
	p.Offset += uint64(pad)
	invented := slices.Concat(f.Entries, []Entry{f.invented(0), f.invented(1)})
	return []Block{
		p.block("a trailer of a later version", laterTrailer()),
		p.block("the end of an object with invented events", p.end(invented, 0, f.Now)),
		p.block("the end of an object that says the truth", p.end(f.Entries, 0, f.Now)),
		p.block("the end of an object that ends a server cleanly", p.end(f.Entries, 1, f.Now)),
		p.block("the end of an object from another time", p.end(f.Entries, 0, 1<<62)),
		p.block("the end of an object that lacks the last event", p.end(f.Entries[:max(0, len(f.Entries)-1)], 0, f.Now)),
		p.block("the end of an object whose footer is a bomb", p.bombEnd()),
		p.block("a bomb", bomb()),
		p.block("frames that know of later events", f.frames()),
		p.block("frames behind one that is too short", slices.Concat(bytes.Repeat([]byte{0}, 63), f.frames())),
		p.block("a frame of a later version", frame(9, 1, f.Next+1, f.Next+1000, nil, 0)),
		p.block("a whole segment", f.segment()),
		p.block("a whole object", p.object(invented)),
		p.block("the end of an index object", f.indexEnd()),
		p.block("an event", f.invented(0).Raw),
		p.block("a claim", f.claim()),
		p.block("the manifest of an archive", fmt.Appendf(nil, "{\n  \"log_id\": %q,\n  \"format\": 2\n}\n", uuid(f.LogID))),
		p.block("the manifest of a checkpoint", fmt.Appendf(nil, `{"manifest":{"version":2,"log_id":%q,"epoch":%d,"seq":%d}}`+"\n", uuid(f.LogID), f.Epoch, f.Next)),
		p.block("the object's magic", []byte("SLOBJ1\r\n")),
	}
}

// Any returns one of Blocks.
func Any(random *rand.Rand, f Facts) Block {
	blocks := Blocks(f, random.IntN(2)*(16<<10+1))
	return blocks[random.IntN(len(blocks))]
}

type padded struct {
	Facts // of what stands behind pad
	pad   []byte
}

func (p *padded) block(name string, b []byte) Block {
	return Block{Name: fmt.Sprintf("%s behind %d bytes", name, len(p.pad)), Bytes: slices.Concat(p.pad, b)}
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	le         = binary.LittleEndian
)

func sum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// laterTrailer is 144 bytes that a later version may have written.
func laterTrailer() []byte {
	b := append([]byte("SLTRL1\r\n"), 2, 0, 0, 0, 1, 0, 0, 0)
	b = append(b, bytes.Repeat([]byte{1}, 16)...)
	b = append(append(b, bytes.Repeat([]byte{2}, 16)...), make([]byte, 92)...)
	return le.AppendUint32(b, sum(b))
}

// end is footer and trailer of an object that holds entries, and all payload
// bytes up to here.
func (p *padded) end(entries []Entry, flags uint16, closed int64) []byte {
	return p.endWith(entries, footer(entries), footerSize(entries), flags, closed)
}

// bombEnd is an end whose footer has the size that it should have only as long as
// nobody decompresses it.
func (p *padded) bombEnd() []byte {
	return p.endWith(p.Entries, bomb(), footerSize(p.Entries), 0, p.Now)
}

func (p *padded) endWith(entries []Entry, stored []byte, raw int, flags uint16, closed int64) []byte {
	if len(entries) == 0 {
		entries = []Entry{p.invented(0)}
	}
	b := slices.Clone(stored)
	at := len(b)
	b = append(b, "SLTRL1\r\n"...)
	b = le.AppendUint16(le.AppendUint16(b, 1), flags)
	b = le.AppendUint32(b, p.Epoch)
	b = append(append(b, p.LogID[:]...), p.Writer[:]...)
	b = le.AppendUint64(le.AppendUint64(b, p.Ordinal), p.Ordinal)
	b = le.AppendUint64(le.AppendUint64(b, entries[0].Seq), entries[len(entries)-1].Seq)
	b = le.AppendUint32(le.AppendUint32(b, uint32(len(entries))), p.Sum)
	b = le.AppendUint64(le.AppendUint64(b, p.Offset-8), p.Offset)
	b = le.AppendUint64(le.AppendUint64(b, uint64(len(stored))), uint64(raw))
	b = le.AppendUint64(le.AppendUint32(b, sum(stored)), uint64(closed))
	b = le.AppendUint64(b, 0)
	return le.AppendUint32(b, sum(b[at:]))
}

func footerSize(entries []Entry) int {
	size := 24
	for _, e := range entries {
		size += 20 + len(e.Raw) + len(e.Sums)
	}
	return size
}

func footer(entries []Entry) []byte {
	b := le.AppendUint32([]byte("SLFT"), uint32(len(entries)))
	b = append(b, make([]byte, 16)...)
	for _, e := range entries {
		b = le.AppendUint32(b, uint32(len(e.Raw)))
		b = le.AppendUint64(le.AppendUint64(b, e.Offset), e.Length)
		b = append(append(b, e.Raw...), e.Sums...)
	}
	return encoder().EncodeAll(b, nil)
}

var encoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err) // wrong options
	}
	return e
})

// bomb is a zstd frame of a few KiB that becomes more than any footer may have.
var bomb = sync.OnceValue(func() []byte { return encoder().EncodeAll(make([]byte, 65<<20), nil) })

// invented is an account that nobody opened, the n-th event from Next on.
func (f *Facts) invented(n uint64) Entry {
	seq := f.Next + n
	raw := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), seq)
	raw = protowire.AppendFixed64(protowire.AppendTag(raw, 2, protowire.Fixed64Type), uint64(f.Now))
	raw = protowire.AppendVarint(protowire.AppendTag(raw, 3, protowire.VarintType), 3)
	raw = protowire.AppendVarint(protowire.AppendTag(raw, 4, protowire.VarintType), seq)
	raw = protowire.AppendString(protowire.AppendTag(raw, 7, protowire.BytesType), "operator")
	raw = protowire.AppendString(protowire.AppendTag(raw, 8, protowire.BytesType), "mallory")
	return Entry{Seq: seq, Raw: raw}
}

// frame is one of a segment. Versions 1 and 2 have a header of 48 bytes, later
// ones 8 bytes more, of which a client does not know what stands there.
func frame(version, flags byte, seq, durable uint64, body []byte, extra int) []byte {
	b := append([]byte("SLfr"), version, flags, 0, 0)
	b = le.AppendUint64(le.AppendUint64(b, seq), durable)
	b = append(b, make([]byte, 16)...)
	b = le.AppendUint32(b, uint32(len(body)))
	b = le.AppendUint32(b, uint32(48+extra+len(body)+4))
	b = append(append(b, make([]byte, extra)...), body...)
	return le.AppendUint32(b, sum(b))
}

func entry(frame []byte) []byte {
	return append(binary.AppendUvarint(nil, uint64(len(frame))), frame...)
}

// frames are those of events and seals that know of much later events.
func (f *Facts) frames() []byte {
	const far = 1 << 20
	var b []byte
	for n := range uint64(8) {
		e := f.invented(n)
		b = append(b, entry(frame(1, 1, e.Seq, f.Next+far, e.Raw, 0))...)
		b = append(b, entry(frame(3, 1, e.Seq, f.Next+far, e.Raw, 8))...)
		b = append(b, entry(frame(1, 2, f.Next+far, f.Next+far, nil, 0))...)
		b = append(b, entry(frame(3, 2, f.Next+far, f.Next+far, nil, 8))...)
	}
	return b
}

// segment is a whole one: head, events, seal.
func (f *Facts) segment() []byte {
	head := slices.Concat(f.LogID[:], f.Writer[:])
	head = le.AppendUint64(le.AppendUint32(head, f.Epoch), f.Ordinal)
	return slices.Concat(entry(frame(1, 4, f.Next, f.Next-1, head, 0)), f.frames())
}

// object is a whole one: what it holds begins where it begins.
func (p *padded) object(entries []Entry) []byte {
	alone := padded{Facts: p.Facts}
	alone.Offset, alone.Sum = 8, sum([]byte("SLOBJ1\r\n"))
	return slices.Concat([]byte("SLOBJ1\r\n"), alone.end(entries, 1, p.Now))
}

func (f *Facts) indexEnd() []byte {
	b := append([]byte("SLIXE1\r\n"), 1, 0, 0, 0, 0, 1, 0, 0)
	b = append(b, f.LogID[:]...)
	b = le.AppendUint64(le.AppendUint64(b, 1), 256)
	b = append(le.AppendUint64(b, 8), make([]byte, 20)...)
	return le.AppendUint32(b, sum(b))
}

func (f *Facts) claim() []byte {
	return fmt.Appendf(nil, "{\n  \"log_id\": %q,\n  \"epoch\": %d,\n  \"writer\": %q,\n  \"host\": \"mallory\",\n  \"cause\": \"take-over\"\n}\n",
		uuid(f.LogID), f.Epoch+1, uuid(f.Writer))
}

func uuid(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
