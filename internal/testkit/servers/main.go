// SPDX-License-Identifier: Apache-2.0

// Command servers builds the pinned S3 servers that tests run, once for each
// version, into the user's cache directory. It shows progress, because the
// first time takes some minutes.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "servers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == "path" {
		return printPath(args[1])
	}
	if len(args) > 0 {
		return fmt.Errorf("%q: write nothing, or path NAME", args)
	}
	for _, server := range testkit.Servers() {
		if err := ensure(ctx, server); err != nil {
			return fmt.Errorf("%s: %w", server.Name, err)
		}
	}
	return nil
}

func printPath(name string) error {
	path, err := testkit.PathOf(name)
	if err == nil {
		fmt.Println(path)
	}
	return err
}

// ensure builds server unless it is there.
func ensure(ctx context.Context, server testkit.Server) error {
	path, err := server.Path()
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err == nil {
		fmt.Fprintf(os.Stderr, "%s is there: %s\n", server.Name, path)
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "building %s; the first time takes some minutes\n", server.Name)
	started := time.Now()
	if err := build(ctx, server, path); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "built %s in %v: %s\n", server.Name, time.Since(started).Round(time.Second), path)
	return nil
}

// build makes path whole or not at all.
func build(ctx context.Context, server testkit.Server, path string) error {
	folder, err := server.Folder()
	if err != nil {
		return err
	}
	temp := fmt.Sprintf("%s.%d.tmp", path, os.Getpid())
	command := exec.CommandContext(ctx, "go", "build", "-o", temp, server.Package)
	command.Dir, command.Stdout, command.Stderr = folder, os.Stderr, os.Stderr
	command.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off")
	if err := withProgress(server.Name, command.Run); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// withProgress prints a line every ten seconds while work runs.
func withProgress(name string, work func() error) error {
	done := make(chan error, 1)
	go func() { done <- work() }()
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for started := time.Now(); ; {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			fmt.Fprintf(os.Stderr, "  still building %s, %v so far\n", name, time.Since(started).Round(time.Second))
		}
	}
}
