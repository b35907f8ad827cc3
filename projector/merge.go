// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/strandline-project/strandline/eventlog"
)

// merger merges the runs over a range of keys. It replays what happened to
// each row, in the order of seqs, checks every expectation on the way, and
// writes what came of it: the live row, the history rows, and what the row
// contributed to the digest at each mark.
type merger struct {
	projector Projector
	tables    [256]*Table
	marks     []eventlog.Seq
	near      markRange // of the run that the record comes from
	hasher    *rowHasher
	live      *tableWriter
	history   *historyWriter

	row      replayed
	deltas   []sum // by interval: what the digest gains from that mark on; see interval
	machines map[uint64]*sum
	machine  struct {
		id  uint64
		sum *sum
	}
	broken  []brokenRow // the lowest seqs
	merged  uint64      // records
	told    func(records uint64)
	rowBuf  []byte
	scratch [16]byte
}

// replayed is the row that the merger is at.
type replayed struct {
	key     []byte // with the table's ID
	table   *Table
	there   bool
	since   int // interval in which it became what it is
	seq     eventlog.Seq
	value   []byte
	aside   []byte
	history []replayedHistory // of this key
}

type replayedHistory struct {
	stored eventlog.Seq
	value  []byte
}

// markRange is some marks, as indexes: of a run, those between its events. All
// before are lower than its events, the one behind, if there is one, is not.
type markRange struct{ from, to int }

// brokenRow is a broken expectation, before the event it belongs to was looked
// up again.
type brokenRow struct {
	view   string
	seq    eventlog.Seq
	rule   Rule
	detail string
}

func (b *brokenRow) Error() string {
	return fmt.Sprintf("%s view: event %s breaks rule %s: %s", b.view, b.seq, b.rule, b.detail)
}

// lookUp returns the violation that b is, with all that its event says.
func (b *brokenRow) lookUp(ctx context.Context, source Source) error {
	for batch, err := range source.Follow(ctx, b.seq) {
		if err != nil {
			return errors.Join(b, err)
		}
		if entry := &batch.Entries[0]; entry.Event.Seq == b.seq {
			return newViolation(b.rule, b.view, entry, nil, "%s", b.detail)
		}
		break
	}
	return b
}

// brokenLimit bounds the broken expectations that are kept for a message.
const brokenLimit = 16

