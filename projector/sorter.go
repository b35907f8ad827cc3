// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/durable"
)

// sorter is the sink of a rebuild: it looks nothing up. The changes of all
// events go, sorted, into runs; the expectations are checked when the runs are
// merged, where all that concerns one row comes together in the order of seqs.
// One goroutine owns it; another one sorts and writes what is full.
type sorter struct {
	projector Projector
	dir       string // of the runs
	limit     int    // bytes of records to gather for a run
	buffer    *runBuffer
	spare     *runBuffer
	journal   journal
	writing   chan error // holds the outcome of the run being written; nil: none is
}

// journal is what a rebuild knows about its runs. It lies beside them and is
// written anew after each; a rebuild that was interrupted goes on from it.
type journal struct {
	Format  int    `json:"format"`
	Input   string `json:"input"` // what is projected; another input begins anew
	View    string `json:"view"`
	Version uint32 `json:"version"`
	Stops   []stop `json:"stops"`
	Marks   []mark `json:"marks"`
}

// stop is where a run ends: it and those before have all events up to
// Position.
type stop struct {
	Run      runInfo      `json:"run"`
	Position eventlog.Seq `json:"position"`
	Time     int64        `json:"time"`
}

// mark is a state_recorded: the digest as of its seq is wanted, to be compared
// with what it and the next one say of this view.
type mark struct {
	Seq     eventlog.Seq  `json:"seq"`
	Claims  []digestClaim `json:"claims,omitempty"`
	Skipped uint64        `json:"skipped,omitempty"`
}

// digestClaim is a digest that a state_recorded tells of this view, as of the
// mark before its own or as of its own.
type digestClaim struct {
	AsOf   eventlog.Seq `json:"as_of"`
	Digest Digest       `json:"digest"`
	Before bool         `json:"before"`
}

const journalName = "runs.json"

// newSorter returns the sink of a rebuild of p from input, which goes on from
// the runs in dir that an interrupted one of the same input left whole.
func newSorter(p Projector, dir, input string, limit int) (*sorter, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a scratch directory for sorted runs: %w", err)
	}
	s := &sorter{projector: p, dir: dir, limit: limit, buffer: newRunBuffer(), spare: newRunBuffer(),
		journal: journal{Format: runVersion, Input: input, View: p.Name(), Version: p.Version()}}
	found, err := readJournal(filepath.Join(dir, journalName))
	if err != nil {
		return nil, err
	}
	if found != nil && found.Format == runVersion && found.Input == input && found.View == p.Name() && found.Version == p.Version() {
		s.resume(found)
	}
	return s, nil
}

// sealed is the journal's file: it says whether it is whole.
type sealed struct {
	Sum     uint32          `json:"sum"` // CRC32C of Journal
	Journal json.RawMessage `json:"journal"`
}

// readJournal returns nil when there is none, or one that is not whole: what
// it would save is only time.
func readJournal(path string) (*journal, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the journal of an interrupted rebuild: %w", err)
	}
	return decodeJournal(raw), nil
}

// decodeJournal returns nil for what is not a whole journal.
func decodeJournal(raw []byte) *journal {
	var file sealed
	var found journal
	whole := json.Unmarshal(raw, &file) == nil && crc32.Checksum(file.Journal, castagnoli) == file.Sum && json.Unmarshal(file.Journal, &found) == nil
	if !whole {
		return nil
	}
	return &found
}

// resume takes in the runs up to the first that is not whole. Runs are not
// synced, so after the loss of power even one that the journal names may be
// damaged.
func (s *sorter) resume(found *journal) {
	for _, stop := range found.Stops {
		if verifyRun(filepath.Join(s.dir, stop.Run.File), stop.Run) != nil {
			break
		}
		s.journal.Stops = append(s.journal.Stops, stop)
	}
	position := s.position()
	for _, m := range found.Marks {
		if m.Seq <= position {
			s.journal.Marks = append(s.journal.Marks, m)
		}
	}
}

// position returns the last event that is in a run.
func (s *sorter) position() eventlog.Seq {
	if n := len(s.journal.Stops); n > 0 {
		return s.journal.Stops[n-1].Position
	}
	return 0
}

func (s *sorter) time() int64 {
	if n := len(s.journal.Stops); n > 0 {
		return s.journal.Stops[n-1].Time
	}
	return 0
}

