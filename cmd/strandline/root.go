// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/strandline-project/strandline/internal/memory"
)

// globals are the flags that every command has.
type globals struct {
	json     bool
	logLevel slog.LevelVar // shared by every logger, so that it can change while running
}

// commands makes the subcommands. A command's file holds its constructor.
var commands = []func(*globals) *cobra.Command{
	newDemo,
	newInit,
	newServe,
	newRecover,
	newStatus,
	newEvents,
	newInspect,
	newCompare,
	newDrill,
	newDrillWork,
	newRebuild,
	newRelease,
	newArchive,
	newIndex,
	newBench,
	newVersion,
}

// newRoot returns the command `strandline` with everything below it.
func newRoot() *cobra.Command {
	g := &globals{}
	root := &cobra.Command{
		Use:   "strandline",
		Short: "Self-hosted block storage for backups: an event log, shipped to a bucket",
		Long: `Strandline stores the backups of restic and rustic. Every operation is an event:
fsynced to a local log, shipped to an S3 bucket or a directory, projected into
views. Lose the machine, and ` + "`strandline recover`" + ` brings all of it back.

Settings come from flags, then STRANDLINE_... variables, then the --config file.`,
		Example:       "  strandline demo\n  strandline init --data DIR --archive dir:PATH\n  strandline serve --data DIR --no-auth",
		SilenceErrors: true, // main prints them, once
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().BoolVar(&g.json, "json", false, "print JSON for machines")
	root.PersistentFlags().Var(&levelValue{&g.logLevel}, "log-level", "debug, info, warn or error")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		g.setupLogging(os.Stderr)
		followCgroup()
		return nil
	}
	root.SetFlagErrorFunc(explainFlag)
	for _, add := range commands {
		root.AddCommand(add(g))
	}
	root.AddCommand(newExitCodes())
	refuseStrayArguments(root)
	return root
}

// followCgroup bounds the heap by what the cgroup may have of memory.
func followCgroup() {
	limit, err := memory.FollowCgroup()
	if err != nil {
		slog.Warn("the heap is not bounded by the cgroup's limit of memory; set GOMEMLIMIT to nine tenths of it", "err", err)
	}
	if limit > 0 {
		slog.Debug("the heap is bounded by the cgroup's limit of memory", "GOMEMLIMIT", limit)
	}
}

// setupLogging makes slog write to w: text for a person at a terminal, JSON
// for everything else.
func (g *globals) setupLogging(w *os.File) {
	opts := &slog.HandlerOptions{Level: &g.logLevel}
	var handler slog.Handler = slog.NewJSONHandler(w, opts)
	if term.IsTerminal(int(w.Fd())) {
		handler = slog.NewTextHandler(w, opts)
	}
	slog.SetDefault(slog.New(handler))
}

// print writes value to w: as indented JSON with --json, else by text.
func (g *globals) print(w io.Writer, value any, text func(io.Writer) error) error {
	if !g.json {
		return text(w)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(value); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

// refuseStrayArguments gives every command that says nothing of arguments the
// rule that it takes none, and makes cobra's own refusals usage errors.
func refuseStrayArguments(cmd *cobra.Command) {
	rule := cmd.Args
	if rule == nil {
		rule = cobra.NoArgs
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if cmd.HasSubCommands() && len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		if err := rule(cmd, args); err != nil {
			return usagef("%w: write %s", err, cmd.UseLine())
		}
		return nil
	}
	for _, sub := range cmd.Commands() {
		refuseStrayArguments(sub)
	}
}

func unknownCommand(cmd *cobra.Command, name string) error {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	if near := nearest(name, names); near != "" {
		return usagef("%s %s: no such command; write %s %s", cmd.CommandPath(), name, cmd.CommandPath(), near)
	}
	return usagef("%s %s: no such command; write one of %s", cmd.CommandPath(), name, strings.Join(names, ", "))
}

// explainFlag turns pflag's errors into one line that says what to write.
func explainFlag(cmd *cobra.Command, err error) error {
	var (
		missing *pflag.NotExistError
		invalid *pflag.InvalidValueError
		bare    *pflag.ValueRequiredError
	)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return err
	case errors.As(err, &missing):
		return unknownFlag(cmd, missing)
	case errors.As(err, &invalid):
		return withCode(exitUsage, explainValue("--"+invalid.GetFlag().Name+" ", invalid.GetValue(), errors.Unwrap(invalid)))
	case errors.As(err, &bare):
		return usagef("--%s wants a value: write --%s %s", bare.GetFlag().Name, bare.GetFlag().Name, exampleOf(bare.GetFlag()))
	}
	return usagef("%w: see %s --help", err, cmd.CommandPath())
}

func unknownFlag(cmd *cobra.Command, err *pflag.NotExistError) error {
	name := err.GetSpecifiedName()
	if name == "" || err.GetSpecifiedShortnames() != "" {
		return usagef("-%s: %s has no such flag; flags begin with two dashes, see %s --help", err.GetSpecifiedShortnames(), cmd.CommandPath(), cmd.CommandPath())
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if near := nearest(name, names); near != "" {
		return usagef("--%s: %s has no such flag; write --%s", name, cmd.CommandPath(), near)
	}
	return usagef("--%s: %s has no such flag; see %s --help", name, cmd.CommandPath(), cmd.CommandPath())
}

func exampleOf(f *pflag.Flag) string {
	if f.DefValue != "" {
		return f.DefValue
	}
	return strings.ToUpper(f.Value.Type())
}
