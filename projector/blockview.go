// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"bytes"
	"context"
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
	return v.pick(machine, kind, name, func(BlockRow) bool { return true })
}

// AsOf returns the block as it was right after the event seq, which must not
// lie above Position.
func (v *BlockView) AsOf(machine eventlog.Seq, kind eventlog.Kind, name []byte, seq eventlog.Seq) (BlockRow, bool, error) {
	return v.pick(machine, kind, name, func(row BlockRow) bool { return row.liveAt(seq) })
}

// Placement returns where the payload of row lies: where its own event
// brought it, or the earlier event that it reuses.
func (v *BlockView) Placement(row BlockRow) (eventlog.Placement, error) {
	at := row
	for at.Own.Ordinal == 0 && at.Reuses != 0 {
		earlier := at.Reuses
		found, ok, err := v.pick(row.Machine, row.Kind, row.Name, func(r BlockRow) bool { return r.Stored == earlier })
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

// pick returns the latest row of a block, live or history, that fits.
func (v *BlockView) pick(machine eventlog.Seq, kind eventlog.Kind, name []byte, fits func(BlockRow) bool) (BlockRow, bool, error) {
	var best BlockRow
	err := v.inLookup(func(snapshot Snapshot) error {
		key := appendBlockKey(nil, machine, kind, name)
		raw, found, err := snapshot.Get(nil, append([]byte{blocks.ID}, key...))
		if err != nil || !found {
			return errors.Join(err, pickHistory(snapshot, key, fits, &best))
		}
		block, err := decodeBlock(key, raw)
		if err != nil || fits(block) {
			best = block
			return err
		}
		return pickHistory(snapshot, key, fits, &best)
	})
	return best, best.Stored != 0 && err == nil, v.wrap(err, machine, kind, name)
}

func decodeBlock(key, raw []byte) (BlockRow, error) {
	row, err := makeRow(blocks, false, key, raw)
	if err != nil {
		return BlockRow{}, err
	}
	return makeBlockRow(row)
}

// pickHistory leaves the latest history row of key that fits in best. Rows of
// longer names that begin alike lie between; their keys are longer.
func pickHistory(snapshot Snapshot, key []byte, fits func(BlockRow) bool, best *BlockRow) (err error) {
	rows, err := openRows(snapshot, blocks, true, key)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.close()) }()
	for {
		row, ok, err := rows.next()
		if err != nil || !ok {
			return err
		}
		if len(row.Key) != len(key) {
			continue
		}
		block, err := makeBlockRow(row)
		if err != nil {
			return err
		}
		if fits(block) {
			*best = block.clone()
		}
	}
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
