// SPDX-License-Identifier: Apache-2.0

package projector_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

// scene is a small valid history that a test adds one wrong event to: two
// accounts, a machine of alice's with a lock, a data block, a deleted block
// and a bar.
type scene struct {
	*modeltest.History
	alice, bob, laptop eventlog.Seq
	data, lock, gone   eventlog.Event
	undone             eventlog.Event // the delete of gone
}

var nameA, nameB, nameC = name32('a'), name32('b'), name32('c')

func name32(c byte) []byte { return []byte(strings.Repeat(string(rune(c)), 32)) }

func newScene() *scene {
	s := &scene{History: modeltest.NewHistory(1, nil)}
	s.alice, s.bob = s.Open("alice"), s.Open("bob")
	s.laptop = s.Register(s.alice, "laptop")
	s.lock = s.Store(s.laptop, eventlog.KindLock, nameC, 150, false)
	s.data = s.Store(s.laptop, eventlog.KindData, nameA, 1000, false)
	s.gone = s.Store(s.laptop, eventlog.KindData, nameB, 2000, false)
	s.undone = s.Delete(s.laptop, eventlog.KindData, nameB)
	s.Start(true)
	return s
}

// block is an event about alice's laptop.
func (s *scene) block(t eventlog.Type, kind eventlog.Kind, name []byte, length uint64) eventlog.Event {
	return eventlog.Event{Type: t, Account: s.alice, Machine: s.laptop, Kind: kind, Block: name, Length: length, Checksum: 5}
}

func (s *scene) undo(stored eventlog.Event, change func(*eventlog.Event)) eventlog.Event {
	e := s.block(eventlog.BlockDeleted, stored.Kind, stored.Block, stored.Length)
	e.Checksum, e.Undoes = stored.Checksum, stored.Seq
	if change != nil {
		change(&e)
	}
	return e
}

func (s *scene) reown(change func(*eventlog.Event)) eventlog.Event {
	e := eventlog.Event{Type: eventlog.MachineReowned, Account: s.bob, Machine: s.laptop, Name: "laptop", From: s.alice, To: s.bob, Previous: s.laptop}
	change(&e)
	return e
}

