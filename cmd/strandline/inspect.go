// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

func newInspect(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "inspect",
		Short:   "Look into an object, a WAL, a view or a recovery's report",
		Example: "  strandline inspect object 17 --archive dir:/mnt/backup\n  strandline inspect wal --data /var/lib/strandline\n  strandline inspect view machine --data /var/lib/strandline\n  strandline inspect recovery --data /var/lib/strandline",
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newInspectObject(g), newInspectWAL(g), newInspectView(g), newInspectRecovery(g))
	return cmd
}

// eventLine prints an event for people.
func eventLine(e *eventlog.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s  %s", e.Seq, time.Unix(0, e.Time).UTC().Format("2006-01-02T15:04:05.000Z"), e.Type)
	field := func(name string, seq eventlog.Seq) {
		if seq != 0 {
			fmt.Fprintf(&b, " %s=%s", name, seq)
		}
	}
	if e.Name != "" {
		fmt.Fprintf(&b, " name=%q", e.Name)
	}
	field("account", e.Account)
	field("machine", e.Machine)
	if e.Kind != 0 {
		fmt.Fprintf(&b, " %s/%x length=%d", e.Kind, e.Block, e.Length)
	}
	field("reuses", e.Reuses)
	field("undoes", e.Undoes)
	field("from", e.From)
	field("to", e.To)
	field("previous", e.Previous)
	if e.Host != "" || e.Cause != "" {
		fmt.Fprintf(&b, " host=%q cause=%q", e.Host, e.Cause)
	}
	if e.Lossy {
		fmt.Fprintf(&b, " LOSSY barred=%v", e.Barred)
	}
	for _, v := range e.Views {
		fmt.Fprintf(&b, " %s.v%d@%s=%x", v.Name, v.Version, v.AsOf, v.Digest[:8])
	}
	b.WriteString(recoveryText(e))
	if e.Actor != "" {
		fmt.Fprintf(&b, " by=%s", e.Actor)
	}
	return b.String()
}

// objectReport is what inspect object prints.
type objectReport struct {
	Key     string            `json:"key"`
	Trailer *eventlog.Trailer `json:"trailer"`
	Cleaned []eventlog.Range  `json:"cleaned,omitempty"`
	Horizon eventlog.Seq      `json:"horizon,omitempty"`
	Events  []*eventlog.Event `json:"events"`
	Checked string            `json:"payloads"`
	Damaged []archiver.Damage `json:"damaged,omitempty"`
}

func newInspectObject(g *globals) *cobra.Command {
	var payloads bool
	cmd := &cobra.Command{
		Use:     "object ORDINAL",
		Short:   "Print an archive object's trailer and events; check its payloads",
		Example: "  strandline inspect object 17 --archive dir:/mnt/backup --payloads",
		Args:    cobra.ExactArgs(1),
	}
	load := bindConfig(cmd, "archive")
	cmd.Flags().BoolVar(&payloads, "payloads", false, "read every payload and check its checksums")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := load.load()
		if err != nil {
			return err
		}
		ordinal, err := strconv.ParseUint(args[0], 10, 64)
		if err != nil || ordinal == 0 {
			return usagef("inspect object %s: write an ordinal, a number from 1", args[0])
		}
		return inspectObject(cmd.Context(), g, &cfg, ordinal, payloads, cmd.OutOrStdout())
	}
	return cmd
}

func inspectObject(ctx context.Context, g *globals, cfg *Config, ordinal uint64, payloads bool, out io.Writer) error {
	if err := cfg.checkArchive(); err != nil {
		return withCode(exitUsage, err)
	}
	bucket, err := openBucket(cfg.Archive, false)
	if err != nil {
		return err
	}
	archive, err := archiver.Open(ctx, bucket)
	if err != nil {
		return err
	}
	object := archiver.Shipped(ordinal)
	info, err := bucket.Head(ctx, object.Key())
	if err != nil {
		return fmt.Errorf("inspect %s of %v: %w", object, bucket, err)
	}
	object.Size = info.Size
	trailer, footer, err := archive.Metadata(ctx, object)
	if err != nil {
		return err
	}
	var damage error
	report := objectReport{Key: object.Key(), Trailer: trailer, Cleaned: footer.Cleaned, Horizon: footer.Horizon, Checked: "not read; --payloads reads and checks them"}
	for i := range footer.Entries {
		report.Events = append(report.Events, &footer.Entries[i].Event)
	}
	if payloads {
		check, err := archive.CheckObject(ctx, object)
		if check == nil {
			return err
		}
		damage = err
		report.Damaged = check.Damaged
		report.Checked = fmt.Sprintf("every byte read, %d payloads damaged", len(check.Damaged))
	}
	err = g.print(out, report, func(w io.Writer) error {
		fmt.Fprintf(w, "%s\nlog %s, epoch %d, writer %s\nordinals %d-%d, seqs %s-%s, %d events, %d payload bytes, closed %s, clean end %v\npayloads: %s\n",
			report.Key, trailer.LogID, trailer.Epoch, trailer.Writer, trailer.FirstOrdinal, trailer.LastOrdinal, trailer.First, trailer.Last,
			trailer.Events, trailer.PayloadBytes, time.Unix(0, trailer.ClosedAt).UTC().Format(time.RFC3339), trailer.CleanEnd(), report.Checked)
		for _, d := range report.Damaged {
			fmt.Fprintf(w, "DAMAGED: the payload of seq %s, %d bytes at %d, chunk %d\n", d.Seq, d.Placement.Length, d.Placement.Offset, d.Chunk)
		}
		return printEntries(w, footer.Entries)
	})
	return errors.Join(damage, err)
}

func printEntries(w io.Writer, entries []eventlog.Entry) error {
	for i := range entries {
		if _, err := fmt.Fprintln(w, eventLine(&entries[i].Event)); err != nil {
			return err
		}
	}
	return nil
}

