// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// An object is what a closed generation's payload file is, and what the
// archive keeps. All integers are little-endian:
//
//	0               magic       8 bytes, ObjectMagic
//	8               payloads    in the order of their events
//	FooterOffset    footer      FooterSize bytes, zstd; see Footer
//	size - 144      trailer     TrailerSize bytes; see Trailer
//
// The metadata stands last, so that the payload file of a generation becomes
// the object by appending. Three checksums cover every byte: the trailer's own,
// FooterSum over the footer as stored, PayloadSum over all before the footer.
const (
	// ObjectMagic is how every object, and every payload file, begins.
	ObjectMagic = "SLOBJ1\r\n"
	// ObjectVersion is the version of the object format that this build writes
	// and the only one that it reads.
	ObjectVersion = 1
	// TrailerSize is the length of a trailer in bytes.
	TrailerSize = 144

	trailerMagic = "SLTRL1\r\n"
)

// FlagCleanEnd marks the last object of a server that stopped on purpose and
// had shipped everything: whoever takes over has lost nothing.
const FlagCleanEnd uint16 = 1 << 0

const knownFlags = FlagCleanEnd

// What a decoder of objects can say for certain; every error of DecodeTrailer,
// Trailer.Check and DecodeFooter is one of the two.
var (
	ErrObjectDamaged = errors.New("damaged object")
	ErrObjectVersion = errors.New("object of a format version that this build does not read")
)

// Trailer describes an object: whose it is, what it covers, where its footer
// lies. The zero Trailer is invalid.
//
//	 0 magic "SLTRL1\r\n"    48 first ordinal   u64    96 footer offset    u64
//	 8 version       u16     56 last ordinal    u64   104 footer size      u64
//	10 flags         u16     64 first seq       u64   112 footer raw size  u64
//	12 epoch         u32     72 last seq        u64   120 footer sum       u32
//	16 log id   16 bytes     80 events          u32   124 closed at        i64
//	32 writer   16 bytes     84 payload sum     u32   132 zero         8 bytes
//	                         88 payload bytes   u64   140 CRC32C of 0..139 u32
type Trailer struct {
	LogID                     ID
	Epoch                     uint32 // of the server that closed the object; not below any event's epoch
	Writer                    ID     // of that server's claim
	FirstOrdinal, LastOrdinal uint64 // equal unless cleaned
	First, Last               Seq    // the seqs covered, cleaned ones included
	Events                    uint32 // entries in the footer
	PayloadBytes              uint64 // between magic and footer
	PayloadSum                uint32 // CRC32C of the bytes [0, FooterOffset): magic and payloads
	FooterOffset              uint64
	FooterSize, FooterRawSize uint64 // as stored; decompressed
	FooterSum                 uint32 // CRC32C of the footer as stored
	Flags                     uint16
	ClosedAt                  int64 // ns since 1970 UTC by the server's clock; data, never an order
}

// CleanEnd reports whether the server that closed the object ended cleanly
// with it.
func (t *Trailer) CleanEnd() bool { return t.Flags&FlagCleanEnd != 0 }

// AppendTrailer appends the TrailerSize bytes of t to b. It does not check t;
// DecodeTrailer and Check refuse what is wrong.
func AppendTrailer(b []byte, t *Trailer) []byte {
	start := len(b)
	le := binary.LittleEndian
	b = append(b, trailerMagic...)
	b = le.AppendUint16(b, ObjectVersion)
	b = le.AppendUint16(b, t.Flags)
	b = le.AppendUint32(b, t.Epoch)
	b = append(b, t.LogID[:]...)
	b = append(b, t.Writer[:]...)
	b = le.AppendUint64(b, t.FirstOrdinal)
	b = le.AppendUint64(b, t.LastOrdinal)
	b = le.AppendUint64(b, uint64(t.First))
	b = le.AppendUint64(b, uint64(t.Last))
	b = le.AppendUint32(b, t.Events)
	b = le.AppendUint32(b, t.PayloadSum)
	b = le.AppendUint64(b, t.PayloadBytes)
	b = le.AppendUint64(b, t.FooterOffset)
	b = le.AppendUint64(b, t.FooterSize)
	b = le.AppendUint64(b, t.FooterRawSize)
	b = le.AppendUint32(b, t.FooterSum)
	b = le.AppendUint64(b, uint64(t.ClosedAt))
	b = le.AppendUint64(b, 0)
	return le.AppendUint32(b, Checksum(b[start:]))
}

// AppendMetadata appends to b what turns magic and payloads into an object:
// footer and trailer. The caller has set in t whose the object is, what it
// covers, PayloadBytes, PayloadSum, Flags and ClosedAt; the counts, lengths
// and checksums of the footer are filled in here.
func AppendMetadata(b []byte, t *Trailer, entries []Entry, cleaned []Range, horizon Seq) []byte {
	raw := AppendFooter(nil, entries, cleaned, horizon)
	footer := CompressFooter(raw)
	t.Events = uint32(len(entries))
	t.FooterOffset = uint64(len(ObjectMagic)) + t.PayloadBytes
	t.FooterSize, t.FooterRawSize = uint64(len(footer)), uint64(len(raw))
	t.FooterSum = Checksum(footer)
	return AppendTrailer(append(b, footer...), t)
}

