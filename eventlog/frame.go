// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A frame is one entry of a generation's tidwall/wal log: an event with the
// place of its payload, and enough around it to tell a torn tail from damage.
// All numbers are little-endian:
//
//	0   4  magic "SLfr"
//	4   1  version, 3; 4 when the frame carries its payload; 1 and 2: no secret
//	5   1  flags: exactly one of event 1, seal 2, head 4
//	6   2  zero
//	8   8  seq (event: its own; seal: of the last event; head: of the first)
//	16  8  durable_seq: the highest seq known durable when this was written
//	24  8  payload offset in the generation's payload file
//	32  8  payload length
//	40  4  length of the body: event bytes, or the head's record
//	44  4  length of the whole frame
//	48  8  the generation's secret, in versions 3 and 4
//	    n  body
//	    m  CRC32C of each 64 KiB of the payload, 4 bytes each
//	    p  versions 2 and 4: the payload
//	    4  CRC32C of everything before
//
// A small payload is carried, so that it is durable with its frame and its
// commit does not wait until the payload file is synced; it stands there too.
//
// Zero bytes never parse (magic), merged or split entries never parse (the
// frame's length must be the entry's), and a frame of another place never
// fits (seq).
//
// The secret is random, of one generation, and the same in all of its frames. It
// leaves the WAL nowhere. So bytes that a client stored, which lie within frames,
// are never taken for a frame, wherever a reader looks for one.
const (
	frameMagic   = "SLfr"
	frameVersion = 1
	frameCarries = 2 // the version of frames that carry their payload
	frameSecret  = 2 // by which the version of a frame with a secret is higher
	frameHeader  = 48
	secretSize   = 8 // behind the header, in a frame that has one
	frameTrailer = 4

	frameEvent = 1
	frameSeal  = 2
	frameHead  = 4

	// maxCarried is the largest payload that a frame carries: a frame's bytes stay
	// in memory while its generation is open.
	maxCarried = 16 << 10

	// MaxPayload bounds one block's bytes, and with them the checksums that a
	// frame carries.
	MaxPayload = 4 << 30

	maxFrame = frameHeader + secretSize + MaxEvent + MaxPayload/ChunkSize*4 + frameTrailer
)

var errFrame = errors.New("not a frame")

// errFrameVersion says that a frame is whole and that a newer build wrote it:
// nothing that a crash leaves, and nothing to cut off.
var errFrameVersion = errors.New("a frame of a format version that this build does not read: use a newer strandline")

type frame struct {
	flags   byte
	seq     Seq
	durable Seq
	offset  uint64
	length  uint64
	secret  uint64 // 0: it has none
	body    []byte
	sums    []byte
	payload []byte // when the frame carries it
}

func (f *frame) size() int {
	return f.header() + len(f.body) + len(f.sums) + len(f.payload) + frameTrailer
}

func (f *frame) header() int {
	if f.secret != 0 {
		return frameHeader + secretSize
	}
	return frameHeader
}

func (f *frame) version() byte {
	version := byte(frameVersion)
	if len(f.payload) > 0 {
		version = frameCarries
	}
	if f.secret != 0 {
		version += frameSecret
	}
	return version
}

func appendFrame(b []byte, f *frame) []byte {
	start := len(b)
	b = append(b, frameMagic...)
	b = append(b, f.version(), f.flags, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(f.seq))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.durable))
	b = binary.LittleEndian.AppendUint64(b, f.offset)
	b = binary.LittleEndian.AppendUint64(b, f.length)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.body)))
	b = binary.LittleEndian.AppendUint32(b, uint32(f.size()))
	if f.secret != 0 {
		b = binary.LittleEndian.AppendUint64(b, f.secret)
	}
	b = append(b, f.body...)
	b = append(b, f.sums...)
	b = append(b, f.payload...)
	return binary.LittleEndian.AppendUint32(b, Checksum(b[start:]))
}

