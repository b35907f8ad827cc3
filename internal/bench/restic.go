// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ResticPlan is a run of `strandline bench restic`: whole runs of stock restic
// with each peer, in turns. Each turn has a fresh server, a fresh repository
// and a fresh cache, and does the same steps.
type ResticPlan struct {
	Program string // restic
	Peers   []Peer // each with a repository
	// Beside names, for a peer, the one of Strandline's that is compared with it.
	Beside   map[string]string
	Source   Source
	Until    string // the last step to do, "" for all
	Rounds   int    // how often the peers take turns
	Dir      string // an existing directory on the disk to be measured
	Progress Progress
}

// RunRestic measures every step with every peer. A step that fails, and a
// restore that is not equal to what was backed up, is an error. The report
// holds what was measured until then.
func RunRestic(ctx context.Context, plan ResticPlan) (*ResticReport, error) {
	report := &ResticReport{Source: plan.Source, Peers: peerNames(plan.Peers), Beside: plan.Beside}
	var err error
	if plan.Program, err = filepath.Abs(plan.Program); err != nil { // it runs in other directories
		return report, fmt.Errorf("find restic: %w", err)
	}
	version, err := exec.CommandContext(ctx, plan.Program, "version").Output()
	if err != nil {
		return report, fmt.Errorf("ask restic for its version: %w", err)
	}
	report.Restic = strings.TrimSpace(string(version))
	plan.Progress.say("make the files to back up")
	source, err := plan.Source.make(filepath.Join(plan.Dir, "source"))
	if err != nil {
		return report, err
	}
	for round, i := range turns(plan.Rounds, len(plan.Peers)) {
		peer := plan.Peers[i]
		err := peer.in(ctx, plan.Dir, func(dir string, instance *Instance) error {
			turn := newResticTurn(&plan, source, dir, instance)
			turn.begins = func(step string) {
				plan.Progress.say("%s: %s, round %d of %d", peer.Name, step, round, max(plan.Rounds, 1))
			}
			turn.done = func(step string, f Figures) { report.add(step, i, f) }
			return turn.run(ctx)
		})
		if err != nil {
			return report, fmt.Errorf("measure restic with %s: %w", peer.Name, err)
		}
	}
	return report, nil
}

// resticTurn is one turn of one peer.
type resticTurn struct {
	source   *source
	instance *Instance
	restic   *restic
	restored string // directory of what is restored, there only meanwhile
	until    string // as in ResticPlan

	begins func(step string)
	done   func(step string, f Figures)
}

func newResticTurn(plan *ResticPlan, source *source, dir string, instance *Instance) *resticTurn {
	return &resticTurn{source: source, instance: instance, restic: newRestic(plan.Program, dir, instance), restored: filepath.Join(dir, "restored"), until: plan.Until}
}

// run does the steps; the repository is made before.
func (t *resticTurn) run(ctx context.Context) error {
	if _, err := t.restic.run(ctx, "", "init"); err != nil {
		return err
	}
	for _, step := range t.steps() {
		t.begins(step.name)
		figures, err := t.measure(ctx, step)
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if t.done(step.name, figures); step.name == t.until {
			break
		}
	}
	return nil
}

// resticStep is one run of restic. What comes before and after it is not
// measured.
type resticStep struct {
	name          string
	dir           string // where restic runs; "" for anywhere
	args          []string
	before, after func() error // nil: nothing
}

// steps are those of a turn, in their order. Folders are backed up as ".", so
// that they are restored without their path, and told apart by tags.
func (t *resticTurn) steps() []resticStep {
	s := t.source
	backup := func(tag string) []string { return []string{"backup", "--tag", tag, "."} }
	restore := func(tag string) []string {
		return []string{"restore", "latest", "--tag", tag, "--target", t.restored}
	}
	change := func(version uint64) func() error { return func() error { return s.change(version) } }
	return []resticStep{
		{name: "backup small", dir: s.smallDir, args: backup("small"), before: change(0)}, // the turn before left the other
		{name: "backup large", dir: s.largeDir, args: backup("large")},
		{name: "restore small", args: restore("small"), after: func() error { return t.compare(s.small) }},
		{name: "restore large", args: restore("large"), after: func() error { return t.compare(s.large) }},
		{name: "check", args: []string{"check", "--read-data"}},
		{name: "backup changed", dir: s.smallDir, args: backup("small"), before: change(1)},
		// By default restic would leave 5 % of the repository unused, which is more than has changed.
		{name: "prune", args: []string{"forget", "--keep-last", "1", "--prune", "--max-unused", "0"}},
	}
}

