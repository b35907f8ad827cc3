// SPDX-License-Identifier: Apache-2.0

package projector_test

import (
	"context"
	"errors"
	"iter"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

// without returns a log of s that lacks the events gone, and states the
// ranges cleaned.
func without(s *scene, gone func(eventlog.Event) bool, cleaned ...eventlog.Range) *modeltest.Log {
	log := &modeltest.Log{Cleaned: cleaned}
	log.Append(slices.DeleteFunc(slices.Clone(s.Log.Entries()), func(e eventlog.Entry) bool { return gone(e.Event) })...)
	return log
}

func one(seq eventlog.Seq) eventlog.Range { return eventlog.Range{First: seq, Last: seq} }

func TestAMissingEventStopsEveryView(t *testing.T) {
	s := newScene()
	entries := s.Log.Entries()
	for i := range len(entries) - 1 {
		log := without(s, func(e eventlog.Event) bool { return e.Seq == entries[i].Event.Seq })
		v := openViews(t, kv.InMemory(quiet), "", projector.Live)
		for _, r := range v.runners {
			err := r.CatchUp(t.Context(), log)
			violation := (*projector.Violation)(nil)
			if !errors.As(err, &violation) || violation.Rule != projector.RuleContiguous || violation.Seq != entries[i+1].Event.Seq {
				t.Errorf("without %s: %v", entries[i].Event.Seq, err)
			}
		}
		v.close()
	}
}

// Store and delete of one block are cleaned away, together or the store
// first; what is projected is what was there, but for the history.
func TestCleanedEventsLeaveTheSameView(t *testing.T) {
	s := newScene()
	whole := openViews(t, kv.InMemory(quiet), "", projector.Live)
	whole.catchUp(s.Log)
	s.Record(whole.states()...)
	whole.catchUp(s.Log)
	logs := map[string]*modeltest.Log{
		"the store":         without(s, func(e eventlog.Event) bool { return e.Seq == s.gone.Seq }, one(s.gone.Seq)),
		"store and delete":  without(s, func(e eventlog.Event) bool { return e.Seq == s.gone.Seq || e.Seq == s.undone.Seq }, eventlog.Range{First: s.gone.Seq, Last: s.undone.Seq}),
		"both, said apart":  without(s, func(e eventlog.Event) bool { return e.Seq == s.gone.Seq || e.Seq == s.undone.Seq }, one(s.gone.Seq), one(s.undone.Seq)),
		"ranges that touch": without(s, func(e eventlog.Event) bool { return e.Seq == s.gone.Seq }, one(s.gone.Seq), one(s.gone.Seq)),
	}
	for name, log := range logs {
		t.Run(name, func(t *testing.T) {
			v := openViews(t, kv.InMemory(quiet), "", projector.Bulk)
			v.catchUp(log)
			if v.digests() != whole.digests() {
				t.Errorf("cleaned %s, whole %s", v.digests(), whole.digests())
			}
			if compared, _ := v.blocks.Recorded(); compared != 1 {
				t.Errorf("%d recorded digests compared, want 1", compared)
			}
		})
	}
}

func TestAReusedPayloadWhoseFirstStoreWasCleanedAwayIsTaken(t *testing.T) {
	s := newScene()
	again := s.Store(s.laptop, eventlog.KindData, nameB, 2000, true)
	if again.Reuses != s.gone.Seq {
		t.Fatalf("it reuses %s, want %s", again.Reuses, s.gone.Seq)
	}
	log := &modeltest.Log{Cleaned: []eventlog.Range{{First: s.gone.Seq, Last: s.undone.Seq}}}
	for _, entry := range s.Log.Entries() {
		if entry.Event.Seq == again.Seq {
			entry.Placement = eventlog.Placement{Ordinal: 9, Offset: 8, Length: 2000} // the cleaner gave it the payload
		}
		if entry.Event.Seq != s.gone.Seq && entry.Event.Seq != s.undone.Seq {
			log.Append(entry)
		}
	}
	v := openViews(t, kv.InMemory(quiet), "", projector.Bulk)
	v.catchUp(log)
	row, found, err := v.blocks.Live(s.laptop, eventlog.KindData, nameB)
	if err != nil || !found {
		t.Fatal(found, err)
	}
	if place, err := v.blocks.Placement(row); err != nil || place.Ordinal != 9 {
		t.Errorf("its payload lies at %+v, %v", place, err)
	}
}

// A view that applied what an epoch's cut left out is told to be discarded,
// and is right again after that.
func TestAViewAheadOfTheCutIsDiscarded(t *testing.T) {
	engine := kv.InMemory(quiet)
	s := newScene()
	v := openViews(t, engine, "", projector.Live)
	cut := s.Log.Last()
	s.Store(s.laptop, eventlog.KindData, nameB, 7, false)
	v.catchUp(s.Log)
	s.Log.Cut(cut)
	s.Start(true)
	for _, r := range v.runners {
		if err := r.CatchUp(t.Context(), s.Log); !errors.Is(err, projector.ErrAhead) {
			t.Errorf("want ErrAhead, got %v", err)
		}
	}
	v.close()
	for _, dir := range []string{"views/machine", "views/block"} {
		if err := projector.Discard(engine, dir); err != nil {
			t.Fatal(err)
		}
	}
	again := openViews(t, engine, "", projector.Live)
	again.catchUp(s.Log)
	if _, found, err := again.blocks.Live(s.laptop, eventlog.KindData, nameB); found || err != nil {
		t.Errorf("the block that was cut off: %t, %v", found, err)
	}
}

func TestRecordedDigests(t *testing.T) {
	state := func(v *views, change func(*eventlog.ViewState)) []eventlog.ViewState {
		states := v.states()
		change(&states[1])
		return states[1:]
	}
	tests := []struct {
		name     string
		record   func(v *views) []eventlog.ViewState
		compared uint64
		skipped  uint64
		broken   bool
	}{
		{"as it stands is compared", func(v *views) []eventlog.ViewState {
			return state(v, func(s *eventlog.ViewState) {
				seq, digest := v.blocks.Digest()
				s.AsOf, s.Digest = seq, digest
			})
		}, 2, 0, false},
		{"as of the record before is compared", func(v *views) []eventlog.ViewState { return v.states() }, 2, 0, false},
		{"of another version is skipped", func(v *views) []eventlog.ViewState {
			return state(v, func(s *eventlog.ViewState) { s.Version = 99 })
		}, 1, 1, false},
		{"as of a seq that no digest is kept of is skipped", func(v *views) []eventlog.ViewState {
			return state(v, func(s *eventlog.ViewState) { s.AsOf-- })
		}, 1, 1, false},
		{"below the horizon is skipped", func(v *views) []eventlog.ViewState {
			return state(v, func(s *eventlog.ViewState) { s.AsOf, s.Digest = 1, [32]byte{} })
		}, 1, 1, false},
		{"of no view that is known is nothing", func(v *views) []eventlog.ViewState {
			return state(v, func(s *eventlog.ViewState) { s.Name = "other" })
		}, 1, 0, false},
		{"another digest as of the record before stops the view", func(v *views) []eventlog.ViewState {
			return state(v, func(s *eventlog.ViewState) { s.Digest[31] ^= 1 })
		}, 1, 0, true},
		{"another digest as it stands stops the view", func(v *views) []eventlog.ViewState {
			return state(v, func(s *eventlog.ViewState) { s.AsOf, s.Digest = v.blocks.Position(), [32]byte{} })
		}, 1, 0, true},
		{"as of a later event stops the view", func(v *views) []eventlog.ViewState {
			return state(v, func(s *eventlog.ViewState) { s.AsOf = math.MaxInt64 })
		}, 1, 0, true},
	}
	for _, test := range tests {
		t.Run("a digest "+test.name, func(t *testing.T) {
			s := newScene()
			v := openViews(t, kv.InMemory(quiet), "", projector.Live)
			v.catchUp(s.Log)
			s.Record(v.states()...)
			s.Store(s.laptop, eventlog.KindData, nameB, 7, false)
			v.catchUp(s.Log)
			s.Record(test.record(v)...)
			err := v.runners[1].CatchUp(t.Context(), s.Log)
			violation := (*projector.Violation)(nil)
			if test.broken != (errors.As(err, &violation) && violation.Rule == projector.RuleDigest) {
				t.Errorf("got %v", err)
			}
			if compared, skipped := v.blocks.Recorded(); compared != test.compared || skipped != test.skipped {
				t.Errorf("%d compared, %d skipped; want %d and %d", compared, skipped, test.compared, test.skipped)
			}
		})
	}
}

// sources counts the ways in which a view is brought forward.
type failing struct {
	log   *modeltest.Log
	after int // batches that come before the error
	err   error
	quits bool // after that the source works
}

func (f *failing) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		n := 0
		for batch, err := range f.log.Follow(ctx, from) {
			if n++; n > f.after && f.err != nil {
				err, batch = f.err, eventlog.Batch{}
				if f.quits {
					f.err = nil
				}
			}
			if !yield(batch, err) || err != nil {
				return
			}
		}
	}
}