// decodeFrame reads the frame that is exactly b; body, sums and payload share
// its memory.
func decodeFrame(b []byte) (frame, error) {
	var f frame
	if len(b) < frameHeader+frameTrailer || len(b) > maxFrame {
		return f, fmt.Errorf("%w: %d bytes", errFrame, len(b))
	}
	if string(b[:4]) != frameMagic {
		return f, fmt.Errorf("%w: magic %x", errFrame, b[:4])
	}
	sum := binary.LittleEndian.Uint32(b[len(b)-frameTrailer:])
	if got := Checksum(b[:len(b)-frameTrailer]); got != sum {
		return f, fmt.Errorf("%w: CRC32C %08x, stated %08x", errFrame, got, sum)
	}
	if b[4] < frameVersion || b[4] > frameCarries+frameSecret {
		return f, fmt.Errorf("%w: version %d, this build reads %d to %d", errFrameVersion, b[4], frameVersion, frameCarries+frameSecret)
	}
	f = frame{
		flags: b[5], seq: Seq(binary.LittleEndian.Uint64(b[8:])), durable: Seq(binary.LittleEndian.Uint64(b[16:])),
		offset: binary.LittleEndian.Uint64(b[24:]), length: binary.LittleEndian.Uint64(b[32:]),
	}
	return f, f.decodeRest(b)
}

// decodeRest reads what follows the fields with fixed places.
func (f *frame) decodeRest(b []byte) error {
	body := uint64(binary.LittleEndian.Uint32(b[40:]))
	if f.length > MaxPayload || body > MaxEvent {
		return fmt.Errorf("%w: payload of %d and event of %d bytes, over the limits", errFrame, f.length, body)
	}
	version, rest := b[4], b[frameHeader:len(b)-frameTrailer]
	if version > frameSecret {
		version -= frameSecret
		if len(rest) < secretSize || binary.LittleEndian.Uint64(rest) == 0 {
			return fmt.Errorf("%w: no secret", errFrame)
		}
		f.secret, rest = binary.LittleEndian.Uint64(rest), rest[secretSize:]
	}
	sums := 4 * Chunks(f.length)
	want := body + sums
	if version == frameCarries {
		if f.length == 0 || f.length > maxCarried {
			return fmt.Errorf("%w: it carries a payload of %d bytes", errFrame, f.length)
		}
		want += f.length
	}
	if uint64(len(rest)) != want || uint64(binary.LittleEndian.Uint32(b[44:])) != uint64(len(b)) {
		return fmt.Errorf("%w: %d bytes, its fields make %d", errFrame, len(b), uint64(f.header())+want+frameTrailer)
	}
	f.body = rest[:body:body]
	f.sums = rest[body:][:sums:sums]
	if version == frameCarries {
		f.payload = rest[body+sums:][:f.length:f.length]
	}
	return f.check(b)
}

func (f *frame) check(b []byte) error {
	switch {
	case b[6] != 0 || b[7] != 0:
		return fmt.Errorf("%w: reserved bytes %x", errFrame, b[6:8])
	case f.flags != frameEvent && f.flags != frameSeal && f.flags != frameHead:
		return fmt.Errorf("%w: flags %02x", errFrame, f.flags)
	case !f.seq.Valid():
		return fmt.Errorf("%w: seq %s", errFrame, f.seq)
	case f.flags != frameEvent && len(f.payload) > 0:
		return fmt.Errorf("%w: a payload is carried with flags %02x", errFrame, f.flags)
	case f.flags == frameSeal && (len(f.body) > 0 || f.length > 0):
		return fmt.Errorf("%w: a seal with content", errFrame)
	case f.flags == frameHead && len(f.body) != headSize:
		return fmt.Errorf("%w: a head of %d bytes", errFrame, len(f.body))
	}
	return nil
}

// Head says whose generation it is; the first frame of every generation
// carries it, and its object's trailer repeats it.
type Head struct {
	LogID   ID
	Writer  ID     // random id of the claim under which the events were issued
	Epoch   uint32 // of the events
	Ordinal uint64
}

const headSize = 16 + 16 + 4 + 8

func appendHead(b []byte, h *Head) []byte {
	b = append(b, h.LogID[:]...)
	b = append(b, h.Writer[:]...)
	b = binary.LittleEndian.AppendUint32(b, h.Epoch)
	return binary.LittleEndian.AppendUint64(b, h.Ordinal)
}

func decodeHead(b []byte) Head {
	var h Head
	copy(h.LogID[:], b)
	copy(h.Writer[:], b[16:])
	h.Epoch = binary.LittleEndian.Uint32(b[32:])
	h.Ordinal = binary.LittleEndian.Uint64(b[36:])
	return h
}
