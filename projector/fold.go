// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/strandline-project/strandline/eventlog"
)

// fold is what a stretch does to a view whose rows are looked up. What many
// events say of one row (that it is there, by how much its counters change) is
// folded into one change, which holds exactly when each of them does: a
// stretch of ten thousand stores changes the counters of a few machines.
//
// A change that does not hold is no answer yet: folded, it cannot tell which
// event broke the rule, and the events are then applied one by one.
type fold struct {
	sections []section
	used     int // of sections
}

// section is the part of a fold up to a state_recorded, or to its end.
type section struct {
	changes Changes
	seqs    []eventlog.Seq   // of the events that made changes.ops, the first of each
	known   map[string]int32 // by table and key: index of the op that takes more in
	recent  [256]int32       // the same for those met last, index + 1, by recentSlot
	events  int
	last    eventlog.Seq // the last event in it
	mark    *noted       // which it ends with; nil: the fold ends
	key     []byte       // scratch
}

func newFold() *fold { return &fold{} }

func (f *fold) reset() {
	for i := range f.sections[:f.used] {
		s := &f.sections[i]
		s.changes.reset()
		s.seqs, s.events, s.last, s.mark = s.seqs[:0], 0, 0, nil
		clear(s.known)
		s.recent = [256]int32{}
	}
	f.used = 0
}

// open returns the section that is being filled.
func (f *fold) open() *section {
	if f.used == 0 || f.sections[f.used-1].mark != nil {
		if f.used == len(f.sections) {
			f.sections = append(f.sections, section{known: map[string]int32{}})
		}
		f.used++
	}
	return &f.sections[f.used-1]
}

// apply implements sink.
func (f *fold) apply(entry *eventlog.Entry, changes *Changes) error {
	s := f.open()
	for i := range changes.ops {
		s.take(entry.Event.Seq, changes, &changes.ops[i])
	}
	s.events++
	s.last = entry.Event.Seq
	return nil
}

// compare implements sink.
func (f *fold) compare(entry *eventlog.Entry, last, horizon eventlog.Seq) error {
	f.open().mark = &noted{*entry, last, horizon}
	return nil
}

// settle implements sink: nothing is kept here.
func (*fold) settle(eventlog.Seq, int64, bool) (bool, error) { return false, nil }

// take folds one change in.
func (s *section) take(seq eventlog.Seq, c *Changes, o *op) {
	key := c.bytes(o.key)
	slot := recentSlot(o.table, key)
	if o.kind != opAdd && (o.kind != opRequire || o.want != 0) {
		s.key = append(append(s.key[:0], o.table.ID), key...)
		delete(s.known, string(s.key)) // what comes later speaks of another row
		s.recent[slot] = 0
		s.append(seq, c, o)
		return
	}
	at := s.recent[slot] - 1
	if at < 0 || !s.changes.ops[at].takes(o) || !bytes.Equal(s.changes.bytes(s.changes.ops[at].key), key) {
		s.key = append(append(s.key[:0], o.table.ID), key...)
		known, found := s.known[string(s.key)]
		if at = known; !found || !s.changes.ops[at].takes(o) {
			at = int32(len(s.changes.ops))
			s.known[string(s.key)], s.recent[slot] = at, at+1
			s.append(seq, c, o)
			return
		}
		s.recent[slot] = at + 1
	}
	if o.kind == opAdd {
		s.changes.ops[at].fold(o)
	}
}

// takes reports whether a change of the same row can be folded into o.
func (o *op) takes(other *op) bool { return o.table == other.table && o.kind == other.kind }

// recentSlot returns where in recent the change of a key is looked for.
func recentSlot(table *Table, key []byte) uint8 {
	if len(key) == 0 {
		return table.ID
	}
	return table.ID<<5 ^ key[len(key)-1]
}

func (s *section) append(seq eventlog.Seq, c *Changes, o *op) {
	kept := *o
	kept.key, kept.value, kept.aside = s.changes.keep(c.bytes(o.key)), s.changes.keep(c.bytes(o.value)), s.changes.keep(c.bytes(o.aside))
	s.changes.ops = append(s.changes.ops, kept)
	s.seqs = append(s.seqs, seq)
}

// fold adds what other adds, after it.
func (o *op) fold(other *op) {
	for i := range o.add {
		o.low[i] = min(o.low[i], o.add[i]+other.low[i])
		o.add[i] += other.add[i]
	}
}

// errFolded says that a folded change does not hold.
var errFolded = errors.New("the events must be applied one by one")

// applyFold applies a section, all or nothing.
func (s *storeSink) applyFold(part *section) error {
	s.rows.begin()
	var entry eventlog.Entry
	for i := range part.changes.ops {
		entry.Event.Seq = part.seqs[i]
		err := s.applyOp(&entry, &part.changes, &part.changes.ops[i])
		if err == nil {
			continue
		}
		s.rows.rollback()
		if violation := (*Violation)(nil); errors.As(err, &violation) {
			return fmt.Errorf("%w: %w", errFolded, err)
		}
		return err
	}
	s.waiting += part.events
	return nil
}
