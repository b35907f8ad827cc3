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

// The outage's script: a machine stores data, is moved to another account,
// stores more, deletes old data; then everything but the log is lost. What is
// projected from the log must be what was there.
func TestReownedWhileStoringDataThenRebuilt(t *testing.T) {
	live := openViews(t, kv.InMemory(quiet), "", projector.Live)
	h := modeltest.NewHistory(1, nil)
	alice, bob := h.Open("alice"), h.Open("bob")
	laptop := h.Register(alice, "laptop")
	h.Store(laptop, eventlog.KindConfig, nil, 155, false)
	h.Store(laptop, eventlog.KindLock, nameC, 150, false)
	h.Store(laptop, eventlog.KindData, nameA, 4000, false)
	live.catchUp(h.Log)
	h.Record(live.states()...)
	h.Reown(laptop, bob)
	h.Store(laptop, eventlog.KindData, nameB, 5000, false)
	h.Delete(laptop, eventlog.KindData, nameA)
	h.Store(laptop, eventlog.KindData, nameA, 4000, true)
	live.catchUp(h.Log)
	h.Record(live.states()...)
	h.Start(true)
	h.Reown(laptop, alice)
	h.Reown(laptop, bob)
	live.catchUp(h.Log)
	h.Record(live.states()...)
	live.catchUp(h.Log)

	rebuilt := openViews(t, kv.InMemory(quiet), "", projector.Bulk)
	rebuilt.catchUp(h.Log)
	if live.digests() != rebuilt.digests() {
		t.Errorf("live %s; rebuilt %s", live.digests(), rebuilt.digests())
	}
	for _, v := range []*projector.View{rebuilt.machines.View, rebuilt.blocks.View} {
		if compared, skipped := v.Recorded(); compared != 3 || skipped != 0 {
			t.Errorf("%s view: %d recorded digests compared, %d skipped; want 3 and 0", v.Name(), compared, skipped)
		}
	}
	machine, found, err := rebuilt.machines.Machine(laptop)
	if err != nil || !found || machine.Owner != bob || machine.RegisteredBy != alice || machine.ID != laptop {
		t.Errorf("the machine is %+v (%t, %v), want it registered by %s and owned by %s", machine, found, err, alice, bob)
	}
	if totals, _, err := rebuilt.machines.AccountTotals(t.Context(), bob); err != nil || totals != (projector.Totals{Blocks: 4, Bytes: 155 + 150 + 4000 + 5000}) {
		t.Errorf("the new owner holds %+v, %v", totals, err)
	}
	if totals, _, err := rebuilt.machines.AccountTotals(t.Context(), alice); err != nil || totals != (projector.Totals{}) {
		t.Errorf("the old owner holds %+v, %v", totals, err)
	}
}

// At every position of a history a machine can change hands, and live, model
// and rebuilt agree.
func TestReownedAtEveryPosition(t *testing.T) {
	const length = 30
	for at := range length {
		h := modeltest.NewHistory(uint64(at), nil)
		alice, bob := h.Open("alice"), h.Open("bob")
		laptop := h.Register(alice, "laptop")
		model := modeltest.NewModel()
		for step := range length {
			if step == at {
				h.Reown(laptop, bob)
			}
			h.Step()
		}
		v := openViews(t, kv.InMemory(quiet), "", projector.Bulk)
		v.catchUp(h.Log)
		for i, entries := 0, h.Log.Entries(); i < len(entries); i++ {
			model.Apply(&entries[i])
		}
		if err := model.Check(t.Context(), v.machines, v.blocks); err != nil {
			t.Fatalf("re-owned at step %d: %v", at, err)
		}
		v.close()
	}
}

// The outage's cause: the registration is written again under the new owner,
// with a higher seq than the data, and the first one cleaned away. The view
// refuses at the first data, and tells the whole story.
func TestReownedByRegisteringAgainIsRefusedAndExplained(t *testing.T) {
	h := modeltest.NewHistory(1, nil)
	alice, bob := h.Open("alice"), h.Open("bob")
	laptop := h.Register(alice, "laptop")
	stored := h.Store(laptop, eventlog.KindData, nameA, 4000, false)
	again := h.Next(eventlog.Event{Type: eventlog.MachineRegistered, Account: bob, Machine: laptop, Name: "laptop"})
	h.Log.Append(again)
	log := &modeltest.Log{Cleaned: []eventlog.Range{{First: laptop, Last: laptop}}}
	for _, entry := range h.Log.Entries() {
		if entry.Event.Seq != laptop {
			log.Append(entry)
		}
	}

	v := openViews(t, kv.InMemory(quiet), "", projector.Bulk)
	err := projector.CatchUp(t.Context(), log, v.runners...)
	violation := (*projector.Violation)(nil)
	if !errors.As(err, &violation) || violation.Rule != projector.RuleMachine || violation.Seq != stored.Seq || violation.Machine != laptop {
		t.Fatalf("want %s broken at %s by machine %s, got %v", projector.RuleMachine, stored.Seq, laptop, err)
	}
	if violation.Ordinal != 1 || violation.Offset != 8 {
		t.Errorf("the payload is said to be in object %d at %d", violation.Ordinal, violation.Offset)
	}
	for _, want := range []string{
		"machine view stopped before event " + stored.Seq.String(), "known-machine",
		again.Event.Seq.String() + " machine_registered registers machine " + laptop.String() + ` as "laptop" of account ` + bob.String(),
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the violation does not say %q: %v", want, err)
		}
	}
	if v.blocks.Position() != again.Event.Seq {
		t.Errorf("the block view stands at %s, want %s: one view's violation is not the other's", v.blocks.Position(), again.Event.Seq)
	}
}
