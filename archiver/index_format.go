// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/strandline-project/strandline/eventlog"
)

// An index object holds the footers of a run's objects, so that a recovery
// reads one object instead of 256. All integers are little-endian:
//
//	0                  magic        8 bytes, indexMagic
//	8                  footers      of the run's objects in order, as stored there, without gaps
//	directory offset   directory    an entry for each object; see indexEntry
//	size - 80          end          indexEndSize bytes; see appendIndexEnd
//
// The directory stands last, so that one read of known length finds it, whatever the footers
// take, and they are then read in pieces. Every byte is covered: the magic is known, each footer
// has its sum in its object's trailer, the directory has one in the end, and
// the end has its own. An index object says nothing that the objects do not
// say; what does not match them, or itself, is not used.
const (
	indexMagic     = "SLIDX1\r\n"
	indexEndMagic  = "SLIXE1\r\n"
	indexVersion   = 1
	indexEntrySize = 160 // 16 and eventlog.TrailerSize
	indexEndSize   = 80
)

var _ [indexEntrySize]byte = [16 + eventlog.TrailerSize]byte{}

// ErrIndexUnusable says that an index object is damaged, or is not of the
// objects that the archive lists. It costs time, never events.
var ErrIndexUnusable = errors.New("unusable index object")

// indexEntry binds one object of a run: its key, its size, and by its trailer
// its footer's place, sizes and checksum.
//
//	 0 object size  u64
//	 8 revision     u16
//	10 zero         6 bytes
//	16 trailer      144 bytes, as stored in the object; it states the ordinals
type indexEntry struct {
	object  ObjectInfo
	trailer *eventlog.Trailer
	offset  int64 // of the footer in the index object
}

func appendIndexEntry(b []byte, object ObjectInfo, trailer *eventlog.Trailer) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, uint64(object.Size))
	b = le.AppendUint16(b, object.Revision)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return eventlog.AppendTrailer(b, trailer)
}

// appendIndexEnd appends the end of an index object.
//
//	 0 magic "SLIXE1\r\n"            40 last ordinal      u64
//	 8 version              u16      48 directory offset  u64
//	10 zero                 2 bytes  56 directory sum     u32, CRC32C
//	12 objects              u32      60 zero              16 bytes
//	16 log id               16 bytes 76 CRC32C of 0..75   u32
//	32 first ordinal        u64
func appendIndexEnd(b []byte, logID eventlog.ID, run uint64, offset int64, directory []byte) []byte {
	start, le := len(b), binary.LittleEndian
	first, last := IndexInfo{Run: run}.Ordinals()
	b = append(b, indexEndMagic...)
	b = le.AppendUint16(b, indexVersion)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, uint32(len(directory)/indexEntrySize))
	b = append(b, logID[:]...)
	b = le.AppendUint64(b, first)
	b = le.AppendUint64(b, last)
	b = le.AppendUint64(b, uint64(offset))
	b = le.AppendUint32(b, eventlog.Checksum(directory))
	b = append(b, make([]byte, 16)...)
	return le.AppendUint32(b, eventlog.Checksum(b[start:]))
}

// indexTailSize is what directory and end of a whole run of shipped objects
// take: exactly what is to be read first.
const indexTailSize = RunSize*indexEntrySize + indexEndSize

func unusable(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrIndexUnusable}, args...)...)
}

// decodeIndexTail reads directory and end of the index object info, which is
// info.Size bytes long, from its last indexTailSize bytes. It checks all that
// they can be checked for by themselves: identity, checksums, that the
// footers lie in the file as they are said to, and that ordinals and seqs tile.
func decodeIndexTail(logID eventlog.ID, info IndexInfo, tail []byte) ([]indexEntry, error) {
	if len(tail) != indexTailSize || info.Size < int64(len(indexMagic))+indexTailSize {
		return nil, unusable("%d bytes", info.Size)
	}
	directory, end := tail[:len(tail)-indexEndSize], tail[len(tail)-indexEndSize:]
	if err := checkIndexEnd(logID, info, end, directory); err != nil {
		return nil, err
	}
	entries := make([]indexEntry, 0, RunSize)
	offset := int64(len(indexMagic))
	for i := range RunSize {
		entry, err := decodeIndexEntry(logID, directory[i*indexEntrySize:][:indexEntrySize])
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		if want := (info.Run-1)*RunSize + 1 + uint64(i); entry.object.First != want || entry.object.Last != want {
			return nil, unusable("entry %d is of %v", i, entry.object)
		}
		if i > 0 && !entry.trailer.First.Follows(entries[i-1].trailer.Last) {
			return nil, unusable("%v begins with %v, the one before it ends with %v", entry.object, entry.trailer.First, entries[i-1].trailer.Last)
		}
		entry.offset = offset
		offset += int64(entry.trailer.FooterSize) // at most 256 times MaxFooter
		entries = append(entries, entry)
	}
	if want := info.Size - indexTailSize; offset != want {
		return nil, unusable("footers of %d bytes where there are %d", offset, want)
	}
	return entries, nil
}

func checkIndexEnd(logID eventlog.ID, info IndexInfo, end, directory []byte) error {
	le := binary.LittleEndian
	if sum := le.Uint32(end[indexEndSize-4:]); string(end[:8]) != indexEndMagic || sum != eventlog.Checksum(end[:indexEndSize-4]) {
		return unusable("its last bytes are not an index object's")
	}
	if version := le.Uint16(end[8:]); version != indexVersion {
		return unusable("version %d, this build reads %d", version, indexVersion)
	}
	first, last := info.Ordinals()
	switch {
	case eventlog.ID(end[16:32]) != logID:
		return unusable("of another log, %v", eventlog.ID(end[16:32]))
	case le.Uint64(end[32:]) != first || le.Uint64(end[40:]) != last:
		return unusable("it says that it is of ordinals %d to %d", le.Uint64(end[32:]), le.Uint64(end[40:]))
	case le.Uint32(end[12:]) != RunSize:
		return unusable("of %d objects, this build reads %d", le.Uint32(end[12:]), RunSize)
	case le.Uint64(end[48:]) != uint64(info.Size-indexTailSize):
		return unusable("its directory is to stand at %d of %d bytes", le.Uint64(end[48:]), info.Size)
	case le.Uint16(end[10:]) != 0 || le.Uint64(end[60:]) != 0 || le.Uint64(end[68:]) != 0:
		return unusable("reserved bytes are used")
	case le.Uint32(end[56:]) != eventlog.Checksum(directory):
		return unusable("the directory's checksum is %08x, it says %08x", eventlog.Checksum(directory), le.Uint32(end[56:]))
	}
	return nil
}

func decodeIndexEntry(logID eventlog.ID, b []byte) (indexEntry, error) {
	le := binary.LittleEndian
	size := le.Uint64(b)
	if size > 1<<62 || le.Uint16(b[10:]) != 0 || le.Uint32(b[12:]) != 0 {
		return indexEntry{}, unusable("an object of %d bytes, or reserved bytes used", size)
	}
	trailer, err := eventlog.DecodeTrailer(b[16:])
	if err == nil {
		err = trailer.Check(int64(size))
	}
	if err != nil {
		return indexEntry{}, fmt.Errorf("%w: %w", ErrIndexUnusable, err)
	}
	if trailer.LogID != logID {
		return indexEntry{}, unusable("an object of log %v", trailer.LogID)
	}
	object := ObjectInfo{First: trailer.FirstOrdinal, Last: trailer.LastOrdinal, Revision: le.Uint16(b[8:]), Size: int64(size)}
	return indexEntry{object: object, trailer: trailer}, nil
}
