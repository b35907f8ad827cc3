// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/strandline-project/strandline/eventlog"
)

// sink is where the changes of a projector go. The one here looks rows up as
// it goes; one that sorts runs and merges them checks in the merge.
type sink interface {
	// apply makes the changes of one event, all or none. A broken
	// expectation is a *Violation.
	apply(entry *eventlog.Entry, changes *Changes) error
	// compare checks what a state_recorded says of this view, and keeps the
	// digest as of it. last is the seq before the event, horizon the highest
	// that was stated.
	compare(entry *eventlog.Entry, last, horizon eventlog.Seq) error
	// settle commits all that was applied up to and including the event at
	// position. A sink may put it off unless now is set; it reports whether
	// it has committed.
	settle(position eventlog.Seq, time int64, now bool) (bool, error)
}

// storeSink applies changes to a store. One goroutine owns it.
type storeSink struct {
	projector Projector
	store     Store
	reader    Snapshot // of the store as of the last commit; nil until a row of it is wanted
	batch     WriteBatch
	rows      *pending
	known     *filter // of every key the store may have; nil: not known
	hasher    *rowHasher
	state     state
	sum       sum // of all rows, up to date when rows.unsum is empty

	sums      map[uint64]*machineSum
	lastSum   *machineSum   // of the row summed last
	dirtySums []*machineSum // changed since the last commit

	changes  *tableChanges                                      // nil: nobody asks
	recorded func(view string, seq eventlog.Seq, digest Digest) // see Load.Recorded; may be nil

	minimum int // events to gather before settle commits unasked
	waiting int // events applied since the last commit

	key, value []byte // scratch
}

// machineSum is the sum over the rows of one machine.
type machineSum struct {
	id    uint64
	sum   sum
	dirty bool // in dirtySums
}

// sumsLimit bounds the machines whose sums are kept in memory.
const sumsLimit = 1 << 14

func newStoreSink(p Projector, store Store, at state, minimum int) (*storeSink, error) {
	hasher, err := newRowHasher(p.Name(), p.Version())
	if err != nil {
		return nil, err
	}
	return &storeSink{projector: p, store: store, batch: store.NewBatch(), rows: newPending(),
		hasher: hasher, state: at, sum: at.digest.sum(), sums: map[uint64]*machineSum{}, minimum: minimum}, nil
}

func (s *storeSink) apply(entry *eventlog.Entry, changes *Changes) error {
	s.rows.begin()
	for i := range changes.ops {
		if err := s.applyOp(entry, changes, &changes.ops[i]); err != nil {
			s.rows.rollback()
			return err
		}
	}
	s.waiting++
	return nil
}

func (s *storeSink) applyOp(entry *eventlog.Entry, c *Changes, o *op) error {
	if o.kind == opRequire && o.want != 0 {
		return s.requireHistory(entry, c, o)
	}
	s.key = append(append(s.key[:0], o.table.ID), c.bytes(o.key)...)
	index, err := s.load(s.key, o.table, false)
	if err != nil {
		return err
	}
	switch o.kind {
	case opInsert:
		if live := s.rows.rows[index].row; live != (span{}) {
			return s.broken(entry, c, o, "there is one already, written by event %s", s.seqOf(live))
		}
		s.write(index, entry.Event.Seq, c.bytes(o.value), c.bytes(o.aside))
	case opPut:
		s.write(index, entry.Event.Seq, c.bytes(o.value), nil)
	case opReplace:
		if err := s.expect(entry, c, o, index, nil); err != nil {
			return err
		}
		s.write(index, entry.Event.Seq, c.bytes(o.value), nil)
	case opRemove:
		if err := s.expect(entry, c, o, index, c.bytes(o.value)); err != nil {
			return err
		}
		s.remove(entry, o, index)
	case opRequire:
		if s.rows.rows[index].row == (span{}) {
			return s.broken(entry, c, o, "there is none")
		}
	case opAdd:
		return s.add(entry, c, o, index)
	}
	return nil
}

// load returns the index of a row in memory, from the store if need be.
func (s *storeSink) load(key []byte, table *Table, history bool) (uint32, error) {
	index, hash, found := s.rows.find(key)
	if found {
		return index, nil
	}
	row := span{}
	if s.known == nil || s.known.mayHave(hash) {
		value, there, err := s.stored(key)
		if err != nil {
			return 0, err
		}
		if there {
			row = s.rows.keep(value)
		}
	}
	return s.rows.insert(key, hash, row, table, history), nil
}

// stored returns the value of key as of the last commit, in scratch.
func (s *storeSink) stored(key []byte) ([]byte, bool, error) {
	if s.reader == nil {
		s.reader = s.store.Lookup()
	}
	value, there, err := s.reader.Get(s.value[:0], key)
	s.value = value
	if err != nil { // the reader would say so again when the events before this one are committed
		return nil, false, errors.Join(err, s.doneReading())
	}
	return value, there, nil
}

// doneReading ends the reader, if there is one.
func (s *storeSink) doneReading() error {
	if s.reader == nil {
		return nil
	}
	reader := s.reader
	s.reader = nil
	return reader.Close()
}