// merge merges what the cursors yield, which is in the order of the runs. All
// files are ended when it returns.
func (m *merger) merge(ctx context.Context, cursors []*runCursor) (err error) {
	defer func() { err = errors.Join(err, m.history.out.finish(), m.live.finish()) }()
	tree := newTournament(cursors)
	for {
		c := tree.winner()
		if c == nil {
			break
		}
		m.near = c.run.near
		if err := m.take(&c.record); err != nil {
			return err
		}
		if m.merged++; m.merged%(1<<16) == 0 {
			m.told(1 << 16)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		tree.next()
	}
	for _, c := range cursors {
		if c.err != nil {
			return c.err
		}
	}
	m.told(m.merged % (1 << 16))
	if err := m.finishRow(); err != nil {
		return err
	}
	return m.history.flush(nil)
}

// take replays one record.
func (m *merger) take(r *record) error {
	if !bytes.Equal(r.key, m.row.key) {
		if err := m.finishRow(); err != nil {
			return err
		}
		if err := m.beginRow(r.key); err != nil {
			return err
		}
	}
	switch r.kind {
	case opInsert:
		if m.row.there {
			m.fail(r, "there is one already, written by event %s", m.row.seq)
			return nil
		}
		m.set(r)
	case opPut:
		m.set(r)
	case opReplace:
		if m.expect(r, nil) {
			m.set(r)
		}
	case opRemove:
		if m.expect(r, r.value) {
			return m.remove(r)
		}
	case opRequire:
		m.require(r)
	case opAdd:
		m.add(r)
	}
	return nil
}

func (m *merger) beginRow(key []byte) error {
	table := m.tables[key[0]]
	if table == nil {
		return fmt.Errorf("%w: no table has the ID %d", errRun, key[0])
	}
	m.row.key = append(m.row.key[:0], key...)
	m.row.table, m.row.there, m.row.history = table, false, m.row.history[:0]
	return nil
}

// interval returns the index of the first mark at or after seq, an event of the
// present run: from that mark on the digest shows what the event did.
func (m *merger) interval(seq eventlog.Seq) int {
	at, _ := slices.BinarySearch(m.marks[m.near.from:m.near.to], seq)
	return m.near.from + at
}

// set makes r's row the live one.
func (m *merger) set(r *record) {
	m.supersede(r.seq)
	m.row.there, m.row.seq, m.row.since = true, r.seq, m.interval(r.seq)
	m.row.value = append(m.row.value[:0], r.value...)
	m.row.aside = append(m.row.aside[:0], r.aside...)
}

// supersede ends the live row as it is, at the event seq. A row that no mark
// saw leaves no trace in any digest.
func (m *merger) supersede(seq eventlog.Seq) {
	if !m.row.there {
		return
	}
	if end := m.interval(seq); end != m.row.since {
		hash := m.hash()
		m.deltas[m.row.since].add(hash)
		m.deltas[end].sub(hash)
	}
	m.row.there = false
}

func (m *merger) hash() *[32]byte {
	seq := m.row.seq
	if m.row.table.Counters {
		seq = 0
	}
	return m.hasher.row(m.row.key[0], m.row.key[1:], seq, m.row.value)
}

func (m *merger) expect(r *record, begins []byte) bool {
	switch {
	case !m.row.there:
		m.fail(r, "want the one written by event %s, there is none", wanted(r.want))
	case r.want != AnySeq && r.want != m.row.seq:
		m.fail(r, "want the one written by event %s, there is one written by %s", r.want, m.row.seq)
	default:
		return m.beginsWith(r, m.row.value, begins)
	}
	return false
}

func (m *merger) beginsWith(r *record, value, begins []byte) bool {
	if !bytes.HasPrefix(value, begins) {
		m.fail(r, "event %s wrote %x there, this event says %x", r.want, value[:min(len(value), len(begins))], begins)
		return false
	}
	return true
}

// remove takes the live row away; one with history goes on as a history row.
func (m *merger) remove(r *record) error {
	m.supersede(r.seq)
	if !m.row.table.History {
		return nil
	}
	m.row.history = append(m.row.history, replayedHistory{m.row.seq, bytes.Clone(m.row.value)})
	return m.history.add(m.row.key, m.row.seq, r.seq, m.row.value, m.row.aside)
}

func (m *merger) require(r *record) {
	if r.want == 0 {
		if !m.row.there {
			m.fail(r, "there is none")
		}
		return
	}
	i := slices.IndexFunc(m.row.history, func(h replayedHistory) bool { return h.stored == r.want })
	if i < 0 {
		m.fail(r, "event %s wrote none that was taken away since", r.want)
		return
	}
	m.beginsWith(r, m.row.history[i].value, r.value)
}

// add adds to the counters of a row. A row of zeros is no row.
func (m *merger) add(r *record) {
	var counters [2]uint64
	if m.row.there {
		counters[0], counters[1] = binary.BigEndian.Uint64(m.row.value), binary.BigEndian.Uint64(m.row.value[8:])
	}
	for i := range counters {
		delta := int64(binary.BigEndian.Uint64(r.value[8*i:]))
		after := int64(counters[i]) + delta
		if after < 0 {
			m.fail(r, "%d %+d would be below zero or too large", counters[i], delta)
			return
		}
		counters[i] = uint64(after)
	}
	m.supersede(r.seq)
	if counters != [2]uint64{} {
		binary.BigEndian.PutUint64(m.scratch[:], counters[0])
		binary.BigEndian.PutUint64(m.scratch[8:], counters[1])
		m.set(&record{seq: r.seq, value: m.scratch[:]})
	}
}

func (m *merger) fail(r *record, format string, args ...any) {
	m.broken = append(m.broken, brokenRow{m.projector.Name(), r.seq, r.rule,
		fmt.Sprintf("row %x of %s: %s", m.row.key[1:], m.row.table.Name, fmt.Sprintf(format, args...))})
	if len(m.broken) == 2*brokenLimit {
		m.broken = lowest(m.broken)
	}
}

func lowest(broken []brokenRow) []brokenRow {
	slices.SortStableFunc(broken, func(a, b brokenRow) int { return int(min(1, max(-1, int64(a.seq)-int64(b.seq)))) })
	return broken[:min(len(broken), brokenLimit)]
}

// finishRow writes what the row has become.
func (m *merger) finishRow() error {
	if !m.row.there {
		return nil
	}
	hash := m.hash()
	m.deltas[m.row.since].add(hash)
	if m.row.table.Machine {
		m.machineSum().add(hash)
	}
	seq := m.row.seq
	if m.row.table.Counters {
		seq = 0
	}
	m.row.there = false
	m.rowBuf = appendRow(m.rowBuf[:0], seq, m.row.value, m.row.aside)
	return m.live.set(m.row.key, m.rowBuf)
}

func (m *merger) machineSum() *sum {
	id := binary.BigEndian.Uint64(m.row.key[1:])
	if m.machine.sum == nil || m.machine.id != id {
		m.machine.id, m.machine.sum = id, m.machines[id]
		if m.machine.sum == nil {
			m.machine.sum = &sum{}
			m.machines[id] = m.machine.sum
		}
	}
	return m.machine.sum
}

// tournament yields the records of several cursors in the order of keys, equal
// ones in the order of the cursors: a tree of losers (Knuth, The Art of
// Computer Programming, volume 3, 5.4.1).
type tournament struct {
	cursors []*runCursor
	over    []bool
	losers  []int // inner nodes; losers[0] is the winner
}

func newTournament(cursors []*runCursor) *tournament {
	t := &tournament{cursors: cursors, over: make([]bool, len(cursors)), losers: make([]int, max(1, len(cursors)))}
	for i, c := range cursors {
		t.over[i] = !c.advance()
	}
	if len(cursors) > 0 {
		t.losers[0] = t.play(1)
	}
	return t
}

// play returns the winner below node, and notes the losers.
func (t *tournament) play(node int) int {
	if node >= len(t.cursors) {
		return node - len(t.cursors)
	}
	a, b := t.play(2*node), t.play(2*node+1)
	if t.before(b, a) {
		a, b = b, a
	}
	t.losers[node] = b
	return a
}

func (t *tournament) before(a, b int) bool {
	if t.over[a] || t.over[b] {
		return !t.over[a] && t.over[b]
	}
	if order := t.cursors[a].compareKeys(t.cursors[b]); order != 0 {
		return order < 0
	}
	return a < b
}

// winner returns the cursor that stands on the least record, nil at the end.
func (t *tournament) winner() *runCursor {
	if len(t.cursors) == 0 || t.over[t.losers[0]] {
		return nil
	}
	return t.cursors[t.losers[0]]
}

// next moves the winner on, and finds the next one.
func (t *tournament) next() {
	w := t.losers[0]
	t.over[w] = !t.cursors[w].advance()
	for node := (w + len(t.cursors)) / 2; node >= 1; node /= 2 {
		if t.before(t.losers[node], w) {
			t.losers[node], w = w, t.losers[node]
		}
	}
	t.losers[0] = w
}
