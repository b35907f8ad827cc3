// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// The exit codes of every command. exitTable is their documentation, shown by
// `strandline help exit-codes`; a code never changes its meaning.
const (
	exitOK          = 0   // done
	exitError       = 1   // failed, for a reason that no other code names
	exitUsage       = 2   // a wrong flag, argument or configuration: nothing was touched
	exitFenced      = 3   // another server has claimed a later epoch: this one must not go on
	exitInUse       = 4   // the state directory is locked by another process
	exitDamage      = 5   // damage or loss was found: look at the message, then recover
	exitDiffers     = 6   // a comparison or verification ended in a difference
	exitUnavailable = 7   // the archive or the server did not answer: try again later
	exitRefused     = 8   // a seatbelt said no: the message names the flag that says yes
	exitBehind      = 9   // a comparison ended in one side being a prefix of the other
	exitStuck       = 10  // a stop did not come to its end, because something hangs
	exitInterrupted = 130 // stopped by Ctrl-C before the end
)

var exitTable = []struct {
	code    int
	meaning string
}{
	{exitOK, "done"},
	{exitError, "failed, for a reason that no other code names"},
	{exitUsage, "wrong flag, argument or configuration; nothing was touched"},
	{exitFenced, "fenced: another server has claimed a later epoch of this log"},
	{exitInUse, "the state directory is in use by another process"},
	{exitDamage, "damage or loss was found; the message says how to recover"},
	{exitDiffers, "a comparison or verification found a difference"},
	{exitUnavailable, "the archive or the server did not answer; a retry is safe"},
	{exitRefused, "refused by a seatbelt; the message names the flag that overrides it"},
	{exitBehind, "of the two that were compared, one is a prefix of the other"},
	{exitStuck, "a stop hung and was cut short; the log says on what, and nothing acknowledged is lost"},
	{exitInterrupted, "interrupted before the end"},
}

// codedError carries the code that the process ends with. Its text is the
// cause's own.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *codedError) Unwrap() error { return e.err }

// withCode marks err, if there is one, with the exit code that tells it apart.
func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &codedError{code: code, err: err}
}

// usagef is an error in how the command was called: one line that says what
// to write instead.
func usagef(format string, args ...any) error {
	return withCode(exitUsage, fmt.Errorf(format, args...))
}

// exitCode returns what the process ends with after err: the code of the
// outermost error that has one.
func exitCode(err error) int {
	var coded *codedError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return classify(err)
}

// newExitCodes is a help topic, not a command: it has nothing to run.
func newExitCodes() *cobra.Command {
	var text strings.Builder
	fmt.Fprintln(&text, "Every command ends with one of these codes:")
	fmt.Fprintln(&text)
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, row := range exitTable {
		fmt.Fprintf(table, "  %d\t%s\n", row.code, row.meaning)
	}
	_ = table.Flush() // a strings.Builder takes everything
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: text.String()}
}
