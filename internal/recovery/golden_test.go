// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestGoldenInputs(t *testing.T) {
	want := &inputs{
		Version: inputsVersion, LogID: eventlog.ID{0: 0x10, 15: 1}, Objects: 8, Bytes: 12345, LastOrdinal: 41, ArchiveEnd: eventlog.MakeSeq(7, 1234),
		EndSum: trailerSum(&eventlog.Trailer{}), Clean: true, Upto: eventlog.MakeSeq(7, 1000), Until: eventlog.MakeSeq(7, 1000),
	}
	golden, written := filepath.Join("testdata", inputsName), filepath.Join(t.TempDir(), inputsName)
	if err := want.store(written); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(written)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(golden, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, kept) {
		t.Errorf("%s changed:\n%s\nwant\n%s\na recovery that an earlier version began could not be gone on with; if that is meant, it needs another version", golden, text, kept)
	}
	got, err := loadInputs(golden)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("it is read as %+v, %v", got, err)
	}
}
