// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"

	"github.com/strandline-project/strandline/eventlog"
)

// BlockView is the view of every block of every machine. Rows that its
// queries return are the caller's.
type BlockView struct{ *View }

// OpenBlockView opens the block view in dir; see Open.
func OpenBlockView(engine Engine, dir string, use Use, log *slog.Logger) (*BlockView, error) {
	v, err := Open(engine, dir, Blocks(), use, log)
	if err != nil {
		return nil, err
	}
	return &BlockView{v}, nil
}

// Live returns the block if it is live.
func (v *BlockView) Live(machine eventlog.Seq, kind eventlog.Kind, name []byte) (BlockRow, bool, error) {
	row, found, err := v.row(blocks, appendBlockKey(nil, machine, kind, name))
	if err != nil || !found {
		return BlockRow{}, false, v.wrap(err, machine, kind, name)
	}
	block, err := makeBlockRow(row)
	return block, err == nil, v.wrap(err, machine, kind, name)
}

// Latest returns the block as it is, or, when it is not live, as it was
// before it was deleted last.
func (v *BlockView) Latest(machine eventlog.Seq, kind eventlog.Kind, name []byte) (BlockRow, bool, error) {
	return v.lastStored(machine, kind, name, AnySeq)
}

// AsOf returns the block as it was right after the event seq, which must not
// lie above Position. The lives of a block do not overlap: only the last one
// that began by then can have been live.
func (v *BlockView) AsOf(machine eventlog.Seq, kind eventlog.Kind, name []byte, seq eventlog.Seq) (BlockRow, bool, error) {
	row, found, err := v.lastStored(machine, kind, name, seq)
	if err != nil || !found || !row.liveAt(seq) {
		return BlockRow{}, false, err
	}
	return row, true, nil
}

// Placement returns where the payload of row lies: where its own event
// brought it, or the earlier event that it reuses.
func (v *BlockView) Placement(row BlockRow) (eventlog.Placement, error) {
	at := row
	for at.Own.Ordinal == 0 && at.Reuses != 0 {
		earlier := at.Reuses
		found, ok, err := v.deleted(row.Machine, row.Kind, row.Name, earlier)
		if err != nil {
			return eventlog.Placement{}, err
		}
		if !ok || found.Reuses >= found.Stored {
			return eventlog.Placement{}, fmt.Errorf("%s block %x of machine %s, stored by event %s: event %s, whose payload it has, is not in the view",
				row.Kind, row.Name, row.Machine, row.Stored, earlier)
		}
		at = found
	}
	if at.Own.Ordinal == 0 && row.Length > 0 {
		return eventlog.Placement{}, fmt.Errorf("%s block %x of machine %s, stored by event %s: the view does not know where its payload lies; discard the view, it is projected again",
			row.Kind, row.Name, row.Machine, row.Stored)
	}
	return at.Own, nil
}

// liveAt reports whether the block was live right after the event seq.
func (r *BlockRow) liveAt(seq eventlog.Seq) bool {
	return r.Stored <= seq && (r.Deleted == 0 || seq < r.Deleted)
}

// lastStored returns the row of a block that was stored last, not later than
// by the event most: the live one, or one of its history. It reads as few rows
// of a block that was stored and deleted a hundred thousand times as of one
// that never was.
func (v *BlockView) lastStored(machine eventlog.Seq, kind eventlog.Kind, name []byte, most eventlog.Seq) (row BlockRow, found bool, err error) {
	key := appendBlockKey(nil, machine, kind, name)
	err = v.inLookup(func(snapshot Snapshot) error {
		raw, live, err := snapshot.Get(nil, append([]byte{blocks.ID}, key...))
		if err != nil {
			return err
		}
		if live {
			row, err = decodeBlock(false, key, raw)
			found = err == nil && row.Stored <= most
		}
		if err == nil && !found {
			row, found, err = lastHistory(snapshot, key, most)
		}
		return err
	})
	return row, found, v.wrap(err, machine, kind, name)
}

// deleted returns the history row that the event stored wrote, if there is one.
func (v *BlockView) deleted(machine eventlog.Seq, kind eventlog.Kind, name []byte, stored eventlog.Seq) (BlockRow, bool, error) {
	key := binary.BigEndian.AppendUint64(appendBlockKey(nil, machine, kind, name), uint64(stored))
	row, found, err := v.rowAt(blocks, true, key)
	if err != nil || !found {
		return BlockRow{}, false, v.wrap(err, machine, kind, name)
	}
	block, err := makeBlockRow(row)
	return block, err == nil, v.wrap(err, machine, kind, name)
}

func decodeBlock(history bool, key, raw []byte) (BlockRow, error) {
	row, err := makeRow(blocks, history, key, raw)
	if err != nil {
		return BlockRow{}, err
	}
	return makeBlockRow(row)
}

