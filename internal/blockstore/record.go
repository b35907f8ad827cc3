// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// Recorded is a view whose digest is recorded; *projector.View is one.
type Recorded interface {
	Name() string
	Version() uint32
	// Digest returns the digest as of the view's position.
	Digest() (eventlog.Seq, projector.Digest)
	// Kept returns the digest as of the last state_recorded applied, 0 when
	// there was none.
	Kept() (eventlog.Seq, projector.Digest)
}

var _ Recorded = (*projector.View)(nil)

// RecorderLog is what a Recorder needs of the log; *eventlog.Log is one.
type RecorderLog interface {
	Append(ev eventlog.Event, body *eventlog.Body) *eventlog.Pending
	Committed() (eventlog.Seq, int64)
	WaitCommitted(ctx context.Context, after eventlog.Seq) error
	// Err returns why nothing can be written any more, nil while it can.
	Err() error
}

var _ RecorderLog = (*eventlog.Log)(nil)

// Recorder writes the views' digests into the log (state_recorded), so that
// a rebuild proves itself against the server that wrote them. While it runs,
// a record tells the digests as of the record before, which each view kept
// when it passed that; at start and at a clean stop, when nothing else is
// written, as of the event right before it.
type Recorder struct {
	log      RecorderLog
	views    []Recorded
	progress []Progress
	every    uint64
	clock    clockwork.Clock
	logger   *slog.Logger
	last     eventlog.Seq // the last state_recorded; owned by Begin, then the goroutine, then Close

	cancel context.CancelFunc
	done   sync.WaitGroup
}

// recordInterval is the longest pause between two records, if anything
// happens at all.
const recordInterval = 10 * time.Minute

// NewRecorder returns a Recorder of views, whose progress is given in any
// order. It writes a record after so many events (0: 65,536) or 10 minutes,
// none if nothing happened, and does nothing before Begin.
func NewRecorder(log RecorderLog, views []Recorded, progress []Progress, every uint64, logger *slog.Logger) *Recorder {
	if every == 0 {
		every = 65536
	}
	r := &Recorder{log: log, views: views, progress: progress, every: every, clock: clockwork.NewRealClock(), logger: logger}
	for _, view := range views {
		kept, _ := view.Kept()
		r.last = max(r.last, kept)
	}
	return r
}

// Begin records the digests as they stand, and goes on recording until Close.
// The views stand at the log's end, and nothing else is written before Begin
// returns. That a record cannot be written is logged; it harms nothing else.
func (r *Recorder) Begin() {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	if err := r.recordStanding(false); err != nil {
		r.logger.Warn("the views' digests were not recorded at the start", "err", err)
	}
	r.done.Go(func() {
		if err := r.run(ctx); err != nil && ctx.Err() == nil {
			r.logger.Warn("the views' digests are not recorded any more", "err", err)
		}
	})
}

// Close ends the recording and records the digests as they stand, once the
// views have applied what is committed. Nothing else is written any more.
func (r *Recorder) Close(ctx context.Context) error {
	if r.cancel != nil {
		r.cancel()
		r.done.Wait()
	}
	end, _ := r.log.Committed()
	for _, view := range r.progress {
		if err := view.WaitApplied(ctx, end); err != nil {
			return fmt.Errorf("recording digests as of event %s: %w", end, err)
		}
	}
	return r.recordStanding(true)
}

// recordStanding writes a record as of the event right before it; none if
// nothing happened since the last one, unless it is to be the log's clean end:
// the object that says so cannot be empty.
func (r *Recorder) recordStanding(cleanEnd bool) error {
	end, _ := r.log.Committed()
	if end == r.last && !cleanEnd {
		return nil
	}
	states := make([]eventlog.ViewState, 0, len(r.views))
	for _, view := range r.views {
		asOf, digest := view.Digest()
		if asOf != end {
			return fmt.Errorf("recording digests: the %s view stands at %s, the log at %s", view.Name(), asOf, end)
		}
		states = append(states, state(view, asOf, digest))
	}
	return r.record(states)
}

func state(view Recorded, asOf eventlog.Seq, digest projector.Digest) eventlog.ViewState {
	return eventlog.ViewState{Name: view.Name(), Version: view.Version(), Digest: digest, AsOf: asOf}
}

// run records after every so many events, or when the interval is over.
func (r *Recorder) run(ctx context.Context) error {
	for {
		limited, cancel := clockwork.WithTimeout(ctx, r.clock, recordInterval)
		err := r.log.WaitCommitted(limited, r.last+eventlog.Seq(r.every)-1)
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("waiting for events to record: %w", err)
		}
		err = r.recordPrevious()
		if err != nil && r.log.Err() != nil {
			return err
		}
		if err != nil {
			r.logger.Warn("the views' digests were not recorded; trying again", "pause", recordPause, "err", err)
			if err := r.sleep(ctx); err != nil {
				return err
			}
		}
	}
}

// recordPause is how long a record that could not be written rests.
const recordPause = 30 * time.Second

func (r *Recorder) sleep(ctx context.Context) error {
	timer := r.clock.NewTimer(recordPause)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// recordPrevious writes a record as of the record before it. A view that has
// not passed that one yet is left out.
func (r *Recorder) recordPrevious() error {
	if end, _ := r.log.Committed(); end == r.last {
		return nil
	}
	var states []eventlog.ViewState
	for _, view := range r.views {
		if asOf, digest := view.Kept(); asOf == r.last && asOf != 0 {
			states = append(states, state(view, asOf, digest))
		}
	}
	return r.record(states)
}

func (r *Recorder) record(states []eventlog.ViewState) error {
	seq, err := r.log.Append(eventlog.Event{Type: eventlog.StateRecorded, Actor: "server", Views: states}, nil).Wait()
	if err != nil {
		return fmt.Errorf("recording digests: %w", err)
	}
	r.last = seq
	return nil
}
