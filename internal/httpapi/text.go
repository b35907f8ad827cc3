// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// WriteText prints s for an operator: what the server does, how far it is,
// what is wrong, what to do. The form is for reading; scripts take the JSON.
func (s *Status) WriteText(w io.Writer) error {
	t := &text{tabs: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.server(s)
	t.watermarks(s)
	t.work(s)
	t.list("barred", barredLines(s.Barred))
	t.list("warning", s.Warnings)
	t.list("note", s.Notes)
	t.list("next", s.Next)
	if t.err != nil {
		return fmt.Errorf("print the status: %w", t.err)
	}
	if err := t.tabs.Flush(); err != nil {
		return fmt.Errorf("print the status: %w", err)
	}
	return nil
}

// text keeps the first error of its lines.
type text struct {
	tabs *tabwriter.Writer
	err  error
}

// line prints a label and a value, nothing for an empty value.
func (t *text) line(label, format string, v ...any) {
	value := strings.TrimSpace(fmt.Sprintf(format, v...))
	if t.err != nil || value == "" {
		return
	}
	_, t.err = fmt.Fprintf(t.tabs, "%s\t%s\n", label, value)
}

func (t *text) list(label string, values []string) {
	for _, v := range values {
		t.line(label, "%s", v)
	}
}

func (t *text) server(s *Status) {
	mode := string(s.Mode)
	if s.Reason != "" {
		mode += ": " + s.Reason
	}
	t.line("mode", "%s", mode)
	t.line("stopped by", "%s", s.Stopped)
	t.line("log now owned by", "%s", s.Owner)
	t.line("version", "%s", s.Version)
	if !s.Started.IsZero() {
		t.line("up", "%s, since %s", time.Duration(s.Uptime*float64(time.Second)).Round(time.Second), s.Started.Format(time.RFC3339))
	}
	switch {
	case s.Epoch != 0:
		t.line("log", "%s, epoch %d, writer %s", s.LogID, s.Epoch, s.Writer)
	case s.LogID != (eventlog.ID{}):
		t.line("log", "%s, no epoch claimed", s.LogID)
	}
	t.line("archive", "%s", s.Archive)
	t.line("state", "%s", s.StateDir)
	t.line("listens", "%s", s.Listen)
	t.line("policy", "%s", s.Policy)
	if s.Lossy {
		t.line("lossy", "this start may have lost events that were acknowledged as committed: %s", s.LossyReason)
	}
}

func (t *text) watermarks(s *Status) {
	t.line("committed", "%s", s.Committed)
	t.line("archived", "%s", withLag(s.Archived, s.ArchiveLag))
	for _, v := range s.Views {
		value := withLag(v.Applied, v.Lag)
		if v.Stopped != "" {
			value += "; STOPPED: " + v.Stopped
		}
		t.line("view "+v.Name, "%s", value)
	}
}

// String prints m for people: "7.1234 of 2026-11-23T02:00:00Z", "not known"
// for nil.
func (m *Mark) String() string {
	switch {
	case m == nil:
		return "not known"
	case m.Time.IsZero():
		return m.At
	}
	return m.At + " of " + m.Time.Format(time.RFC3339)
}

func withLag(m *Mark, lag Lag) string {
	if lag.Events == 0 {
		return m.String()
	}
	behind := time.Duration(lag.Seconds * float64(time.Second)).Round(10 * time.Millisecond)
	return fmt.Sprintf("%s, %d events and %s behind", m, lag.Events, behind)
}

func (t *text) work(s *Status) {
	if p := s.Progress; p != nil && p.Phase != "" {
		t.line("progress", "%s", p)
		t.line("advice", "%s", p.Advice)
	}
	if s.Backlog.Generations > 0 {
		limit := ""
		if s.Backlog.Limit > 0 {
			limit = " of at most " + mebibytes(s.Backlog.Limit)
		}
		t.line("backlog", "%s%s in %d generations", mebibytes(s.Backlog.Bytes), limit, s.Backlog.Generations)
	}
	if u := s.LastUpload; u != nil {
		outcome := "archived"
		if u.Error != "" {
			outcome = "FAILED: " + u.Error
		}
		object := ""
		if u.Ordinal != 0 {
			object = fmt.Sprintf("ordinal %d ", u.Ordinal)
		}
		t.line("last upload", "%sat %s, %s", object, u.Time.Format(time.RFC3339), outcome)
	}
	t.checkpoint(s.Checkpoint)
	t.drill(s.Drill)
	if s.Feed.Server != "" {
		state := "away"
		if s.Feed.Connected {
			state = "connected"
		}
		if s.Feed.Addr != "" {
			state += ", listens on " + s.Feed.Addr
		}
		t.line("feed", "NATS %s, %s; %d published, %d dropped, %d refused", s.Feed.Server, state, s.Feed.Published, s.Feed.Dropped, s.Feed.Refused)
	}
}

func (t *text) checkpoint(c *Checkpoint) {
	if c == nil {
		return
	}
	value := "none yet"
	if c.Seq != 0 {
		value = fmt.Sprintf("%s, taken at %s, %s", c.At, c.Time.Format(time.RFC3339), mebibytes(c.Bytes))
	}
	if c.Error != "" {
		value += "; the last try FAILED: " + c.Error
	}
	t.line("checkpoint", "%s", value)
}

// drill prints the last drill, the one that runs and the next one.
func (t *text) drill(d *Drill) {
	if d == nil {
		return
	}
	if d.Verdict != "" {
		outcome := fmt.Sprintf("passed, %s, up to %s, verified views after %s, %d blocks read back", d.Mode, d.Upto, duration(d.RTOSeconds), d.Blocks)
		if d.Verdict != eventlog.DrillPassed {
			outcome = "FAILED: " + d.Reason
		}
		t.line("last drill", "%s: %s", d.Ended.Format(time.RFC3339), outcome)
		t.list("drill", d.Remarks)
	}
	if d.Verdict != eventlog.DrillPassed && !d.LastSuccess.IsZero() {
		t.line("drill passed", "last at %s", d.LastSuccess.Format(time.RFC3339))
	}
	t.line("drill undone", "%s", d.Undone)
	if d.Running != nil {
		t.line("drill now", "%s", d.Running)
		t.line("advice", "%s", d.Running.Advice)
	}
	if !d.Next.IsZero() {
		t.line("next drill", "%s", d.Next.Format(time.RFC3339))
	}
}

func duration(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second)).Round(10 * time.Millisecond)
}

func mebibytes(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func barredLines(all []Barred) []string {
	var lines []string
	for _, b := range all {
		until := ""
		if !b.Until.IsZero() {
			until = ", until " + b.Until.Format(time.RFC3339)
		}
		lines = append(lines, fmt.Sprintf("%s since %s%s: %s", b.Machine, b.Since, until, b.Reason))
	}
	return lines
}
