// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/drill"
)

// drillRecord is what a state directory remembers of its drills. The truth is
// in the log: this is a copy at hand, for status, metrics and the schedule.
type drillRecord struct {
	Version int `json:"version"`
	// Since is when the schedule began, Scheduled when the last scheduled
	// drill that came to a verdict began, Tried the last whatever came of it.
	Since     time.Time  `json:"since"`
	Scheduled time.Time  `json:"scheduled,omitzero"`
	Tried     time.Time  `json:"tried,omitzero"`
	Turn      drill.Mode `json:"turn"` // of the next one
	// Last is the last drill that came to a verdict, with the seq of its event
	// (0: it could not be written).
	Last        *lastDrill    `json:"last,omitempty"`
	LastSuccess time.Time     `json:"last_success,omitzero"` // end of the last one that passed
	RTO         time.Duration `json:"rto_ns,omitempty"`      // that it measured
	Undone      string        `json:"undone,omitempty"`      // why one could not be done since
}

type lastDrill struct {
	Seq     eventlog.Seq   `json:"seq,omitempty"`
	Drill   eventlog.Drill `json:"drill"`
	Upto    eventlog.Seq   `json:"up_to,omitempty"`
	Remarks []string       `json:"remarks,omitempty"`
}

const (
	drillRecordName    = "drills.json"
	drillRecordVersion = 1
)

// loadDrills reads the record. One that is missing is new; one that was
// changed or is of another version is begun anew, which the log says.
func loadDrills(path string, now time.Time, log *slog.Logger) drillRecord {
	var r drillRecord
	err := readChecked(path, &r)
	if err == nil && (r.Version != drillRecordVersion || r.Since.IsZero() || r.Turn == "") {
		err = fmt.Errorf("%s is of another version", path)
	}
	if err == nil {
		return r
	}
	if !errors.Is(err, fs.ErrNotExist) {
		log.Warn("what is known of earlier drills is begun anew; the log has them, as drill_completed", "err", err)
	}
	return drillRecord{Version: drillRecordVersion, Since: now.UTC(), Turn: drill.Full}
}

// schedule says when to drill.
type schedule struct {
	every time.Duration // 0: never
	at    time.Duration // after midnight, local time
	seed  string        // of the random part, which is the same after a restart
}

const (
	day = 24 * time.Hour
	// drillWindow is how long after its time a drill may begin, at random: the
	// servers of a house shall not all begin at once.
	drillWindow = 2 * time.Hour
	// drillGrace is how late a drill is begun that a restart held up.
	drillGrace = 6 * time.Hour
	// drillSettle is how long a server runs before it makes up for a drill,
	// drillRetry how long after one that came to no verdict the next begins.
	drillSettle = 15 * time.Minute
	drillRetry  = time.Hour
)

func parseClock(text string) (time.Duration, error) {
	t, err := time.Parse("15:04", text)
	if err != nil {
		return 0, fmt.Errorf("time of day %q: %w", text, err)
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, nil
}

// next returns when the next drill begins; false: never. One that a restart
// held up for less than drillGrace is made up for at once. One that was missed
// for longer waits for the next night, unless no drill was begun for twice as
// long as there should be between two: a machine that sleeps at night is
// drilled by day.
func (s schedule) next(r *drillRecord, now, started time.Time) (time.Time, bool) {
	if s.every <= 0 {
		return time.Time{}, false
	}
	base, first := latest(r.Since, r.Scheduled), r.Scheduled.IsZero()
	if base.After(now) { // the clock was ahead, and is not any more
		base, first = now, true
	}
	due := s.after(base)
	if first && s.every >= day {
		due = s.slot(base, true) // the first night
	}
	soon := started.Add(drillSettle)
	if retry := r.Tried.Add(drillRetry); !r.Tried.IsZero() && !r.Tried.After(now) && retry.After(soon) {
		soon = retry
	}
	switch late := now.Sub(due); {
	case late <= 0 && due.After(soon):
		return due, true
	case late <= drillGrace, s.every < day, now.Sub(base) >= 2*s.every:
		return latest(due, soon), true
	}
	return latest(s.slot(now, true), soon), true
}

// after returns when the drill after one of base is due.
func (s schedule) after(base time.Time) time.Time {
	if s.every < day {
		due := base.Add(s.every)
		return due.Add(-s.random(due, s.every/10))
	}
	// This one's night may have been late in its window, the next be early.
	return s.slot(base.Add(s.every-drillWindow), false)
}

// of returns which of its times a scheduled drill that began at now is of: the
// night's, also when it was made up for by day.
func (s schedule) of(now time.Time) time.Time {
	if s.every < day {
		return now
	}
	slot := s.slot(now.Add(-day-drillWindow), true)
	for next := slot; !next.After(now); next = s.slot(slot.Add(time.Second), true) {
		slot = next
	}
	return slot
}

// slot returns the first night's time whose window begins at or after from;
// with coming, the first that is at or after from itself.
func (s schedule) slot(from time.Time, coming bool) time.Time {
	local := from.Local()
	for night := -1; ; night++ {
		at := time.Date(local.Year(), local.Month(), local.Day()+night, 0, 0, 0, 0, time.Local).Add(s.at)
		slot := at.Add(s.random(at, drillWindow))
		if coming && !slot.Before(from) || !coming && !at.Before(from) {
			return slot
		}
	}
}

// random returns a time below limit that is the same whenever it is asked for.
func (s schedule) random(of time.Time, limit time.Duration) time.Duration {
	hash := fnv.New64a()
	fmt.Fprintf(hash, "%s %d", s.seed, of.Unix()) // a hash takes everything
	return time.Duration(hash.Sum64() % uint64(max(limit, 1)))
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