// restart forgets all runs: the history that they hold was cleaned meanwhile.
func (s *sorter) restart() {
	s.journal.Stops, s.journal.Marks = nil, nil
	s.buffer.reset()
}

// compare keeps what a state_recorded says until the merge knows the digest.
func (s *sorter) compare(entry *eventlog.Entry, last, horizon eventlog.Seq) error {
	m := mark{Seq: entry.Event.Seq}
	var before eventlog.Seq
	if n := len(s.journal.Marks); n > 0 {
		before = s.journal.Marks[n-1].Seq
	}
	for i := range entry.Event.Views {
		view := &entry.Event.Views[i]
		if view.Name != s.projector.Name() {
			continue
		}
		which, err := whichDigest(s.projector, entry, view, before, last, horizon)
		if err != nil {
			return err
		}
		if which == digestUnknown {
			m.Skipped++
			continue
		}
		m.Claims = append(m.Claims, digestClaim{AsOf: view.AsOf, Digest: Digest(view.Digest), Before: which == digestKept})
	}
	s.journal.Marks = append(s.journal.Marks, m)
	return nil
}

// settle ends a run once enough is gathered, or when asked to.
func (s *sorter) settle(position eventlog.Seq, time int64, now bool) error {
	if position == s.position() || (!now && s.buffer.size < s.limit) {
		return nil
	}
	if err := s.wait(); err != nil {
		return err
	}
	s.buffer, s.spare = s.spare, s.buffer
	s.journal.Stops = append(s.journal.Stops, stop{Position: position, Time: time,
		Run: runInfo{File: fmt.Sprintf("%06d.run", len(s.journal.Stops))}})
	s.writing = make(chan error, 1)
	go func(b *runBuffer, j journal) { s.writing <- s.write(b, j) }(s.spare, s.journal)
	if now {
		return s.wait()
	}
	return nil
}

// wait ends the writing of a run, if one is being written.
func (s *sorter) wait() error {
	if s.writing == nil {
		return nil
	}
	err := <-s.writing
	s.writing = nil
	return err
}

// write makes b the last run of j.
func (s *sorter) write(b *runBuffer, j journal) error {
	last := &j.Stops[len(j.Stops)-1]
	info, err := writeRun(filepath.Join(s.dir, last.Run.File), b)
	if err != nil {
		return err
	}
	info.File = last.Run.File
	last.Run = info // in the sorter's own journal as well: it shares the slice, and waits before it looks
	b.reset()
	body, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("write the journal of a rebuild: %w", err)
	}
	file, err := json.Marshal(sealed{Sum: crc32.Checksum(body, castagnoli), Journal: body})
	if err != nil {
		return fmt.Errorf("write the journal of a rebuild: %w", err)
	}
	// A crash before this line loses the run, after it the rebuild goes on
	// behind it.
	if err := durable.WriteFile(filepath.Join(s.dir, journalName), file, 0o600); err != nil {
		return fmt.Errorf("write the journal of a rebuild: %w", err)
	}
	return nil
}

// gatheredRecords is what a stretch does to a view that is sorted.
type gatheredRecords struct {
	records *recordBuffer
	marks   []noted
}

func newGatheredRecords() *gatheredRecords { return &gatheredRecords{records: newRecordBuffer()} }

func (g *gatheredRecords) reset() {
	g.records.reset()
	g.marks = g.marks[:0]
}

// apply implements sink.
func (g *gatheredRecords) apply(entry *eventlog.Entry, changes *Changes) error {
	for i := range changes.ops {
		g.records.add(entry.Event.Seq, changes, &changes.ops[i])
	}
	return nil
}

// compare implements sink.
func (g *gatheredRecords) compare(entry *eventlog.Entry, last, horizon eventlog.Seq) error {
	g.marks = append(g.marks, noted{*entry, last, horizon})
	return nil
}

// settle implements sink: nothing is kept here.
func (*gatheredRecords) settle(eventlog.Seq, int64, bool) (bool, error) { return false, nil }

// take takes in what a stretch gathered, up to the event at position.
func (s *sorter) take(g *gatheredRecords, position eventlog.Seq, time int64) error {
	s.buffer.join(g.records)
	for i := range g.marks {
		if err := s.compare(&g.marks[i].entry, g.marks[i].last, g.marks[i].horizon); err != nil {
			return err
		}
	}
	return s.settle(position, time, false)
}
