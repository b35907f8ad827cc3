// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"context"
	"errors"
	"hash/crc32"
	"iter"
)

// ChunkSize is how many payload bytes one checksum of a Placement covers; the
// last chunk of a payload may be shorter.
const ChunkSize = 64 << 10

// castagnoli is the polynomial of every CRC32C in Strandline.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum returns the CRC32C (Castagnoli) of p.
func Checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// UpdateChecksum returns the CRC32C of what crc covers followed by p.
func UpdateChecksum(crc uint32, p []byte) uint32 { return crc32.Update(crc, castagnoli, p) }

// Placement says where an event's payload lies. It is kept beside the event,
// never in it, so that cleaning can move a payload without touching history.
// The zero Placement is that of an event without a payload.
type Placement struct {
	Ordinal uint64 // of the generation, and of the object it becomes; from 1
	Offset  uint64 // of the payload's first byte in that file
	Length  uint64 // bytes
	Sums    []byte // CRC32C of each ChunkSize bytes, 4 bytes little-endian each; not owned, do not change
}

// Chunks returns how many checksums a payload of length bytes has.
func Chunks(length uint64) uint64 { return (length + ChunkSize - 1) / ChunkSize }

// Entry is an event as the log keeps it. Raw and everything decoded from it
// share memory; whoever keeps an Entry keeps them unchanged.
type Entry struct {
	Event     Event
	Raw       []byte // the event's wire form, byte for byte as it was committed
	Placement Placement
}

// Batch is a run of consecutive entries. Where history was cleaned, the
// ranges between and before the entries that are gone are stated, so that
// "cleaned" and "lost" are never confused.
type Batch struct {
	Entries []Entry
	Cleaned []Range // gone from the range that this batch covers, ascending
	Horizon Seq     // history below it is incomplete; 0: nothing was ever cleaned
}

// Last returns the seq of the last entry, 0 for a batch that has none.
func (b Batch) Last() Seq {
	if len(b.Entries) == 0 {
		return 0
	}
	return b.Entries[len(b.Entries)-1].Event.Seq
}

// History is an older part of a log than the WAL holds; the archive's reader
// is one.
type History interface {
	// Follow yields every event from seq from on, in order, in batches that
	// are never empty, up to the end it knew when it was called. An error is
	// yielded once, last. FirstSeq asks for everything.
	Follow(ctx context.Context, from Seq) iter.Seq2[Batch, error]
}

// ErrCleaned says that a reader asked for events from a seq below the horizon:
// it would never learn of deletes whose pairs are gone. It must start from
// FirstSeq.
var ErrCleaned = errors.New("events from that sequence number on were partly cleaned away: start from the first, 1.1")