// lastHistory returns the history row of key that was stored last, not later
// than by the event most. It reads backwards from there. Rows of longer names
// that begin alike lie between, their keys are longer; but all names that a
// door gives are of one length.
func lastHistory(snapshot Snapshot, key []byte, most eventlog.Seq) (row BlockRow, found bool, err error) {
	of := append([]byte{blocks.historyID()}, key...)
	upper := binary.BigEndian.AppendUint64(bytes.Clone(of), uint64(most))
	cursor, err := snapshot.Range(of, append(upper, 0)) // the key of most itself is in it
	if err != nil {
		return BlockRow{}, false, err
	}
	defer func() { err = errors.Join(err, cursor.Close()) }()
	for ok := cursor.Last(); ok; ok = cursor.Prev() {
		if len(cursor.Key()) != len(upper) {
			continue
		}
		row, err := decodeBlock(true, cursor.Key()[1:], cursor.Value())
		return row.clone(), err == nil, err
	}
	return BlockRow{}, false, cursor.Err()
}

// clone returns a copy that shares no memory.
func (r BlockRow) clone() BlockRow {
	r.Name = bytes.Clone(r.Name)
	r.Own.Sums = bytes.Clone(r.Own.Sums)
	return r
}

func (v *BlockView) wrap(err error, machine eventlog.Seq, kind eventlog.Kind, name []byte) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("look up %s block %x of machine %s: %w", kind, name, machine, err)
}

// List yields the blocks of a kind that the machine has, in the order of
// their names: now, when asOf is 0, else as they were right after the event
// asOf, which must not lie above Position. It sees the view as it is when the
// first row is asked for, however long it takes. A row is valid until the
// next one is asked for. An error is yielded once, last.
func (v *BlockView) List(ctx context.Context, machine eventlog.Seq, kind eventlog.Kind, asOf eventlog.Seq) iter.Seq2[BlockRow, error] {
	return sequence(func(yield func(BlockRow) bool) error {
		prefix := appendBlockKey(nil, machine, kind, nil)
		err := v.inSnapshot(func(snapshot Snapshot) error {
			if asOf == 0 {
				return listLive(ctx, snapshot, prefix, yield)
			}
			return listAsOf(ctx, snapshot, prefix, asOf, yield)
		})
		if err != nil {
			return fmt.Errorf("list the %s blocks of machine %s: %w", kind, machine, err)
		}
		return nil
	})
}

func listLive(ctx context.Context, snapshot Snapshot, prefix []byte, yield func(BlockRow) bool) error {
	_, err := rangeOver(ctx, snapshot, blocks, false, prefix, func(row Row) (bool, error) {
		block, err := makeBlockRow(row)
		return err == nil && yield(block), err
	})
	return err
}

// listAsOf merges the live rows with those history rows that were live at
// asOf; at most one row of a name was.
func listAsOf(ctx context.Context, snapshot Snapshot, prefix []byte, asOf eventlog.Seq, yield func(BlockRow) bool) (err error) {
	var sides [2]*asOfSide
	for i := range sides {
		rows, err := openRows(snapshot, blocks, i == 1, prefix)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, rows.close()) }()
		sides[i] = &asOfSide{rows: rows, asOf: asOf}
		if err := sides[i].advance(ctx); err != nil {
			return err
		}
	}
	for {
		side := sides[0]
		if !side.ok || (sides[1].ok && bytes.Compare(sides[1].block.Name, side.block.Name) < 0) {
			side = sides[1]
		}
		if !side.ok || !yield(side.block) {
			return nil
		}
		if err := side.advance(ctx); err != nil {
			return err
		}
	}
}

// asOfSide walks those of a cursor's rows that were live at asOf.
type asOfSide struct {
	rows  *rowCursor
	asOf  eventlog.Seq
	block BlockRow
	ok    bool
}

func (s *asOfSide) advance(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		row, ok, err := s.rows.next()
		s.ok = ok
		if err != nil || !ok {
			return err
		}
		if s.block, err = makeBlockRow(row); err != nil {
			return err
		}
		if s.block.liveAt(s.asOf) {
			return nil
		}
	}
}

// Count returns how many live blocks of a kind the machine has, by counting.
func (v *BlockView) Count(ctx context.Context, machine eventlog.Seq, kind eventlog.Kind) (int, error) {
	n := 0
	for _, err := range v.List(ctx, machine, kind, 0) {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

// AtOrAfter returns the first live block of a kind whose name is at or after
// the given one; false when there is none.
func (v *BlockView) AtOrAfter(ctx context.Context, machine eventlog.Seq, kind eventlog.Kind, name []byte) (row BlockRow, found bool, err error) {
	err = v.inLookup(func(snapshot Snapshot) (err error) {
		of := append([]byte{blocks.ID}, appendBlockKey(nil, machine, kind, nil)...)
		cursor, err := snapshot.Range(append(of[:len(of):len(of)], name...), successor(of))
		if err != nil {
			return err
		}
		rows := &rowCursor{cursor: cursor, table: blocks}
		defer func() { err = errors.Join(err, rows.close()) }()
		if err := ctx.Err(); err != nil {
			return err
		}
		raw, ok, err := rows.next()
		if err != nil || !ok {
			return err
		}
		block, err := makeBlockRow(raw)
		row, found = block.clone(), err == nil
		return err
	})
	return row, found, v.wrap(err, machine, kind, name)
}
