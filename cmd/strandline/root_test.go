// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
)

// execute runs the program in this process.
func execute(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	var buf bytes.Buffer
	root := newRoot()
	root.SetOut(&buf)
	root.SetErr(io.Discard)
	root.SetArgs(args)
	err = root.ExecuteContext(t.Context())
	return buf.String(), err
}

func TestEveryCommandHasAnExampleAndOneLineOfHelp(t *testing.T) {
	var look func(*cobra.Command)
	look = func(cmd *cobra.Command) {
		name := cmd.Name()
		if name == "help" || name == "completion" || name == "exit-codes" {
			return
		}
		if cmd.Example == "" || cmd.Short == "" || strings.Contains(cmd.Short, "\n") {
			t.Errorf("%s: example %q, short %q", cmd.CommandPath(), cmd.Example, cmd.Short)
		}
		for line := range strings.Lines(cmd.Example) {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: the example's line %q is not indented", cmd.CommandPath(), line)
			}
		}
		for _, sub := range cmd.Commands() {
			look(sub)
		}
	}
	look(newRoot())
}

func TestMistakesOnTheCommandLineEndWithCode2AndAdvice(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"verion"}, "write strandline version"},
		{[]string{"xyzzy"}, "one of"},
		{[]string{"version", "--jsn"}, "write --json"},
		{[]string{"version", "now"}, "write strandline version"},
		{[]string{"bench", "sreve"}, "write strandline bench serve"},
		{[]string{"bench", "serve", "--rounds", "many"}, "--rounds many"},
		{[]string{"bench", "serve", "--rounds", "0"}, "write --time 3s --rounds 2"},
		{[]string{"bench", "serve", "--only", "("}, "not a regular expression"},
		{[]string{"bench", "serve", "--only", "nothing"}, "write something like"},
		{[]string{"bench", "serve", "--url", "ftp://x"}, "write http://HOST:PORT"},
	} {
		_, err := execute(t, c.args...)
		checkLine(t, strings.Join(c.args, " "), err, []string{c.want})
	}
}

func TestVersionIsPrintedForPeopleAndMachines(t *testing.T) {
	out, err := execute(t, "version")
	if err != nil || !strings.HasPrefix(out, "strandline ") || strings.Count(out, "\n") != 1 {
		t.Errorf("%q, %v", out, err)
	}
	out, err = execute(t, "version", "--json")
	var v buildVersion
	if err != nil || json.Unmarshal([]byte(out), &v) != nil || v.Go == "" || v.Platform == "" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestExitCodesAreDocumentedOnceEach(t *testing.T) {
	out, err := execute(t, "help", "exit-codes")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, row := range exitTable {
		if seen[row.code] || !strings.Contains(out, row.meaning) {
			t.Errorf("code %d: twice, or not in the help", row.code)
		}
		seen[row.code] = true
	}
	for _, code := range []int{exitOK, exitError, exitUsage, exitFenced, exitInUse, exitDamage, exitDiffers, exitUnavailable, exitRefused, exitBehind, exitStuck, exitInterrupted} {
		if !seen[code] {
			t.Errorf("code %d is not in the table", code)
		}
	}
}

func TestTheOutermostCodeCounts(t *testing.T) {
	cause := errors.New("cause")
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, exitOK},
		{cause, exitError},
		{context.Canceled, exitInterrupted},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, exitUnavailable},
		{&fs.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}, exitError},
		{withCode(exitFenced, cause), exitFenced},
		{fmt.Errorf("while serving: %w", withCode(exitDamage, cause)), exitDamage},
		{withCode(exitDamage, withCode(exitUsage, cause)), exitDamage},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v: code %d, want %d", c.err, got, c.want)
		}
	}
	if withCode(exitFenced, nil) != nil || !errors.Is(withCode(exitFenced, cause), cause) {
		t.Error("withCode hides the cause, or makes one")
	}
}

func TestNearest(t *testing.T) {
	names := []string{"serve", "status", "recover", "rebuild", "events"}
	for given, want := range map[string]string{"sevre": "serve", "stats": "status", "recovr": "recover", "event": "events", "x": "", "": "", "projectile": ""} {
		if got := nearest(given, names); got != want {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
}
