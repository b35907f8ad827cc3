// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
)

// figure is a row of what a benchmark prints.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Goal  string  `json:"goal,omitempty"`
}

type figures []figure

func (f *figures) add(value float64, unit, goal, name string, args ...any) {
	row := figure{fmt.Sprintf(name, args...), value, unit, goal}
	slog.Info(row.Name, "value", row.text(), "goal", goal)
	*f = append(*f, row)
}

func (f figure) text() string {
	if f.Value >= 1000 {
		return fmt.Sprintf("%.0f %s", f.Value, f.Unit)
	}
	return fmt.Sprintf("%.3g %s", f.Value, f.Unit)
}

func (f figures) print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range f {
		fmt.Fprintf(table, "%s\t%s\t%s\n", row.Name, row.text(), row.Goal)
	}
	return table.Flush()
}