var seatbelts = []struct {
	name  string
	view  string // that stops; the other goes on
	rule  projector.Rule
	wrong func(s *scene) eventlog.Event
}{
	{"data of a machine that was never registered", "machine", projector.RuleMachine, func(s *scene) eventlog.Event {
		e := s.block(eventlog.BlockStored, eventlog.KindData, nameB, 9)
		e.Machine = s.alice
		return e
	}},
	{"data under an account that was never opened", "machine", projector.RuleAccount, func(s *scene) eventlog.Event {
		e := s.block(eventlog.BlockStored, eventlog.KindData, nameB, 9)
		e.Account = s.laptop
		return e
	}},
	{"a machine registered for an account that was never opened", "machine", projector.RuleAccount, func(s *scene) eventlog.Event {
		return eventlog.Event{Type: eventlog.MachineRegistered, Account: s.laptop, Name: "phone"}
	}},
	{"an account opened under a name that is taken", "machine", projector.RuleAccountOnce, func(*scene) eventlog.Event {
		return eventlog.Event{Type: eventlog.AccountOpened, Name: "alice"}
	}},
	{"an account without a name", "machine", projector.RuleForm, func(*scene) eventlog.Event {
		return eventlog.Event{Type: eventlog.AccountOpened}
	}},
	{"a machine registered under a name that is taken", "machine", projector.RuleMachineName, func(s *scene) eventlog.Event {
		return eventlog.Event{Type: eventlog.MachineRegistered, Account: s.alice, Name: "laptop"}
	}},
	{"a machine registered again under the id that it has", "machine", projector.RuleForm, func(s *scene) eventlog.Event {
		return eventlog.Event{Type: eventlog.MachineRegistered, Account: s.bob, Machine: s.laptop, Name: "laptop"}
	}},
	{"a re-owning of no machine", "machine", projector.RuleForm, func(s *scene) eventlog.Event {
		return s.reown(func(e *eventlog.Event) { e.Machine = 0 })
	}},
	{"a re-owning of a machine that was never registered", "machine", projector.RuleMachine, func(s *scene) eventlog.Event {
		return s.reown(func(e *eventlog.Event) { e.Machine = s.bob })
	}},
	{"a re-owning to an account that was never opened", "machine", projector.RuleAccount, func(s *scene) eventlog.Event {
		return s.reown(func(e *eventlog.Event) { e.To = s.laptop })
	}},
	{"a re-owning from an account that is not the owner", "machine", projector.RuleOwner, func(s *scene) eventlog.Event {
		return s.reown(func(e *eventlog.Event) { e.From, e.To = s.bob, s.alice })
	}},
	{"a re-owning that succeeds another event than the one that made the owner", "machine", projector.RuleOwner, func(s *scene) eventlog.Event {
		return s.reown(func(e *eventlog.Event) { e.Previous = s.alice })
	}},
	{"a store of a live block", "block", projector.RuleStoreLive, func(s *scene) eventlog.Event {
		return s.block(eventlog.BlockStored, eventlog.KindData, nameA, 1000)
	}},
	{"a store of a live lock", "both", projector.RuleStoreLive, func(s *scene) eventlog.Event {
		return s.block(eventlog.BlockStored, eventlog.KindLock, nameC, 150)
	}},
	{"a delete of a block that was never stored", "block", projector.RuleDeleteStored, func(s *scene) eventlog.Event {
		return s.undo(s.data, func(e *eventlog.Event) { e.Block = name32('x') })
	}},
	{"a delete of a block that is deleted", "block", projector.RuleDeleteStored, func(s *scene) eventlog.Event {
		return s.undo(s.gone, func(e *eventlog.Event) { e.Length = 1 })
	}},
	{"a delete that names another event than the store", "block", projector.RuleDeleteStored, func(s *scene) eventlog.Event {
		return s.undo(s.data, func(e *eventlog.Event) { e.Undoes = s.lock.Seq })
	}},
	{"a delete of a lock that names another event than its store", "both", projector.RuleDeleteStored, func(s *scene) eventlog.Event {
		return s.undo(s.lock, func(e *eventlog.Event) { e.Undoes = s.data.Seq })
	}},
	{"a delete with another length than the store", "block", projector.RuleDeleteStored, func(s *scene) eventlog.Event {
		return s.undo(s.data, func(e *eventlog.Event) { e.Length = 999 })
	}},
	{"a delete with another checksum than the store", "block", projector.RuleDeleteStored, func(s *scene) eventlog.Event {
		return s.undo(s.data, func(e *eventlog.Event) { e.Checksum++ })
	}},
	{"a delete of more bytes than the machine holds", "both", projector.RuleTotals, func(s *scene) eventlog.Event {
		return s.undo(s.data, func(e *eventlog.Event) { e.Length = 1 << 40 })
	}},
	{"a delete that undoes a later event", "both", projector.RuleForm, func(s *scene) eventlog.Event {
		return s.undo(s.data, func(e *eventlog.Event) { e.Undoes = ^eventlog.Seq(0) })
	}},
	{"a store that reuses the payload of an event that stored no such block", "block", projector.RuleReuseStored, func(s *scene) eventlog.Event {
		e := s.block(eventlog.BlockStored, eventlog.KindData, nameB, 2000)
		e.Checksum, e.Reuses = s.gone.Checksum, s.data.Seq
		return e
	}},
	{"a store that reuses a payload of another length", "block", projector.RuleReuseStored, func(s *scene) eventlog.Event {
		e := s.block(eventlog.BlockStored, eventlog.KindData, nameB, 2001)
		e.Checksum, e.Reuses = s.gone.Checksum, s.gone.Seq
		return e
	}},
	{"a store that reuses a later payload", "both", projector.RuleForm, func(s *scene) eventlog.Event {
		e := s.block(eventlog.BlockStored, eventlog.KindData, nameB, 2000)
		e.Reuses = ^eventlog.Seq(0)
		return e
	}},
	{"a block of an unknown kind", "both", projector.RuleForm, func(s *scene) eventlog.Event {
		return s.block(eventlog.BlockStored, 99, nameB, 1)
	}},
	{"a data block without a name", "both", projector.RuleForm, func(s *scene) eventlog.Event {
		return s.block(eventlog.BlockStored, eventlog.KindData, nil, 1)
	}},
	{"a config with a name", "both", projector.RuleForm, func(s *scene) eventlog.Event {
		return s.block(eventlog.BlockStored, eventlog.KindConfig, nameB, 1)
	}},
	{"a block of more bytes than can be counted", "both", projector.RuleForm, func(s *scene) eventlog.Event {
		return s.block(eventlog.BlockStored, eventlog.KindData, nameB, 1<<63)
	}},
	{"totals that overflow", "machine", projector.RuleTotals, func(s *scene) eventlog.Event {
		return s.block(eventlog.BlockStored, eventlog.KindData, nameB, 1<<63-1)
	}},
	{"a release of a machine that is not barred", "machine", projector.RuleBar, func(s *scene) eventlog.Event {
		s.Release(s.laptop)
		return eventlog.Event{Type: eventlog.HoldReleased, Machine: s.laptop}
	}},
	{"a release of no machine", "machine", projector.RuleForm, func(s *scene) eventlog.Event {
		return eventlog.Event{Type: eventlog.HoldReleased}
	}},
	{"an epoch that starts in the middle", "both", projector.RuleForm, func(s *scene) eventlog.Event {
		return eventlog.Event{Type: eventlog.EpochStarted, Previous: s.Log.Last()}
	}},
	{"an epoch that bars a machine that was never registered", "machine", projector.RuleMachine, func(s *scene) eventlog.Event {
		e := s.Start(false)
		s.Log.Cut(e.Seq - 1)
		return eventlog.Event{Type: eventlog.EpochStarted, Previous: s.Log.Last(), Barred: []eventlog.Seq{s.bob}}
	}},
	{"a write transaction, which this build does not know", "both", projector.RuleType, func(s *scene) eventlog.Event {
		return eventlog.Event{Type: eventlog.TransactionStarted, Machine: s.laptop}
	}},
	{"a type that no build knows", "both", projector.RuleType, func(*scene) eventlog.Event {
		return eventlog.Event{Type: 99}
	}},
}

