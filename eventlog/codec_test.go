// SPDX-License-Identifier: Apache-2.0

package eventlog_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit/hostile"
)

var update = flag.Bool("update", false, "write the golden files anew")

// emitted is an event of each type that is emitted, every field of it set.
func emitted() []eventlog.Event {
	s := eventlog.MakeSeq
	name := bytes.Repeat([]byte{0xa5}, 32)
	const now = 1795435200123456789
	return []eventlog.Event{
		{Seq: s(1, 1), Time: now, Type: eventlog.EpochStarted, Actor: "server", Writer: eventlog.ID{1, 2, 3}, Host: "strand", Cause: "init"},
		{Seq: s(1, 2), Time: now + 1, Type: eventlog.LogCreated, Actor: "operator", LogID: eventlog.ID{9, 8, 7}, Format: 1},
		{Seq: s(1, 3), Time: now + 2, Type: eventlog.AccountOpened, Account: s(1, 3), Actor: "user:alice", Name: "alice"},
		{Seq: s(1, 4), Time: now + 3, Type: eventlog.AccountOpened, Account: s(1, 4), Actor: "anonymous", Name: "bøb"},
		{Seq: s(1, 5), Time: now + 4, Type: eventlog.MachineRegistered, Account: s(1, 3), Machine: s(1, 5), Actor: "user:alice", Name: "laptop"},
		{Seq: s(1, 6), Time: now + 5, Type: eventlog.BlockStored, Account: s(1, 3), Machine: s(1, 5), Actor: "user:alice", Kind: eventlog.KindData, Block: name, Length: 70_000, Checksum: 0xdeadbeef},
		{Seq: s(1, 7), Time: now + 6, Type: eventlog.BlockStored, Account: s(1, 3), Machine: s(1, 5), Actor: "user:alice", Kind: eventlog.KindConfig, Length: 155, Checksum: 1},
		{Seq: s(1, 8), Time: now + 7, Type: eventlog.MachineReowned, Account: s(1, 4), Machine: s(1, 5), Actor: "operator", Name: "laptop", Previous: s(1, 5), From: s(1, 3), To: s(1, 4)},
		{Seq: s(1, 9), Time: now + 8, Type: eventlog.BlockDeleted, Account: s(1, 4), Machine: s(1, 5), Transaction: s(1, 2), Actor: "user:alice", Kind: eventlog.KindData, Block: name, Length: 70_000, Checksum: 0xdeadbeef, Undoes: s(1, 6)},
		{Seq: s(1, 10), Time: now + 9, Type: eventlog.BlockStored, Account: s(1, 4), Machine: s(1, 5), Actor: "user:alice", Kind: eventlog.KindData, Block: name, Length: 70_000, Checksum: 0xdeadbeef, Reuses: s(1, 6)},
		{Seq: s(1, 11), Time: now + 10, Type: eventlog.StateRecorded, Actor: "server", Views: []eventlog.ViewState{
			{Name: "machine", Version: 1, Digest: [32]byte{1}, AsOf: s(1, 9)}, {Name: "block", Version: 2, Digest: [32]byte{2}, AsOf: s(1, 9)},
		}},
		{Seq: s(3, 1), Time: now - 11, Type: eventlog.EpochStarted, Actor: "server", Writer: eventlog.ID{4}, Host: "other", Cause: "take-over", Previous: s(1, 11), Lossy: true, Barred: []eventlog.Seq{s(1, 5), s(1, 77)}},
		{Seq: s(3, 2), Time: now + 12, Type: eventlog.HoldReleased, Machine: s(1, 5), Actor: "operator", Cause: "30 minutes have passed"},
		{Seq: s(3, 3), Time: now + 13, Type: eventlog.WaiverGranted, Actor: "operator", Name: "delete-names-store", Cause: "recover --waive", From: s(1, 9), To: s(1, 11)},
		{Seq: s(3, 4), Time: now + 14, Type: eventlog.RecoveryCompleted, Actor: "operator", Recovery: recovered(now)},
		{Seq: s(3, 5), Time: now + 15, Type: eventlog.DrillCompleted, Actor: "server", Recovery: recovered(now), Drill: &eventlog.Drill{
			Verdict: eventlog.DrillFailed, Reason: "ordinals 5 to 5", Mode: "checkpoint", Began: time.Unix(0, now-3e9).UTC(), Ended: time.Unix(0, now).UTC(),
			RTO: 2 * time.Second, Rate: 16 << 20, Live: s(3, 2), Blocks: 64, BlockSize: 1 << 30, Machine: s(1, 5),
		}},
	}
}

// recovered is a Recovery with every field set, one phase of it broken off.
func recovered(now int64) *eventlog.Recovery {
	at := func(seconds int64) time.Time { return time.Unix(0, now+seconds*1e9).UTC() }
	return &eventlog.Recovery{
		Began: at(-9), Ended: at(-5), Upto: eventlog.MakeSeq(3, 2), Objects: 12, Bytes: 34567, Events: 890,
		Checkpoint: "checkpoint/1", CheckpointSeq: eventlog.MakeSeq(1, 9), Compared: 4, Skipped: 1,
		Phases: []eventlog.Phase{
			{Name: "list", Began: at(-9), Ended: at(-8), Done: 12, Bytes: 99},
			{Name: "project objects", Began: at(-8), Done: 7, Events: 300},
		},
	}
}

