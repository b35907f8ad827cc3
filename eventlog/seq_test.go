// SPDX-License-Identifier: Apache-2.0

package eventlog_test

import (
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/strandline-project/strandline/eventlog"
)

func TestASeqIsEpochAndCounter(t *testing.T) {
	seq := eventlog.MakeSeq(7, 1234)
	if seq.Epoch() != 7 || seq.Counter() != 1234 || uint64(seq) != 7<<32|1234 || seq.String() != "7.1234" {
		t.Errorf("7.1234 is %d: epoch %d, counter %d, printed %v", uint64(seq), seq.Epoch(), seq.Counter(), seq)
	}
	if eventlog.FirstSeq != eventlog.MakeSeq(1, 1) {
		t.Errorf("the first seq is %v", eventlog.FirstSeq)
	}
}

func TestOnlySeqsWhoseEpochAndCounterBeginAtOneAreValid(t *testing.T) {
	for seq, want := range map[eventlog.Seq]bool{
		0: false, 1: false, 1 << 32: false, eventlog.FirstSeq: true, math.MaxUint64: true,
		eventlog.MakeSeq(1, math.MaxUint32): true, eventlog.MakeSeq(math.MaxUint32, 1): true,
	} {
		if seq.Valid() != want {
			t.Errorf("%v is valid: %v", seq, seq.Valid())
		}
	}
}

func TestWhichSeqMayStandRightAfterAnother(t *testing.T) {
	s := eventlog.MakeSeq
	for _, tc := range []struct {
		prev, seq eventlog.Seq
		want      bool
	}{
		{0, s(1, 1), true}, {0, s(1, 2), false}, {0, s(2, 1), false}, {0, 0, false},
		{s(1, 1), s(1, 2), true}, {s(1, 1), s(1, 3), false}, {s(1, 2), s(1, 2), false}, {s(1, 2), s(1, 1), false},
		{s(1, 5), s(2, 1), true}, {s(1, 5), s(9, 1), true}, {s(1, 5), s(2, 2), false}, {s(2, 1), s(1, 1), false},
		{s(1, math.MaxUint32), s(2, 1), true}, {s(1, math.MaxUint32), s(2, 0), false}, {s(1, 5), s(1, 0), false},
		{s(math.MaxUint32, math.MaxUint32), 0, false},
	} {
		if got := tc.seq.Follows(tc.prev); got != tc.want {
			t.Errorf("%v follows %v: %v", tc.seq, tc.prev, got)
		}
	}
}

func TestAnEpochIsExhaustedAtItsLastCounter(t *testing.T) {
	last := eventlog.MakeSeq(3, math.MaxUint32)
	if !last.Exhausted() || (last - 1).Exhausted() || (last-1).Next() != last {
		t.Error("the last counter is not where it should be")
	}
}

func TestBothPrintedFormsAreRead(t *testing.T) {
	for text, want := range map[string]eventlog.Seq{
		"7.1234": eventlog.MakeSeq(7, 1234), "30064772306": eventlog.MakeSeq(7, 1234), "1.1": eventlog.FirstSeq,
		"4294967295.4294967295": math.MaxUint64, "18446744073709551615": math.MaxUint64,
	} {
		if got, err := eventlog.ParseSeq(text); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestWhatIsNoSeqIsRefusedWithAHint(t *testing.T) {
	for _, text := range []string{
		"", "0", "1", "4294967296", "0.1", "1.0", "1.", ".1", "1.1.1", "-1.1", "+1.1", " 1.1", "1.4294967296",
		"4294967296.1", "18446744073709551616", "1_0.1", "0x1.1", "now",
	} {
		if seq, err := eventlog.ParseSeq(text); err == nil {
			t.Errorf("%q is taken for %v", text, seq)
		} else if !strings.Contains(err.Error(), "epoch") {
			t.Errorf("%q: no hint in %v", text, err)
		}
	}
}

func TestEverySeqReadsBackAsPrinted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seq := eventlog.MakeSeq(rapid.Uint32Min(1).Draw(t, "epoch"), rapid.Uint32Min(1).Draw(t, "counter"))
		if got, err := eventlog.ParseSeq(seq.String()); err != nil || got != seq {
			t.Errorf("%v reads back as %v, %v", seq, got, err)
		}
	})
}

func FuzzParseSeq(f *testing.F) {
	for _, text := range []string{"7.1234", "30064772306", "", "1.", "0.0", "99999999999999999999"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		seq, err := eventlog.ParseSeq(text)
		if (err == nil) != seq.Valid() {
			t.Errorf("%q: %v, %v", text, seq, err)
		}
	})
}

func TestARangeHoldsItsEnds(t *testing.T) {
	r := eventlog.Range{First: eventlog.MakeSeq(7, 1), Last: eventlog.MakeSeq(7, 99)}
	if !r.Contains(r.First) || !r.Contains(r.Last) || r.Contains(r.First-1) || r.Contains(r.Last+1) {
		t.Errorf("the ends of %v are wrong", r)
	}
	if r.String() != "7.1-7.99" {
		t.Errorf("printed %v", r)
	}
}