// DecodeTrailer reads a trailer from b, which is exactly the last TrailerSize
// bytes of an object. It checks all that can be known without the object's
// size; Check does the rest.
func DecodeTrailer(b []byte) (*Trailer, error) {
	if len(b) != TrailerSize {
		return nil, fmt.Errorf("%w: a trailer of %d bytes, want %d", ErrObjectDamaged, len(b), TrailerSize)
	}
	if string(b[:len(trailerMagic)]) != trailerMagic {
		return nil, fmt.Errorf("%w: it does not end with a trailer", ErrObjectDamaged)
	}
	le := binary.LittleEndian
	if sum := le.Uint32(b[140:]); sum != Checksum(b[:140]) {
		return nil, fmt.Errorf("%w: the trailer's checksum is %08x, it says %08x", ErrObjectDamaged, Checksum(b[:140]), sum)
	}
	if version := le.Uint16(b[8:]); version != ObjectVersion {
		return nil, fmt.Errorf("%w: version %d, this build reads %d: use a newer strandline", ErrObjectVersion, version, ObjectVersion)
	}
	if flags := le.Uint16(b[10:]); flags&^knownFlags != 0 || le.Uint64(b[132:]) != 0 {
		return nil, fmt.Errorf("%w: flags %04x or reserved bytes that this build does not know: use a newer strandline", ErrObjectVersion, flags)
	}
	t := parseTrailer(b)
	return t, t.check()
}

// parseTrailer takes the fields out of b, which has been checked.
func parseTrailer(b []byte) *Trailer {
	le := binary.LittleEndian
	return &Trailer{
		Flags: le.Uint16(b[10:]), Epoch: le.Uint32(b[12:]),
		LogID: ID(b[16:32]), Writer: ID(b[32:48]),
		FirstOrdinal: le.Uint64(b[48:]), LastOrdinal: le.Uint64(b[56:]),
		First: Seq(le.Uint64(b[64:])), Last: Seq(le.Uint64(b[72:])),
		Events: le.Uint32(b[80:]), PayloadSum: le.Uint32(b[84:]), PayloadBytes: le.Uint64(b[88:]),
		FooterOffset: le.Uint64(b[96:]), FooterSize: le.Uint64(b[104:]), FooterRawSize: le.Uint64(b[112:]),
		FooterSum: le.Uint32(b[120:]), ClosedAt: int64(le.Uint64(b[124:])),
	}
}

// Check reports whether t can be the trailer of an object of size bytes: every
// offset and count fits, without overflow, and none is over its limit.
func (t *Trailer) Check(size int64) error {
	if err := t.check(); err != nil {
		return err
	}
	// No sum overflows: check bounds each of them.
	if want := t.FooterOffset + t.FooterSize + TrailerSize; size < 0 || uint64(size) != want {
		return t.damaged("it is %d bytes long, its trailer says %d", size, want)
	}
	return nil
}

// maxObject bounds offsets so that sums of a few of them cannot overflow: far
// above what any store takes as one object (5 TiB).
const maxObject = 1 << 50

func (t *Trailer) check() error {
	switch {
	case t.LogID == ID{} || t.Writer == ID{}:
		return t.damaged("no log or no writer named")
	case t.FirstOrdinal == 0 || t.LastOrdinal < t.FirstOrdinal:
		return t.damaged("ordinals %d to %d", t.FirstOrdinal, t.LastOrdinal)
	case !t.First.Valid() || !t.Last.Valid() || t.Last < t.First:
		return t.damaged("covers %v to %v", t.First, t.Last)
	case t.Epoch < t.Last.Epoch():
		return t.damaged("events up to %v closed by a server of epoch %d", t.Last, t.Epoch)
	case t.Events > MaxEvents:
		return t.damaged("%d events, more than %d", t.Events, MaxEvents)
	case t.PayloadBytes > maxObject || t.FooterOffset != uint64(len(ObjectMagic))+t.PayloadBytes:
		return t.damaged("%d payload bytes, but the footer at %d", t.PayloadBytes, t.FooterOffset)
	case t.FooterSize == 0 || t.FooterSize > MaxFooter || t.FooterRawSize == 0 || t.FooterRawSize > MaxFooter:
		return t.damaged("a footer of %d bytes (%d decompressed), the limit is %d", t.FooterSize, t.FooterRawSize, MaxFooter)
	}
	return nil
}

// damaged returns an error that says which object it is about.
func (t *Trailer) damaged(format string, args ...any) error {
	return fmt.Errorf("%w: ordinal %d (%v to %v): "+format,
		append([]any{ErrObjectDamaged, t.FirstOrdinal, t.First, t.Last}, args...)...)
}
