// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit"
)

// someChange is a change of each kind, with keys of all lengths.
func someChange(rng *rand.Rand, c *Changes) *op {
	c.reset()
	key := make([]byte, rng.IntN(70))
	for i := range key {
		key[i] = byte(rng.IntN(3))
	}
	value := bytes.Repeat([]byte{7}, rng.IntN(50))
	want := eventlog.Seq(rng.Uint64N(1 << 40))
	switch rng.IntN(7) {
	case 0:
		c.Insert(RuleStoreLive, blocks, key, value, value)
	case 1:
		c.Put(bars, key, value)
	case 2:
		c.Replace(RuleOwner, owners, key, want, value)
	case 3:
		c.Remove(RuleDeleteStored, blocks, key, AnySeq, value)
	case 4:
		c.Require(RuleMachine, machines, key)
	case 5:
		c.RequireHistory(RuleReuseStored, blocks, key, max(1, want), value)
	default:
		c.Add(totals, key, rng.Int64()-1<<60, -5)
	}
	return &c.ops[0]
}

func TestARecordReadIsTheOneWritten(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	var c Changes
	for seq := range eventlog.Seq(2000) {
		o := someChange(rng, &c)
		raw := appendRecord([]byte("before"), seq, &c, o)[6:]
		var r record
		n, err := splitRecord(append(raw, "after"...), &r)
		if err != nil || n != len(raw) {
			t.Fatalf("%d of %d bytes: %v", n, len(raw), err)
		}
		if r.seq != seq || r.kind != o.kind || r.rule != o.rule || r.want != o.want || !bytes.Equal(r.key[1:], c.bytes(o.key)) || r.key[0] != o.table.ID {
			t.Fatalf("read %+v of %+v", r, o)
		}
		if o.kind != opAdd && (!bytes.Equal(r.value, c.bytes(o.value)) || !bytes.Equal(r.aside, c.bytes(o.aside))) {
			t.Fatalf("read %+v of %+v", r, o)
		}
	}
}

// A record's form as it was laid down in version 1 of runs.
func TestTheFormOfARecord(t *testing.T) {
	var c Changes
	c.Remove(RuleDeleteStored, blocks, []byte("key"), 0x55, []byte("begins"))
	got := hex.EncodeToString(appendRecord(nil, 0x77, &c, &c.ops[0]))
	want := "00000022" + "0004" + "01" + "6b6579" + "0000000000000077" + "84" + "0c" + "0000000000000055" + "00000006" + "626567696e73"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if rulePanic != 18 || RuleTransaction != 17 || ruleNames[RuleBar] != "release-names-bar" {
		t.Errorf("%d rules: a new one stands at the end, and raises runVersion if it does not", rulePanic)
	}
}

// Any keys come out of a run in order, equal ones in the order in which they
// went in; and any range of keys is cut out exactly.
func TestARunIsInOrder(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		b, part := newRunBuffer(), newRecordBuffer()
		var c Changes
		var want []string
		for seq := range eventlog.Seq(3000) {
			o := someChange(rng, &c)
			if part.add(seq, &c, o); rng.IntN(10) == 0 {
				b.join(part)
				part.reset()
			}
			want = append(want, fmt.Sprintf("%x %012d", append([]byte{o.table.ID}, c.bytes(o.key)...), seq))
		}
		b.join(part)
		slices.Sort(want)
		path := filepath.Join(t.TempDir(), "run")
		info, err := writeRun(path, b)
		if err != nil {
			t.Fatal(err)
		}
		if err := verifyRun(path, info); err != nil {
			t.Fatal(err)
		}
		r, err := openRun(path, info)
		if err != nil {
			t.Fatal(err)
		}
		defer r.close()
		var got []string
		cuts := append(cutKeys([]*run{r}, 1+rng.IntN(5)), nil)
		var from []byte
		for _, to := range cuts {
			cursor := r.cursor(from, to)
			for cursor.advance() {
				got = append(got, fmt.Sprintf("%x %012d", cursor.record.key, cursor.record.seq))
			}
			if cursor.err != nil {
				t.Fatal(cursor.err)
			}
			from = to
		}
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: %d records of %d, or not in order", seed, len(got), len(want))
		}
	}
}

func FuzzRecord(f *testing.F) {
	rng := rand.New(rand.NewPCG(5, 5))
	var c Changes
	for seq := range eventlog.Seq(20) {
		f.Add(appendRecord(nil, seq, &c, someChange(rng, &c)))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r record
		if n, err := splitRecord(raw, &r); err == nil && (n > len(raw) || len(r.key) == 0) {
			t.Errorf("%d bytes of %d, key %x", n, len(raw), r.key)
		}
	})
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"sum":1,"journal":{"format":1}}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(_ *testing.T, raw []byte) { decodeJournal(raw) })
}

// What finds no room says so, through all that wraps it.
func TestARunOnAFullDiskSaysSo(t *testing.T) {
	const full = "/dev/full"
	if _, err := os.Stat(full); err != nil {
		testkit.Lacks(t, "a device that is always full", err)
	}
	b, part, c := newRunBuffer(), newRecordBuffer(), Changes{}
	part.add(1, &c, someChange(rand.New(rand.NewPCG(1, 1)), &c))
	b.join(part)
	if _, err := writeRun(full, b); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
}
