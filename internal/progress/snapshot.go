// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"runtime"
	"strings"
	"time"
)

// Snapshot is how far a phase is at one moment. Rates are those of the last
// ten seconds, of a finished phase those of all of it.
type Snapshot struct {
	Phase           string    `json:"phase"`                       // "" when none runs
	Began           time.Time `json:"began,omitzero"`              //
	Ended           time.Time `json:"ended,omitzero"`              // zero while it runs
	Done            int64     `json:"done"`                        // units
	Total           int64     `json:"total,omitempty"`             // units; 0: not known
	Events          int64     `json:"events,omitempty"`            // where the units are others
	Bytes           int64     `json:"bytes,omitempty"`             //
	PerSecond       float64   `json:"per_second"`                  // units
	EventsPerSecond float64   `json:"events_per_second,omitempty"` //
	BytesPerSecond  float64   `json:"bytes_per_second,omitempty"`  //
	ElapsedSeconds  float64   `json:"elapsed_seconds"`             //
	CPUSeconds      float64   `json:"cpu_seconds,omitempty"`       // processor time used, of all cores; 0: not known
	ETASeconds      float64   `json:"eta_seconds,omitempty"`       // of the phase; 0: not known, or done
	EndSeconds      float64   `json:"eta_end_seconds,omitempty"`   // to the end of the last phase; 0: not known, or the phase is the last known
	Binds           string    `json:"binds,omitempty"`             // what it waits for most; "": not known
	Advice          string    `json:"advice,omitempty"`            // what would help
	Reads           *Reads    `json:"reads,omitempty"`             // nil: not known, or the phase has ended
}

// Reads is how many reads of the store may be under way at once.
type Reads struct {
	Limit    int `json:"limit"` // now; it is found out, between the bounds
	Min      int `json:"min"`
	Max      int `json:"max"`
	InFlight int `json:"in_flight"`
}

// Snapshot returns the running phase's, the zero one when none runs.
func (p *Progress) Snapshot() Snapshot {
	if p == nil {
		return Snapshot{}
	}
	ph := p.current.Load()
	if ph == nil {
		return Snapshot{}
	}
	return p.snapshot(ph)
}

// Phases returns the finished phases in the order in which they ran.
func (p *Progress) Phases() []Snapshot {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Snapshot(nil), p.finished...)
}

func (p *Progress) snapshot(ph *phase) Snapshot {
	if ended := ph.ended.Load(); ended != nil {
		return *ended
	}
	p.mu.Lock()
	since := ph.samples[0]
	p.mu.Unlock()
	return p.describe(ph, since, p.sample(ph))
}

// describe tells how far ph is, with the rates between two samples.
func (p *Progress) describe(ph *phase, since, now sample) Snapshot {
	s := Snapshot{
		Phase: ph.name, Began: ph.begin.UTC(), Total: ph.total.Load(), Done: now.done, Bytes: now.bytes, Events: now.events,
		ElapsedSeconds: now.at.Sub(ph.begin).Seconds(), CPUSeconds: (now.cpu - ph.first.cpu).Seconds(),
	}
	if took := now.at.Sub(since.at).Seconds(); took > 0 {
		s.PerSecond = float64(s.Done-since.done) / took
		s.BytesPerSecond = float64(s.Bytes-since.bytes) / took
		s.EventsPerSecond = float64(s.Events-since.events) / took
	}
	if left := s.Total - s.Done; left > 0 && s.PerSecond > 0 {
		s.ETASeconds = float64(left) / s.PerSecond
	}
	measured, told := p.shares(&since, &now), ph.binds.Load()
	if told != nil {
		s.Binds = *told
	} else if p.reading != nil {
		s.Binds = measured.binds()
	}
	if behind := ph.behind(&s); behind > 0 && s.ETASeconds > 0 {
		s.EndSeconds = s.ETASeconds + behind
	}
	if r := &now.reading; r.Limit > 0 {
		s.Reads = &Reads{Limit: r.Limit, Min: r.Min, Max: r.Max, InFlight: r.InFlight}
	}
	if told == nil && p.reading != nil {
		p.mu.Lock()
		speed := p.diskSpeed
		p.mu.Unlock()
		s.Advice = measured.advice(s.Binds, speed, max(s.ETASeconds, s.EndSeconds))
	}
	return s
}

