// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/strandline-project/strandline/eventlog"
)

// enter begins a query; leave ends it. Close waits for those between.
func (v *View) enter() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return fmt.Errorf("%s view: %w", v.Name(), errClosed)
	}
	v.readers.Add(1)
	return nil
}

func (v *View) leave() { v.readers.Done() }

// row returns the live row of key, false when there is none.
func (v *View) row(table *Table, key []byte) (Row, bool, error) { return v.rowAt(table, false, key) }

// rowAt returns the row of key: a live one, or one of history.
func (v *View) rowAt(table *Table, history bool, key []byte) (Row, bool, error) {
	if err := v.enter(); err != nil {
		return Row{}, false, err
	}
	defer v.leave()
	var buf [128]byte
	raw, found, err := v.store.Get(nil, append(append(buf[:0], table.id(history)), key...))
	if err != nil || !found {
		return Row{}, false, err
	}
	row, err := makeRow(table, history, key, raw)
	return row, err == nil, err
}

// Row is one row of a view.
type Row struct {
	Table   *Table
	Key     []byte
	Seq     eventlog.Seq // of the event that wrote it; 0 for counters
	Deleted eventlog.Seq // of the event that took it away; 0: it is live
	Value   []byte       // part of the digest
	Aside   []byte       // not part of it
}

func makeRow(table *Table, history bool, key, raw []byte) (Row, error) {
	seq, value, aside, err := splitRow(raw)
	row := Row{Table: table, Key: key, Seq: seq, Value: value, Aside: aside}
	if err != nil || !history {
		return row, err
	}
	if len(key) < 8 {
		return row, fmt.Errorf("%w: a history row's key of %d bytes", errRow, len(key))
	}
	split := len(key) - 8
	row.Key, row.Seq, row.Deleted = key[:split:split], eventlog.Seq(binary.BigEndian.Uint64(key[split:])), seq
	return row, nil
}

// Rows yields every row of the view as it is now, live ones and history, in
// the order of the tables' IDs. A row is valid until the next one is asked
// for. An error is yielded once, last.
func (v *View) Rows(ctx context.Context) iter.Seq2[Row, error] {
	return sequence(func(yield func(Row) bool) error {
		return v.inSnapshot(func(snapshot Snapshot) error {
			for _, table := range v.projector.Tables() {
				for _, history := range []bool{false, true} {
					more, err := rangeOver(ctx, snapshot, table, history, nil, func(row Row) (bool, error) { return yield(row), nil })
					if err != nil || !more {
						return err
					}
				}
			}
			return nil
		})
	})
}

// sequence makes an iterator of a function that gives what it finds to yield
// until that returns false. Its error is yielded last, unless the caller
// wanted no more anyway.
func sequence[T any](find func(yield func(T) bool) error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		wanted := true
		err := find(func(one T) bool {
			wanted = wanted && yield(one, nil)
			return wanted
		})
		if err != nil && wanted {
			var none T
			yield(none, err)
		}
	}
}

func (v *View) inSnapshot(query func(Snapshot) error) error { return v.in(Store.Snapshot, query) }

// inLookup is inSnapshot for a few rows; see Store.Lookup.
func (v *View) inLookup(query func(Snapshot) error) error { return v.in(Store.Lookup, query) }

func (v *View) in(open func(Store) Snapshot, query func(Snapshot) error) (err error) {
	if err := v.enter(); err != nil {
		return err
	}
	defer v.leave()
	snapshot := open(v.store)
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	return query(snapshot)
}

// stateIn returns where the view stands in a snapshot.
func (v *View) stateIn(snapshot Snapshot) (at state, err error) {
	raw, found, err := snapshot.Get(nil, stateKey)
	if err == nil && found {
		err = at.decode(raw, v.projector.Name(), v.projector.Version())
	}
	return at, err
}

// rangeOver visits the rows of a table whose keys begin with prefix, until
// visit returns false; then it does, too.
func rangeOver(ctx context.Context, snapshot Snapshot, table *Table, history bool, prefix []byte, visit func(Row) (bool, error)) (more bool, err error) {
	rows, err := openRows(snapshot, table, history, prefix)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, rows.close()) }()
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		row, ok, err := rows.next()
		if err != nil || !ok {
			return err == nil, err
		}
		if more, err := visit(row); err != nil || !more {
			return false, err
		}
	}
}

// rowCursor walks the rows of one table.
type rowCursor struct {
	cursor  Cursor
	table   *Table
	history bool
}

func openRows(snapshot Snapshot, table *Table, history bool, prefix []byte) (*rowCursor, error) {
	lower := append([]byte{table.id(history)}, prefix...)
	cursor, err := snapshot.Range(lower, successor(lower))
	if err != nil {
		return nil, err
	}
	return &rowCursor{cursor, table, history}, nil
}

// successor returns the least key above all that begin with prefix.
func successor(prefix []byte) []byte {
	upper := append([]byte(nil), prefix...)
	for i := len(upper) - 1; i >= 0; i-- {
		if upper[i]++; upper[i] != 0 {
			return upper[:i+1]
		}
	}
	return nil
}

func (c *rowCursor) next() (Row, bool, error) {
	if !c.cursor.Next() {
		return Row{}, false, c.cursor.Err()
	}
	row, err := makeRow(c.table, c.history, c.cursor.Key()[1:], c.cursor.Value())
	return row, err == nil, err
}

func (c *rowCursor) close() error { return c.cursor.Close() }
