// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/httpapi"
)

// adminClient gives cmd the flag --admin and returns the client it names.
func adminClient(cmd *cobra.Command) *httpapi.Client {
	c := &httpapi.Client{}
	cmd.Flags().StringVar(&c.Addr, "admin", httpapi.DefaultAddr, "admin address of the running server")
	return c
}

// asked gives an error of talking to a server its exit code.
func asked(err error) error {
	if errors.Is(err, httpapi.ErrNoServer) {
		return withCode(exitUnavailable, err)
	}
	return err
}

func newStatus(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "What a running server does, how far it is, and what to do next",
		Example: "  strandline status\n  strandline status --admin 127.0.0.1:8001 --json",
	}
	client := adminClient(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		status, err := client.Status(cmd.Context())
		if err != nil {
			return asked(err)
		}
		return g.print(cmd.OutOrStdout(), status, status.WriteText)
	}
	return cmd
}

func newRelease(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "release ACCOUNT/MACHINE",
		Short: "Lift the bar of a machine whose session a loss cut off",
		Long: `After a server lost its last seconds, a machine that was in the middle of a backup
is barred for half an hour, so that the cut-off session cannot go on as if nothing
were missing; then its next session's lock ends the bar. When you know that the
client has ended, release lifts the bar now, for clients without locks, too.`,
		Example: "  strandline release alice/laptop",
		Args:    cobra.ExactArgs(1),
	}
	client := adminClient(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := client.Release(cmd.Context(), args[0]); err != nil {
			return asked(err)
		}
		return g.print(cmd.OutOrStdout(), map[string]string{"released": args[0]}, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "released %s\n", args[0])
			return err
		})
	}
	return cmd
}

func newEvents(g *globals) *cobra.Command {
	var from string
	var follow, committed bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Read the events of a running server",
		Long: `Prints the events from a sequence number on, one line each, up to the archived
watermark. With --committed up to the committed one: those events can still be
lost with the machine.`,
		Example: "  strandline events --from 1.1\n  strandline events --from 7.1234 --follow --json",
	}
	client := adminClient(cmd)
	cmd.Flags().StringVar(&from, "from", eventlog.FirstSeq.String(), "first sequence number: 7.1234 or the plain integer")
	cmd.Flags().BoolVar(&follow, "follow", false, "go on with events to come")
	cmd.Flags().BoolVar(&committed, "committed", false, "also those that are not archived yet")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		first, err := eventlog.ParseSeq(from)
		if err != nil {
			return usagef("--from: %w", err)
		}
		query := httpapi.EventQuery{From: first, Follow: follow, Committed: committed}
		return printEvents(cmd.Context(), g, client, query, cmd.OutOrStdout())
	}
	return cmd
}

// sayNoEvents explains why nothing was printed: what is asked for is not
// archived yet, or the log does not even reach there, which is an error but for
// the event that comes next.
func sayNoEvents(ctx context.Context, client *httpapi.Client, from eventlog.Seq) error {
	status, err := client.Status(ctx)
	if err != nil {
		return asked(err)
	}
	if c := status.Committed; c != nil && from > c.Seq.Next() {
		return usagef("--from %s: there is no such event yet, the log ends at %s; write an earlier one, or --follow to wait", from, c.Seq)
	}
	fmt.Fprintf(os.Stderr, "no event from %s on: archived up to %s, committed up to %s (--committed shows those that are not archived yet)\n",
		from, known(status.Archived), known(status.Committed))
	return nil
}

// known is a watermark as people write it.
func known(mark *httpapi.Mark) string {
	if mark == nil {
		return "(not known)"
	}
	return mark.At
}

func printEvents(ctx context.Context, g *globals, client *httpapi.Client, query httpapi.EventQuery, out io.Writer) error {
	printed := false
	for line, err := range client.Events(ctx, query) {
		if err != nil {
			if query.Follow && ctx.Err() != nil {
				return nil // asked to end
			}
			return asked(err)
		}
		switch {
		case g.json:
			_, err = fmt.Fprintf(out, "%s\n", line.Raw)
		case line.Cleaned != (eventlog.Range{}):
			_, err = fmt.Fprintf(out, "%s cleaned away\n", line.Cleaned)
		default:
			_, err = fmt.Fprintln(out, eventLine(&line.Event))
		}
		if err != nil {
			return fmt.Errorf("print an event: %w", err)
		}
		printed = true
	}
	if !printed && !query.Follow {
		return sayNoEvents(ctx, client, query.From)
	}
	return nil
}
