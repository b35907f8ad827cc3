// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/blockstore"
	"github.com/strandline-project/strandline/internal/drill"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/progress"
)

// drills are a server's: on schedule and when asked, one at a time. Each is
// done by a process of its own (drillInChild), on copies of the live views.
type drills struct {
	app      *app
	serving  *serving
	clock    clockwork.Clock
	schedule schedule
	started  time.Time
	practise func(context.Context, *drillRun) (*drill.Result, error)
	put      func(eventlog.Event) (eventlog.Seq, error) // into the log
	asked    chan *drillRun
	idle     chan struct{} // holds a token while no drill runs, or is asked for

	mu      sync.Mutex
	record  drillRecord // owned by mu; written by run's goroutine
	running *drillRun   // owned by mu
	next    time.Time   // owned by mu; zero: none is scheduled
	counts  map[string]uint64
}

// drillRun is one drill of a server.
type drillRun struct {
	mode   drill.Mode // "": whose turn it is
	sample int        // negative: as configured
	actor  string     // "operator", or "server" when it was scheduled
	done   chan struct{}

	mu     sync.Mutex
	now    progress.Snapshot   // owned by mu
	ended  []progress.Snapshot // phases, in their order; owned by mu
	result *drill.Result       // set before done is closed
	err    error               // set before done is closed
}

var _ httpapi.DrillRun = (*drillRun)(nil)

func newDrillRun(mode drill.Mode, sample int, actor string) *drillRun {
	return &drillRun{mode: mode, sample: sample, actor: actor, done: make(chan struct{})}
}

// Snapshot implements httpapi.DrillRun.
func (r *drillRun) Snapshot() progress.Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *drillRun) report(now progress.Snapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = now
	if !now.Ended.IsZero() {
		r.ended = append(r.ended, now)
	}
}

// Phases implements httpapi.DrillRun.
func (r *drillRun) Phases() []progress.Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ended)
}

// Done implements httpapi.DrillRun.
func (r *drillRun) Done() <-chan struct{} { return r.done }

// Result implements httpapi.DrillRun.
func (r *drillRun) Result() (json.RawMessage, int, error) {
	<-r.done
	if r.err != nil {
		return nil, exitCode(r.err), r.err
	}
	raw, err := json.Marshal(r.result)
	return raw, exitError, err
}

func (s *serving) newDrills(clock clockwork.Clock) *drills {
	a := s.app
	at, err := parseClock(a.cfg.DrillAt)
	if err != nil {
		panic(err) // checkDrills has read it
	}
	d := &drills{
		app: a, serving: s, clock: clock, started: clock.Now(), asked: make(chan *drillRun, 1), idle: make(chan struct{}, 1), counts: map[string]uint64{},
		schedule: schedule{every: a.cfg.DrillEvery, at: at, seed: a.dir.State().DirID.String()},
		record:   loadDrills(a.dir.Path(drillRecordName), clock.Now(), a.log),
	}
	d.practise = d.inChild
	d.put = func(e eventlog.Event) (eventlog.Seq, error) { return s.log.Append(e, nil).Wait() }
	d.idle <- struct{}{}
	d.next, _ = d.schedule.next(&d.record, d.clock.Now(), d.started) // to be told from the first status on
	return d
}

// run drills until ctx ends. What a killed drill left is removed first.
func (d *drills) run(ctx context.Context) {
	defer d.end()
	d.sweep()
	d.store() // when the schedule began
	for ctx.Err() == nil {
		run := d.await(ctx)
		if run == nil {
			return
		}
		d.do(ctx, run)
	}
}

// errStopping says why a drill that was asked for is not begun.
var errStopping = withCode(exitUnavailable, errors.New("the server is stopping"))

// end tells who asked meanwhile that there are no more drills.
func (d *drills) end() {
	select {
	case <-d.idle: // nobody can ask any more
	case run := <-d.asked:
		run.err = errStopping
		close(run.done)
	}
}

func (d *drills) dir() string {
	if d.app.cfg.DrillDir != "" {
		return d.app.cfg.DrillDir
	}
	return d.app.dir.Path("drill")
}

// copies is where the copies of the live views go: on their own disk, where
// their files are linked, not copied.
func (d *drills) copies() string { return d.app.dir.Path("drill") }

