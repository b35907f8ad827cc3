// SPDX-License-Identifier: Apache-2.0

// Command mutants puts bugs into the program, one at a time, and sees each one
// found by the tests that are named for it. A bug that no test finds says that
// something which must hold is not tested.
//
// The tree is never touched: a mutant is a copy of one file with one piece
// replaced, which go test gets through -overlay. The pieces are found by their
// text, so that the list ages with the code: a mutant whose text is not there
// exactly once, or which does not compile, is an error.
//
//	mutants             every mutant
//	mutants -share 2/5  the second fifth of them
//	mutants -run gap    those with gap in their names
//	mutants -check      run nothing: only find the places and the tests
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("mutants", flag.ContinueOnError)
	check := flags.Bool("check", false, "run nothing: only find the places and the tests")
	share := flags.String("share", "1/1", "which part of the mutants, such as 2/5")
	pattern := flags.String("run", "", "only mutants whose names match this regular expression")
	if err := flags.Parse(args); err != nil {
		return err
	}
	root, err := repositoryRoot(ctx)
	if err != nil {
		return err
	}
	chosen, err := choose(all(), *pattern, *share)
	if err != nil {
		return err
	}
	if err := checkAll(root, chosen); err != nil || *check {
		return err
	}
	return runAll(ctx, root, chosen, out)
}

// repositoryRoot is where go.mod lies.
func repositoryRoot(ctx context.Context) (string, error) {
	path, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("ask go for the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(path))), nil
}

// choose returns those whose names match pattern, and of them the share n/of.
func choose(all []mutant, pattern, share string) (chosen []mutant, err error) {
	wanted, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	var n, of int
	if _, err := fmt.Sscanf(share, "%d/%d", &n, &of); err != nil || n < 1 || n > of {
		return nil, fmt.Errorf("-share %s: write it as 2/5", share)
	}
	i := 0
	for _, m := range all {
		if !wanted.MatchString(m.name) {
			continue
		}
		if i%of == n-1 {
			chosen = append(chosen, m)
		}
		i++
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no mutant matches %q in share %s", pattern, share)
	}
	return chosen, nil
}
