// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
)

// recoverFlags is what recover can be asked for beside where from and to.
type recoverFlags struct {
	until          string
	waive          []string
	plan, checkAll bool
	full           bool
	skipDisk       bool
	scratch        string
	prices         prices

	concurrency readBounds
	asOf        moment
	waivers     []archiver.Waiver
}

func (f *recoverFlags) bind(flags *pflag.FlagSet) {
	flags.StringVar(&f.until, "until", "", "build the state as of this event (7.1234) or time (2026-11-20T12:00:00Z), for looking")
	flags.BoolVar(&f.full, "full", false, "project every event from the first on, and use no checkpoint")
	flags.BoolVar(&f.plan, "plan", false, "say what a recovery would read, need and take, and build nothing")
	flags.BoolVar(&f.checkAll, "check-all", false, "list every event that breaks a rule, and build nothing")
	flags.StringVar(&f.scratch, "scratch", "", "with --check-all: directory on a disk with room for the views (default: the system's for temporary files)")
	flags.StringArrayVar(&f.waive, "waive", nil, "go on past events that break a rule: RULE@SEQ or RULE@FIRST-LAST; may be repeated")
	f.concurrency.bind(flags)
	flags.BoolVar(&f.skipDisk, "skip-disk-check", false, "begin even if the disk seems too small")
	f.prices.bind(flags)
}

// parse reads what can be read without the archive.
func (f *recoverFlags) parse() (err error) {
	if f.until != "" {
		if f.asOf, err = parseMoment(f.until); err != nil {
			return fmt.Errorf("--until: %w, or a time such as 2026-11-20T12:00:00Z", err)
		}
	}
	if f.waivers, err = parseWaivers(f.waive, projector.RuleNames()); err != nil {
		return err
	}
	switch {
	case f.plan && f.checkAll:
		return errors.New("--plan and --check-all: ask for one of them")
	case f.scratch != "" && !f.checkAll:
		return errors.New("--scratch is for --check-all; a recovery works in --data")
	}
	return nil
}

func parseBounds(text string) (lowest, highest int, err error) {
	low, high, found := strings.Cut(strings.TrimSpace(text), "-")
	if found {
		lowest, err = strconv.Atoi(low)
	}
	if err == nil && found {
		highest, err = strconv.Atoi(high)
	}
	if err != nil || !found || lowest < 1 || highest < lowest {
		return 0, 0, fmt.Errorf("%q: write MIN-MAX, such as 2-512", text)
	}
	return lowest, highest, nil
}

// parseWaivers reads what --waive was given; rules are those that may be waived.
func parseWaivers(texts, rules []string) ([]archiver.Waiver, error) {
	var all []archiver.Waiver
	for _, text := range texts {
		w, err := parseWaiver(text, rules)
		if err != nil {
			return nil, fmt.Errorf("--waive %s: %w", text, err)
		}
		all = append(all, w)
	}
	return all, nil
}

func parseWaiver(text string, rules []string) (archiver.Waiver, error) {
	rule, scope, found := strings.Cut(text, "@")
	if !found || !slices.Contains(rules, rule) {
		return archiver.Waiver{}, fmt.Errorf("write RULE@SEQ or RULE@FIRST-LAST with a rule as a refusal names it, one of %s", strings.Join(rules, ", "))
	}
	first, last, isRange := strings.Cut(scope, "-")
	if !isRange {
		last = first
	}
	from, err := eventlog.ParseSeq(first)
	if err != nil {
		return archiver.Waiver{}, err
	}
	to, err := eventlog.ParseSeq(last)
	if err != nil {
		return archiver.Waiver{}, err
	}
	if to < from {
		return archiver.Waiver{}, fmt.Errorf("%s comes before %s", to, from)
	}
	return archiver.Waiver{Rule: rule, Scope: eventlog.Range{First: from, Last: to}}, nil
}

// resolve returns the event that m is, 0 for the log's end.
func (m moment) resolve(ctx context.Context, log eventlog.History, bar *progress.Progress) (eventlog.Seq, error) {
	if m.time.IsZero() {
		return m.seq, nil
	}
	bar.Start("find the time", 0)
	defer bar.Done()
	seq, err := recovery.At(ctx, log, m.time)
	if errors.Is(err, recovery.ErrBefore) {
		err = withCode(exitUsage, err)
	}
	return seq, err
}

// unused returns the waivers that were not needed, and warns of them.
func (f *recoverFlags) unused(used []archiver.Waiver) []archiver.Waiver {
	var unused []archiver.Waiver
	for _, w := range f.waivers {
		if !slices.Contains(used, w) {
			slog.Warn("a waiver was not needed: leave it out", "rule", w.Rule, "first", w.Scope.First.String(), "last", w.Scope.Last.String())
			unused = append(unused, w)
		}
	}
	return unused
}

// boundsName is the file of the directory that an operation writes to which may
// change how many reads of the archive are under way at once.
const boundsName = "read-concurrency"

// bounded is what reads within bounds.
type bounded interface {
	SetBounds(lowest, highest int) error
}

// tellBounds says where obeyBounds looks, of a directory with a made-up name.
func tellBounds(path string) {
	slog.Info("to change how many reads are under way at once, while this runs: write a line MIN-MAX into the file", "file", path)
}

// obeyBounds looks for the file, and again every second until the function that
// it returns is called.
func obeyBounds(ctx context.Context, path string, bucket bounded) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	last := obey(path, "", bucket)
	var done sync.WaitGroup
	done.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			last = obey(path, last, bucket)
		}
	})
	return func() {
		cancel()
		done.Wait()
	}
}

// obey sets the bounds in path, unless they are still last; it returns them.
func obey(path, last string, bucket bounded) string {
	raw, err := os.ReadFile(path)
	text := string(raw)
	if errors.Is(err, fs.ErrNotExist) || text == last {
		return last
	}
	var low, high int
	if err == nil {
		low, high, err = parseBounds(text)
	}
	if err == nil {
		err = bucket.SetBounds(low, high)
	}
	if err != nil {
		slog.Warn("the bounds of reads under way at once are not changed", "file", path, "err", err)
		return text
	}
	slog.Info("the bounds of reads under way at once are changed", "file", path, "min", low, "max", high)
	return text
}