func (d *drills) sweep() {
	for _, dir := range []string{d.dir(), d.copies()} {
		removed, err := drill.Sweep(dir)
		if err != nil {
			d.app.log.Warn("what a killed drill left is still there", "err", err)
		}
		for _, path := range removed {
			d.app.log.Info("removed what a killed drill left", "path", path)
		}
	}
}

// await returns the next drill that is due or asked for, nil when ctx ends.
func (d *drills) await(ctx context.Context) *drillRun {
	d.mu.Lock()
	next, scheduled := d.schedule.next(&d.record, d.clock.Now(), d.started)
	d.next = next
	d.mu.Unlock()
	var due <-chan time.Time
	if scheduled {
		timer := d.clock.NewTimer(next.Sub(d.clock.Now()))
		defer timer.Stop()
		due = timer.Chan()
	}
	select {
	case <-ctx.Done():
		return nil
	case run := <-d.asked:
		return run
	case <-due:
	}
	select {
	case <-d.idle:
		return newDrillRun("", -1, "server")
	case run := <-d.asked: // somebody was quicker
		return run
	case <-ctx.Done():
		return nil
	}
}

// ask has run done next.
func (d *drills) ask(run *drillRun) error {
	select {
	case <-d.idle:
		d.asked <- run // has room: whoever takes the token puts one
		return nil
	default:
		return httpapi.ErrDrillRuns
	}
}

// do does one drill, and records what came of it.
func (d *drills) do(ctx context.Context, run *drillRun) {
	began := d.clock.Now()
	d.mu.Lock()
	d.running = run
	if run.mode == "" {
		run.mode = d.record.Turn
	}
	if run.actor == "server" {
		d.record.Tried = began.UTC()
	}
	d.mu.Unlock()
	d.store() // a drill that takes the process with it is not tried again at once
	d.app.log.Info("a drill begins", "mode", string(run.mode), "by", run.actor)
	run.result, run.err = d.practise(ctx, run)
	if run.err == nil {
		d.verdict(run, began)
	} else if ctx.Err() == nil {
		d.undone(run)
	}
	d.mu.Lock()
	d.running = nil
	d.mu.Unlock()
	d.store()
	close(run.done)
	d.idle <- struct{}{}
}

// archivedLimit is how long a drill waits for the archive to have what the
// live views show.
const archivedLimit = 2 * time.Minute

// inChild copies the live views and has them and the archive drilled.
func (d *drills) inChild(ctx context.Context, run *drillRun) (result *drill.Result, err error) {
	scratch, err := drill.NewScratch(d.dir())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, scratch.Remove()) }()
	copies := scratch
	if d.copies() != d.dir() {
		if copies, err = drill.NewScratch(d.copies()); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, copies.Remove()) }()
	}
	live, err := d.copyLive(ctx, copies)
	if err != nil {
		return nil, err
	}
	state := d.app.dir.State()
	request := drillRequest{
		Archive: state.Archive, LogID: state.LogID, Scratch: scratch.Path(), Live: live, Mode: run.mode, Sample: run.sample,
		Limits: drillLimits(d.app.cfg), Share: true, Seed: rand.Uint64(),
	}
	if run.sample < 0 {
		request.Sample = int(d.app.cfg.DrillSample) //nolint:gosec // at most maxSample
	}
	return drillInChild(ctx, request, d.app.traffic.busy, run.report)
}

// drillRequests is how many requests a second a drill makes of the store.
const drillRequests = 100

func drillLimits(cfg *Config) drill.Limits {
	return drill.Limits{Requests: drillRequests, Read: uint64(cfg.DrillRate), Write: 2 * uint64(cfg.DrillRate)}
}

