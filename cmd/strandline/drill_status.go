// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"fmt"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/metrics"
)

// status is what a status says of the drills; nil when there is nothing.
func (d *drills) status() *httpapi.Drill {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &httpapi.Drill{LastSuccess: d.record.LastSuccess, Undone: d.record.Undone, Next: d.next.UTC()}
	if last := d.record.Last; last != nil {
		s.Verdict, s.Reason, s.Mode = last.Drill.Verdict, last.Drill.Reason, last.Drill.Mode
		s.Began, s.Ended, s.RTOSeconds = last.Drill.Began, last.Drill.Ended, last.Drill.RTO.Seconds()
		s.Blocks, s.Remarks, s.Upto = last.Drill.Blocks, last.Remarks, httpapi.MarkAt(last.Upto, 0)
	}
	if d.running != nil {
		now := d.running.Snapshot()
		if now.Phase == "" {
			now.Phase = "a drill begins"
		}
		s.Running, s.Next = &now, time.Time{}
	}
	if d.next.IsZero() {
		s.Next = time.Time{}
	}
	return s
}

// lateDrills is after how many times the time between two it is told that no
// drill has passed.
const lateDrills = 3

// warnings are what somebody should do something about.
func (d *drills) warnings() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if last := d.record.Last; last != nil && last.Drill.Verdict == eventlog.DrillFailed {
		return []string{fmt.Sprintf("THE LAST DRILL FAILED at %s: %s. What a recovery would give is not what it should be: see \"a drill has failed\" in OPERATIONS.md",
			last.Drill.Ended.Format(time.RFC3339), last.Drill.Reason)}
	}
	since := latest(d.record.Since, d.record.LastSuccess)
	if d.schedule.every > 0 && d.clock.Since(since) > lateDrills*d.schedule.every {
		return []string{fmt.Sprintf("no drill has passed since %s: nothing proves that a recovery works; try `strandline drill`", since.Format(time.RFC3339))}
	}
	return nil
}

func (d *drills) gauges(state *metrics.State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	state.DrillRunning = d.running != nil
	state.DrillFailed = d.record.Last != nil && d.record.Last.Drill.Verdict == eventlog.DrillFailed
	state.DrillLastSuccess, state.DrillRTO = d.record.LastSuccess, d.record.RTO
	state.DrillsPassed, state.DrillsFailed, state.DrillsUndone = d.counts[string(eventlog.DrillPassed)], d.counts[string(eventlog.DrillFailed)], d.counts["undone"]
}
