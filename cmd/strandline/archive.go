// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/archiver"
)

func newArchive(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "archive",
		Short:   "Look at an archive's store",
		Example: "  strandline archive probe --archive dir:/mnt/backup/strandline",
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newArchiveProbe(g))
	return cmd
}

func newArchiveProbe(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Try out whether a store keeps what an archive needs",
		Long: `Tries out the store of --archive: above all that of many puts of one key at the
same moment exactly one wins. It writes below probe/ and deletes that again.
init does the same before it makes an archive.`,
		Example: "  strandline archive probe --archive dir:/mnt/backup/strandline\n" +
			"  strandline archive probe --archive 's3://backups/strandline?endpoint=http://127.0.0.1:9000'",
	}
	load := bindConfig(cmd, "archive")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load.load()
		if err != nil {
			return err
		}
		if err := cfg.checkArchive(); err != nil {
			return withCode(exitUsage, err)
		}
		return runProbe(cmd.Context(), g, &cfg, cmd.OutOrStdout())
	}
	return cmd
}

// probeCheck is one line of what archive probe prints.
type probeCheck struct {
	Name     string `json:"name"`
	Required bool   `json:"required"`
	OK       bool   `json:"ok"`
	Error    string `json:"error,omitempty"`
}

// probeResult is what archive probe prints.
type probeResult struct {
	Bucket   string       `json:"bucket"`
	Usable   bool         `json:"usable"`
	Seconds  float64      `json:"seconds"`
	Checks   []probeCheck `json:"checks"`
	Left     []string     `json:"left,omitempty"`
	Warnings []string     `json:"warnings,omitempty"`
}

func runProbe(ctx context.Context, g *globals, cfg *Config, out io.Writer) error {
	bucket, err := openBucket(cfg.Archive, false)
	if err != nil {
		return err
	}
	report, err := archiver.Probe(ctx, bucket)
	if err != nil {
		return withCode(exitUnavailable, err)
	}
	result := probeResult{Bucket: report.Bucket, Usable: report.OK(), Seconds: report.Took.Seconds(), Left: report.Left}
	if b, ok := bucket.(interface {
		Warnings(context.Context) []string
	}); ok {
		result.Warnings = b.Warnings(ctx)
	}
	for _, check := range report.Checks {
		line := probeCheck{Name: check.Name, Required: check.Required, OK: check.Err == nil}
		if check.Err != nil {
			line.Error = check.Err.Error()
		}
		result.Checks = append(result.Checks, line)
	}
	if err := g.print(out, result, func(w io.Writer) error { return printProbe(w, &result) }); err != nil {
		return err
	}
	if !result.Usable {
		return withCode(exitRefused, fmt.Errorf("%s cannot hold an archive; use another store, or promise with --single-writer that no second server ever uses it", report.Bucket))
	}
	return nil
}

func printProbe(w io.Writer, r *probeResult) error {
	for _, check := range r.Checks {
		verdict := "ok  "
		switch {
		case !check.OK && check.Required:
			verdict = "FAIL"
		case !check.OK:
			verdict = "note"
		}
		fmt.Fprintf(w, "%s  %s", verdict, check.Name)
		if check.Error != "" {
			fmt.Fprintf(w, ": %s", check.Error)
		}
		fmt.Fprintln(w)
	}
	for _, text := range r.Warnings {
		fmt.Fprintln(w, "warning:", text)
	}
	for _, key := range r.Left {
		fmt.Fprintln(w, "left behind:", key)
	}
	_, err := fmt.Fprintf(w, "%s: usable %v, in %s\n", r.Bucket, r.Usable, time.Duration(r.Seconds*float64(time.Second)).Round(time.Millisecond))
	return err
}

// probeBefore tries the bucket out before an archive is made in it.
func probeBefore(ctx context.Context, bucket archiver.Bucket) error {
	report, err := archiver.Probe(ctx, bucket)
	if err != nil {
		return withCode(exitUnavailable, err)
	}
	if report.OK() {
		return nil
	}
	for _, check := range report.Checks {
		if check.Required && check.Err != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", check.Name, check.Err))
		}
	}
	return withCode(exitRefused, fmt.Errorf("%v cannot hold an archive; use another store, or promise with --single-writer that no second server ever uses it: %w", bucket, err))
}
