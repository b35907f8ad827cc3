// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// broken has the log go on with an event that breaks a rule, and with enough
// others for views to be committed past it. It returns the waiver of it.
func (w *world) broken() archiver.Waiver {
	wrong := w.next(eventlog.Event{Type: eventlog.AccountOpened})
	for n := range 8 {
		w.next(eventlog.Event{Type: eventlog.AccountOpened, Name: fmt.Sprint("after ", wrong, " ", n)})
	}
	return archiver.Waiver{Rule: projector.RuleForm.String(), Scope: eventlog.Range{First: wrong, Last: wrong}}
}

// next archives an event in an object of its own.
func (w *world) next(e eventlog.Event) eventlog.Seq {
	w.objects++
	entry := w.history.Next(e)
	w.put(uint64(w.objects), []eventlog.Entry{entry})
	return entry.Event.Seq
}

func (w *world) grant(waiver archiver.Waiver) {
	w.next(eventlog.Event{Type: eventlog.WaiverGranted, Name: waiver.Rule, From: waiver.Scope.First, To: waiver.Scope.Last, Cause: "recover --waive", Actor: "operator"})
}

// What the log itself waives is gone on past by whoever asks for that, also in
// views of a time before the waiver; for anybody else it is named.
func TestWhatTheLogItselfWaivesIsGoneOnPast(t *testing.T) {
	w := newWorld(t, 14, 60)
	waiver := w.broken()
	w.grant(waiver)
	violation := (*projector.Violation)(nil)
	if _, err := Run(t.Context(), w.options("strict")); !errors.As(err, &violation) || !strings.Contains(err.Error(), "--waive well-formed@"+waiver.Scope.First.String()) {
		t.Errorf("without Granted: %v", err)
	}
	opts := w.options("asked")
	opts.Waivers = []archiver.Waiver{waiver}
	asked, err := Run(t.Context(), opts)
	must(t, err)
	opts = w.options("granted")
	opts.Granted = true
	granted, err := Run(t.Context(), opts)
	must(t, err)
	if !slices.Equal(granted.Waived, asked.Waived) || !slices.Equal(granted.Views, asked.Views) || granted.Events != asked.Events {
		t.Errorf("granted %+v, asked for %+v", granted, asked)
	}
	opts = w.options("then")
	opts.Granted, opts.Until = true, waiver.Scope.Last
	then, err := Run(t.Context(), opts)
	must(t, err)
	if !slices.Equal(then.Waived, asked.Waived) || then.Last != waiver.Scope.Last {
		t.Errorf("as of the event: %+v", then)
	}
}

func TestWhatTheLogDoesNotWaiveEndsTheRecovery(t *testing.T) {
	for name, change := range map[string]func(w *world, waiver *archiver.Waiver){
		"nothing is waived":      nil,
		"another rule is waived": func(_ *world, waiver *archiver.Waiver) { waiver.Rule = projector.RuleTotals.String() },
		"another event is waived": func(_ *world, waiver *archiver.Waiver) {
			waiver.Scope = eventlog.Range{First: waiver.Scope.First + 1, Last: waiver.Scope.Last + 1}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 15, 60)
			waiver := w.broken()
			wrong := waiver.Scope.First
			if change != nil {
				change(w, &waiver)
				w.grant(waiver)
			}
			w.stops(wrong)
		})
	}
	t.Run("what comes after the waiver is not waived, however far it reaches", func(t *testing.T) {
		w := newWorld(t, 16, 60)
		waiver := w.broken()
		waiver.Scope.Last += 1000
		w.grant(waiver)
		w.stops(w.broken().Scope.First)
	})
}

// stops checks that views cannot be built past the event wrong.
func (w *world) stops(wrong eventlog.Seq) {
	w.t.Helper()
	opts := w.options("stops")
	opts.Granted = true
	violation := (*projector.Violation)(nil)
	if _, err := Run(w.t.Context(), opts); !errors.As(err, &violation) || violation.Seq != wrong || strings.Contains(err.Error(), "--waive") {
		w.t.Errorf("got %v, want a violation of %s", err, wrong)
	}
}

func TestWhatTheLogWaivesIsGoneOnPastBehindACheckpoint(t *testing.T) {
	w, s := newShelvedWorld(t, 4200, 120)
	waiver := w.broken()
	w.grant(waiver)
	opts := w.options("new")
	opts.Granted, opts.Checkpoints = true, s
	result, err := Run(t.Context(), opts)
	must(t, err)
	if result.Checkpoint == nil || len(result.Fallbacks) != 0 || !slices.Equal(result.Waived, []archiver.Waiver{waiver}) {
		t.Errorf("%+v", result)
	}
}

// A run that was interrupted has gone on past events which the next one does
// not meet again: its result names the waivers all the same.
func TestWhatWasWaivedByTheLogOutlivesAnInterruption(t *testing.T) {
	w := newWorld(t, 17, 60)
	waiver := w.broken()
	w.grant(waiver)
	opts := w.options("new")
	opts.Granted = true
	ctx, kill := context.WithCancel(t.Context())
	opts.Log = slog.New(killOn{slog.DiscardHandler, "waived by the log", kill})
	if _, err := Run(ctx, opts); err == nil {
		t.Fatal("it was not killed")
	}
	opts.Log = quiet
	for range 2 { // and once more, as after a crash before the end
		result, err := Run(t.Context(), opts)
		must(t, err)
		if !slices.Equal(result.Waived, []archiver.Waiver{waiver}) || !result.Resumed {
			t.Errorf("%+v", result)
		}
	}
	must(t, os.WriteFile(filepath.Join(opts.Scratch, grantedName), []byte(`{"sha256":"","content":[]}`), 0o600))
	if _, err := Run(t.Context(), opts); !errors.Is(err, errNote) {
		t.Errorf("edited: %v", err)
	}
}

// While it is not known what the log waives, nobody can say that an event
// breaks a rule.
func TestALogThatCannotBeReadForWaiversIsNoViolation(t *testing.T) {
	w := newWorld(t, 18, 60)
	waiver := w.broken()
	key := archiver.Shipped(uint64(w.objects)).Key()
	w.grant(waiver)
	data, _ := w.bucket.Get(key)
	w.bucket.Flip(key, 8*len(data)-8*eventlog.TrailerSize-5)
	opts := w.options("new")
	opts.Granted, opts.Until = true, waiver.Scope.Last
	violation := (*projector.Violation)(nil)
	if _, err := Run(t.Context(), opts); !errors.Is(err, eventlog.ErrObjectDamaged) || errors.As(err, &violation) || !strings.Contains(err.Error(), "well-formed") {
		t.Errorf("%v", err)
	}
}

// A waiver that cannot be noted is not used.
func TestAGrantedWaiverThatCannotBeNotedEndsTheProjection(t *testing.T) {
	w := newWorld(t, 19, 20)
	waiver := w.broken()
	g := NewGranted(archiver.At(w.bucket, logID), []archiver.Waiver{waiver}, quiet)
	g.note = filepath.Join(t.TempDir(), "file", grantedName)
	must(t, os.WriteFile(filepath.Dir(g.note), nil, 0o600))
	if g.tolerate(t.Context())(&projector.Violation{Rule: projector.RuleForm, Seq: waiver.Scope.First}) || g.Err() == nil || len(g.Used()) != 0 {
		t.Errorf("used %v, %v", g.Used(), g.Err())
	}
}
