// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"encoding/binary"
	"fmt"

	"github.com/strandline-project/strandline/eventlog"
)

// A record is one row change on its way from an event to its place in the
// order of keys. In memory, in a run and in the merge it has one form; all
// integers are big-endian:
//
//	size of what follows  u32
//	key's size            u16
//	key                   table's ID, then the row's key
//	seq                   u64, of the event
//	kind                  u8, see opKind; | 0x80 when want follows
//	rule                  u8, see Rule
//	want                  u64
//	value's size          u32
//	value, aside          opAdd: two u64
const (
	recordSizeSize = 4
	recordFixed    = 2 + 8 + 1 + 1 + 4
	recordWant     = 0x80
	maxRecord      = 1 << 20 // bytes; an event has fewer
)

// record is a record read; key and the values share the memory it was read
// from.
type record struct {
	key   []byte
	seq   eventlog.Seq
	kind  opKind
	rule  Rule
	want  eventlog.Seq
	value []byte
	aside []byte
}

// appendRecord appends the record of one change of the event seq. Its key is
// that of the live row, also for what asks for a history row: all that
// concerns one block lies together.
func appendRecord(b []byte, seq eventlog.Seq, c *Changes, o *op) []byte {
	be := binary.BigEndian
	key, value, aside := c.bytes(o.key), c.bytes(o.value), c.bytes(o.aside)
	size := recordFixed + 1 + len(key) + len(value) + len(aside)
	kind := byte(o.kind)
	if o.want != 0 {
		kind |= recordWant
		size += 8
	}
	if o.kind == opAdd {
		size += 16
	}
	b = be.AppendUint32(b, uint32(size))
	b = be.AppendUint16(b, uint16(1+len(key)))
	b = append(append(b, o.table.ID), key...)
	b = be.AppendUint64(b, uint64(seq))
	b = append(b, kind, byte(o.rule))
	if o.want != 0 {
		b = be.AppendUint64(b, uint64(o.want))
	}
	if o.kind == opAdd {
		b = be.AppendUint32(b, 16)
		return be.AppendUint64(be.AppendUint64(b, uint64(o.add[0])), uint64(o.add[1]))
	}
	b = be.AppendUint32(b, uint32(len(value)))
	return append(append(b, value...), aside...)
}

// recordKey returns the key of the record that b begins with.
func recordKey(b []byte) []byte {
	n := int(binary.BigEndian.Uint16(b[recordSizeSize:]))
	return b[recordSizeSize+2 : recordSizeSize+2+n]
}

// splitRecord reads the record that b begins with into r, and returns its
// size in b.
func splitRecord(b []byte, r *record) (int, error) {
	be := binary.BigEndian
	if len(b) < recordSizeSize {
		return 0, fmt.Errorf("%w: %d bytes where a record should be", errRun, len(b))
	}
	size := int(be.Uint32(b))
	if size > len(b)-recordSizeSize || size < recordFixed+1 {
		return 0, fmt.Errorf("%w: a record of %d bytes in %d", errRun, size, len(b))
	}
	rest := b[recordSizeSize : recordSizeSize+size]
	keySize := int(be.Uint16(rest))
	if keySize == 0 || keySize > size-recordFixed {
		return 0, fmt.Errorf("%w: a key of %d bytes in a record of %d", errRun, keySize, size)
	}
	r.key, rest = rest[2:2+keySize:2+keySize], rest[2+keySize:]
	r.seq = eventlog.Seq(be.Uint64(rest))
	kind, rule := rest[8], rest[9]
	rest = rest[10:]
	r.kind, r.want = opKind(kind&^recordWant), 0
	if rule >= byte(rulePanic) || r.kind < opInsert || r.kind > opAdd {
		return 0, fmt.Errorf("%w: a change of kind %d under rule %d", errRun, kind, rule)
	}
	r.rule = Rule(rule)
	if kind&recordWant != 0 {
		if len(rest) < 8 {
			return 0, fmt.Errorf("%w: a record ends early", errRun)
		}
		r.want, rest = eventlog.Seq(be.Uint64(rest)), rest[8:]
	}
	if len(rest) < 4 || uint64(be.Uint32(rest)) > uint64(len(rest)-4) {
		return 0, fmt.Errorf("%w: a value does not fit into its record", errRun)
	}
	n := int(be.Uint32(rest))
	r.value, r.aside = rest[4:4+n:4+n], rest[4+n:]
	return recordSizeSize + size, nil
}

// groupSize is the part of a key that is compared as a whole first: table,
// machine and kind of a block. Keys of few groups with spread-out rest sort
// fast.
const groupSize = 10

// recordBuffer gathers the records of a stretch in the order of its events.
type recordBuffer struct {
	bytes  []byte
	groups map[string]int32 // of keys, to index in names
	names  []string
	refs   []bufferedRecord
}

// bufferedRecord is one record in a recordBuffer.
type bufferedRecord struct {
	next  uint64 // see leading
	at    uint32 // in bytes
	group int32
}

func newRecordBuffer() *recordBuffer { return &recordBuffer{groups: map[string]int32{}} }

// add appends one change. The caller sees to it that bytes stays below 4 GiB.
func (b *recordBuffer) add(seq eventlog.Seq, c *Changes, o *op) {
	at := len(b.bytes)
	b.bytes = appendRecord(b.bytes, seq, c, o)
	key := recordKey(b.bytes[at:])
	n := min(len(key), groupSize)
	group, known := b.groups[string(key[:n])]
	if !known {
		group = int32(len(b.names))
		b.names = append(b.names, string(key[:n]))
		b.groups[b.names[group]] = group
	}
	b.refs = append(b.refs, bufferedRecord{next: leading(key[n:]), at: uint32(at), group: group})
}

// leading returns the first 8 bytes of key as a number, zeros behind its end.
func leading(key []byte) uint64 {
	if len(key) >= 8 {
		return binary.BigEndian.Uint64(key)
	}
	var padded [8]byte
	copy(padded[:], key)
	return binary.BigEndian.Uint64(padded[:])
}

func (b *recordBuffer) reset() {
	b.bytes, b.refs, b.names = b.bytes[:0], b.refs[:0], b.names[:0]
	clear(b.groups)
}