func TestTheWireFormOfEveryEmittedTypeStaysAsItIs(t *testing.T) {
	var text bytes.Buffer
	seen := map[eventlog.Type]bool{}
	for _, event := range emitted() {
		fmt.Fprintf(&text, "%v %v %s\n", event.Seq, event.Type, hex.EncodeToString(eventlog.AppendEvent(nil, &event)))
		seen[event.Type] = true
	}
	for _, typ := range eventlog.Types() {
		if typ.Emitted() != seen[typ] {
			t.Errorf("%v is emitted: %v; in the golden file: %v", typ, typ.Emitted(), seen[typ])
		}
	}
	golden(t, "events.hex", text.Bytes())
}

// golden compares got with a file of testdata, or writes it with -update.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s changed; a format that is written stays readable for ever. If the change is meant: go test ./eventlog -run Golden -update", path)
	}
}

func TestEmittedEventsReadBack(t *testing.T) {
	for _, event := range emitted() {
		var got eventlog.Event
		if err := eventlog.DecodeEvent(eventlog.AppendEvent(nil, &event), &got); err != nil {
			t.Errorf("%v: %v", event.Type, err)
		} else if !reflect.DeepEqual(got, event) {
			t.Errorf("%v reads back as %+v, want %+v", event.Type, got, event)
		}
	}
}

// anyEvent draws events of every shape, sensible or not.
func anyEvent(t *rapid.T) eventlog.Event {
	seq := rapid.Custom(func(t *rapid.T) eventlog.Seq { return eventlog.Seq(rapid.Uint64().Draw(t, "seq")) })
	text := rapid.StringN(-1, -1, 200)
	id := rapid.Custom(func(t *rapid.T) eventlog.ID {
		return eventlog.ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
	})
	e := eventlog.Event{
		Seq: seq.Draw(t, "seq"), Time: rapid.Int64().Draw(t, "time"), Type: eventlog.Type(rapid.Uint32().Draw(t, "type")),
		Account: seq.Draw(t, "account"), Machine: seq.Draw(t, "machine"), Transaction: seq.Draw(t, "transaction"),
		Actor: text.Draw(t, "actor"), Name: text.Draw(t, "name"), Kind: eventlog.Kind(rapid.Uint32().Draw(t, "kind")),
		Block:  rapid.SliceOfN(rapid.Byte(), 1, eventlog.MaxBlockName).Draw(t, "block"),
		Length: rapid.Uint64().Draw(t, "length"), Checksum: rapid.Uint32().Draw(t, "checksum"),
		Reuses: seq.Draw(t, "reuses"), Undoes: seq.Draw(t, "undoes"),
	}
	if e.Type == eventlog.BlockStored || e.Type == eventlog.BlockDeleted || rapid.Bool().Draw(t, "common only") {
		return e
	}
	e.Writer, e.Host, e.Cause = id.Draw(t, "writer"), text.Draw(t, "host"), text.Draw(t, "cause")
	e.Previous, e.Lossy = seq.Draw(t, "previous"), rapid.Bool().Draw(t, "lossy")
	e.Barred = rapid.SliceOfN(seq, 1, 9).Draw(t, "barred")
	e.LogID, e.Format = id.Draw(t, "log id"), rapid.Uint32().Draw(t, "format")
	e.From, e.To = seq.Draw(t, "from"), seq.Draw(t, "to")
	e.Views = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) eventlog.ViewState {
		return eventlog.ViewState{
			Name: text.Draw(t, "name"), Version: rapid.Uint32().Draw(t, "version"), AsOf: seq.Draw(t, "as of"),
			Digest: [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "digest")),
		}
	}), 1, 3).Draw(t, "views")
	if rapid.Bool().Draw(t, "of a recovery") {
		e.Recovery = recovered(rapid.Int64Range(1, 1<<62).Draw(t, "then"))
		e.Recovery.Events, e.Recovery.Checkpoint = rapid.Uint64().Draw(t, "events"), text.Draw(t, "checkpoint")
		e.Drill = &eventlog.Drill{Verdict: eventlog.Verdict(text.Draw(t, "verdict")), RTO: time.Duration(rapid.Int64().Draw(t, "rto"))}
	}
	return e
}

func TestAnyEventReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		event := anyEvent(t)
		raw := eventlog.AppendEvent(nil, &event)
		got := eventlog.Event{Actor: "somebody before"}
		if err := eventlog.DecodeEvent(raw, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, event) {
			t.Errorf("reads back as %+v, want %+v", got, event)
		}
		if again := eventlog.AppendEvent(nil, &got); !bytes.Equal(again, raw) {
			t.Errorf("encoded again it is %x, want %x", again, raw)
		}
	})
}

