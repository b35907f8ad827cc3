// SPDX-License-Identifier: Apache-2.0

package eventlog_test

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
)

func TestTypesAreNumberedAndNamedAsPublished(t *testing.T) {
	published := enum(t, "EventType")
	types := eventlog.Types()
	if len(types) != len(published) {
		t.Errorf("%d types, %d published", len(types), len(published))
	}
	for _, typ := range types {
		if name := strings.ToUpper(typ.String()); published[name] != int(typ) {
			t.Errorf("%v is %d, published as %d", typ, typ, published[name])
		}
	}
	if name := eventlog.Type(99).String(); name != "type_99" {
		t.Errorf("an unknown type is printed %q", name)
	}
}

func TestKindsAreNumberedAndNamedAsPublished(t *testing.T) {
	published := enum(t, "BlockKind")
	for kind := eventlog.KindData; kind.Valid(); kind++ {
		name := strings.ToUpper(kind.String())
		if published[name] != int(kind) {
			t.Errorf("%v is %d, published as %d", kind, kind, published[name])
		}
		delete(published, name)
	}
	if len(published) > 0 {
		t.Errorf("published only: %v", published)
	}
	for _, kind := range []eventlog.Kind{0, 7} {
		if kind.Valid() || !strings.HasPrefix(kind.String(), "kind_") {
			t.Errorf("%v is a kind", kind)
		}
	}
}

// enum reads the names and numbers of an enum in event.proto, without the
// unspecified one.
func enum(t *testing.T, name string) map[string]int {
	t.Helper()
	text, err := os.ReadFile("event.proto")
	if err != nil {
		t.Fatal(err)
	}
	_, body, found := strings.Cut(string(text), "enum "+name+" {")
	body, _, closed := strings.Cut(body, "}")
	if !found || !closed {
		t.Fatalf("event.proto has no enum %s", name)
	}
	values := map[string]int{}
	for line := range strings.Lines(body) {
		field, number, ok := strings.Cut(strings.Trim(line, " ;\n"), " = ")
		n, err := strconv.Atoi(number)
		if ok && err == nil && n > 0 {
			values[field] = n
		}
	}
	return values
}

func TestReservedTypesAreNotEmitted(t *testing.T) {
	for typ, want := range map[eventlog.Type]bool{
		eventlog.LogCreated: true, eventlog.BlockDeleted: true, eventlog.HoldReleased: true, eventlog.WaiverGranted: true,
		eventlog.AccountCredited: false, eventlog.DrillCompleted: true, eventlog.RecoveryCompleted: true,
		eventlog.HistoryCleaned: false, 0: false, 24: false,
	} {
		if typ.Emitted() != want {
			t.Errorf("%v is emitted: %v", typ, typ.Emitted())
		}
	}
}

func TestAnIdentityReadsBackAsPrinted(t *testing.T) {
	id := eventlog.ID{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10}
	const text = "01234567-89ab-cdef-fedc-ba9876543210"
	if id.String() != text {
		t.Errorf("printed %v", id)
	}
	if got, err := eventlog.ParseID(text); err != nil || got != id {
		t.Errorf("read back as %v, %v", got, err)
	}
	var got eventlog.ID
	if err := got.UnmarshalText([]byte(text)); err != nil || got != id {
		t.Errorf("unmarshalled as %v, %v", got, err)
	}
}

func TestWhatIsNoIdentityIsRefused(t *testing.T) {
	for _, text := range []string{
		"", "01234567", "0123456789abcdeffedcba9876543210", "01234567-89ab-cdef-fedc-ba987654321", "01234567-89ab-cdef-fedc-ba98765432100",
		"g1234567-89ab-cdef-fedc-ba9876543210", "01234567_89ab-cdef-fedc-ba9876543210",
	} {
		id := eventlog.ID{1}
		if err := id.UnmarshalText([]byte(text)); err == nil || id != (eventlog.ID{1}) {
			t.Errorf("%q is taken for %v", text, id)
		}
	}
}

func TestChunksCoverAPayload(t *testing.T) {
	for length, want := range map[uint64]uint64{0: 0, 1: 1, 65536: 1, 65537: 2, 1 << 30: 16384} {
		if got := eventlog.Chunks(length); got != want {
			t.Errorf("%d bytes have %d chunks, want %d", length, got, want)
		}
	}
}

func TestABatchEndsWithItsLastEntry(t *testing.T) {
	var batch eventlog.Batch
	if batch.Last() != 0 {
		t.Errorf("an empty batch ends at %v", batch.Last())
	}
	batch.Entries = make([]eventlog.Entry, 2)
	batch.Entries[1].Event.Seq = eventlog.FirstSeq
	if batch.Last() != eventlog.FirstSeq {
		t.Errorf("the batch ends at %v", batch.Last())
	}
}

func TestChecksumsAreCastagnoliAndCompose(t *testing.T) {
	const check = 0xe3069283 // of "123456789", from the catalogue of CRCs
	if sum := eventlog.Checksum([]byte("123456789")); sum != check {
		t.Errorf("the checksum is %08x, want %08x", sum, uint32(check))
	}
	if sum := eventlog.UpdateChecksum(eventlog.Checksum([]byte("12345")), []byte("6789")); sum != check {
		t.Errorf("in two steps it is %08x", sum)
	}
}
