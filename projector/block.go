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
//	machine(8) kind(1) name -> length(8) checksum(4) reuses(8) | ordinal(8) offset(8) length(8) sums
//
// What stands after the bar is the placement, which is no part of the digest;
// it is left out when the event brought no payload of its own.
var blocks = &Table{ID: 1, Name: "blocks", History: true, Machine: true}

const (
	blockValueSize = 8 + 4 + 8
	placementSize  = 8 + 8 + 8 // without the sums
)

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
	var valueBuf [blockValueSize]byte
	value := appendExtent(valueBuf[:0], e)
	if e.Reuses != 0 {
		c.RequireHistory(RuleReuseStored, blocks, key, e.Reuses, value)
	}
	value = binary.BigEndian.AppendUint64(value, uint64(e.Reuses))
	var asideBuf [placementSize + 4*64]byte
	c.Insert(RuleStoreLive, blocks, key, value, appendPlacement(asideBuf[:0], &entry.Placement))
	return nil
}

func blockDeleted(e *eventlog.Event, c *Changes) error {
	if err := checkBlock(e); err != nil {
		return err
	}
	var keyBuf [9 + eventlog.MaxBlockName]byte
	var valueBuf [blockValueSize]byte
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
	b = binary.BigEndian.AppendUint64(b, e.Length)
	return binary.BigEndian.AppendUint32(b, e.Checksum)
}

func appendPlacement(b []byte, p *eventlog.Placement) []byte {
	if p.Ordinal == 0 {
		return b
	}
	b = binary.BigEndian.AppendUint64(b, p.Ordinal)
	b = binary.BigEndian.AppendUint64(b, p.Offset)
	b = binary.BigEndian.AppendUint64(b, p.Length)
	return append(b, p.Sums...)
}

func splitPlacement(aside []byte) (eventlog.Placement, error) {
	if len(aside) == 0 {
		return eventlog.Placement{}, nil
	}
	if len(aside) < placementSize {
		return eventlog.Placement{}, fmt.Errorf("%w: a placement of %d bytes", errRow, len(aside))
	}
	return eventlog.Placement{
		Ordinal: binary.BigEndian.Uint64(aside), Offset: binary.BigEndian.Uint64(aside[8:]),
		Length: binary.BigEndian.Uint64(aside[16:]), Sums: aside[placementSize:],
	}, nil
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
	if len(row.Key) < 9 || len(row.Value) != blockValueSize {
		return BlockRow{}, fmt.Errorf("%w: a block's key of %d bytes with a value of %d", errRow, len(row.Key), len(row.Value))
	}
	own, err := splitPlacement(row.Aside)
	return BlockRow{
		Machine: eventlog.Seq(binary.BigEndian.Uint64(row.Key)), Kind: eventlog.Kind(row.Key[8]), Name: row.Key[9:],
		Stored: row.Seq, Deleted: row.Deleted, Length: binary.BigEndian.Uint64(row.Value),
		Checksum: binary.BigEndian.Uint32(row.Value[8:]), Reuses: eventlog.Seq(binary.BigEndian.Uint64(row.Value[12:])), Own: own,
	}, err
}
