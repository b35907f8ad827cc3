// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// ResticReport is what RunRestic measured.
type ResticReport struct {
	Restic string            `json:"restic"` // its version
	Source Source            `json:"source"`
	Peers  []string          `json:"peers"`
	Beside map[string]string `json:"beside"` // as in ResticPlan
	Rows   []ResticRow       `json:"rows"`
}

// ResticRow is one step with its figures for each peer, in the order of
// ResticReport.Peers, and for each peer those of each round.
type ResticRow struct {
	Step    string      `json:"step"`
	Results [][]Figures `json:"results"`
}

// Figures are what one step took once.
type Figures struct {
	Seconds   float64  `json:"seconds"` // from restic's start to its end
	ResticCPU float64  `json:"restic_cpu_seconds"`
	Server    *Use     `json:"server,omitempty"`  // nil: there is none, or the system does not tell
	Store     *Use     `json:"store,omitempty"`   // MinIO's; nil as above
	Traffic   *Traffic `json:"traffic,omitempty"` // of MinIO or the archive; nil: nobody counts it
	Behind    *Behind  `json:"behind,omitempty"`  // of a Strandline server
}

// Behind is what the archive had not got when restic ended.
type Behind struct {
	Events int64 `json:"events"`
	Bytes  int64 `json:"bytes"` // of generations; the one that grows is one of them
}

// add takes the figures of a step of a round.
func (r *ResticReport) add(step string, peer int, f Figures) {
	at := slices.IndexFunc(r.Rows, func(row ResticRow) bool { return row.Step == step })
	if at < 0 {
		at = len(r.Rows)
		r.Rows = append(r.Rows, ResticRow{Step: step, Results: make([][]Figures, len(r.Peers))})
	}
	r.Rows[at].Results[peer] = append(r.Rows[at].Results[peer], f)
}

// WriteTable writes the report for people: a line for each step and peer with
// the means of its rounds, and its time as a multiple of that of the Strandline
// server beside it.
func (r *ResticReport) WriteTable(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	above, head := "\t\t", "step\tpeer\t"
	for _, c := range columns {
		above, head = above+c.above+"\t", head+c.head+"\t"
	}
	fmt.Fprintf(table, "%sall\tstrandline\t\n%srounds\tis\t\n", above, head)
	for _, row := range r.Rows {
		name := row.Step
		for i, rounds := range row.Results {
			if len(rounds) == 0 {
				continue // the run ended before
			}
			fmt.Fprintf(table, "%s\t%s\t", name, r.Peers[i])
			for _, c := range columns {
				fmt.Fprintf(table, "%s\t", c.cell(rounds))
			}
			fmt.Fprintf(table, "%s\t%s\t\n", spread(rounds), r.ratio(&row, i))
			name = ""
		}
		fmt.Fprintln(table, strings.Repeat("\t", len(columns)+4))
	}
	_, err := fmt.Fprintf(table, "%s\n%d small files of %s, large ones of %s, restored as they were\n",
		r.Restic, r.Source.SmallFiles, mib(float64(r.Source.SmallBytes)), mib(float64(r.Source.LargeBytes)))
	if err = errors.Join(err, table.Flush()); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}

// column is a figure of the table.
type column struct {
	above, head string // its title, in two lines
	of          func(f *Figures) (value float64, known bool)
	text        func(float64) string
}

var columns = []column{
	{"", "time", func(f *Figures) (float64, bool) { return f.Seconds, true }, inSeconds},
	{"restic", "CPU", func(f *Figures) (float64, bool) { return f.ResticCPU, true }, inSeconds},
	{"server", "CPU", func(f *Figures) (float64, bool) { return f.Server.cpu() }, inSeconds},
	{"server", "memory", func(f *Figures) (float64, bool) { return f.Server.peak() }, mib},
	{"MinIO", "CPU", func(f *Figures) (float64, bool) { return f.Store.cpu() }, inSeconds},
	{"MinIO", "memory", func(f *Figures) (float64, bool) { return f.Store.peak() }, mib},
	{"to", "disk", (*Figures).written, mib},
	{"store", "requests", func(f *Figures) (float64, bool) {
		if f.Traffic == nil {
			return 0, false
		}
		return float64(f.Traffic.Requests), true
	}, inUnits},
	{"store", "in", func(f *Figures) (float64, bool) { return f.moved(func(t *Traffic) int64 { return t.Received }) }, mib},
	{"store", "out", func(f *Figures) (float64, bool) { return f.moved(func(t *Traffic) int64 { return t.Sent }) }, mib},
	{"not yet", "archived", func(f *Figures) (float64, bool) {
		if f.Behind == nil {
			return 0, false
		}
		return float64(f.Behind.Bytes), true
	}, mib},
}

func (u *Use) cpu() (float64, bool) {
	if u == nil {
		return 0, false
	}
	return u.CPU, true
}

func (u *Use) peak() (float64, bool) {
	if u == nil {
		return 0, false
	}
	return float64(u.PeakRSS), true
}

// written is what the server and MinIO wrote to disk together.
func (f *Figures) written() (sum float64, known bool) {
	for _, u := range []*Use{f.Server, f.Store} {
		if u != nil {
			sum, known = sum+float64(u.Written), true
		}
	}
	return sum, known
}

// moved is a number of bytes that a store counted; a directory counts none.
func (f *Figures) moved(bytes func(t *Traffic) int64) (float64, bool) {
	if f.Traffic == nil || f.Traffic.Received+f.Traffic.Sent == 0 {
		return 0, false
	}
	return float64(bytes(f.Traffic)), true
}

// cell is the mean of the rounds, "" unless all know it.
func (c *column) cell(rounds []Figures) string {
	sum := 0.0
	for i := range rounds {
		value, known := c.of(&rounds[i])
		if !known {
			return ""
		}
		sum += value
	}
	return c.text(sum / float64(len(rounds)))
}

// spread is the shortest and the longest time, "" of one round.
func spread(rounds []Figures) string {
	if len(rounds) < 2 {
		return ""
	}
	quicker := func(a, b Figures) int { return cmp.Compare(a.Seconds, b.Seconds) }
	return fmt.Sprintf("%.2f-%.2f s", slices.MinFunc(rounds, quicker).Seconds, slices.MaxFunc(rounds, quicker).Seconds)
}

// ratio is a peer's mean time as a multiple of that of the server beside it.
func (r *ResticReport) ratio(row *ResticRow, peer int) string {
	ours := slices.Index(r.Peers, r.Beside[r.Peers[peer]])
	if ours < 0 || len(row.Results[ours]) == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f x", meanSeconds(row.Results[peer])/meanSeconds(row.Results[ours]))
}

func meanSeconds(rounds []Figures) float64 {
	sum := 0.0
	for _, f := range rounds {
		sum += f.Seconds
	}
	return sum / float64(len(rounds))
}

func inSeconds(s float64) string { return fmt.Sprintf("%.2f s", s) }

func inUnits(n float64) string { return fmt.Sprintf("%.0f", n) }

func mib(n float64) string { return fmt.Sprintf("%.1f MiB", n/(1<<20)) }
