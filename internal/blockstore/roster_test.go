// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"testing"

	"github.com/strandline-project/strandline/eventlog"
)

func TestTheRosterAdmitsWhatARecoveryAccepts(t *testing.T) {
	const alice, bob, machine = eventlog.Seq(1<<32 | 10), eventlog.Seq(1<<32 | 11), eventlog.Seq(1<<32 | 12)
	fresh := func(t *testing.T) *Roster {
		r, err := NewRoster(t.Context(), emptyViews{})
		must(t, err)
		must(t, r.Admit(&eventlog.Event{Seq: alice, Type: eventlog.AccountOpened, Name: "alice"}))
		must(t, r.Admit(&eventlog.Event{Seq: bob, Type: eventlog.AccountOpened, Name: "bob"}))
		must(t, r.Admit(&eventlog.Event{Seq: machine, Type: eventlog.MachineRegistered, Account: alice, Name: "laptop"}))
		return r
	}
	next := machine + 1
	reown := eventlog.Event{Seq: next, Type: eventlog.MachineReowned, Machine: machine, Name: "laptop", From: alice, To: bob, Previous: machine}
	bar := eventlog.Event{Seq: eventlog.MakeSeq(2, 1), Type: eventlog.EpochStarted, Barred: []eventlog.Seq{machine}}
	cases := []struct {
		name   string
		before []eventlog.Event
		event  eventlog.Event
		ok     bool
	}{
		{"a store of a known machine", nil, eventlog.Event{Type: eventlog.BlockStored, Account: alice, Machine: machine}, true},
		{"a delete of a known machine", nil, eventlog.Event{Type: eventlog.BlockDeleted, Account: alice, Machine: machine}, true},
		{"a store of an unknown machine", nil, eventlog.Event{Type: eventlog.BlockStored, Account: alice, Machine: machine + 9}, false},
		{"a store by another account", nil, eventlog.Event{Type: eventlog.BlockStored, Account: bob, Machine: machine}, false},
		{"an account twice", nil, eventlog.Event{Seq: next, Type: eventlog.AccountOpened, Name: "alice"}, false},
		{"a machine twice", nil, eventlog.Event{Seq: next, Type: eventlog.MachineRegistered, Account: alice, Name: "laptop"}, false},
		{"a machine's name under another account", nil, eventlog.Event{Seq: next, Type: eventlog.MachineRegistered, Account: bob, Name: "laptop"}, true},
		{"a machine of no account", nil, eventlog.Event{Seq: next, Type: eventlog.MachineRegistered, Account: next, Name: "x"}, false},
		{"a re-owning", nil, reown, true},
		{"a re-owning twice", []eventlog.Event{reown}, reown, false},
		{"a store by the new owner", []eventlog.Event{reown}, eventlog.Event{Type: eventlog.BlockStored, Account: bob, Machine: machine}, true},
		{"a store by the old owner", []eventlog.Event{reown}, eventlog.Event{Type: eventlog.BlockStored, Account: alice, Machine: machine}, false},
		{"the old name again", []eventlog.Event{reown}, eventlog.Event{Seq: next + 1, Type: eventlog.MachineRegistered, Account: alice, Name: "laptop"}, true},
		{"a re-owning to a taken name", []eventlog.Event{{Seq: next, Type: eventlog.MachineRegistered, Account: bob, Name: "laptop"}}, reown, false},
		{"a re-owning of an unknown machine", nil, eventlog.Event{Type: eventlog.MachineReowned, Machine: 5, To: bob}, false},
		{"a re-owning to an unknown account", nil, eventlog.Event{Type: eventlog.MachineReowned, Machine: machine, To: 5}, false},
		{"a release of a barred machine", []eventlog.Event{bar}, eventlog.Event{Type: eventlog.HoldReleased, Machine: machine}, true},
		{"a release of any other", nil, eventlog.Event{Type: eventlog.HoldReleased, Machine: machine}, false},
		{"a release twice", []eventlog.Event{bar, {Type: eventlog.HoldReleased, Machine: machine}}, eventlog.Event{Type: eventlog.HoldReleased, Machine: machine}, false},
		{"a bar of an unknown machine", nil, eventlog.Event{Type: eventlog.EpochStarted, Barred: []eventlog.Seq{5}}, false},
		{"a record", nil, eventlog.Event{Type: eventlog.StateRecorded}, true},
		{"the log's creation", nil, eventlog.Event{Type: eventlog.LogCreated}, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := fresh(t)
			for _, ev := range c.before {
				must(t, r.Admit(&ev))
			}
			if err := r.Admit(&c.event); (err == nil) != c.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestTheRosterRefusesEveryTypeThatNobodyWrites(t *testing.T) {
	r, err := NewRoster(t.Context(), emptyViews{})
	must(t, err)
	for _, kind := range eventlog.Types() {
		if err := r.Admit(&eventlog.Event{Type: kind}); !kind.Emitted() && err == nil {
			t.Errorf("%s is admitted", kind)
		}
	}
	if r.Admit(&eventlog.Event{Type: 99}) == nil {
		t.Error("type 99 is admitted")
	}
}

func TestTheRosterIsTheSameAfterARestart(t *testing.T) {
	w := newWorld(t, Options{})
	must(t, w.Register(t.Context(), "test", Path{"bob", "x"}))
	must(t, w.Reown(t.Context(), "operator", laptop, "bob"))
	w.restart(w.id(Path{"bob", "laptop"}))
	roster, err := NewRoster(t.Context(), w.machines)
	must(t, err)
	m, err := w.find(Path{"bob", "laptop"})
	must(t, err)
	must(t, roster.Admit(&eventlog.Event{Type: eventlog.BlockStored, Account: m.account, Machine: m.id}))
	must(t, roster.Admit(&eventlog.Event{Type: eventlog.HoldReleased, Machine: m.id}))
	if roster.Admit(&eventlog.Event{Type: eventlog.AccountOpened, Name: "bob"}) == nil {
		t.Error("bob is opened twice")
	}
}