// behind returns how many seconds what comes behind the phase will take. Its
// processor time tells how fast the cores are, however long the store is waited
// for; a disk that binds the phase binds what is behind it, too.
func (ph *phase) behind(s *Snapshot) float64 {
	times := ph.ahead.Load()
	if times == nil || s.Done <= 0 {
		return 0
	}
	whole := s.ElapsedSeconds + s.ETASeconds
	if s.CPUSeconds > 0 && s.Binds != "disk" {
		whole = s.CPUSeconds * float64(s.Total) / float64(s.Done) / float64(runtime.GOMAXPROCS(0))
	}
	return *times * whole
}

// final is the snapshot of a phase that has ended: nothing is left, and the
// rates are those of all of it.
func (p *Progress) final(ph *phase) Snapshot {
	now := p.sample(ph)
	s := p.describe(ph, ph.first, now)
	s.Ended, s.ETASeconds, s.EndSeconds, s.Advice, s.Reads = now.at.UTC(), 0, 0, "", nil
	ph.ended.Store(&s)
	return s
}

// attrs are s for a log line.
func (s Snapshot) attrs() []any {
	attrs := []any{"done", s.Done}
	if s.Total > 0 {
		attrs = append(attrs, "total", s.Total)
	}
	attrs = append(attrs, "per_second", round(s.PerSecond), "elapsed", seconds(s.ElapsedSeconds))
	if s.CPUSeconds > 0 {
		attrs = append(attrs, "cpu", seconds(s.CPUSeconds))
	}
	if s.Bytes > 0 {
		attrs = append(attrs, "bytes", s.Bytes, "bytes_per_second", round(s.BytesPerSecond))
	}
	if s.Events > 0 {
		attrs = append(attrs, "events", s.Events, "events_per_second", round(s.EventsPerSecond))
	}
	if s.ETASeconds > 0 {
		attrs = append(attrs, "eta", seconds(s.ETASeconds))
	}
	if s.EndSeconds > 0 {
		attrs = append(attrs, "eta_end", seconds(s.EndSeconds))
	}
	if r := s.Reads; r != nil {
		attrs = append(attrs, "reads_at_once", r.String())
	}
	if s.Binds != "" {
		attrs = append(attrs, "binds", s.Binds)
	}
	if s.Advice != "" {
		attrs = append(attrs, "advice", s.Advice)
	}
	return attrs
}

// String prints s for people: "project 1200/4000, 350/s, 8s left, binds: cpu".
func (s Snapshot) String() string {
	if s.Phase == "" {
		return "nothing runs"
	}
	return s.Phase + " " + s.counts()
}

func (s Snapshot) counts() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", s.Done)
	if s.Total > 0 {
		fmt.Fprintf(&b, "/%d", s.Total)
	}
	fmt.Fprintf(&b, ", %s/s", compact(s.PerSecond))
	if s.EventsPerSecond > 0 {
		fmt.Fprintf(&b, ", %s events/s", compact(s.EventsPerSecond))
	}
	if s.BytesPerSecond > 0 {
		fmt.Fprintf(&b, ", %.1f MiB/s", s.BytesPerSecond/(1<<20))
	}
	if s.ETASeconds > 0 {
		fmt.Fprintf(&b, ", %s left", seconds(s.ETASeconds))
	}
	if s.EndSeconds > 0 {
		fmt.Fprintf(&b, ", %s to the end", seconds(s.EndSeconds))
	}
	if r := s.Reads; r != nil {
		fmt.Fprintf(&b, ", %s reads at once", r)
	}
	if s.Binds != "" {
		fmt.Fprintf(&b, ", binds: %s", s.Binds)
	}
	return b.String()
}

// String prints r for people: "8 of 2-512".
func (r *Reads) String() string { return fmt.Sprintf("%d of %d-%d", r.Limit, r.Min, r.Max) }

// compact prints a rate in as few digits as a person needs.
func compact(f float64) string {
	switch {
	case f >= 1e7:
		return fmt.Sprintf("%.0fM", f/1e6)
	case f >= 1e6:
		return fmt.Sprintf("%.1fM", f/1e6)
	case f >= 1e4:
		return fmt.Sprintf("%.0fk", f/1e3)
	}
	return fmt.Sprintf("%.0f", f)
}

func round(f float64) int64 { return int64(f + 0.5) }

// seconds prints a time as coarsely as a person needs it.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
