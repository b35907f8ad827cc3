// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/strandline-project/strandline/eventlog"
)

// Side is one of two compared views.
type Side struct {
	Position eventlog.Seq `json:"position"`
	Kept     Digest       `json:"kept"` // the sum that the view carries along
	Rows     Digest       `json:"rows"` // the sum of its rows, recomputed
}

// Difference is what Compare found about one view in two places.
type Difference struct {
	View     string          `json:"view"`
	A        Side            `json:"a"`
	B        Side            `json:"b"`
	Machines []eventlog.Seq  `json:"machines,omitempty"` // whose rows differ, at most 100, ascending
	Rows     []RowDifference `json:"row_differences,omitempty"`
}

// RowDifference is a row that is not the same in both places.
type RowDifference struct {
	Table   string       `json:"table"`
	Machine eventlog.Seq `json:"machine,omitempty"` // whose row it is; 0: no machine's
	Key     string       `json:"key"`               // hexadecimal
	A       string       `json:"a,omitempty"`       // the row, for people; empty: there is none
	B       string       `json:"b,omitempty"`
}

// Equal reports whether both views hold the same rows at the same position,
// and each the rows that its digest says.
func (d *Difference) Equal() bool {
	return d.A == d.B && d.A.Kept == d.A.Rows
}

// Bounds of a Difference.
const (
	compareMachines = 100
	compareRows     = 20
)

// Compare compares a view in two directories, neither of which is in use. It
// recomputes both digests from the rows and, where they differ, says which
// machines and which first rows do. History, as no part of a digest, is not
// compared.
func Compare(ctx context.Context, engine Engine, dirA, dirB string, p Projector, log *slog.Logger) (d Difference, err error) {
	d.View = p.Name()
	var views [2]*View
	for i, dir := range []string{dirA, dirB} {
		if views[i], err = Open(engine, dir, p, ReadOnly, log); err != nil {
			return d, err
		}
		defer func() { err = errors.Join(err, views[i].Close()) }()
	}
	if d.A, err = side(ctx, views[0]); err != nil {
		return d, err
	}
	if d.B, err = side(ctx, views[1]); err != nil {
		return d, err
	}
	if d.A.Rows != d.B.Rows {
		err = d.search(ctx, views[0], views[1])
	}
	return d, err
}

func side(ctx context.Context, v *View) (Side, error) {
	_, kept := v.Digest()
	position, rows, err := v.Recompute(ctx)
	return Side{Position: position, Kept: kept, Rows: rows}, err
}

func (d *Difference) search(ctx context.Context, a, b *View) error {
	sumsA, err := a.machineSums()
	if err != nil {
		return err
	}
	sumsB, err := b.machineSums()
	if err != nil {
		return err
	}
	for id, digest := range sumsB {
		if other, found := sumsA[id]; found && other == digest {
			delete(sumsA, id)
		} else {
			sumsA[id] = digest
		}
	}
	if err := d.searchRows(ctx, a, b); err != nil {
		return err
	}
	// A row that rotted changed no sum that is carried along.
	for _, row := range d.Rows {
		if row.Machine != 0 {
			sumsA[row.Machine] = Digest{}
		}
	}
	d.Machines = slices.Sorted(maps.Keys(sumsA))
	d.Machines = d.Machines[:min(len(d.Machines), compareMachines)]
	return nil
}

// searchRows walks both views side by side.
func (d *Difference) searchRows(ctx context.Context, a, b *View) error {
	return a.inSnapshot(func(snapshotA Snapshot) error {
		return b.inSnapshot(func(snapshotB Snapshot) error {
			for _, table := range a.projector.Tables() {
				if err := d.searchTable(ctx, table, snapshotA, snapshotB); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func (d *Difference) searchTable(ctx context.Context, table *Table, a, b Snapshot) (err error) {
	var heads [2]rowHead
	for i, snapshot := range []Snapshot{a, b} {
		rows, err := openRows(snapshot, table, false, nil)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, rows.close()) }()
		heads[i] = rowHead{rows: rows, wanted: true}
	}
	for len(d.Rows) < compareRows {
		if err := errors.Join(ctx.Err(), heads[0].advance(), heads[1].advance()); err != nil {
			return err
		}
		if !heads[0].ok && !heads[1].ok {
			return nil
		}
		d.compareHeads(table, &heads[0], &heads[1])
	}
	return nil
}

// rowHead is a cursor with the row it stands on.
type rowHead struct {
	rows   *rowCursor
	row    Row
	ok     bool
	wanted bool // the next one
}

func (h *rowHead) advance() (err error) {
	if h.wanted {
		h.wanted = false
		h.row, h.ok, err = h.rows.next()
	}
	return err
}

// compareHeads notes a difference between the lower of both rows and the
// other, and wants the next of what it has looked at.
func (d *Difference) compareHeads(table *Table, a, b *rowHead) {
	order := bytes.Compare(a.row.Key, b.row.Key)
	switch {
	case !b.ok || (a.ok && order < 0):
		a.wanted = true
		d.note(table, a.row.Key, describe(a.row), "")
	case !a.ok || order > 0:
		b.wanted = true
		d.note(table, b.row.Key, "", describe(b.row))
	default:
		a.wanted, b.wanted = true, true
		if a.row.Seq != b.row.Seq || !bytes.Equal(a.row.Value, b.row.Value) {
			d.note(table, a.row.Key, describe(a.row), describe(b.row))
		}
	}
}

func (d *Difference) note(table *Table, key []byte, a, b string) {
	row := RowDifference{Table: table.Name, Key: hex.EncodeToString(key), A: a, B: b}
	if table.Machine && len(key) >= 8 {
		row.Machine = eventlog.Seq(binary.BigEndian.Uint64(key))
	}
	d.Rows = append(d.Rows, row)
}

func describe(row Row) string {
	return fmt.Sprintf("written by %s: %x", row.Seq, row.Value)
}

// machineSums returns the digest of each machine's rows.
func (v *View) machineSums() (map[eventlog.Seq]Digest, error) {
	sums := map[eventlog.Seq]Digest{}
	err := v.inSnapshot(func(snapshot Snapshot) (err error) {
		cursor, err := snapshot.Range([]byte{tableMachineSums}, []byte{tableMachineSums + 1})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, cursor.Close()) }()
		for cursor.Next() {
			if len(cursor.Key()) != 9 || len(cursor.Value()) != len(Digest{}) {
				return fmt.Errorf("%w: a machine's digest of %d bytes", errRow, len(cursor.Value()))
			}
			sums[eventlog.Seq(binary.BigEndian.Uint64(cursor.Key()[1:]))] = Digest(slices.Clone(cursor.Value()))
		}
		return cursor.Err()
	})
	return sums, err
}