// Each rule stops the view that it belongs to, right before the event that
// breaks it, with all before applied; the other view goes on, past the event.
func TestSeatbelts(t *testing.T) {
	for _, test := range seatbelts {
		t.Run(test.name, func(t *testing.T) {
			s := newScene()
			wrong := test.wrong(s)
			before := s.Log.Last()
			entry := s.Next(wrong)
			if wrong.Type == eventlog.EpochStarted && wrong.Barred != nil {
				entry.Event.Seq = eventlog.MakeSeq(before.Epoch()+1, 1)
			}
			s.Log.Append(entry)
			v := openViews(t, kv.InMemory(quiet), "", projector.Live)
			for i, r := range v.runners {
				stops := test.view == "both" || test.view == []string{"machine", "block"}[i]
				checkSeatbelt(t, r, s, test.view, stops, test.rule, before, entry.Event.Seq)
			}
			good := newScene()
			test.wrong(good) // what it needs before it
			checkUntouched(t, v, good, before)
		})
	}
}

// checkUntouched checks that a view which stopped right behind what good has
// holds nothing of the event that it refused.
func checkUntouched(t *testing.T, v *views, good *scene, before eventlog.Seq) {
	t.Helper()
	want := openViews(t, kv.InMemory(quiet), "", projector.Live)
	want.catchUp(good.Log)
	for i, view := range []*projector.View{v.machines.View, v.blocks.View} {
		if view.Position() != before {
			continue // it took the event: the other one is to refuse it
		}
		_, rows, err := view.Recompute(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		other := []*projector.View{want.machines.View, want.blocks.View}[i]
		if _, digest := view.Digest(); rows != digest {
			t.Errorf("the rows of the %s view are not those of its digest", view.Name())
		}
		if _, digest := other.Digest(); rows != digest {
			t.Errorf("the %s view holds something of the event that it refused", view.Name())
		}
	}
}

func checkSeatbelt(t *testing.T, r *projector.Runner, s *scene, stops string, mustStop bool, rule projector.Rule, before, seq eventlog.Seq) {
	t.Helper()
	err := r.CatchUp(t.Context(), s.Log)
	violation := (*projector.Violation)(nil)
	if !errors.As(err, &violation) {
		if err != nil || r.Position() != seq {
			t.Errorf("position %s, error %v; want %s", r.Position(), err, seq)
		}
		if mustStop {
			t.Errorf("a view went past %s", seq)
		}
		return
	}
	if stops != "both" && violation.View != stops {
		t.Errorf("the %s view stopped, too: %v", violation.View, err)
		return
	}
	if violation.Rule != rule && !(stops == "both" && violation.View == "block" && violation.Rule == projector.RuleDeleteStored) {
		t.Errorf("rule %s, want %s: %v", violation.Rule, rule, err)
	}
	if violation.Seq != seq || r.Position() != before || !strings.Contains(err.Error(), seq.String()) {
		t.Errorf("stopped at %s before %s, want at %s before %s: %v", r.Position(), violation.Seq, before, seq, err)
	}
	if again := r.CatchUp(t.Context(), s.Log); !errors.Is(again, err) && again.Error() != err.Error() {
		t.Errorf("a stopped view tells %v, then %v", err, again)
	}
	if waited := r.WaitApplied(t.Context(), seq); !errors.As(waited, &violation) {
		t.Errorf("a waiter of the event got %v", waited)
	}
	if waited := r.WaitApplied(t.Context(), before); waited != nil {
		t.Errorf("a waiter of the event before got %v", waited)
	}
}
