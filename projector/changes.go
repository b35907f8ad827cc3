// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"encoding/binary"
	"slices"

	"github.com/strandline-project/strandline/eventlog"
)

// A Table is one kind of row of a view.
type Table struct {
	ID   byte   // first byte of every key in the store, 1 to 0x6f; never reused for something else within a version
	Name string // for people

	// History keeps a row that Remove takes away as a history row: its key
	// followed by the seq that had stored it (8 bytes, big-endian), found
	// under the table ID|0x80.
	History bool
	// Machine says that keys begin with a machine's id (8 bytes, big-endian).
	// Such rows are summed per machine as well, to say where two views differ.
	Machine bool
	// Counters says that rows are made by Add only: big-endian uint64s. Their
	// seq is 0, and a row whose counters are all zero is no row, so that
	// events which cancel out leave no trace.
	Counters bool
}

func (t *Table) historyID() byte { return t.ID | 0x80 }

// id is the first byte of the table's live keys, or of those of its history.
func (t *Table) id(history bool) byte {
	if history {
		return t.historyID()
	}
	return t.ID
}

// AnySeq as the seq that Remove or Replace wants accepts a live row of any.
const AnySeq = ^eventlog.Seq(0)

type opKind uint8

const (
	opInsert opKind = iota + 1
	opPut
	opReplace
	opRemove
	opRequire
	opAdd
)

// op is one row change with what it expects.
type op struct {
	kind  opKind
	table *Table
	rule  Rule         // broken when the expectation does not hold
	want  eventlog.Seq // opReplace, opRemove: the live row's; opRequire: of the history row, 0 for the live one
	key   span
	value span // opRemove, opRequire: how the row's value must begin
	aside span
	add   [2]int64
	low   [2]int64 // opAdd: the lowest that the counters come to on the way, from where they were; at most 0
}

// span is a piece of Changes.buf.
type span struct{ from, to int }

// Changes collects what one event does to a view, as row changes in the order
// in which they are to be made, each with what it expects of the rows that
// are there. It copies what it is given and is used again for the next event,
// so collecting does not allocate.
//
// The row's value is what digests cover, together with table, key and the seq
// of the event that wrote it; what stands aside is stored with the row but is
// no part of any digest, because it may differ between a server and its
// rebuilt twin (where a payload lies).
type Changes struct {
	ops []op
	buf []byte
}

func (c *Changes) reset() { c.ops, c.buf = c.ops[:0], c.buf[:0] }

// Insert writes a row where rule says that there is none.
func (c *Changes) Insert(rule Rule, table *Table, key, value, aside []byte) {
	c.ops = append(c.ops, op{kind: opInsert, table: table, rule: rule,
		key: c.keep(key), value: c.keep(value), aside: c.keep(aside)})
}

// Put writes a row, whatever was there.
func (c *Changes) Put(table *Table, key, value []byte) {
	c.ops = append(c.ops, op{kind: opPut, table: table, key: c.keep(key), value: c.keep(value)})
}

// Replace writes a row over the live one, which rule says was written by the
// event want.
func (c *Changes) Replace(rule Rule, table *Table, key []byte, want eventlog.Seq, value []byte) {
	c.ops = append(c.ops, op{kind: opReplace, table: table, rule: rule, want: want,
		key: c.keep(key), value: c.keep(value)})
}

// Remove takes away the live row, which rule says was written by the event
// want and has a value that begins with begins.
func (c *Changes) Remove(rule Rule, table *Table, key []byte, want eventlog.Seq, begins []byte) {
	c.ops = append(c.ops, op{kind: opRemove, table: table, rule: rule, want: want,
		key: c.keep(key), value: c.keep(begins)})
}

// Require changes nothing; rule says that there is a live row.
func (c *Changes) Require(rule Rule, table *Table, key []byte) {
	c.ops = append(c.ops, op{kind: opRequire, table: table, rule: rule, key: c.keep(key)})
}

// RequireHistory changes nothing; rule says that the event stored once wrote
// a row that was taken away since, with a value that begins with begins.
// Where stored was cleaned out of the log, nothing is required.
func (c *Changes) RequireHistory(rule Rule, table *Table, key []byte, stored eventlog.Seq, begins []byte) {
	c.ops = append(c.ops, op{kind: opRequire, table: table, rule: rule, want: stored,
		key: c.keep(key), value: c.keep(begins)})
}

// Add adds to the two counters of a row in a table of Counters. The result is
// never negative: RuleTotals.
func (c *Changes) Add(table *Table, key []byte, first, second int64) {
	c.ops = append(c.ops, op{kind: opAdd, table: table, rule: RuleTotals, key: c.keep(key),
		add: [2]int64{first, second}, low: [2]int64{min(first, 0), min(second, 0)}})
}

// dropHistoryRequirements forgets what RequireHistory asked for.
func (c *Changes) dropHistoryRequirements() {
	c.ops = slices.DeleteFunc(c.ops, func(o op) bool { return o.kind == opRequire && o.want != 0 })
}

func (c *Changes) keep(p []byte) span {
	from := len(c.buf)
	c.buf = append(c.buf, p...)
	return span{from, len(c.buf)}
}

func (c *Changes) bytes(s span) []byte { return c.buf[s.from:s.to] }

// seqKey is the key of a row named by a seq alone.
func seqKey(seq eventlog.Seq) [8]byte {
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], uint64(seq))
	return key
}
