// SPDX-License-Identifier: Apache-2.0

//go:build !windows

// Command strandline is the whole of Strandline in one program: the server
// (serve), what prepares and rebuilds its state (init, recover, rebuild), the
// tools that look into it (status, events, inspect, compare, archive), and a
// demonstration (demo). `strandline help` lists them; config.go documents
// every setting, exit.go every exit code.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:]))
}

// run parses the arguments, runs the command and returns the exit code. The
// first SIGINT or SIGTERM ends ctx, upon which a command stops cleanly; the
// second one ends the process.
func run(ctx context.Context, args []string) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "strandline: %v\n", err)
	}
	return exitCode(err)
}