// generationReport is one line of inspect wal.
type generationReport struct {
	Ordinal uint64       `json:"ordinal"`
	Attempt uint         `json:"attempt"`
	Closed  bool         `json:"closed"`
	First   eventlog.Seq `json:"first_seq"`
	Last    eventlog.Seq `json:"last_seq"`
	Events  int          `json:"events"`
}

// walReport is what inspect wal prints.
type walReport struct {
	Generations []generationReport `json:"generations"`
	Cuts        []string           `json:"cuts,omitempty"`
	Damage      string             `json:"damage,omitempty"`
}

func newInspectWAL(g *globals) *cobra.Command {
	var events bool
	cmd := &cobra.Command{
		Use:     "wal",
		Short:   "Print what the WAL of a stopped server holds; changes nothing",
		Example: "  strandline inspect wal --data /var/lib/strandline --events",
	}
	load := bindConfig(cmd, "data")
	cmd.Flags().BoolVar(&events, "events", false, "print every event")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load.load()
		if err != nil {
			return err
		}
		if err := cfg.checkData(); err != nil {
			return withCode(exitUsage, err)
		}
		return inspectWAL(g, &cfg, events, cmd.OutOrStdout())
	}
	return cmd
}

func inspectWAL(g *globals, cfg *Config, events bool, out io.Writer) (err error) {
	dir, err := archiver.OpenStateDir(cfg.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	wal, err := readWAL(dir)
	if err != nil {
		return err
	}
	report := walReport{Cuts: wal.Cuts()}
	if damage := wal.Damage(); damage != nil {
		report.Damage = damage.Error()
	}
	var all []eventlog.Entry
	for _, gen := range wal.Generations() {
		entries, err := gen.Entries()
		if err != nil {
			return err
		}
		first, last := gen.Seqs()
		report.Generations = append(report.Generations, generationReport{
			Ordinal: gen.Ordinal, Attempt: gen.Attempt, Closed: gen.Trailer != nil, First: first, Last: last, Events: len(entries),
		})
		if events {
			all = append(all, entries...)
		}
	}
	err = g.print(out, report, func(w io.Writer) error {
		for _, r := range report.Generations {
			state := "closed"
			if !r.Closed {
				state = "not closed"
			}
			fmt.Fprintf(w, "generation %d.%d  %s-%s  %d events  %s\n", r.Ordinal, r.Attempt, r.First, r.Last, r.Events, state)
		}
		for _, cut := range report.Cuts {
			fmt.Fprintln(w, "torn tail:", cut)
		}
		return printEntries(w, all)
	})
	if damage := wal.Damage(); damage != nil {
		return errors.Join(damage, err)
	}
	return err
}

// viewReport is what inspect view prints.
type viewReport struct {
	Name     string           `json:"name"`
	Version  uint32           `json:"version"`
	Position eventlog.Seq     `json:"position"`
	Kept     projector.Digest `json:"digest"`
	Rows     projector.Digest `json:"digest_of_rows"`
	Tables   map[string]int   `json:"live_rows"`
}

func newInspectView(g *globals) *cobra.Command {
	var views string
	cmd := &cobra.Command{
		Use:     "view NAME",
		Short:   "Print a view's position, digest and row counts; changes nothing",
		Example: "  strandline inspect view block --data /var/lib/strandline\n  strandline inspect view block --views /var/tmp/then",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&views, "views", "", "folder of views, instead of those of --data (see rebuild --to)")
	load := bindConfig(cmd, "data")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := load.load()
		if err != nil {
			return err
		}
		if views != "" {
			return inspectView(cmd.Context(), g, views, args[0], cmd.OutOrStdout())
		}
		if err := cfg.checkData(); err != nil {
			return withCode(exitUsage, err)
		}
		return inspectOwnView(cmd.Context(), g, &cfg, args[0], cmd.OutOrStdout())
	}
	return cmd
}

// inspectOwnView looks at a view of a state directory that no server uses.
func inspectOwnView(ctx context.Context, g *globals, cfg *Config, name string, out io.Writer) (err error) {
	if _, err := projectorNamed(name); err != nil {
		return err
	}
	dir, err := archiver.OpenStateDir(cfg.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return inspectView(ctx, g, dir.Path("views"), name, out)
}

func inspectView(ctx context.Context, g *globals, views, name string, out io.Writer) (err error) {
	p, err := projectorNamed(name)
	if err != nil {
		return err
	}
	view, err := projector.Open(kv.OnDisk(slog.Default()), filepath.Join(views, name), p, projector.ReadOnly, slog.Default())
	if err != nil {
		return fmt.Errorf("inspecting the %s view: %w", name, err)
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	report := viewReport{Name: name, Version: view.Version(), Tables: map[string]int{}}
	report.Position, report.Kept = view.Digest()
	if _, report.Rows, err = view.Recompute(ctx); err != nil {
		return err
	}
	for row, err := range view.Rows(ctx) {
		if err != nil {
			return err
		}
		if row.Deleted == 0 {
			report.Tables[row.Table.Name]++
		}
	}
	err = g.print(out, report, func(w io.Writer) error {
		fmt.Fprintf(w, "%s view, version %d, at seq %s\ndigest   %s\nof rows  %s\n", name, report.Version, report.Position, report.Kept, report.Rows)
		for _, table := range p.Tables() {
			fmt.Fprintf(w, "%s: %d live rows\n", table.Name, report.Tables[table.Name])
		}
		return nil
	})
	if err == nil && report.Kept != report.Rows {
		err = withCode(exitDamage, fmt.Errorf("the %s view's rows do not make its digest; strandline rebuild --view %s makes it anew", name, name))
	}
	return err
}
