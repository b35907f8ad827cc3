// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Use is what a process took from one moment to another.
type Use struct {
	CPU     float64 `json:"cpu_seconds"`        // user and system
	PeakRSS int64   `json:"peak_rss_bytes"`     // largest resident memory
	Written int64   `json:"disk_written_bytes"` // what it made the kernel write to disks
}

// meter reads what a process takes from the meter's making on. A nil one reads
// nothing.
type meter struct {
	pid     int
	cpu     time.Duration // before
	written int64         // before
}

// newMeter begins to measure a process. It returns nil for process 0, which is
// none, and where the system does not tell.
func newMeter(pid int) (*meter, error) {
	_, err := os.Stat("/proc/self/clear_refs")
	if pid == 0 || errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	m := &meter{pid: pid}
	if m.cpu, m.written, err = m.totals(); err != nil {
		return nil, err
	}
	return m, ForgetPeakRSS(pid)
}

// read returns what the process took up to now.
func (m *meter) read() (*Use, error) {
	if m == nil {
		return nil, nil
	}
	cpu, written, err := m.totals()
	if err != nil {
		return nil, err
	}
	peak, err := PeakRSS(m.pid)
	return &Use{CPU: (cpu - m.cpu).Seconds(), PeakRSS: peak, Written: written - m.written}, err
}

func (m *meter) file(name string) string { return fmt.Sprintf("/proc/%d/%s", m.pid, name) }

// tick is the unit of times in /proc/PID/stat, the same on every Linux that Go
// runs on.
const tick = time.Second / 100

// totals are CPU time and bytes written since the process began.
func (m *meter) totals() (cpu time.Duration, written int64, err error) {
	stat, err := os.ReadFile(m.file("stat"))
	if err != nil {
		return 0, 0, fmt.Errorf("read the times of process %d: %w", m.pid, err)
	}
	// The name in brackets may hold anything; utime and stime are the 12th and
	// 13th fields behind it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return 0, 0, fmt.Errorf("read the times of process %d: only %d fields", m.pid, len(fields))
	}
	user, userErr := strconv.ParseInt(fields[11], 10, 64)
	system, systemErr := strconv.ParseInt(fields[12], 10, 64)
	io, ioErr := os.ReadFile(m.file("io"))
	if err := errors.Join(userErr, systemErr, ioErr); err != nil {
		return 0, 0, fmt.Errorf("read what process %d took: %w", m.pid, err)
	}
	_, rest, found := strings.Cut("\n"+string(io), "\nwrite_bytes: ")
	text, _, _ := strings.Cut(rest, "\n")
	if written, err = strconv.ParseInt(text, 10, 64); !found || err != nil {
		return 0, 0, fmt.Errorf("read what process %d wrote: no write_bytes in %q", m.pid, io)
	}
	return time.Duration(user+system) * tick, written, nil
}

// PeakRSS returns the largest resident memory that a process has had since it
// began or since ForgetPeakRSS, in bytes (VmHWM), or 0 where the system does not
// tell.
func PeakRSS(pid int) (int64, error) { return memory(pid, "VmHWM:") }

// RSS returns the resident memory of a process in bytes, or 0 where the system
// does not tell.
func RSS(pid int) (int64, error) { return memory(pid, "VmRSS:") }

// ForgetPeakRSS begins PeakRSS anew, from the resident memory of now.
func ForgetPeakRSS(pid int) error {
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		return fmt.Errorf("forget the largest memory of process %d: %w", pid, err)
	}
	return nil
}

// memory reads a line of what the system says of a process.
func memory(pid int, name string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, os.ErrNotExist) {
		if _, serr := os.Stat("/proc/self/status"); serr != nil {
			return 0, nil // no such system
		}
	}
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
		}
		return kib << 10, nil
	}
	return 0, fmt.Errorf("process %d has no %s it has ended", pid, name)
}

// Traffic is what went to a store and came from it.
type Traffic struct {
	Requests int64 `json:"requests"`
	// Received and Sent are bytes, from the store's side; absent of a store that
	// is a directory.
	Received int64 `json:"received_bytes,omitempty"`
	Sent     int64 `json:"sent_bytes,omitempty"`
}

// since is what came after earlier, nil if that is not known.
func (t *Traffic) since(earlier *Traffic) *Traffic {
	if t == nil || earlier == nil {
		return nil
	}
	return &Traffic{Requests: t.Requests - earlier.Requests, Received: t.Received - earlier.Received, Sent: t.Sent - earlier.Sent}
}

// samples are metrics by name, each the sum over its labels.
type samples map[string]float64

// scrapeClient leaves no connection behind.
var scrapeClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: opTimeout}

// scrape asks for metrics in Prometheus's text format.
func scrape(ctx context.Context, url string) (samples, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("ask for metrics: %w", err)
	}
	answer, err := scrapeClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask for metrics: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask for metrics: %s answers %s", url, answer.Status)
	}
	seen := samples{}
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if err := seen.add(lines.Text()); err != nil {
			return nil, fmt.Errorf("read the metrics of %s: %w", url, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the metrics of %s: %w", url, err)
	}
	return seen, nil
}

// add takes one line: a comment, or a name, labels in braces if there are any,
// and a value.
func (s samples) add(line string) error {
	if line == "" || line[0] == '#' {
		return nil
	}
	name, rest, _ := strings.Cut(line, " ")
	if bare, _, found := strings.Cut(line, "{"); found {
		name, rest = bare, line[strings.LastIndexByte(line, '}')+1:]
	}
	text, _, _ := strings.Cut(strings.TrimSpace(rest), " ") // a time may follow
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return fmt.Errorf("line %q: %w", line, err)
	}
	s[name] += value
	return nil
}

// get sets n to a metric, which must be there.
func (s samples) get(name string, n *int64) error {
	value, ok := s[name]
	if !ok {
		return fmt.Errorf("there is no metric %s", name)
	}
	*n = int64(value)
	return nil
}
