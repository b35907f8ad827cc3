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

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

func newCompare(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "compare DIR DIR",
		Short: "Compare the views of two state directories",
		Long: `Compares both views of two state directories that no server uses: their
positions, and their digests, added up anew from the rows. Where they differ it
names the machines and the first rows. Ends with exit code 6 if anything differs.`,
		Example: "  strandline compare /var/lib/strandline /var/lib/strandline-new",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCompare(cmd.Context(), g, args[0], args[1], cmd.OutOrStdout())
		},
	}
}

func runCompare(ctx context.Context, g *globals, a, b string, out io.Writer) (err error) {
	for _, path := range []string{a, b} {
		dir, err := archiver.OpenStateDir(path)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, dir.Close()) }()
	}
	equal := true
	var found []projector.Difference
	for _, name := range viewNames() {
		d, err := projector.Compare(ctx, kv.OnDisk(slog.Default()), filepath.Join(a, "views", name), filepath.Join(b, "views", name), projectors()[name], slog.Default())
		if err != nil {
			return fmt.Errorf("comparing the %s views: %w", name, err)
		}
		found = append(found, d)
		equal = equal && d.Equal()
	}
	if err := g.print(out, found, func(w io.Writer) error { return printDifferences(w, found) }); err != nil {
		return err
	}
	if !equal {
		return withCode(exitDiffers, errors.New("the views differ"))
	}
	return nil
}

func printDifferences(w io.Writer, found []projector.Difference) error {
	var err error
	say := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, format, args...)
		}
	}
	for _, d := range found {
		if d.Equal() {
			say("%s view: equal at seq %s, digest %s\n", d.View, d.A.Position, d.A.Rows)
			continue
		}
		say("%s view: DIFFERS\n  A at seq %s, digest %s (rows %s)\n  B at seq %s, digest %s (rows %s)\n",
			d.View, d.A.Position, d.A.Kept, d.A.Rows, d.B.Position, d.B.Kept, d.B.Rows)
		for _, machine := range d.Machines {
			say("  machine %s\n", machine)
		}
		for _, row := range d.Rows {
			say("  %s %x\n    A %s\n    B %s\n", row.Table, row.Key, orNone(row.A), orNone(row.B))
		}
	}
	return err
}

func orNone(text string) string {
	if text == "" {
		return "(no such row)"
	}
	return text
}
