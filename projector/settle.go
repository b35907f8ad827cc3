// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/strandline-project/strandline/eventlog"
)

// settle commits once enough events wait, or when asked to.
func (s *storeSink) settle(position eventlog.Seq, time int64, now bool) (bool, error) {
	if position == s.state.position || (!now && s.waiting < s.minimum) {
		return false, nil
	}
	if err := s.bringSumUp(); err != nil {
		return false, err
	}
	s.state.position, s.state.time, s.state.digest = position, time, s.sum.digest()
	if err := errors.Join(s.stage(), s.doneReading()); err != nil {
		return false, err
	}
	// The commit point: rows, sums, position and digest become visible
	// together. A crash before this line leaves the view at its earlier
	// position, after it at this one or, because nothing waits for the disk,
	// at any that was committed before.
	if err := s.batch.Commit(); err != nil {
		return false, fmt.Errorf("view %s: commit up to event %s: %w", s.projector.Name(), position, err)
	}
	s.countChanges()
	s.rows.committed()
	s.waiting = 0
	return true, nil
}

// countChanges counts the tables whose live rows the commit changed.
func (s *storeSink) countChanges() {
	if s.changes == nil {
		return
	}
	for _, index := range s.rows.dirty {
		if table := s.rows.bytes(s.rows.rows[index].key)[0]; int(table) < len(s.changes) {
			s.changes[table].Add(1)
		}
	}
}

// stage puts all that changed into the batch.
func (s *storeSink) stage() error {
	for _, index := range s.rows.dirty {
		row := &s.rows.rows[index]
		key := s.rows.bytes(row.key)
		var err error
		switch {
		case row.row != span{}:
			if s.known != nil && !row.stored {
				s.known.add(row.hash)
			}
			err = s.batch.Set(key, s.rows.bytes(row.row))
		case row.stored:
			err = s.batch.Delete(key)
		}
		if err != nil {
			return err
		}
	}
	if err := s.stageMachineSums(); err != nil {
		return err
	}
	s.value = s.state.append(s.value[:0], s.projector.Name(), s.projector.Version())
	return s.batch.Set(stateKey, s.value)
}

func (s *storeSink) stageMachineSums() error {
	for _, m := range s.dirtySums {
		m.dirty = false
		s.key = machineSumKey(s.key[:0], m.id)
		var err error
		if m.sum == (sum{}) {
			err = s.batch.Delete(s.key)
		} else {
			digest := m.sum.digest()
			err = s.batch.Set(s.key, digest[:])
		}
		if err != nil {
			return err
		}
	}
	s.dirtySums = s.dirtySums[:0]
	if len(s.sums) > sumsLimit {
		clear(s.sums)
		s.lastSum = nil
	}
	return nil
}

func machineSumKey(b []byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, tableMachineSums), id)
}

// bringSumUp takes the rows that changed out of the digest as they were, and
// puts them in as they are. A row that changed often counts once.
func (s *storeSink) bringSumUp() error {
	for _, index := range s.rows.unsum {
		row := &s.rows.rows[index]
		row.unsum = false
		if row.row == row.summed {
			continue
		}
		key := s.rows.bytes(row.key)
		machine, err := s.machineSum(row, key)
		if err != nil {
			return err
		}
		if err := s.count(row.summed, key, machine, (*sum).sub); err != nil {
			return err
		}
		if err := s.count(row.row, key, machine, (*sum).add); err != nil {
			return err
		}
		row.summed = row.row
	}
	s.rows.unsum = s.rows.unsum[:0]
	return nil
}

func (s *storeSink) count(row span, key []byte, machine *machineSum, step func(*sum, *[32]byte)) error {
	if row == (span{}) {
		return nil
	}
	seq, value, _, err := splitRow(s.rows.bytes(row))
	if err != nil {
		return err
	}
	hash := s.hasher.row(key[0], key[1:], seq, value)
	step(&s.sum, hash)
	if machine != nil {
		step(&machine.sum, hash)
		if !machine.dirty {
			machine.dirty = true
			s.dirtySums = append(s.dirtySums, machine)
		}
	}
	return nil
}