// An error of the source is not the view's: what came before it is applied,
// the view is not stopped, and goes on when the source does.
func TestASourceThatFailsDoesNotStopTheView(t *testing.T) {
	trouble := errors.New("the archive is away")
	for after := range 5 {
		h := modeltest.NewHistory(7, nil)
		for range 50 {
			h.Step()
		}
		source := &failing{log: h.Log, after: after, err: trouble, quits: true}
		v := openViews(t, kv.InMemory(quiet), "", projector.Bulk)
		err := projector.CatchUp(t.Context(), source, v.runners...)
		if !errors.Is(err, trouble) || !strings.Contains(err.Error(), v.blocks.Position().String()) {
			t.Errorf("got %v", err)
		}
		if want := min(after*7, 50); want > 0 && v.blocks.Position() != h.Log.Entries()[want-1].Event.Seq {
			t.Errorf("after %d batches the view stands at %s", after, v.blocks.Position())
		}
		v.catchUp(source)
		if v.blocks.Position() != h.Log.Last() || v.machines.Position() != h.Log.Last() {
			t.Errorf("views at %s and %s, want %s", v.blocks.Position(), v.machines.Position(), h.Log.Last())
		}
		v.close()
	}
}

func TestCatchUpSaysSoWhenItIsCutShort(t *testing.T) {
	h := modeltest.NewHistory(7, nil)
	h.Step()
	v := openViews(t, kv.InMemory(quiet), "", projector.Live)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("a person pressed a key")
	cancel(reason)
	if err := projector.CatchUp(ctx, h.Log, v.runners...); !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
	v.catchUp(h.Log)
}

// Views that stand at different positions catch up in one reading.
func TestCatchUpFromDifferentPositions(t *testing.T) {
	h := modeltest.NewHistory(3, nil)
	for range 60 {
		h.Step()
	}
	v := openViews(t, kv.InMemory(quiet), "", projector.Live)
	if err := v.runners[0].CatchUp(t.Context(), h.Log); err != nil {
		t.Fatal(err)
	}
	for range 60 {
		h.Step()
	}
	calls := h.Log.Calls()
	v.catchUp(h.Log)
	if h.Log.Calls() != calls+1 {
		t.Errorf("%d readings, want 1", h.Log.Calls()-calls)
	}
	model := modeltest.NewModel()
	for i, entries := 0, h.Log.Entries(); i < len(entries); i++ {
		model.Apply(&entries[i])
	}
	if err := model.Check(t.Context(), v.machines, v.blocks); err != nil {
		t.Error(err)
	}
}