func TestFieldsOfLaterVersionsSurvive(t *testing.T) {
	event := emitted()[5]
	raw := eventlog.AppendEvent(nil, &event)
	unknown := protowire.AppendString(protowire.AppendTag(nil, 300, protowire.BytesType), "later")
	unknown = protowire.AppendVarint(protowire.AppendTag(unknown, 301, protowire.VarintType), 5)
	unknown = protowire.AppendFixed64(protowire.AppendTag(unknown, 302, protowire.Fixed64Type), 6)
	unknown = protowire.AppendFixed32(protowire.AppendTag(unknown, 303, protowire.Fixed32Type), 7)

	for name, mixed := range map[string][]byte{
		"at the end":   append(bytes.Clone(raw), unknown...),
		"at the start": append(bytes.Clone(unknown), raw...),
		"around":       append(append(bytes.Clone(unknown[:8]), raw...), unknown[8:]...),
	} {
		before := bytes.Clone(mixed)
		var got eventlog.Event
		if err := eventlog.DecodeEvent(mixed, &got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(got.Unknown, unknown) || !bytes.Equal(mixed, before) {
			t.Errorf("%s: kept %x, want %x", name, got.Unknown, unknown)
		}
		if again := eventlog.AppendEvent(nil, &got); !bytes.Equal(again, append(bytes.Clone(raw), unknown...)) {
			t.Errorf("%s: encoded again it lost something", name)
		}
	}
}

func TestAKnownFieldOfAnotherWireTypeIsKeptAsUnknown(t *testing.T) {
	raw := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "not a seq")
	var got eventlog.Event
	if err := eventlog.DecodeEvent(raw, &got); err != nil || got.Seq != 0 || !bytes.Equal(got.Unknown, raw) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWhatIsNoEventIsRefused(t *testing.T) {
	field := func(number protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
	}
	for name, raw := range map[string][]byte{
		"a cut tag":              {0x80},
		"a tag of field 0":       {0x00, 0x01},
		"a value that is cut":    {0x08},
		"a fixed that is cut":    {0x11, 1, 2, 3},
		"an endless varint":      bytes.Repeat([]byte{0xff}, 11),
		"a text that is cut":     {0x3a, 5, 'x'},
		"a text that is long":    field(7, make([]byte, eventlog.MaxName+1)),
		"a block's name, long":   field(10, make([]byte, eventlog.MaxBlockName+1)),
		"a short identity":       field(17, make([]byte, 15)),
		"a short digest":         field(28, field(3, make([]byte, 31))),
		"a cut list of seqs":     field(23, []byte{0x80}),
		"a cut state of a view":  field(28, []byte{0x0a}),
		"a cut recovery":         field(29, []byte{0x18}),
		"a long checkpoint":      field(29, field(7, make([]byte, eventlog.MaxName+1))),
		"a phase of a long name": field(29, field(11, field(1, make([]byte, eventlog.MaxName+1)))),
		"too many phases":        field(29, bytes.Repeat(field(11, nil), eventlog.MaxPhases+1)),
		"a drill's long reason":  field(30, field(2, make([]byte, eventlog.MaxName+1))),
		"a group without end":    {0x0b},
		"an event too long":      field(300, make([]byte, eventlog.MaxEvent)),
	} {
		var e eventlog.Event
		if err := eventlog.DecodeEvent(raw, &e); err == nil {
			t.Errorf("%s is taken for %+v", name, e)
		}
	}
}

func TestEncodingAndDecodingBlockEventsDoesNotAllocate(t *testing.T) {
	event := emitted()[5]
	raw := eventlog.AppendEvent(nil, &event)
	buffer := make([]byte, 0, 512)
	if n := testing.AllocsPerRun(1000, func() { buffer = eventlog.AppendEvent(buffer[:0], &event) }); n != 0 {
		t.Errorf("encoding allocates %v times", n)
	}
	var got eventlog.Event
	if err := eventlog.DecodeEvent(raw, &got); err != nil { // the actor is kept from here on
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if err := eventlog.DecodeEvent(raw, &got); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("decoding allocates %v times", n)
	}
}

func FuzzDecodeEvent(f *testing.F) {
	for _, event := range emitted() {
		f.Add(eventlog.AppendEvent(nil, &event))
	}
	f.Add([]byte{0x80})
	for _, b := range hostile.Blocks(hostile.Facts{Epoch: 1, Ordinal: 1, Next: 1<<32 + 1, Offset: 8}, 0) {
		f.Add(b.Bytes)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var first, second eventlog.Event
		if eventlog.DecodeEvent(raw, &first) != nil {
			return
		}
		// What was read is written in one form only, and reads back the same.
		form := eventlog.AppendEvent(nil, &first)
		if len(form) > eventlog.MaxEvent {
			return
		}
		if err := eventlog.DecodeEvent(form, &second); err != nil {
			t.Fatalf("%x does not read back: %v", form, err)
		}
		if again := eventlog.AppendEvent(nil, &second); !bytes.Equal(form, again) {
			t.Errorf("%x is written as %x the second time", form, again)
		}
	})
}
