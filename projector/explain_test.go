// SPDX-License-Identifier: Apache-2.0

package projector_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/modeltest"
)

// accused is a violation for each event of a log.
func accused(log *modeltest.Log) []*projector.Violation {
	var all []*projector.Violation
	for _, entry := range log.Entries() {
		e := &entry.Event
		all = append(all, &projector.Violation{Rule: projector.RuleForm, View: "block", Seq: e.Seq, Type: e.Type, Machine: e.Machine, Block: e.Block})
	}
	return all
}

func each(all []*projector.Violation) iter.Seq2[*projector.Violation, error] {
	return func(yield func(*projector.Violation, error) bool) {
		for _, v := range all {
			copied := *v
			if !yield(&copied, nil) {
				return
			}
		}
	}
}

// explainAll returns what is told, in its order, and how many were cut.
func explainAll(t *testing.T, source projector.Source, all []*projector.Violation, open int) (told []*projector.Violation, cut int) {
	t.Helper()
	err := projector.ExplainAll(t.Context(), source, each(all), open, func(v *projector.Violation, early bool) error {
		told = append(told, v)
		if early {
			cut++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range told {
		if i >= len(all) || v.Seq != all[i].Seq {
			t.Fatalf("number %d that is told is %s", i, v.Seq)
		}
	}
	if len(told) != len(all) {
		t.Fatalf("%d of %d are told", len(told), len(all))
	}
	return told, cut
}

func randomHistory(steps int) *modeltest.History {
	h := modeltest.NewHistory(7, nil)
	for range steps {
		h.Step()
	}
	return h
}

// Many violations are told the same as each by itself, and the log is read
// once for all of them.
func TestManyViolationsAreExplainedInOneReading(t *testing.T) {
	h := randomHistory(400)
	all := accused(h.Log)
	before := h.Log.Calls()
	told, cut := explainAll(t, h.Log, all, len(all))
	if calls := h.Log.Calls() - before; calls != 1 || cut != 0 {
		t.Errorf("the log is read %d times, %d are cut", calls, cut)
	}
	found := 0
	for i, v := range all {
		v.Explain(t.Context(), h.Log)
		if !slices.Equal(v.Later, told[i].Later) {
			t.Errorf("%s: %q by itself, %q among others", v.Seq, v.Later, told[i].Later)
		}
		if len(v.Later) == 0 || v.Later[0] == "" {
			t.Errorf("%s: nothing is told", v.Seq)
		}
		if len(v.Later) > 1 || !strings.Contains(v.Later[0], "none") {
			found++
		}
	}
	if found < len(all)/4 {
		t.Errorf("of %d of %d violations later events say something: the history proves little", found, len(all))
	}
}

// However many violations there are, no more than open are waited with; all
// are told, and what is told is true of the events that were looked at.
func TestTooManyViolationsAreCutAndSaySo(t *testing.T) {
	h := randomHistory(400)
	all := accused(h.Log)
	whole, _ := explainAll(t, h.Log, all, len(all))
	for _, open := range []int{0, 1, 2, 30} {
		told, cut := explainAll(t, h.Log, all, open)
		said := 0
		for i, v := range told {
			last := v.Later[len(v.Later)-1]
			lines := v.Later
			if strings.Contains(last, "was not looked at") {
				said++
				lines = lines[:len(lines)-1]
			}
			if strings.HasPrefix(last, "none of the next ") != (strings.Contains(last, "was not looked at") && len(lines) == 0) {
				t.Errorf("%s: %q", v.Seq, v.Later)
			}
			if len(lines) > len(whole[i].Later) || !slices.Equal(lines, whole[i].Later[:len(lines)]) {
				t.Errorf("%s: %q is no beginning of %q", v.Seq, v.Later, whole[i].Later)
			}
		}
		if cut != said || cut == 0 {
			t.Errorf("%d at once: %d are cut, %d say so", open, cut, said)
		}
	}
}

// The violations that are waited for do not depend on how many there are.
func TestExplainingHoldsNoMoreThanItMay(t *testing.T) {
	const open, all = 10, 5000
	log := &modeltest.Log{}
	for i := range all {
		log.Append(eventlog.Entry{Event: eventlog.Event{
			Seq: eventlog.MakeSeq(1, uint32(i+1)), Type: eventlog.BlockStored, Machine: 9, Kind: eventlog.KindData, Block: fmt.Appendf(nil, "%032d", i)}})
	}
	taken, told := 0, 0
	counted := func(yield func(*projector.Violation, error) bool) {
		for _, v := range accused(log) {
			if taken++; taken-told > open+2 { // the one that comes, and the one that is being told
				t.Errorf("%d are taken, %d told", taken, told)
			}
			if !yield(v, nil) {
				return
			}
		}
	}
	err := projector.ExplainAll(t.Context(), log, counted, open, func(*projector.Violation, bool) error { told++; return nil })
	if err != nil || told != all {
		t.Errorf("%d are told, %v", told, err)
	}
}

func TestAViolationOfNothingThatEventsNameIsNotWaitedWith(t *testing.T) {
	s := newScene()
	v := &projector.Violation{Seq: s.alice, Type: eventlog.AccountOpened}
	told, cut := explainAll(t, s.Log, []*projector.Violation{v, {Seq: s.laptop, Type: eventlog.MachineRegistered, Machine: s.laptop}}, 1)
	if cut != 0 || len(told[0].Later) != 1 || !strings.Contains(told[0].Later[0], "neither a machine nor a block") {
		t.Errorf("%q, %d cut", told[0].Later, cut)
	}
}

// sickLog breaks off behind its first batch.
type sickLog struct{ *modeltest.Log }

var errNoMore = errors.New("no more")

func (l sickLog) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		for batch, err := range l.Log.Follow(ctx, from) {
			if !yield(batch, err) {
				return
			}
			yield(eventlog.Batch{}, errNoMore)
			return
		}
	}
}

func TestALogThatCannotBeReadIsToldOfByAllThatAreLeft(t *testing.T) {
	h := randomHistory(50)
	all := accused(h.Log)
	told, _ := explainAll(t, sickLog{h.Log}, all, 3)
	for _, v := range told[len(told)-10:] {
		if last := v.Later[len(v.Later)-1]; !strings.Contains(last, "could not be read: no more") && !strings.Contains(last, "neither a machine") {
			t.Errorf("%s: %q", v.Seq, v.Later)
		}
	}
}

func TestExplainingEndsWithWhatItIsHandedAndHandsOn(t *testing.T) {
	h := randomHistory(50)
	all := accused(h.Log)
	fails := func(yield func(*projector.Violation, error) bool) {
		for v, err := range each(all[:20]) {
			if !yield(v, err) {
				return
			}
		}
		yield(nil, errNoMore)
	}
	quiet := func(*projector.Violation, bool) error { return nil }
	if err := projector.ExplainAll(t.Context(), h.Log, fails, 100, quiet); !errors.Is(err, errNoMore) {
		t.Errorf("violations that cannot be read: %v", err)
	}
	deaf := func(*projector.Violation, bool) error { return errNoMore }
	if err := projector.ExplainAll(t.Context(), h.Log, each(all), 100, deaf); !errors.Is(err, errNoMore) {
		t.Errorf("one that cannot be told: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := projector.ExplainAll(ctx, h.Log, each(all), 100, quiet); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if err := projector.ExplainAll(t.Context(), nil, each(nil), 100, quiet); err != nil {
		t.Errorf("none: %v", err)
	}
}
