// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/durable"
)

// Runner moves one view forward and tells who waits how far it is. A view
// that is stopped (by a Violation, a failing store, an ended Run) stays
// stopped: every wait, pending or to come, gets the reason at once.
type Runner struct {
	view *View
	log  *slog.Logger
	wake chan struct{} // holds one

	mu      sync.Mutex
	waiters map[*waiter]struct{}
	err     error         // why it stopped
	stopped chan struct{} // closed when err is set
}

type waiter struct {
	seq  eventlog.Seq
	done chan struct{}
}

const (
	// lookAnyway is how long a live view relies on being woken.
	lookAnyway = 50 * time.Millisecond
	// sourceTries is how many failed readings in a row, with growing pauses
	// up to sourcePause, a live view takes before it stops: about 20 s. What may
	// pass (no descriptors, no room) it outlasts.
	sourceTries = 12
	sourcePause = 4 * time.Second
)

// NewRunner returns the runner of view, which must not be ReadOnly and has
// no other one.
func NewRunner(view *View, log *slog.Logger) *Runner {
	r := &Runner{view: view, log: log.With("view", view.Name()), wake: make(chan struct{}, 1),
		waiters: map[*waiter]struct{}{}, stopped: make(chan struct{})}
	view.lane.settled = func() {
		view.publish()
		r.release()
	}
	return r
}

// Tolerate makes the view go on past the violations that tolerate says true
// of, as if the events that they name were not there; nil, as at first, makes
// it stop at any. It is called by the goroutine that moves the view, for each
// violation once. To be called before the view moves.
func (r *Runner) Tolerate(tolerate func(*Violation) bool) { r.view.lane.tolerate = tolerate }

// CatchUp brings the view up to the source's end, once. It returns nil when
// the view is there. A Violation stops the view, and is enriched with what
// later events say; an error of the source does not.
func (r *Runner) CatchUp(ctx context.Context, source Source) error {
	err := r.advance(ctx, source)
	if violation := (*Violation)(nil); errors.As(err, &violation) {
		violation.Explain(ctx, source)
	}
	if stops(err) {
		r.stop(err)
	}
	return err
}

// Run keeps the view up with the source until ctx ends or the view stops, and
// returns the reason. It looks at the source whenever Wake is called, and
// after 50 ms without: whoever wakes it is a convenience, never relied on.
// Every WaitApplied is resolved when Run has returned.
func (r *Runner) Run(ctx context.Context, source Source) error {
	err := r.run(ctx, source)
	r.stop(err)
	if violation := (*Violation)(nil); errors.As(err, &violation) {
		r.log.Error("view stopped: writes are refused until a person has looked at this",
			"rule", violation.Rule.String(), "seq", violation.Seq.String(), "type", violation.Type.String(),
			"machine", violation.Machine.String(), "ordinal", violation.Ordinal, "offset", violation.Offset, "err", err)
	}
	return err
}

func (r *Runner) run(ctx context.Context, source Source) error {
	timer := time.NewTimer(lookAnyway)
	defer timer.Stop()
	for failures := 0; ; {
		before := r.view.lane.position
		err := r.advance(ctx, source)
		if r.view.lane.position != before {
			failures = 0
		}
		pause := lookAnyway
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("%s view: %w", r.view.Name(), context.Cause(ctx))
		case stops(err) || (err != nil && failures >= sourceTries && !durable.Passing(err)):
			return err
		case err != nil:
			failures = min(failures+1, sourceTries)
			pause = min(lookAnyway<<failures, sourcePause)
			r.log.Warn("a view cannot read its events; trying again", "failures", failures, "pause", pause, "err", err)
		default:
			failures = 0
		}
		if err := r.sleep(ctx, timer, pause, failures == 0); err != nil {
			return err
		}
	}
}

func (r *Runner) sleep(ctx context.Context, timer *time.Timer, pause time.Duration, wakeable bool) error {
	wake := r.wake
	if !wakeable {
		wake = nil
	}
	timer.Reset(pause)
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s view: %w", r.view.Name(), context.Cause(ctx))
	case <-wake:
	case <-timer.C:
	}
	return nil
}

// advance is project, with a panic outside of any event turned into an error.
func (r *Runner) advance(ctx context.Context, source Source) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("%s view: panic after event %s: %v", r.view.Name(), r.view.lane.position, cause)
		}
	}()
	if err := r.Err(); err != nil {
		return err
	}
	return project(ctx, source, r.view.lane)
}

// stops reports whether err says something about the view, so that going on
// is no use.
func stops(err error) bool {
	if err == nil {
		return false
	}
	source := (*sourceError)(nil)
	return !errors.As(err, &source) || errors.Is(err, eventlog.ErrCleaned)
}

// Wake makes Run look at the source now. It never blocks.
func (r *Runner) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Position returns the last event that the view includes.
func (r *Runner) Position() eventlog.Seq { return r.view.Position() }

// WaitApplied returns nil once the view includes the event seq, ctx's error
// when that ends first, and the reason when the view has stopped or stops
// meanwhile.
func (r *Runner) WaitApplied(ctx context.Context, seq eventlog.Seq) error {
	if r.view.Position() >= seq {
		return nil
	}
	w := r.enlist(seq)
	defer r.dismiss(w)
	select {
	case <-w.done:
		return nil
	default:
	}
	select {
	case <-w.done:
		return nil
	case <-r.stopped:
		return r.outcome(seq)
	case <-ctx.Done():
		return fmt.Errorf("wait for the %s view to apply event %s: %w", r.view.Name(), seq, context.Cause(ctx))
	}
}

// enlist adds a waiter, and resolves it if it came too late to be released.
func (r *Runner) enlist(seq eventlog.Seq) *waiter {
	w := &waiter{seq: seq, done: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.view.Position() >= seq {
		close(w.done)
		return w
	}
	r.waiters[w] = struct{}{}
	return w
}

func (r *Runner) dismiss(w *waiter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiters, w)
}

// release resolves whoever waits for what the view includes by now.
func (r *Runner) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	position := r.view.Position()
	for w := range r.waiters {
		if w.seq <= position {
			close(w.done)
			delete(r.waiters, w)
		}
	}
}

func (r *Runner) outcome(seq eventlog.Seq) error {
	if r.view.Position() >= seq {
		return nil
	}
	return fmt.Errorf("event %s will not be applied: %w", seq, r.Err())
}

func (r *Runner) stop(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
		close(r.stopped)
	}
}

// Stopped is closed when the view has stopped; Err then says why.
func (r *Runner) Stopped() <-chan struct{} { return r.stopped }

// Err returns why the view has stopped, nil while it has not.
func (r *Runner) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}
