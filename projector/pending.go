// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"bytes"
	"hash/maphash"
)

// pending is the part of a view that is in memory: the rows that changed
// since the last commit, and those that were looked at, so that a run of
// events about the same machine reads the store once. It is exact, because
// nobody else writes the store.
//
// It is a hash table by hand (open addressing over one arena of bytes): a
// Go map would allocate a string per row.
type pending struct {
	seed  maphash.Seed
	slots []uint32 // index into rows + 1; 0: free
	rows  []pendingRow
	arena []byte // keys and stored forms, append only until reset

	undo  []undoRow // what the event in progress changed, to take it back
	dirty []uint32  // rows changed since the last commit
	unsum []uint32  // rows changed since the digest was last brought up to date
}

// pendingRow is one row in memory. Its stored form is row; an empty span
// means that there is none.
type pendingRow struct {
	hash    uint64
	key     span // with the table's byte
	row     span // now
	stored  bool // the store has a row of this key
	dirty   bool // in pending.dirty
	unsum   bool // in pending.unsum
	summed  span // the form that the digest includes
	machine bool // summed per machine as well
	counted bool // part of the digest at all; history rows are not
}

type undoRow struct {
	index uint32
	row   span
}

// Bounds of the memory that pending keeps between commits.
const (
	pendingRows  = 1 << 17
	pendingArena = 32 << 20 // bytes
)

func newPending() *pending {
	return &pending{seed: maphash.MakeSeed(), slots: make([]uint32, 1024)}
}

func (p *pending) bytes(s span) []byte { return p.arena[s.from:s.to:s.to] }

func (p *pending) keep(b []byte) span {
	from := len(p.arena)
	p.arena = append(p.arena, b...)
	return span{from, len(p.arena)}
}

// find returns the index of key's row, and false when it is not in memory.
func (p *pending) find(key []byte) (index uint32, hash uint64, found bool) {
	hash = maphash.Bytes(p.seed, key)
	mask := uint64(len(p.slots) - 1)
	for at := hash & mask; p.slots[at] != 0; at = (at + 1) & mask {
		row := &p.rows[p.slots[at]-1]
		if row.hash == hash && bytes.Equal(p.bytes(row.key), key) {
			return p.slots[at] - 1, hash, true
		}
	}
	return 0, hash, false
}

// insert takes in a row that find did not find, as the store has it.
func (p *pending) insert(key []byte, hash uint64, row span, table *Table, history bool) uint32 {
	if 2*len(p.rows) >= len(p.slots) {
		p.grow()
	}
	index := uint32(len(p.rows))
	p.rows = append(p.rows, pendingRow{hash: hash, key: p.keep(key), row: row, stored: row != span{}, summed: row,
		machine: table.Machine, counted: !history})
	p.place(hash, index)
	return index
}

func (p *pending) place(hash uint64, index uint32) {
	mask := uint64(len(p.slots) - 1)
	at := hash & mask
	for p.slots[at] != 0 {
		at = (at + 1) & mask
	}
	p.slots[at] = index + 1
}

func (p *pending) grow() {
	p.slots = make([]uint32, 2*len(p.slots))
	for i := range p.rows {
		p.place(p.rows[i].hash, uint32(i))
	}
}

// set changes a row; an empty span takes it away.
func (p *pending) set(index uint32, row span) {
	r := &p.rows[index]
	p.undo = append(p.undo, undoRow{index, r.row})
	r.row = row
	if !r.dirty {
		r.dirty = true
		p.dirty = append(p.dirty, index)
	}
	if r.counted && !r.unsum {
		r.unsum = true
		p.unsum = append(p.unsum, index)
	}
}

// begin starts an event, rollback takes back all that it changed.
func (p *pending) begin() { p.undo = p.undo[:0] }

func (p *pending) rollback() {
	for i := len(p.undo) - 1; i >= 0; i-- {
		p.rows[p.undo[i].index].row = p.undo[i].row
	}
	p.undo = p.undo[:0]
}

// committed notes that the store has what pending has, and forgets it all
// when it has grown too large. The digest must be up to date.
func (p *pending) committed() {
	for _, index := range p.dirty {
		row := &p.rows[index]
		row.dirty, row.stored = false, row.row != span{}
	}
	p.dirty = p.dirty[:0]
	if len(p.rows) > pendingRows || len(p.arena) > pendingArena {
		clear(p.slots)
		p.rows, p.arena, p.undo = p.rows[:0], p.arena[:0], p.undo[:0]
	}
}
