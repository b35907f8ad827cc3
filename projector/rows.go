// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/strandline-project/strandline/eventlog"
)

// How rows lie in a store. Every key begins with its table's ID; all integers
// are big-endian.
//
//	live row      ID      key                -> seq(8)     length(uvarint) value aside
//	history row   ID|0x80 key stored seq(8)  -> deleted(8) length(uvarint) value aside
//	machine sum   0x7f    machine(8)         -> digest of the machine's rows(32)
//	state         0x00    "state"            -> position, digest and more; see state
const (
	tableState       byte = 0x00
	tableMachineSums byte = 0x7f
)

var stateKey = append([]byte{tableState}, "state"...)

// appendRow appends the stored form of a row.
func appendRow(b []byte, seq eventlog.Seq, value, aside []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(seq))
	b = binary.AppendUvarint(b, uint64(len(value)))
	b = append(b, value...)
	return append(b, aside...)
}

var errRow = errors.New("a stored row has not the form of this version: discard the view, it is projected again")

// splitRow reads the stored form of a row; value and aside share raw's memory.
func splitRow(raw []byte) (seq eventlog.Seq, value, aside []byte, err error) {
	if len(raw) < 9 {
		return 0, nil, nil, fmt.Errorf("%w: %d bytes", errRow, len(raw))
	}
	length, n := binary.Uvarint(raw[8:])
	if n <= 0 || length > uint64(len(raw)-8-n) {
		return 0, nil, nil, fmt.Errorf("%w: its value's length does not fit into %d bytes", errRow, len(raw))
	}
	split := 8 + n + int(length)
	return eventlog.Seq(binary.BigEndian.Uint64(raw)), raw[8+n : split : split], raw[split:], nil
}

// state is where a view stands. It is written in the same batch as the rows.
type state struct {
	position eventlog.Seq // the last event applied; 0: none
	time     int64        // of that event
	digest   Digest       // over all live rows
	kept     eventlog.Seq // the last state_recorded applied; 0: none
	keptSum  Digest       // the digest as of kept
	compared uint64       // recorded digests that were compared, and equal
	skipped  uint64       // recorded digests that could not be compared
	proven   eventlog.Seq // as of which one was last equal; 0: none was
}

// stateFormat is the version of everything in this file.
const stateFormat = 2

const stateSize = 8 + 8 + 32 + 8 + 32 + 8 + 8 + 8

func (s *state) append(b []byte, name string, version uint32) []byte {
	b = append(b, stateFormat, byte(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint32(b, version)
	b = binary.BigEndian.AppendUint64(b, uint64(s.position))
	b = binary.BigEndian.AppendUint64(b, uint64(s.time))
	b = append(b, s.digest[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(s.kept))
	b = append(b, s.keptSum[:]...)
	b = binary.BigEndian.AppendUint64(b, s.compared)
	b = binary.BigEndian.AppendUint64(b, s.skipped)
	return binary.BigEndian.AppendUint64(b, uint64(s.proven))
}

// decode reads what append wrote. Anything else, another view's or another
// version's state among it, is ErrUnusable.
func (s *state) decode(raw []byte, name string, version uint32) error {
	head := append([]byte{stateFormat, byte(len(name))}, name...)
	head = binary.BigEndian.AppendUint32(head, version)
	if !bytes.HasPrefix(raw, head) {
		return fmt.Errorf("%w: its state %x is not that of view %s, version %d", ErrUnusable, raw[:min(len(raw), len(head))], name, version)
	}
	raw = raw[len(head):]
	if len(raw) != stateSize {
		return fmt.Errorf("%w: its state has %d bytes, want %d", ErrUnusable, len(raw), stateSize)
	}
	s.position = eventlog.Seq(binary.BigEndian.Uint64(raw))
	s.time = int64(binary.BigEndian.Uint64(raw[8:]))
	copy(s.digest[:], raw[16:])
	s.kept = eventlog.Seq(binary.BigEndian.Uint64(raw[48:]))
	copy(s.keptSum[:], raw[56:])
	s.compared = binary.BigEndian.Uint64(raw[88:])
	s.skipped = binary.BigEndian.Uint64(raw[96:])
	s.proven = eventlog.Seq(binary.BigEndian.Uint64(raw[104:]))
	return nil
}
