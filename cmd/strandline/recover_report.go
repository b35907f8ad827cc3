// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/internal/recovery"
)

// recoveryReport is what a recovery leaves in the state directory for people.
// Nothing is decided by it: what the next start puts into the log stands in
// state.json. It is checked all the same, so that nobody is told what somebody
// wrote into it.
type recoveryReport struct {
	Version int       `json:"version"`
	Program string    `json:"program"`
	Began   time.Time `json:"began"` // of the first run
	Ended   time.Time `json:"ended"`
	// Phases are those of all runs; one without an end was broken off.
	Phases []eventlog.Phase `json:"phases"`
	// Measured is how fast each phase of the last run was, and what bound it.
	Measured []progress.Snapshot `json:"measured"`
	Result   *recoverResult      `json:"result"`
}

const (
	reportName    = "recovery-report.json"
	reportVersion = 2
)

func writeReport(dir *archiver.StateDir, built *recovery.Result, result *recoverResult, bar *progress.Progress) error {
	report := recoveryReport{
		Version: reportVersion, Program: readVersion().Version, Began: built.Began, Ended: time.Now().UTC(),
		Phases: built.Phases, Measured: bar.Phases(), Result: result,
	}
	if err := writeChecked(dir.Path(reportName), report); err != nil {
		return fmt.Errorf("write the recovery's report: %w", err)
	}
	return nil
}

func newInspectRecovery(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recovery",
		Short: "Print how a state directory was recovered, phase by phase",
		Long: `Prints the report that recover left in the state directory. A report that is not
what recover wrote is refused; the log has the same: 'strandline events', look
for recovery_completed.`,
		Example: "  strandline inspect recovery --data /var/lib/strandline",
	}
	load := bindConfig(cmd, "data")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load.load()
		if err != nil {
			return err
		}
		if err := cfg.checkData(); err != nil {
			return withCode(exitUsage, err)
		}
		report, err := readReport(cfg.Data)
		if err != nil {
			return err
		}
		return g.print(cmd.OutOrStdout(), report, report.print)
	}
	return cmd
}

func readReport(data string) (*recoveryReport, error) {
	var report recoveryReport
	err := readChecked(filepath.Join(data, reportName), &report)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, withCode(exitUsage, fmt.Errorf("%w: no recovery has ended in this directory: it was made otherwise, or by an older `strandline recover`, or one has begun and not ended", err))
	case errors.Is(err, errEdited):
		return nil, withCode(exitDamage, fmt.Errorf("%w; what the recovery did is in the log too: look for recovery_completed in `strandline events`", err))
	case err == nil && report.Version != reportVersion:
		err = withCode(exitUsage, fmt.Errorf("%s has version %d, this program reads %d", filepath.Join(data, reportName), report.Version, reportVersion))
	}
	return &report, err
}

func (r *recoveryReport) print(w io.Writer) error {
	fmt.Fprintf(w, "recovered from %s to %s by strandline %s\n", r.Began.Format(time.RFC3339), r.Ended.Format(time.RFC3339), r.Program)
	return errors.Join(printPhases(w, r.Phases), printRecovery(w, r.Result))
}

// printPhases prints the start and the end of each phase.
func printPhases(w io.Writer, phases []eventlog.Phase) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range phases {
		end := "broken off"
		if !p.Ended.IsZero() {
			end = fmt.Sprintf("%s\tin %.2f s", p.Ended.Format("15:04:05.000"), p.Ended.Sub(p.Began).Seconds())
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\n", p.Name, p.Began.Format("2006-01-02T15:04:05.000Z"), end)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print the phases: %w", err)
	}
	return nil
}

// recoveryText is what an event says of a recovery or drill.
func recoveryText(e *eventlog.Event) string {
	text := ""
	if d := e.Drill; d != nil {
		text += fmt.Sprintf(" %s %s rto=%.2fs blocks=%d", d.Mode, d.Verdict, d.RTO.Seconds(), d.Blocks)
		if d.Reason != "" {
			text += fmt.Sprintf(" reason=%q", d.Reason)
		}
	}
	if r := e.Recovery; r != nil {
		text += fmt.Sprintf(" up_to=%s objects=%d events=%d compared=%d phases=%d took=%.2fs", r.Upto, r.Objects, r.Events, r.Compared, len(r.Phases), r.Ended.Sub(r.Began).Seconds())
		if r.Checkpoint != "" {
			text += " checkpoint=" + r.Checkpoint
		}
	}
	return text
}
