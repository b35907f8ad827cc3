// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// jsonEvents is one event of every type that is emitted, and odd ones.
func jsonEvents() []Event {
	at := func(n uint32, t Type) Event {
		return Event{Seq: MakeSeq(7, n), Time: 1795485600123456789, Type: t, Actor: "server"}
	}
	account, machine := MakeSeq(1, 3), MakeSeq(1, 4)
	created := at(1, LogCreated)
	created.LogID, created.Format = ID{0xab, 15: 1}, 1
	started := at(2, EpochStarted)
	started.Writer, started.Host, started.Cause = ID{1, 2}, "backup-1", "take-over"
	started.Previous, started.Lossy, started.Barred = MakeSeq(6, 99), true, []Seq{machine, machine + 1}
	opened := at(3, AccountOpened)
	opened.Account, opened.Actor, opened.Name = opened.Seq, "user:alice", "alice"
	registered := at(4, MachineRegistered)
	registered.Account, registered.Machine, registered.Name = account, registered.Seq, ""
	reowned := at(5, MachineReowned)
	reowned.Machine, reowned.From, reowned.To, reowned.Previous, reowned.Name = machine, account, account+9, machine, "laptop"
	stored := at(6, BlockStored)
	stored.Account, stored.Machine, stored.Kind = account, machine, KindData
	stored.Block, stored.Length, stored.Checksum = bytes.Repeat([]byte{0xf0}, 32), 4096, 0x0badcafe
	restored := stored
	restored.Seq, restored.Reuses = MakeSeq(7, 7), stored.Seq
	deleted := at(8, BlockDeleted)
	deleted.Account, deleted.Machine, deleted.Kind, deleted.Undoes = account, machine, KindConfig, stored.Seq
	recorded := at(9, StateRecorded)
	recorded.Views = []ViewState{{Name: "machine", Version: 1, Digest: [32]byte{31: 9}, AsOf: MakeSeq(7, 1)}, {Name: "block", Version: 2}}
	released := at(10, HoldReleased)
	released.Machine, released.Cause = machine, "operator"
	waived := at(11, WaiverGranted)
	waived.Name, waived.From, waived.To, waived.Cause = "known-machine", MakeSeq(6, 5), MakeSeq(6, 7), "recover --waive"
	ended := time.Unix(0, 1795485600123456789).UTC()
	recovery := &Recovery{
		Began: ended.Add(-time.Minute), Ended: ended, Upto: MakeSeq(6, 9), Objects: 3, Bytes: 4, Events: 5, Checkpoint: "c", CheckpointSeq: MakeSeq(6, 1), Compared: 2, Skipped: 1,
		Phases: []Phase{{Name: "list", Began: ended.Add(-time.Minute), Ended: ended, Done: 3, Events: 1, Bytes: 2}, {Name: "verify", Began: ended}},
	}
	recovered := at(12, RecoveryCompleted)
	recovered.Recovery = recovery
	drilled := at(13, DrillCompleted)
	drilled.Recovery, drilled.Drill = recovery, &Drill{
		Verdict: DrillPassed, Mode: "full", Began: ended.Add(-time.Minute), Ended: ended, RTO: time.Minute, Rate: 1 << 24, Live: MakeSeq(6, 9), Blocks: 64, BlockSize: 4096, Machine: machine,
	}
	unknown := Event{Seq: MakeSeq(3_000_000, 1), Type: 99, Kind: 7, Unknown: []byte{0xf8, 7, 1}}
	return []Event{created, started, opened, registered, reowned, stored, restored, deleted, recorded, released, waived, recovered, drilled, unknown}
}

func TestEventsInJSONGolden(t *testing.T) {
	var got bytes.Buffer
	for _, e := range jsonEvents() {
		line, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		got.Write(append(line, '\n'))
	}
	path := filepath.Join("testdata", "events.ndjson")
	if f := flag.Lookup("update"); f != nil && f.Value.String() == "true" {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("JSON is\n%swant\n%s", got.Bytes(), want)
	}
}

