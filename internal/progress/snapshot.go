// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"strings"
	"time"
)

// Snapshot is how far a phase is at one moment. Rates are those of the last
// ten seconds, of a finished phase those of all of it.
type Snapshot struct {
	Phase          string  `json:"phase"`                      // "" when none runs
	Done           int64   `json:"done"`                       // units
	Total          int64   `json:"total,omitempty"`            // units; 0: not known
	Bytes          int64   `json:"bytes,omitempty"`            //
	PerSecond      float64 `json:"per_second"`                 // units
	BytesPerSecond float64 `json:"bytes_per_second,omitempty"` //
	ElapsedSeconds float64 `json:"elapsed_seconds"`            //
	ETASeconds     float64 `json:"eta_seconds,omitempty"`      // 0: not known, or done
	Binds          string  `json:"binds,omitempty"`            // what it waits for most; "": not known
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
	p.mu.Lock()
	since := ph.samples[0]
	p.mu.Unlock()
	now := time.Now()
	s := Snapshot{
		Phase: ph.name, Total: ph.total, Done: ph.done.Load(), Bytes: ph.bytes.Load(),
		ElapsedSeconds: now.Sub(ph.begin).Seconds(),
	}
	if what := ph.binds.Load(); what != nil {
		s.Binds = *what
	}
	if took := now.Sub(since.at).Seconds(); took > 0 {
		s.PerSecond = float64(s.Done-since.done) / took
		s.BytesPerSecond = float64(s.Bytes-since.bytes) / took
	}
	if left := s.Total - s.Done; left > 0 && s.PerSecond > 0 {
		s.ETASeconds = float64(left) / s.PerSecond
	}
	return s
}

// final is s of a phase that has ended: nothing is left, and the rates are
// those of all of it.
func (s Snapshot) final() Snapshot {
	s.ETASeconds, s.PerSecond, s.BytesPerSecond = 0, 0, 0
	if s.ElapsedSeconds > 0 {
		s.PerSecond = float64(s.Done) / s.ElapsedSeconds
		s.BytesPerSecond = float64(s.Bytes) / s.ElapsedSeconds
	}
	return s
}

// attrs are s for a log line.
func (s Snapshot) attrs() []any {
	attrs := []any{"done", s.Done}
	if s.Total > 0 {
		attrs = append(attrs, "total", s.Total)
	}
	attrs = append(attrs, "per_second", round(s.PerSecond), "elapsed", seconds(s.ElapsedSeconds))
	if s.Bytes > 0 {
		attrs = append(attrs, "bytes", s.Bytes, "bytes_per_second", round(s.BytesPerSecond))
	}
	if s.ETASeconds > 0 {
		attrs = append(attrs, "eta", seconds(s.ETASeconds))
	}
	if s.Binds != "" {
		attrs = append(attrs, "binds", s.Binds)
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
	fmt.Fprintf(&b, ", %.0f/s", s.PerSecond)
	if s.BytesPerSecond > 0 {
		fmt.Fprintf(&b, ", %.1f MiB/s", s.BytesPerSecond/(1<<20))
	}
	if s.ETASeconds > 0 {
		fmt.Fprintf(&b, ", %s left", seconds(s.ETASeconds))
	}
	if s.Binds != "" {
		fmt.Fprintf(&b, ", binds: %s", s.Binds)
	}
	return b.String()
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