// ResticSteps names the steps of a turn.
func ResticSteps() []string {
	var names []string
	for _, step := range (&resticTurn{source: &source{}}).steps() {
		names = append(names, step.name)
	}
	return names
}

func (t *resticTurn) measure(ctx context.Context, step resticStep) (f Figures, err error) {
	if step.before != nil {
		if err := step.before(); err != nil {
			return f, err
		}
	}
	unix.Sync() // what was done before is not to be paid for by this step
	before, err := t.instance.look(ctx)
	if err != nil {
		return f, err
	}
	began := time.Now()
	cpu, err := t.restic.run(ctx, step.dir, step.args...)
	f.Seconds, f.ResticCPU = time.Since(began).Seconds(), cpu.Seconds()
	if err != nil {
		return f, err
	}
	if err := before.until(ctx, &f); err != nil || step.after == nil {
		return f, err
	}
	return f, step.after()
}

// compare reads what was restored, and removes it.
func (t *resticTurn) compare(want treeSum) error {
	got, err := sumTree(t.restored)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("restic restored something else than was backed up: %s; backed up: %s", got, want)
	}
	if err := os.RemoveAll(t.restored); err != nil {
		return fmt.Errorf("remove what was restored: %w", err)
	}
	return nil
}

// look is what an instance had taken and counted when a step began.
type look struct {
	instance      *Instance
	server, store *meter
	traffic       *Traffic
}

func (i *Instance) look(ctx context.Context) (*look, error) {
	l := &look{instance: i}
	var err error
	if l.traffic, _, err = i.counters(ctx); err != nil {
		return nil, err
	}
	if l.server, err = newMeter(i.PID); err == nil && i.Store != nil {
		l.store, err = newMeter(i.Store.PID)
	}
	return l, err
}

// until sets the figures of what was taken and counted since.
func (l *look) until(ctx context.Context, f *Figures) (err error) {
	if f.Server, err = l.server.read(); err != nil {
		return err
	}
	if f.Store, err = l.store.read(); err != nil {
		return err
	}
	traffic, behind, err := l.instance.counters(ctx)
	f.Traffic, f.Behind = traffic.since(l.traffic), behind
	return err
}

// counters asks the store, or else the server, for its traffic, and the server
// for what it has not archived yet; nil where nobody counts.
func (i *Instance) counters(ctx context.Context) (traffic *Traffic, behind *Behind, err error) {
	if i.Admin != "" {
		seen, err := scrape(ctx, "http://"+i.Admin+"/metrics")
		if err != nil {
			return nil, nil, err
		}
		traffic, behind = &Traffic{}, &Behind{}
		for name, n := range map[string]*int64{
			"strandline_archive_request_seconds_count": &traffic.Requests,
			"strandline_archive_lag_events":            &behind.Events,
			"strandline_backlog_bytes":                 &behind.Bytes,
		} {
			if err := seen.get(name, n); err != nil {
				return nil, nil, err
			}
		}
	}
	if i.Store != nil {
		traffic, err = i.Store.traffic(ctx)
	}
	return traffic, behind, err
}

// restic runs stock restic on one repository, with a cache and temporary files
// of its own.
type restic struct {
	program, cache string
	env            []string
}

// newRestic prepares restic for an instance; what it leaves is in dir.
func newRestic(program, dir string, instance *Instance) *restic {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "RESTIC_") || strings.HasPrefix(v, "AWS_")
	})
	env = append(env, "RESTIC_REPOSITORY="+instance.Repository, "RESTIC_PASSWORD=bench", "TMPDIR="+dir)
	if instance.Store != nil {
		env = append(env, instance.Store.Env...)
	}
	return &restic{program: program, cache: filepath.Join(dir, "cache"), env: env}
}

// run runs restic to its end and returns its CPU time. The end of what it
// printed is part of an error.
func (r *restic) run(ctx context.Context, dir string, args ...string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, r.program, append(args, "--cache-dir", r.cache)...)
	var out bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, r.env, &out, &out
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("restic %s: %w: %s", strings.Join(args, " "), err, tail(out.Bytes()))
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}
