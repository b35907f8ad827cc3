// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// outcome is what became of a mutant.
type outcome string

const (
	killed       outcome = "killed"
	survived     outcome = "SURVIVED"
	missed       outcome = "MISSED" // by the tests named for it, though others of the package found it
	doesNotBuild outcome = "NO GO"
)

// hangs is how long the tests of one mutant may take; one that makes them hang
// is found by that.
const hangs = 2 * time.Minute

// runAll runs every mutant and prints a line for each. Before, the tests named
// for them must pass without any bug.
func runAll(ctx context.Context, root string, list []mutant, out io.Writer) error {
	scratch, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch) //nolint:errcheck // a temporary directory
	r := &runner{root: root, scratch: scratch, out: out}
	if err := r.unchanged(ctx, list); err != nil {
		return err
	}
	alive := 0
	for i := range list {
		began := time.Now()
		result, detail, err := r.one(ctx, &list[i])
		if err != nil {
			return fmt.Errorf("%s: %w", list[i].name, err)
		}
		fmt.Fprintf(out, "%-8s %4.0f s  %s: %s\n", result, time.Since(began).Seconds(), list[i].name, detail)
		if result != killed {
			alive++
		}
	}
	fmt.Fprintf(out, "%d of %d mutants killed\n", len(list)-alive, len(list))
	if alive > 0 {
		return fmt.Errorf("%d mutants were not killed by the tests named for them", alive)
	}
	return nil
}

type runner struct {
	root, scratch string
	out           io.Writer
}

// unchanged runs the tests without any bug.
func (r *runner) unchanged(ctx context.Context, list []mutant) error {
	named := map[string][]string{}
	for i := range list {
		named[list[i].in] = append(named[list[i].in], list[i].testNames()...)
	}
	for in, tests := range named {
		program, output, err := r.build(ctx, in, "")
		if err != nil {
			return fmt.Errorf("build the tests of %s: %w\n%s", in, err, output)
		}
		if failed, output, err := r.test(ctx, program, in, tests); err != nil {
			return err
		} else if failed {
			return fmt.Errorf("the tests of %s fail without any mutant:\n%s", in, output)
		}
	}
	return nil
}

// one builds a mutant and runs its tests, all of the package's when the named
// ones pass.
func (r *runner) one(ctx context.Context, m *mutant) (outcome, string, error) {
	overlay, err := r.overlay(m)
	if err != nil {
		return "", "", err
	}
	program, output, err := r.build(ctx, m.in, overlay)
	if err != nil {
		return doesNotBuild, output, ctx.Err()
	}
	failed, output, err := r.test(ctx, program, m.in, m.testNames())
	if err != nil || failed {
		return killed, "by " + strings.Join(failures(output), " "), err
	}
	failed, output, err = r.test(ctx, program, m.in, nil)
	if err != nil || failed {
		return missed, "found by " + strings.Join(failures(output), " ") + " only", err
	}
	return survived, m.why, nil
}

// overlay writes the mutated file, and the list that tells go of it.
func (r *runner) overlay(m *mutant) (string, error) {
	text, err := m.apply(r.root)
	if err != nil {
		return "", err
	}
	mutated := filepath.Join(r.scratch, "mutated.go")
	if err := os.WriteFile(mutated, text, 0o600); err != nil {
		return "", err
	}
	replaced := map[string]map[string]string{"Replace": {filepath.Join(r.root, m.file): mutated}}
	list, err := json.Marshal(replaced)
	if err != nil {
		return "", err
	}
	path := filepath.Join(r.scratch, "overlay.json")
	return path, os.WriteFile(path, list, 0o600)
}

// build builds the test program of a package.
func (r *runner) build(ctx context.Context, in, overlay string) (program, output string, err error) {
	program = filepath.Join(r.scratch, "tests")
	args := []string{"test", "-c", "-vet=off", "-o", program}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	command := exec.CommandContext(ctx, "go", append(args, "./"+in)...)
	command.Dir = r.root
	text, err := command.CombinedOutput()
	return program, string(text), err
}

// test runs tests of a program, all when none is named, as go test does without
// any switch. failed says that one failed, or that they hung.
func (r *runner) test(ctx context.Context, program, in string, tests []string) (failed bool, output string, err error) {
	args := []string{"-test.timeout", hangs.String(), "-test.failfast"}
	if len(tests) > 0 {
		args = append(args, "-test.run", "^("+strings.Join(tests, "|")+")$")
	}
	command := exec.CommandContext(ctx, program, args...)
	command.Dir = filepath.Join(r.root, in)
	command.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "STRANDLINE_TESTS=") })
	text, err := command.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && ctx.Err() == nil {
		return true, string(text), nil
	}
	return false, string(text), errors.Join(err, ctx.Err())
}

var failure = regexp.MustCompile(`(?m)^--- FAIL: (\w+)|^panic: (.*)$`)

// failures are the tests that failed, or what they panicked of.
func failures(output string) (names []string) {
	for _, match := range failure.FindAllStringSubmatch(output, 3) {
		names = append(names, match[1]+match[2])
	}
	return names
}