func (s *storeSink) close() error { return errors.Join(s.doneReading(), s.batch.Close()) }

// expect checks that the live row was written by the event that o wants.
func (s *storeSink) expect(entry *eventlog.Entry, c *Changes, o *op, index uint32, begins []byte) error {
	live := s.rows.rows[index].row
	if live == (span{}) {
		return s.broken(entry, c, o, "want the one written by event %s, there is none", wanted(o.want))
	}
	seq, value, _, err := splitRow(s.rows.bytes(live))
	if err != nil {
		return err
	}
	if o.want != AnySeq && seq != o.want {
		return s.broken(entry, c, o, "want the one written by event %s, there is one written by %s", o.want, seq)
	}
	return s.beginsWith(entry, c, o, value, begins)
}

func (s *storeSink) beginsWith(entry *eventlog.Entry, c *Changes, o *op, value, begins []byte) error {
	if len(value) < len(begins) || string(value[:len(begins)]) != string(begins) {
		return s.broken(entry, c, o, "event %s wrote %x there, this event says %x", o.want, value[:min(len(value), len(begins))], begins)
	}
	return nil
}

func wanted(seq eventlog.Seq) string {
	if seq == AnySeq {
		return "any"
	}
	return seq.String()
}

func (s *storeSink) seqOf(row span) eventlog.Seq {
	return eventlog.Seq(binary.BigEndian.Uint64(s.rows.bytes(row)))
}

// write makes a row the live one.
func (s *storeSink) write(index uint32, seq eventlog.Seq, value, aside []byte) {
	from := len(s.rows.arena)
	s.rows.arena = appendRow(s.rows.arena, seq, value, aside)
	s.rows.set(index, span{from, len(s.rows.arena)})
}

// remove takes a row away; one with history goes on as a history row.
func (s *storeSink) remove(entry *eventlog.Entry, o *op, index uint32) {
	if o.table.History {
		live := s.rows.rows[index].row
		key := append(s.historyKey(o, s.rows.bytes(s.rows.rows[index].key)[1:]), s.rows.bytes(live)[:8]...)
		s.key = key
		old := s.fresh(key, o.table)
		from := len(s.rows.arena)
		s.rows.arena = binary.BigEndian.AppendUint64(s.rows.arena, uint64(entry.Event.Seq))
		s.rows.arena = append(s.rows.arena, s.rows.bytes(live)[8:]...)
		s.rows.set(old, span{from, len(s.rows.arena)})
	}
	s.rows.set(index, span{})
}

// fresh returns the index of a history row that cannot be there yet: a seq
// stores once.
func (s *storeSink) fresh(key []byte, table *Table) uint32 {
	index, hash, found := s.rows.find(key)
	if !found {
		index = s.rows.insert(key, hash, span{}, table, true)
	}
	return index
}

func (s *storeSink) historyKey(o *op, key []byte) []byte {
	return append(append(s.key[:0], o.table.historyID()), key...)
}

func (s *storeSink) requireHistory(entry *eventlog.Entry, c *Changes, o *op) error {
	s.key = binary.BigEndian.AppendUint64(s.historyKey(o, c.bytes(o.key)), uint64(o.want))
	index, err := s.load(s.key, o.table, true)
	if err != nil {
		return err
	}
	row := s.rows.rows[index].row
	if row == (span{}) {
		return s.broken(entry, c, o, "event %s wrote none that was taken away since", o.want)
	}
	_, value, _, err := splitRow(s.rows.bytes(row))
	if err != nil {
		return err
	}
	return s.beginsWith(entry, c, o, value, c.bytes(o.value))
}

// add adds to the counters of a row. A row of zeros is no row.
func (s *storeSink) add(entry *eventlog.Entry, c *Changes, o *op, index uint32) error {
	var counters [2]uint64
	if live := s.rows.rows[index].row; live != (span{}) {
		_, value, _, err := splitRow(s.rows.bytes(live))
		if err != nil {
			return err
		}
		if len(value) != 16 {
			return fmt.Errorf("%w: counters of %d bytes", errRow, len(value))
		}
		counters[0], counters[1] = binary.BigEndian.Uint64(value), binary.BigEndian.Uint64(value[8:])
	}
	for i, delta := range o.add {
		after := int64(counters[i]) + delta
		if after < 0 || int64(counters[i])+o.low[i] < 0 {
			return s.broken(entry, c, o, "%d %+d would be below zero or too large", counters[i], delta)
		}
		counters[i] = uint64(after)
	}
	if counters == [2]uint64{} {
		s.rows.set(index, span{})
		return nil
	}
	var value [16]byte
	binary.BigEndian.PutUint64(value[:], counters[0])
	binary.BigEndian.PutUint64(value[8:], counters[1])
	s.write(index, 0, value[:], nil)
	return nil
}

func (s *storeSink) broken(entry *eventlog.Entry, c *Changes, o *op, format string, args ...any) error {
	return newViolation(o.rule, s.projector.Name(), entry, nil, "row %x of %s: %s", c.bytes(o.key), o.table.Name, fmt.Sprintf(format, args...))
}
