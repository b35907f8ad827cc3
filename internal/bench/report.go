// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a Run measured.
type Report struct {
	Version string   `json:"version"` // of the program that measured
	Peers   []string `json:"peers"`
	Rows    []Row    `json:"rows"`
}

// Row is one load with a result for each peer, in the order of Report.Peers.
type Row struct {
	Load    Load     `json:"-"`
	Name    string   `json:"load"`
	Results []Result `json:"results"`
	Error   string   `json:"error,omitempty"` // that ended the row before all turns were taken
	turns   []turned
}

// turned is what a peer did in one turn.
type turned struct {
	peer   string
	result Result
	whole  bool // no error ended it
}

// Result is what one peer did of one load, all rounds together.
type Result struct {
	Ops        int           `json:"ops"`    // that succeeded
	Errors     int           `json:"errors"` // that did not
	FirstError string        `json:"first_error,omitempty"`
	Bytes      int64         `json:"bytes"`      // of blocks moved by the successful ones
	Elapsed    time.Duration `json:"elapsed_ns"` // of the clock
	P50        time.Duration `json:"p50_ns"`     // latencies, of failed operations too
	P99        time.Duration `json:"p99_ns"`
	Max        time.Duration `json:"max_ns"`
	PeakRSS    int64         `json:"peak_rss_bytes"` // the server's largest memory, 0 if there is no process

	latencies []time.Duration
}

// OpsPerSecond is the rate of successful operations.
func (r *Result) OpsPerSecond() float64 { return perSecond(float64(r.Ops), r.Elapsed) }

// BytesPerSecond is the rate of moved bytes.
func (r *Result) BytesPerSecond() float64 { return perSecond(float64(r.Bytes), r.Elapsed) }

func perSecond(n float64, elapsed time.Duration) float64 {
	if elapsed <= 0 {
		return 0
	}
	return n / elapsed.Seconds()
}

// note counts one operation.
func (r *Result) note(bytes int64, err error) {
	if err == nil {
		r.Ops++
		r.Bytes += bytes
		return
	}
	if r.Errors++; r.FirstError == "" {
		r.FirstError = err.Error()
	}
}

// add puts another client's or round's part to r. Times of rounds add up;
// those of clients are zero, because they ran at once.
func (r *Result) add(part Result) {
	r.Ops += part.Ops
	r.Errors += part.Errors
	if r.FirstError == "" {
		r.FirstError = part.FirstError
	}
	r.Bytes += part.Bytes
	r.Elapsed += part.Elapsed
	r.PeakRSS = max(r.PeakRSS, part.PeakRSS)
	r.latencies = append(r.latencies, part.latencies...)
}

// finish computes the quantiles.
func (r *Result) finish() {
	slices.Sort(r.latencies)
	r.P50, r.P99, r.Max = quantile(r.latencies, 50), quantile(r.latencies, 99), quantile(r.latencies, 100)
	r.latencies = nil
}

// quantile is the smallest of the sorted values that at least percent of them
// do not exceed.
func quantile(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := (len(sorted)*percent + 99) / 100
	return sorted[max(rank, 1)-1]
}

// Failed reports whether any operation failed.
func (r *Report) Failed() bool {
	for _, row := range r.Rows {
		for _, result := range row.Results {
			if result.Errors > 0 {
				return true
			}
		}
	}
	return false
}