// copyLive copies the live views as they are, and waits until the archive has
// all that they show. Their files do not change, so that links to them do;
// they take disk only when the views have moved on.
func (d *drills) copyLive(ctx context.Context, scratch *drill.Scratch) (string, error) {
	live := scratch.Path("live")
	if err := os.Mkdir(live, 0o700); err != nil {
		return "", fmt.Errorf("make a folder for copies of the views: %w", err)
	}
	for _, view := range d.app.views.views() {
		if err := view.Checkpoint(filepath.Join(live, view.Name())); err != nil {
			return "", err
		}
	}
	// A copy shows at most what its view shows now, so this is enough.
	var shown eventlog.Seq
	for _, view := range d.app.views.views() {
		shown = max(shown, view.Position())
	}
	limited, cancel := context.WithTimeout(ctx, archivedLimit)
	defer cancel()
	if err := d.serving.log.WaitArchived(limited, shown); err != nil {
		if ctx.Err() == nil && limited.Err() != nil {
			err = withCode(exitUnavailable, fmt.Errorf("the archive has not taken event %s within %s: bring it back, see `strandline status`", shown, archivedLimit))
		}
		return "", err
	}
	return live, nil
}

// verdict puts a drill's verdict into the log and remembers it.
func (d *drills) verdict(run *drillRun, began time.Time) {
	log, result := d.app.log, run.result
	seq, err := d.put(eventlog.Event{Type: eventlog.DrillCompleted, Actor: run.actor, Recovery: result.Recovery, Drill: &result.Drill})
	if err != nil {
		log.Warn("the drill's verdict is not in the log", "err", err)
		seq = 0
	}
	last := &lastDrill{Seq: seq, Drill: result.Drill, Remarks: result.Remarks}
	if result.Recovery != nil {
		last.Upto = result.Recovery.Upto
	}
	passed := result.Drill.Verdict == eventlog.DrillPassed
	d.mu.Lock()
	// A crash before this is stored leaves the event alone: status and metrics
	// do not know of it, and the drill is done once more.
	d.record.Last, d.record.Undone = last, ""
	d.record.Turn = other(run.mode)
	if run.actor == "server" {
		d.record.Scheduled = d.schedule.of(began).UTC()
	}
	if passed {
		d.record.LastSuccess, d.record.RTO = result.Drill.Ended, result.Drill.RTO
	}
	d.counts[string(result.Drill.Verdict)]++
	d.mu.Unlock()
	for _, f := range result.Fallbacks {
		log.Warn("a checkpoint is of no use; a recovery would begin from an older one, or from the first event", "checkpoint", f.Checkpoint, "reason", f.Reason)
	}
	for _, w := range result.Waived {
		log.Warn("the drill went on past events that the log itself waives", "rule", w.Rule, "first", w.Scope.First.String(), "last", w.Scope.Last.String())
	}
	if !passed {
		log.Error("THE DRILL FAILED: a recovery from this archive would not give what it should; do what OPERATIONS.md says under \"a drill has failed\"",
			"mode", result.Drill.Mode, "reason", result.Drill.Reason, "event", seq.String())
		return
	}
	log.Info("the drill passed", "mode", result.Drill.Mode, "up_to", last.Upto.String(), "rto", result.Drill.RTO.String(), "blocks", result.Drill.Blocks, "event", seq.String())
}

// other is the mode whose turn is next.
func other(mode drill.Mode) drill.Mode {
	if mode == drill.Full {
		return drill.FromCheckpoint
	}
	return drill.Full
}

// undone remembers why a drill came to no verdict.
func (d *drills) undone(run *drillRun) {
	d.app.log.Warn("a drill could not be done", "mode", string(run.mode), "err", run.err)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.record.Undone = fmt.Sprintf("at %s: %v", d.clock.Now().UTC().Format(time.RFC3339), run.err)
	d.counts["undone"]++
}

// store writes the record; that it cannot be written is no reason not to
// drill.
func (d *drills) store() {
	d.mu.Lock()
	record := d.record
	d.mu.Unlock()
	if err := writeChecked(d.app.dir.Path(drillRecordName), record); err != nil {
		d.app.log.Warn("what is known of drills is not kept over a restart", "err", err)
	}
}

// Drill implements httpapi.Server.
func (a *app) Drill(_ context.Context, r httpapi.DrillRequest) (httpapi.DrillRun, error) {
	s := a.snapshot()
	if s.serving == nil || s.mode != httpapi.ModeServing {
		return nil, &blockstore.Unavailable{Reason: "the server is not serving: " + s.reason, RetryAfter: awayPause}
	}
	run := newDrillRun(drill.Mode(r.Mode), r.Sample, "operator")
	if err := s.serving.drills.ask(run); err != nil {
		return nil, err
	}
	return run, nil
}
