// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
)

func TestAStateReadsBackAsItWasWritten(t *testing.T) {
	want := state{position: 1<<32 | 7, time: -5, digest: Digest{1, 31: 2}, kept: 1<<32 | 3, keptSum: Digest{3}, compared: 4, skipped: 5, proven: 1<<32 | 2}
	raw := want.append(nil, "block", 3)
	var got state
	if err := got.decode(raw, "block", 3); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for n := range raw {
		if err := new(state).decode(raw[:n], "block", 3); !errors.Is(err, ErrUnusable) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	if err := new(state).decode(raw, "block", 4); !errors.Is(err, ErrUnusable) {
		t.Errorf("another version: %v", err)
	}
	if err := new(state).decode(raw, "machine", 3); !errors.Is(err, ErrUnusable) {
		t.Errorf("another view: %v", err)
	}
}

func FuzzState(f *testing.F) {
	f.Add((&state{position: 9}).append(nil, "block", 1))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var s state
		if err := s.decode(raw, "block", 1); err != nil {
			return
		}
		if again := s.append(nil, "block", 1); !bytes.Equal(again, raw) {
			t.Errorf("%x was read and is written as %x", raw, again)
		}
	})
}

// Whatever a row's bytes are, reading it is an error or gives what makes the
// same bytes again.
func FuzzRow(f *testing.F) {
	f.Add([]byte("key"), appendRow(nil, 7, []byte("value"), []byte("aside")))
	f.Add(appendBlockKey(nil, 3, eventlog.KindData, []byte("name")), appendRow(nil, 7, []byte{16, 1, 2, 3, 4, 0}, []byte{1, 8}))
	f.Add(appendBlockKey(nil, 3, eventlog.KindData, []byte("name")), appendRow(nil, 7, []byte{16, 1, 2, 3, 4, 0}, []byte{1, 8, 5, 6, 7, 8}))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, key, raw []byte) {
		row, err := makeRow(blocks, false, key, raw)
		if err != nil {
			return
		}
		if again := appendRow(nil, row.Seq, row.Value, row.Aside); len(again) == len(raw) && !bytes.Equal(again, raw) {
			t.Errorf("%x was read and is written as %x", raw, again)
		}
		block, err := makeBlockRow(row)
		if err == nil && block.Own.Ordinal != 0 {
			if aside := appendPlacement(nil, &block.Own, block.Checksum); len(aside) == len(row.Aside) && !bytes.Equal(aside, row.Aside) {
				t.Errorf("placement %x was read and is written as %x", row.Aside, aside)
			}
		}
		for _, decode := range []func(Row) error{
			func(r Row) error { _, err := makeEpoch(r); return err },
			func(r Row) error { _, err := makeLock(r); return err },
			func(r Row) error { _, err := makeID(r); return err },
		} {
			if err := decode(row); err != nil && !errors.Is(err, errRow) {
				t.Errorf("%x is refused as %v", raw, err)
			}
		}
		if history, err := makeRow(blocks, true, key, raw); err == nil && len(history.Key)+8 != len(key) {
			t.Errorf("a history row's key %x was cut to %x", key, history.Key)
		}
	})
}

func TestSuccessorIsTheLeastKeyAboveAllThatBeginAlike(t *testing.T) {
	for _, test := range []struct{ prefix, want string }{
		{"a", "b"}, {"a\xff", "b"}, {"\xff\xff", ""}, {"", ""}, {"ab", "ac"},
	} {
		if got := successor([]byte(test.prefix)); string(got) != test.want {
			t.Errorf("successor of %q is %q, want %q", test.prefix, got, test.want)
		}
	}
}

// The digest of one known row; when this changes, digests that logs have
// recorded no longer mean the same, and the view's version must change.
func TestTheDigestOfARowIsFixed(t *testing.T) {
	hasher, err := newRowHasher("block", 1)
	if err != nil {
		t.Fatal(err)
	}
	var total sum
	total.add(hasher.row(1, []byte("key"), eventlog.MakeSeq(7, 1234), []byte("value")))
	const want = "4cbe500192e4c44154ad9e7d0ed65f13eff4a51b97ee18fbc7d3b5f2f81f31dd"
	if got := total.digest().String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	total.add(hasher.row(2, nil, 0, nil))
	total.sub(hasher.row(1, []byte("key"), eventlog.MakeSeq(7, 1234), []byte("value")))
	total.sub(hasher.row(2, nil, 0, nil))
	if total != (sum{}) {
		t.Errorf("what was added and taken away left %x", total)
	}
	if total.digest().sum() != total {
		t.Error("a digest is not the sum that made it")
	}
}

// Every type of event is either understood by both projectors or refused by
// both, and the refusal names it.
func TestEveryTypeHasARuleInBothProjectors(t *testing.T) {
	for _, p := range []Projector{Machines(), Blocks()} {
		for _, typ := range append(eventlog.Types(), 0, 99) {
			entry := &eventlog.Entry{Event: eventlog.Event{Seq: eventlog.FirstSeq, Type: typ}}
			err := p.Project(entry, &Changes{})
			if refused := errors.Is(err, errUnknownType); refused == typ.Emitted() {
				t.Errorf("%s projector, %s: %v", p.Name(), typ, err)
			} else if refused && !strings.Contains(err.Error(), typ.String()) {
				t.Errorf("%s projector does not name %s: %v", p.Name(), typ, err)
			}
		}
	}
}

func TestTablesHaveTheirOwnIDs(t *testing.T) {
	for _, p := range []Projector{Machines(), Blocks()} {
		seen := map[byte]bool{tableState: true, tableMachineSums: true}
		for _, table := range p.Tables() {
			if seen[table.ID] || table.ID >= 0x70 || table.Name == "" {
				t.Errorf("%s view: table %q has the ID %d", p.Name(), table.Name, table.ID)
			}
			seen[table.ID] = true
		}
	}
}

func TestCleanedRangesBridgeGaps(t *testing.T) {
	r := func(first, last eventlog.Seq) eventlog.Range {
		return eventlog.Range{First: 1<<32 | first, Last: 1<<32 | last}
	}
	e := func(n eventlog.Seq) eventlog.Seq { return 1<<32 | n }
	for _, test := range []struct {
		name             string
		ranges           []eventlog.Range
		last, next, want eventlog.Seq
	}{
		{"none", nil, e(3), e(5), e(3)},
		{"one that fills the gap", []eventlog.Range{r(4, 4)}, e(3), e(5), e(4)},
		{"two that fill it", []eventlog.Range{r(4, 4), r(5, 6)}, e(3), e(7), e(6)},
		{"one that overlaps what is applied", []eventlog.Range{r(2, 4)}, e(3), e(5), e(4)},
		{"one with a hole before it", []eventlog.Range{r(5, 6)}, e(3), e(7), e(3)},
		{"one with a hole after it", []eventlog.Range{r(4, 4)}, e(3), e(6), e(4)},
		{"those long passed", []eventlog.Range{r(1, 1), r(4, 4)}, e(3), e(5), e(4)},
		{"the end of an epoch", []eventlog.Range{r(4, 9)}, e(3), 2<<32 | 1, e(9)},
		{"the beginning of the log", []eventlog.Range{r(1, 2)}, 0, e(3), e(2)},
	} {
		var g gone
		g.take(&eventlog.Batch{Cleaned: test.ranges})
		g.take(&eventlog.Batch{Cleaned: test.ranges}) // stated again, with the next batch
		if got := g.bridge(test.last, test.next); got != test.want {
			t.Errorf("%s: from %s to %s leads to %s, want %s", test.name, test.last, test.next, got, test.want)
		}
	}
}
