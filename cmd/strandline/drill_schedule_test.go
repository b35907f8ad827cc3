// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/drill"
)

// at is a local time in November 2026.
func at(day, hour, minute int) time.Time {
	return time.Date(2026, time.November, day, hour, minute, 0, 0, time.Local)
}

// nightly is a schedule of every night at 3.
func nightly(seed string) schedule {
	return schedule{every: 24 * time.Hour, at: 3 * time.Hour, seed: seed}
}

func TestADrillIsDoneOnceANight(t *testing.T) {
	for server := range 50 {
		s := nightly(fmt.Sprint("server", server))
		r := drillRecord{Since: at(1, 12, 0)}
		now := r.Since
		for night := 2; night < 10; night++ {
			for restart := range 3 { // where they fall changes nothing
				next, ok := s.next(&r, now, now.Add(-time.Hour))
				if !ok || next.Before(at(night, 3, 0)) || !next.Before(at(night, 5, 0)) {
					t.Fatalf("%s, restart %d: at %v the next is %v, want the night of the %d.", s.seed, restart, now, next, night)
				}
				now = now.Add(next.Sub(now) / 2)
			}
			now, _ = s.next(&r, now, now.Add(-time.Hour))
			r.Tried, r.Scheduled = now, s.of(now)
			if !r.Scheduled.Equal(now) {
				t.Fatalf("a drill at %v counts as that of %v", now, r.Scheduled)
			}
		}
	}
}

func TestTheServersOfAHouseDoNotAllBeginAtOnce(t *testing.T) {
	seen := map[time.Time]bool{}
	for server := range 20 {
		next, _ := nightly(fmt.Sprint(server)).next(&drillRecord{Since: at(1, 12, 0)}, at(1, 12, 0), at(1, 12, 0))
		seen[next.Truncate(time.Minute)] = true
	}
	if len(seen) < 10 {
		t.Errorf("20 servers begin at %d different minutes", len(seen))
	}
}

func TestADrillThatWasMissedIsMadeUpFor(t *testing.T) {
	s := nightly("x")
	done := s.slot(at(5, 0, 0), true) // of the night of the 5th
	for name, c := range map[string]struct {
		record       drillRecord
		now, started time.Time
		from, to     time.Time // of the next
	}{
		"the server was down for the night's time, and is up soon after":   {drillRecord{Scheduled: done}, at(6, 6, 0), at(6, 6, 0), at(6, 6, 15), at(6, 6, 15)},
		"it was killed in the drill: an hour after that began":             {drillRecord{Scheduled: done, Tried: at(6, 5, 30)}, at(6, 5, 45), at(6, 5, 45), at(6, 6, 30), at(6, 6, 30)},
		"it is up by day: the next night does":                             {drillRecord{Scheduled: done}, at(6, 15, 0), at(6, 15, 0), at(7, 3, 0), at(7, 5, 0)},
		"two nights were missed: by day":                                   {drillRecord{Scheduled: done}, at(7, 15, 0), at(7, 15, 0), at(7, 15, 15), at(7, 15, 15)},
		"a machine that sleeps at night, never drilled":                    {drillRecord{Since: at(1, 12, 0)}, at(4, 9, 0), at(4, 9, 0), at(4, 9, 15), at(4, 9, 15)},
		"it could not be done all night, the store was away: the next one": {drillRecord{Scheduled: done, Tried: at(6, 10, 50)}, at(6, 11, 30), at(5, 3, 0), at(7, 3, 0), at(7, 5, 0)},
		"it could not be done: again an hour later":                        {drillRecord{Scheduled: done, Tried: at(6, 5, 0)}, at(6, 5, 1), at(1, 0, 0), at(6, 6, 0), at(6, 6, 0)},
		"a start just before the time waits until the server has settled":  {drillRecord{Scheduled: done}, s.slot(at(6, 0, 0), true).Add(-time.Minute), s.slot(at(6, 0, 0), true).Add(-time.Minute), s.slot(at(6, 0, 0), true).Add(14 * time.Minute), s.slot(at(6, 0, 0), true).Add(14 * time.Minute)},
		"the clock was ahead: it does not wait until then":                 {drillRecord{Scheduled: at(20, 4, 0), Tried: at(20, 4, 0)}, at(6, 12, 0), at(6, 12, 0), at(7, 3, 0), at(7, 5, 0)},
	} {
		if c.record.Since.IsZero() {
			c.record.Since = at(1, 12, 0)
		}
		next, ok := s.next(&c.record, c.now, c.started)
		if !ok || next.Before(c.from) || next.After(c.to) {
			t.Errorf("%s: %v, want %v to %v", name, next, c.from, c.to)
		}
	}
	// One that was made up for by day counts as the night's.
	if of := s.of(at(7, 15, 15)); of.Before(at(7, 3, 0)) || of.After(at(7, 5, 0)) {
		t.Errorf("it counts as that of %v", of)
	}
}

func TestDrillsMoreOftenThanDailyGoAroundTheClock(t *testing.T) {
	s := schedule{every: time.Hour, at: 3 * time.Hour, seed: "x"}
	r := drillRecord{Since: at(1, 12, 0)}
	next, ok := s.next(&r, at(1, 12, 1), at(1, 12, 0))
	if !ok || next.Before(at(1, 12, 54)) || next.After(at(1, 13, 0)) {
		t.Error(next)
	}
	r.Scheduled = s.of(next)
	if again, _ := s.next(&r, next, at(1, 12, 0)); again.Sub(next) < 54*time.Minute || again.Sub(next) > time.Hour {
		t.Errorf("%v after %v", again, next)
	}
	if _, ok := (schedule{}).next(&r, at(1, 12, 0), at(1, 12, 0)); ok {
		t.Error("never is not never")
	}
}

// What is remembered of drills outlives a restart; what was edited does not
// count, and says so.
func TestTheRecordOfDrillsIsChecked(t *testing.T) {
	path := filepath.Join(t.TempDir(), drillRecordName)
	quiet := slog.New(slog.DiscardHandler)
	now := at(3, 12, 0).UTC()
	fresh := loadDrills(path, now, quiet)
	if !fresh.Since.Equal(now) || fresh.Turn != drill.Full {
		t.Errorf("%+v", fresh)
	}
	fresh.Turn, fresh.RTO = drill.FromCheckpoint, time.Minute
	fresh.Last = &lastDrill{Seq: eventlog.MakeSeq(2, 5), Drill: eventlog.Drill{Verdict: eventlog.DrillFailed, Reason: "why"}}
	if err := writeChecked(path, fresh); err != nil {
		t.Fatal(err)
	}
	if got := loadDrills(path, now.Add(time.Hour), quiet); !got.Since.Equal(now) || got.Turn != drill.FromCheckpoint || got.RTO != time.Minute || got.Last.Drill.Reason != "why" {
		t.Errorf("%+v", got)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), `"failed"`, `"passed"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	if got := loadDrills(path, now, slog.New(slog.NewTextHandler(&said, nil))); got.Last != nil || !strings.Contains(said.String(), "edited") {
		t.Errorf("%+v, said %q", got, said.String())
	}
}