func TestEveryEmittedTypeHasItsJSONInTheGolden(t *testing.T) {
	seen := map[Type]bool{}
	for _, e := range jsonEvents() {
		seen[e.Type] = true
	}
	for _, typ := range Types() {
		if typ.Emitted() && !seen[typ] {
			t.Errorf("%s has no example", typ)
		}
	}
}

func TestEventsReadBackFromJSON(t *testing.T) {
	for _, e := range jsonEvents() {
		t.Run(e.Type.String(), func(t *testing.T) { mustReadBack(t, e) })
	}
}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// mustReadBack compares wire forms: in JSON an empty field and an absent one
// are the same.
func mustReadBack(t failer, e Event) {
	t.Helper()
	data, err := json.Marshal(e)
	if err != nil {
		t.Fatalf("marshal: %v", err)
	}
	var got Event
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatalf("unmarshal %s: %v", data, err)
	}
	if want := AppendEvent(nil, &e); !bytes.Equal(AppendEvent(nil, &got), want) {
		t.Fatalf("%s reads back as %+v, want %+v", data, got, e)
	}
}

func TestAnyEventReadsBackFromJSON(t *testing.T) {
	text := rapid.StringMatching(`[a-z<&"é ]{0,12}`)
	rapid.Check(t, func(t *rapid.T) {
		seq := rapid.Custom(func(t *rapid.T) Seq { return Seq(rapid.Uint64().Draw(t, "seq")) })
		mustReadBack(t, Event{
			Seq: seq.Draw(t, "seq"), Time: rapid.Int64().Draw(t, "time"), Type: Type(rapid.Uint32().Draw(t, "type")),
			Account: seq.Draw(t, "account"), Actor: text.Draw(t, "actor"), Name: text.Draw(t, "name"),
			Kind:  Kind(rapid.Uint32Range(0, 9).Draw(t, "kind")),
			Block: rapid.SliceOfN(rapid.Byte(), 0, 32).Draw(t, "block"), Length: rapid.Uint64().Draw(t, "length"),
			Checksum: rapid.Uint32().Draw(t, "checksum"), Barred: rapid.SliceOfN(seq, 0, 3).Draw(t, "barred"),
			Cause: text.Draw(t, "cause"), Lossy: rapid.Bool().Draw(t, "lossy"),
		})
	})
}

func TestJSONThatIsNoEvent(t *testing.T) {
	tests := map[string]string{
		`{"seq":"7.1","type":"log_created"}`:                                                   "seq",
		`{"seq":30064771073,"type":"made_up"}`:                                                 `"made_up" is no name of a type`,
		`{"seq":30064771073,"type":""}`:                                                        `"" is no name of a type`,
		`{"seq":30064771073,"type":"type_x"}`:                                                  "type_x",
		`{"seq":30064771073,"type":"block_stored","kind":"blob"}`:                              `"blob" is no name of a kind`,
		`{"seq":30064771073,"type":"block_stored","block":"xy"}`:                               "hexadecimal",
		`{"seq":30064771073,"type":"block_stored","crc32c":"123456789"}`:                       "8 hexadecimal digits",
		`{"seq":30064771073,"type":"state_recorded","views":[{"name":"block","digest":"00"}]}`: "a digest of 1 bytes",
		`{"seq":30064771073,"type":"log_created","log_id":"ab"}`:                               "identity",
		`{"seq":30064771073,"type":"log_created","time":"yesterday"}`:                          "yesterday",
		`[]`: "event in JSON",
	}
	for in, want := range tests {
		var e Event
		if err := json.Unmarshal([]byte(in), &e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", in, err, want)
		}
	}
}

func FuzzEventJSON(f *testing.F) {
	for _, e := range jsonEvents() {
		data, err := json.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var e Event
		if json.Unmarshal(data, &e) == nil {
			mustReadBack(t, e)
		}
	})
}
