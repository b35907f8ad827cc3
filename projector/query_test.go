// SPDX-License-Identifier: Apache-2.0

package projector_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

// A session is interrupted by a loss when its machine held a lock stored less
// than 30 minutes before the last event that counts.
func TestInterruptedSessions(t *testing.T) {
	h := modeltest.NewHistory(1, nil)
	account := h.Open("alice")
	var machines []eventlog.Seq
	for _, name := range []string{"old lock", "fresh lock", "both locks", "no lock", "deleted lock"} {
		machines = append(machines, h.Register(account, name))
	}
	h.Store(machines[0], eventlog.KindLock, nameA, 1, false)
	h.Store(machines[2], eventlog.KindLock, nameA, 1, false)
	h.Store(machines[3], eventlog.KindData, nameA, 1, false)
	h.Pass(20 * time.Minute)
	h.Store(machines[1], eventlog.KindLock, nameA, 1, false)
	h.Store(machines[2], eventlog.KindLock, nameB, 1, false)
	h.Store(machines[4], eventlog.KindLock, nameA, 1, false)
	h.Delete(machines[4], eventlog.KindLock, nameA)
	v := openViews(t, kv.InMemory(quiet), "", projector.Live)
	check := func(want ...eventlog.Seq) {
		t.Helper()
		v.catchUp(h.Log)
		got, err := v.machines.InterruptedAt(t.Context(), h.Log.Last())
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("interrupted %v (%v), want %v", got, err, want)
		}
	}
	check(machines[0], machines[1], machines[2])
	h.Pass(10 * time.Minute)
	h.Open("bob") // any event moves the time of the cut
	check(machines[1], machines[2])
	h.Pass(25 * time.Minute)
	h.Open("carol")
	check()
	if _, err := v.machines.InterruptedAt(t.Context(), h.Log.Last()-1); err == nil {
		t.Error("asked for a cut that the view has passed, and was answered")
	}
}

func TestABlockStoredDeletedAndStoredAgain(t *testing.T) {
	s := newScene()
	again := s.Store(s.laptop, eventlog.KindData, nameB, 2000, true)
	v := openViews(t, kv.InMemory(quiet), "", projector.Live)
	v.catchUp(s.Log)
	find := func(what string, row projector.BlockRow, found bool, err error, stored, deleted eventlog.Seq) {
		t.Helper()
		if err != nil || found != (stored != 0) || row.Stored != stored || row.Deleted != deleted {
			t.Errorf("%s: stored %s deleted %s, %t, %v; want %s and %s", what, row.Stored, row.Deleted, found, err, stored, deleted)
		}
	}
	asOf := func(seq eventlog.Seq) (projector.BlockRow, bool, error) {
		return v.blocks.AsOf(s.laptop, eventlog.KindData, nameB, seq)
	}
	row, found, err := asOf(s.gone.Seq - 1)
	find("before the first store", row, found, err, 0, 0)
	row, found, err = asOf(s.gone.Seq)
	find("at the first store", row, found, err, s.gone.Seq, s.undone.Seq)
	row, found, err = asOf(s.undone.Seq - 1)
	find("right before the delete", row, found, err, s.gone.Seq, s.undone.Seq)
	row, found, err = asOf(s.undone.Seq)
	find("at the delete", row, found, err, 0, 0)
	row, found, err = asOf(again.Seq)
	find("at the second store", row, found, err, again.Seq, 0)
	row, found, err = v.blocks.Live(s.laptop, eventlog.KindData, nameB)
	find("now", row, found, err, again.Seq, 0)
	if place, err := v.blocks.Placement(row); err != nil || place.Length != 2000 || place.Ordinal != 1 {
		t.Errorf("its payload lies at %+v, %v", place, err)
	}
	second := s.Delete(s.laptop, eventlog.KindData, nameB)
	v.catchUp(s.Log)
	row, found, err = v.blocks.Live(s.laptop, eventlog.KindData, nameB)
	find("after the second delete", row, found, err, 0, 0)
	row, found, err = v.blocks.Latest(s.laptop, eventlog.KindData, nameB)
	find("the latest after the second delete", row, found, err, again.Seq, second.Seq)
	row, found, err = v.blocks.Latest(s.laptop, eventlog.KindData, name32('x'))
	find("one that never was", row, found, err, 0, 0)
}

