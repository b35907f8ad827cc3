// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/dir"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// onceOnly is a log that can be read once, until it is back.
type onceOnly struct {
	eventlog.History
	reads atomic.Int32
	back  atomic.Bool
}

var errOnceOnly = errors.New("the archive has gone")

func (l *onceOnly) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	if l.reads.Add(1) > 1 && !l.back.Load() {
		return func(yield func(eventlog.Batch, error) bool) { yield(eventlog.Batch{}, errOnceOnly) }
	}
	return l.History.Follow(ctx, from)
}

// Views stop at what nothing waives. That it could not be found out what the
// log waives does not stop them: the next try goes on.
func TestViewsGoOnPastWhatIsWaivedAlone(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	bucket, err := dir.Open(brokenArchive(t))
	if err != nil {
		t.Fatal(err)
	}
	archive, err := archiver.Open(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	views, err := openViews(t.TempDir(), projector.Live, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := views.Close(); err != nil {
			t.Error(err)
		}
	}()
	wide := archiver.Waiver{Rule: projector.RuleAccountOnce.String(), Scope: eventlog.Range{First: eventlog.FirstSeq, Last: eventlog.FirstSeq + 9}}
	views.waivers = func() []archiver.Waiver { return []archiver.Waiver{wide} }
	log, violation := &onceOnly{History: archive}, (*projector.Violation)(nil)
	if err := views.CatchUp(t.Context(), log, eventlog.Range{}); !errors.Is(err, errOnceOnly) || errors.As(err, &violation) || views.err() != nil {
		t.Errorf("while the log cannot be read: %v, stopped by %v", err, views.err())
	}
	log.back.Store(true)
	if err := views.CatchUp(t.Context(), log, eventlog.Range{}); err != nil || views.Applied() != eventlog.FirstSeq+6 {
		t.Errorf("views at %s: %v", views.Applied(), err)
	}
	if err := views.discard(views.machine.View); err != nil {
		t.Fatal(err)
	}
	views.waivers = nil
	if err := views.CatchUp(t.Context(), log, eventlog.Range{}); !errors.As(err, &violation) || views.err() == nil {
		t.Errorf("what nothing waives is gone on past: %v", err)
	}
}

// The race detector says whether the admin door may look while a start throws
// views away; without it a concurrent use of the map ends the test now and then.
func TestTheAdminDoorLooksAtViewsThatAStartThrowsAway(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	views, err := openViews(t.TempDir(), projector.Live, quiet)
	if err != nil {
		t.Fatal(err)
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, view := range views.views() {
				view.Digest()
				if err := views.stopped(view.Name()); err != nil {
					t.Error(err)
				}
			}
			if _, _, err := views.barred(1); err != nil {
				continue // it was closed under our hands, and says so
			}
			if err := views.err(); err != nil {
				t.Error(err)
			}
		}
	}()
	for range 20 {
		for _, view := range views.views() {
			if err := views.discard(view); err != nil {
				t.Fatal(err)
			}
		}
		if err := views.open(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	<-ended
	if err := views.Close(); err != nil {
		t.Fatal(err)
	}
}
