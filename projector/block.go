// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"encoding/binary"
	"fmt"

	"github.com/strandline-project/strandline/eventlog"
)

// blocks is the one table of the block view: every block of every machine,
// deleted ones as history.
//
//	machine(8) kind(1) name -> length(uvarint) checksum(4, little-endian) reuses(uvarint) | ordinal(uvarint) offset(uvarint) sums
//
// What stands after the bar is the placement, which is no part of the digest;
// it is left out when the event brought no payload of its own. The sums of a
// payload of one chunk are left out when they are what the checksum says. A
// row of a billion is kept this short because recovery is bound by how many
// bytes are sorted, hashed and written.
var blocks = &Table{ID: 1, Name: "blocks", History: true, Machine: true}

// maxBlockValue is the most bytes that a block's value has, and a placement
// without its sums.
const maxBlockValue = 2*binary.MaxVarintLen64 + 4

// Blocks returns the projector of the block view.
func Blocks() Projector { return blockProjector{} }

type blockProjector struct{}

func (blockProjector) Name() string     { return "block" }
func (blockProjector) Version() uint32  { return 1 }
func (blockProjector) Tables() []*Table { return []*Table{blocks} }

func (blockProjector) Project(entry *eventlog.Entry, c *Changes) error {
	e := &entry.Event
	switch e.Type {
	case eventlog.BlockStored:
		return blockStored(entry, c)
	case eventlog.BlockDeleted:
		return blockDeleted(e, c)
	case eventlog.LogCreated, eventlog.EpochStarted, eventlog.AccountOpened, eventlog.MachineRegistered,
		eventlog.MachineReowned, eventlog.StateRecorded, eventlog.HoldReleased, eventlog.WaiverGranted,
		eventlog.DrillCompleted, eventlog.RecoveryCompleted:
		return nil // no block changes; not even when its machine changes hands
	case eventlog.AccountCredited, eventlog.MachineRetired, eventlog.KeyIssued, eventlog.KeyRevoked,
		eventlog.PolicySet, eventlog.TransactionStarted, eventlog.TransactionCommitted,
		eventlog.TransactionAborted, eventlog.HoldEntered, eventlog.UsageMetered,
		eventlog.HistoryCleaned:
		return fmt.Errorf("%w: %s", errUnknownType, e.Type)
	}
	return fmt.Errorf("%w: %s", errUnknownType, e.Type)
}

func blockStored(entry *eventlog.Entry, c *Changes) error {
	e := &entry.Event
	if err := checkBlock(e); err != nil {
		return err
	}
	var keyBuf [9 + eventlog.MaxBlockName]byte
	key := appendBlockKey(keyBuf[:0], e.Machine, e.Kind, e.Block)
	if own := entry.Placement.Length; own != 0 && own != e.Length {
		return fmt.Errorf("a block of %d bytes whose payload has %d", e.Length, own)
	}
	var valueBuf [maxBlockValue]byte
	value := appendExtent(valueBuf[:0], e)
	if e.Reuses != 0 {
		c.RequireHistory(RuleReuseStored, blocks, key, e.Reuses, value)
	}
	value = binary.AppendUvarint(value, uint64(e.Reuses))
	var asideBuf [maxBlockValue + 4*64]byte
	c.Insert(RuleStoreLive, blocks, key, value, appendPlacement(asideBuf[:0], &entry.Placement, e.Checksum))
	return nil
}

func blockDeleted(e *eventlog.Event, c *Changes) error {
	if err := checkBlock(e); err != nil {
		return err
	}
	var keyBuf [9 + eventlog.MaxBlockName]byte
	var valueBuf [maxBlockValue]byte
	c.Remove(RuleDeleteStored, blocks, appendBlockKey(keyBuf[:0], e.Machine, e.Kind, e.Block), e.Undoes, appendExtent(valueBuf[:0], e))
	return nil
}

func appendBlockKey(b []byte, machine eventlog.Seq, kind eventlog.Kind, name []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(machine))
	return append(append(b, byte(kind)), name...)
}

// appendExtent appends what a store and the delete that undoes it must agree
// on.
func appendExtent(b []byte, e *eventlog.Event) []byte {
	return binary.LittleEndian.AppendUint32(binary.AppendUvarint(b, e.Length), e.Checksum)
}

// appendPlacement appends the placement of a payload whose checksum is known.
func appendPlacement(b []byte, p *eventlog.Placement, checksum uint32) []byte {
	if p.Ordinal == 0 {
		return b
	}
	b = binary.AppendUvarint(binary.AppendUvarint(b, p.Ordinal), p.Offset)
	if len(p.Sums) == 4 && binary.LittleEndian.Uint32(p.Sums) == checksum {
		return b
	}
	return append(b, p.Sums...)
}

// splitPlacement reads what appendPlacement wrote for a payload of length
// bytes. sum is its checksum, 4 bytes little-endian.
func splitPlacement(aside []byte, length uint64, sum []byte) (eventlog.Placement, error) {
	if len(aside) == 0 {
		return eventlog.Placement{}, nil
	}
	ordinal, n := binary.Uvarint(aside)
	offset, m := binary.Uvarint(aside[max(n, 0):])
	if n <= 0 || m <= 0 || ordinal == 0 {
		return eventlog.Placement{}, fmt.Errorf("%w: no placement is %x", errRow, aside)
	}
	p := eventlog.Placement{Ordinal: ordinal, Offset: offset, Length: length, Sums: aside[n+m:]}
	if len(p.Sums) == 0 && eventlog.Chunks(length) == 1 {
		p.Sums = sum
	}
	if uint64(len(p.Sums)) != 4*eventlog.Chunks(length) {
		return eventlog.Placement{}, fmt.Errorf("%w: %d bytes of checksums for a payload of %d", errRow, len(p.Sums), length)
	}
	return p, nil
}

// BlockRow is a block as the block view has it.
type BlockRow struct {
	Machine  eventlog.Seq
	Kind     eventlog.Kind
	Name     []byte             // empty for the config
	Stored   eventlog.Seq       // of the event that stored it
	Deleted  eventlog.Seq       // of the event that deleted it; 0: live
	Length   uint64             // bytes
	Checksum uint32             // CRC32C of the whole payload
	Reuses   eventlog.Seq       // the earlier event that brought the payload; 0: Stored brought it
	Own      eventlog.Placement // of the payload that Stored's entry has; zero when it has none, see BlockView.Placement
}

func makeBlockRow(row Row) (BlockRow, error) {
	length, n := binary.Uvarint(row.Value)
	if len(row.Key) < 9 || n <= 0 || len(row.Value) < n+5 {
		return BlockRow{}, fmt.Errorf("%w: a block's key of %d bytes with a value of %d", errRow, len(row.Key), len(row.Value))
	}
	sum, rest := row.Value[n:n+4:n+4], row.Value[n+4:]
	reuses, m := binary.Uvarint(rest)
	if m <= 0 || m != len(rest) {
		return BlockRow{}, fmt.Errorf("%w: a block's value ends with %x", errRow, rest)
	}
	own, err := splitPlacement(row.Aside, length, sum)
	return BlockRow{
		Machine: eventlog.Seq(binary.BigEndian.Uint64(row.Key)), Kind: eventlog.Kind(row.Key[8]), Name: row.Key[9:],
		Stored: row.Seq, Deleted: row.Deleted, Length: length,
		Checksum: binary.LittleEndian.Uint32(sum), Reuses: eventlog.Seq(reuses), Own: own,
	}, err
}