// WriteJSON writes the report for machines.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// WriteBenchstat writes a line for each turn in the format of Go's benchmarks
// (https://go.dev/design/14313-benchmark-format), for benchstat to compare two
// runs. A turn with errors, or ended by one, is no measurement: a line that
// benchstat passes over says that it was one.
func (r *Report) WriteBenchstat(w io.Writer) error {
	_, err := fmt.Fprintf(w, "goos: %s\ngoarch: %s\ncores: %d\nversion: %s\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), r.Version)
	if err != nil {
		return fmt.Errorf("write for benchstat: %w", err)
	}
	for _, row := range r.Rows {
		if row.Error != "" {
			if _, err := fmt.Fprintf(w, "# %s: not all turns were taken\n", row.Name); err != nil {
				return fmt.Errorf("write for benchstat: %w", err)
			}
		}
		for _, t := range row.turns {
			result := &t.result
			if result.Errors > 0 || result.Ops == 0 || !t.whole {
				cut := ""
				if !t.whole {
					cut = ", cut short"
				}
				if _, err := fmt.Fprintf(w, "# %s, %s: %d operations, %d errors%s\n", row.Name, t.peer, result.Ops, result.Errors, cut); err != nil {
					return fmt.Errorf("write for benchstat: %w", err)
				}
				continue
			}
			_, err := fmt.Fprintf(w, "BenchmarkServe/load=%s/peer=%s %d %d ns/op %.1f ops/s %d p50-ns %d p99-ns %d peak-bytes\n",
				dashes(row.Name), dashes(t.peer), result.Ops, result.Elapsed.Nanoseconds()/int64(result.Ops), result.OpsPerSecond(),
				result.P50.Nanoseconds(), result.P99.Nanoseconds(), result.PeakRSS)
			if err != nil {
				return fmt.Errorf("write for benchstat: %w", err)
			}
		}
	}
	return nil
}

// dashes is a name without the spaces that end one in Go's format.
func dashes(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, ", ", "-"), " ", "-")
}

// WriteTable writes the report for people: a line for each load and peer, and
// the first peer's rate as a multiple of that peer's.
func (r *Report) WriteTable(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "load\tpeer\tops/s\tMiB/s\tp50\tp99\tmax\tmemory\terrors\t%s is\t\n", r.Peers[0])
	for _, row := range r.Rows {
		for i := range row.Results {
			name := ""
			if row.Results[i].Elapsed == 0 {
				continue // a peer that does not do this
			}
			if i == 0 {
				name = row.Name
			}
			writeLine(table, name, r.Peers[i], &row.Results[0], &row.Results[i])
		}
		fmt.Fprintln(table, "\t\t\t\t\t\t\t\t\t\t")
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return r.writeErrors(w)
}

func writeLine(w io.Writer, load, peer string, first, r *Result) {
	ratio, memory := "", ""
	if r != first && r.OpsPerSecond() > 0 {
		ratio = fmt.Sprintf("%.2f x", first.OpsPerSecond()/r.OpsPerSecond())
	}
	if r.PeakRSS > 0 {
		memory = fmt.Sprintf("%d MiB", r.PeakRSS>>20)
	}
	fmt.Fprintf(w, "%s\t%s\t%.0f\t%.1f\t%s\t%s\t%s\t%s\t%d\t%s\t\n", load, peer,
		r.OpsPerSecond(), r.BytesPerSecond()/(1<<20), short(r.P50), short(r.P99), short(r.Max), memory, r.Errors, ratio)
}

// writeErrors says what the errors were that the table counts.
func (r *Report) writeErrors(w io.Writer) error {
	for _, row := range r.Rows {
		if row.Error != "" {
			if _, err := fmt.Fprintf(w, "NOT WHOLE: %s: not all turns were taken: %s\n", row.Name, row.Error); err != nil {
				return fmt.Errorf("write the table: %w", err)
			}
		}
		for i, result := range row.Results {
			if result.Errors == 0 {
				continue
			}
			if _, err := fmt.Fprintf(w, "NOT A RESULT: %s with %s: %d errors, the first: %s\n", row.Name, r.Peers[i], result.Errors, result.FirstError); err != nil {
				return fmt.Errorf("write the table: %w", err)
			}
		}
	}
	return nil
}

// short is a duration with about three digits.
func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

// sizeText prints a size in the largest binary unit that divides it.
func sizeText(n int64) string {
	for _, unit := range []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n != 0 && n%unit.size == 0 {
			return fmt.Sprintf("%d%s", n/unit.size, unit.name)
		}
	}
	return fmt.Sprintf("%dB", n)
}