// A name that begins like another one is another block, in history, too.
func TestNamesThatBeginAlikeAreApart(t *testing.T) {
	h := modeltest.NewHistory(1, nil)
	machine := h.Register(h.Open("alice"), "laptop")
	short := []byte("ab")
	long := append(slices.Clone(short), make([]byte, 8)...)
	for _, name := range [][]byte{short, long, append(slices.Clone(long), make([]byte, 8)...)} {
		h.Store(machine, eventlog.KindData, name, uint64(len(name)), false)
		h.Delete(machine, eventlog.KindData, name)
	}
	v := openViews(t, kv.InMemory(quiet), "", projector.Live)
	v.catchUp(h.Log)
	for _, name := range [][]byte{short, long} {
		row, found, err := v.blocks.Latest(machine, eventlog.KindData, name)
		if err != nil || !found || row.Length != uint64(len(name)) || string(row.Name) != string(name) {
			t.Errorf("%x: %+v, %t, %v", name, row, found, err)
		}
	}
}

func TestAPayloadThatIsNowhereIsAnError(t *testing.T) {
	s := newScene()
	v := openViews(t, kv.InMemory(quiet), "", projector.Live)
	v.catchUp(s.Log)
	row := projector.BlockRow{Machine: s.laptop, Kind: eventlog.KindData, Name: nameB, Stored: s.Log.Last(), Length: 5}
	if _, err := v.blocks.Placement(row); err == nil || !strings.Contains(err.Error(), "does not know where") {
		t.Errorf("a row without placement: %v", err)
	}
	row.Reuses = 7
	if _, err := v.blocks.Placement(row); err == nil || !strings.Contains(err.Error(), "is not in the view") {
		t.Errorf("a row that reuses what never was: %v", err)
	}
	row.Reuses, row.Length = 0, 0
	if place, err := v.blocks.Placement(row); err != nil || place.Ordinal != 0 {
		t.Errorf("an empty block: %+v, %v", place, err)
	}
}

// Lists see one moment, end when their caller does, and never come short in
// silence.
func TestListsAreWholeOrAnError(t *testing.T) {
	h := modeltest.NewHistory(1, nil)
	machine := h.Register(h.Open("alice"), "laptop")
	for range 10 {
		h.Store(machine, eventlog.KindData, h.Name(), 1, false)
	}
	v := openViews(t, kv.InMemory(quiet), "", projector.Live)
	v.catchUp(h.Log)
	for _, asOf := range []eventlog.Seq{0, h.Log.Last()} {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		var last error
		for _, err := range v.blocks.List(ctx, machine, eventlog.KindData, asOf) {
			if n == 0 {
				h.Store(machine, eventlog.KindData, h.Name(), 1, false)
				v.catchUp(h.Log)
			}
			if n++; n == 4 {
				cancel()
			}
			last = err
		}
		if !errors.Is(last, context.Canceled) {
			t.Errorf("a cancelled list ended after %d rows with %v", n, last)
		}
		cancel()
		for range v.blocks.List(t.Context(), machine, eventlog.KindData, asOf) {
			break
		}
		n = 0
		for _, err := range v.blocks.List(t.Context(), machine, eventlog.KindData, asOf) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n == 1 {
				h.Store(machine, eventlog.KindData, h.Name(), 1, false)
				v.catchUp(h.Log)
			}
		}
		if count, err := v.blocks.Count(t.Context(), machine, eventlog.KindData); err != nil || (asOf == 0 && n != count-1) || (asOf != 0 && n != 10) {
			t.Errorf("as of %s: %d rows, now there are %d, %v", asOf, n, count, err)
		}
	}
}