// machineSum returns the sum of the machine that a row belongs to, nil for a
// row that belongs to none.
func (s *storeSink) machineSum(row *pendingRow, key []byte) (*machineSum, error) {
	if !row.machine {
		return nil, nil
	}
	id := binary.BigEndian.Uint64(key[1:])
	if s.lastSum != nil && s.lastSum.id == id {
		return s.lastSum, nil
	}
	m, found := s.sums[id]
	if !found {
		m = &machineSum{id: id}
		raw, there, err := s.stored(machineSumKey(s.key[:0], id))
		if err != nil {
			return nil, err
		}
		if there && len(raw) != len(Digest{}) {
			return nil, fmt.Errorf("%w: the sum of machine %s has %d bytes", errRow, eventlog.Seq(id), len(raw))
		}
		if there {
			m.sum = Digest(raw).sum()
		}
		s.sums[id] = m
	}
	s.lastSum = m
	return m, nil
}

// compare checks what a state_recorded says of this view against what this
// view was at that seq: now, or when it applied the state_recorded before.
func (s *storeSink) compare(entry *eventlog.Entry, last, horizon eventlog.Seq) error {
	if err := s.bringSumUp(); err != nil {
		return err
	}
	for i := range entry.Event.Views {
		if view := &entry.Event.Views[i]; view.Name == s.projector.Name() {
			if err := s.compareOne(entry, view, last, horizon); err != nil {
				return err
			}
		}
	}
	s.state.kept, s.state.keptSum = entry.Event.Seq, s.sum.digest()
	if s.recorded != nil {
		s.recorded(s.projector.Name(), s.state.kept, s.state.keptSum)
	}
	return nil
}

func (s *storeSink) compareOne(entry *eventlog.Entry, view *eventlog.ViewState, last, horizon eventlog.Seq) error {
	which, err := whichDigest(s.projector, entry, view, s.state.kept, last, horizon)
	if err != nil {
		return err
	}
	ours := s.state.keptSum
	switch which {
	case digestUnknown:
		s.state.skipped++
		return nil
	case digestNow:
		ours = s.sum.digest()
	case digestKept:
	}
	if ours != Digest(view.Digest) {
		return digestViolation(s.projector, entry, view.AsOf, view.Digest, ours)
	}
	s.state.compared++
	s.state.proven = view.AsOf
	return nil
}

// knownDigest is one of those that a view has when it meets a state_recorded.
type knownDigest uint8

const (
	digestUnknown knownDigest = iota // none that could be compared
	digestKept                       // as of the state_recorded before
	digestNow                        // as of the event right before this one
)

// whichDigest says which digest view tells. kept is the seq of the
// state_recorded before, last that of the event right before entry.
func whichDigest(p Projector, entry *eventlog.Entry, view *eventlog.ViewState, kept, last, horizon eventlog.Seq) (knownDigest, error) {
	switch {
	case view.AsOf >= entry.Event.Seq:
		return digestUnknown, newViolation(RuleDigest, p.Name(), entry, nil, "it records a digest as of event %s, which comes later", view.AsOf)
	case view.Version != p.Version() || view.AsOf == 0 || view.AsOf < horizon:
		return digestUnknown, nil
	case view.AsOf == kept:
		return digestKept, nil
	case view.AsOf == last:
		return digestNow, nil
	}
	return digestUnknown, nil
}

func digestViolation(p Projector, entry *eventlog.Entry, asOf eventlog.Seq, theirs, ours Digest) *Violation {
	return newViolation(RuleDigest, p.Name(), entry, nil, "%s", digestText(asOf, theirs, ours))
}

func digestText(asOf eventlog.Seq, theirs, ours Digest) string {
	return fmt.Sprintf("as of event %s the log says %s, this view was %s; compare both views' rows, and do not serve from this one", asOf, theirs, ours)
}
