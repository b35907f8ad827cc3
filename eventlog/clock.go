// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"sort"
	"sync"
	"time"
)

// clock tells how old an event is by the monotonic clock, whatever was done to
// the wall clock since. An event has the wall clock's time. So the clock
// remembers how the two stood to each other when the log was opened, and again
// whenever the wall clock was set.
type clock struct {
	mu    sync.Mutex
	marks []clockMark // owned by mu; ascending
}

// clockMark is how the clocks stand from the event seq on.
type clockMark struct {
	seq      Seq
	recorded int64     // what the wall clock showed, in nanoseconds since 1970
	at       time.Time // the same moment, with its monotonic reading
}

const (
	// clockSet is by how much the wall clock must be off to count as set.
	clockSet = 100 * time.Millisecond
	// maxClockMarks bounds what a wall clock that is set all the time costs.
	maxClockMarks = 4096
)

// note hears that the event seq was given the time recorded at the moment at.
func (c *clock) note(seq Seq, recorded int64, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.marks); n > 0 {
		last := c.marks[n-1]
		off := at.Sub(last.at) - time.Duration(recorded-last.recorded)
		if off.Abs() < clockSet {
			return
		}
		if n == maxClockMarks {
			c.marks = append(c.marks[:0], c.marks[n/2:]...)
		}
	}
	c.marks = append(c.marks, clockMark{seq, recorded, at})
}

// Age is how long ago ev happened, never less than 0. For an event of this
// process it does not depend on how the wall clock was set since; an event of an
// earlier one is at least as old as the log is open.
func (l *Log) Age(ev *Event) time.Duration { return max(0, time.Since(l.clock.moment(ev))) }

// moment returns when ev happened, as far as possible with a monotonic
// reading.
func (c *clock) moment(ev *Event) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.marks) == 0 { // a log that is only read
		return time.Unix(0, ev.Time)
	}
	next := sort.Search(len(c.marks), func(i int) bool { return c.marks[i].seq > ev.Seq })
	mark := c.marks[max(0, next-1)]
	at := mark.at.Add(time.Duration(ev.Time - mark.recorded))
	latest := time.Now()
	switch {
	case ev.Seq <= c.marks[0].seq:
		latest = c.marks[0].at
	case next < len(c.marks):
		latest = c.marks[next].at
	}
	if at.After(latest) {
		return latest
	}
	return at
}
