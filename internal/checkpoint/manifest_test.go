// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit/hostile"
	"github.com/strandline-project/strandline/projector"
)

var update = flag.Bool("update", false, "write the golden files anew")

func example() *Manifest {
	ordinal := uint64(12)
	table := Hash(sha256.Sum256([]byte("table")))
	return &Manifest{
		Version: 1, LogID: eventlog.ID{1}, Epoch: 7, Writer: eventlog.ID{2}, Seq: eventlog.MakeSeq(7, 1234),
		Time: time.Date(2026, 11, 23, 2, 0, 0, 500, time.UTC), Ordinal: &ordinal, Horizon: 0,
		Views: []View{
			{Name: "block", Version: 1, Position: eventlog.MakeSeq(7, 1234), Digest: projector.Digest{3}, Files: []File{
				{"000005.sst", 5, table}, {"MANIFEST-000001", 5, table}, {"marker.format-version.000001.024", 0, sha256.Sum256(nil)},
			}},
			{Name: "machine", Version: 1, Position: eventlog.MakeSeq(7, 1234), Digest: projector.Digest{4}, Files: []File{{"OPTIONS-000003", 5, table}}},
		},
	}
}

func TestAManifestIsReadAsItWasWritten(t *testing.T) {
	golden := filepath.Join("testdata", "manifest-v1.golden")
	text, err := example().encode()
	must(t, err)
	if *update {
		must(t, os.WriteFile(golden, text, 0o644))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if !bytes.Equal(text, want) {
		t.Errorf("it is written as\n%s\nwant\n%s", text, want)
	}
	got, err := decode(want)
	must(t, err)
	if !reflect.DeepEqual(got, example()) {
		t.Errorf("it is read as %+v", got)
	}
	if got.bytes() != 15 || len(got.contents()) != 1 {
		t.Errorf("%d bytes in %v", got.bytes(), got.contents())
	}
}

func TestEveryDamagedByteOfAManifestIsFound(t *testing.T) {
	text, err := example().encode()
	must(t, err)
	for i := range text {
		for _, flip := range []byte{1, 0x20, 0x80, 0xff} {
			damaged := bytes.Clone(text)
			damaged[i] ^= flip
			if _, err := decode(damaged); !errors.Is(err, errManifest) && !errors.Is(err, errLater) {
				t.Fatalf("byte %d (%q) changed to %q: %v", i, text[i], damaged[i], err)
			}
		}
		if _, err := decode(text[:i]); !errors.Is(err, errManifest) {
			t.Fatalf("cut at byte %d: %v", i, err)
		}
	}
	if _, err := decode(append(bytes.Clone(text), '\n')); !errors.Is(err, errManifest) {
		t.Errorf("a line longer: %v", err)
	}
}

func TestWhatNoCheckpointCanBeIsRefused(t *testing.T) {
	zero := uint64(0)
	for name, change := range map[string]func(m *Manifest){
		"no version":         func(m *Manifest) { m.Version = 0 },
		"no log":             func(m *Manifest) { m.LogID = eventlog.ID{} },
		"no writer":          func(m *Manifest) { m.Writer = eventlog.ID{} },
		"no epoch":           func(m *Manifest) { m.Epoch = 0 },
		"no seq":             func(m *Manifest) { m.Seq = 0 },
		"no time":            func(m *Manifest) { m.Time = time.Time{} },
		"no ordinal":         func(m *Manifest) { m.Ordinal = &zero },
		"no views":           func(m *Manifest) { m.Views = nil },
		"no files":           func(m *Manifest) { m.Views[0].Files = nil },
		"a later epoch":      func(m *Manifest) { m.Epoch = 6 },
		"below the horizon":  func(m *Manifest) { m.Horizon = m.Seq + 1 },
		"another position":   func(m *Manifest) { m.Views[0].Position-- },
		"views out of order": func(m *Manifest) { m.Views[0].Name = "z" },
		"a view twice":       func(m *Manifest) { m.Views[0].Name = "machine" },
		"a file twice":       func(m *Manifest) { m.Views[0].Files[0].Name = "MANIFEST-000001" },
		"a file elsewhere":   func(m *Manifest) { m.Views[0].Files[0].Name = "../000005.sst" },
		"a file in a folder": func(m *Manifest) { m.Views[0].Files[0].Name = "a/000005.sst" },
		"a whole path":       func(m *Manifest) { m.Views[0].Files[0].Name = "/etc/passwd" },
		"the folder itself":  func(m *Manifest) { m.Views[0].Files[0].Name = "." },
		"a file no name":     func(m *Manifest) { m.Views[0].Files[0].Name = "" },
		"a lock":             func(m *Manifest) { m.Views[0].Files[0].Name = "LOCK" },
		"a long name":        func(m *Manifest) { m.Views[0].Files[0].Name = strings.Repeat("0", maxName+1) },
		"a view elsewhere":   func(m *Manifest) { m.Views[0].Name = "a/../.." },
		"less than nothing":  func(m *Manifest) { m.Views[0].Files[0].Size = -1 },
		"more than a disk":   func(m *Manifest) { m.Views[0].Files[0].Size = maxFileSize + 1 },
		"an empty file":      func(m *Manifest) { m.Views[0].Files[0].Size = 0 },
	} {
		m := example()
		change(m)
		if _, err := m.encode(); !errors.Is(err, errManifest) {
			t.Errorf("%s is written: %v", name, err)
		}
		if _, err := decode(seal(t, m)); !errors.Is(err, errManifest) {
			t.Errorf("%s is read: %v", name, err)
		}
	}
	later := example()
	later.Version = 2
	if _, err := decode(seal(t, later)); !errors.Is(err, errLater) {
		t.Errorf("a later version: %v", err)
	}
	if _, err := decode(make([]byte, maxManifest+1)); !errors.Is(err, errManifest) {
		t.Errorf("too long: %v", err)
	}
}

// seal writes a manifest without looking at it.
func seal(t *testing.T, m *Manifest) []byte {
	t.Helper()
	body, err := json.Marshal(m)
	must(t, err)
	text, err := json.Marshal(sealed{body, sha256.Sum256(body)})
	must(t, err)
	return append(text, '\n')
}

func FuzzManifest(f *testing.F) {
	text, err := example().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"manifest":{},"sha256":""}`))
	for _, b := range hostile.Blocks(hostile.Facts{Epoch: 1, Ordinal: 1, Next: 1<<32 + 1, Offset: 8}, 0) {
		f.Add(b.Bytes)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := decode(text)
		if err != nil {
			return
		}
		again, err := m.encode()
		if err != nil || !bytes.Equal(again, text) {
			t.Fatalf("%q is written as %q: %v", text, again, err)
		}
	})
}

func TestKeysAreReadAsTheyAreWritten(t *testing.T) {
	seq := eventlog.MakeSeq(7, 1234)
	if got, ok := parseManifestKey(manifestKey(seq)); !ok || got != seq {
		t.Errorf("%s is read as %s", manifestKey(seq), got)
	}
	sum := Hash(sha256.Sum256([]byte("x")))
	if got, ok := parseFileKey(fileKey(sum)); !ok || got != sum {
		t.Errorf("%s is read as %s", fileKey(sum), got)
	}
	for _, key := range []string{"", manifestPrefix, manifestPrefix + "1", manifestPrefix + "0000000000000000000x", manifestPrefix + strings.Repeat("9", 20),
		manifestPrefix + strings.Repeat("0", 20), manifestKey(seq) + "0", "log/" + nameOf(seq), fileKey(sum)} {
		if _, ok := parseManifestKey(key); ok {
			t.Errorf("%q is taken for a manifest", key)
		}
	}
	for _, key := range []string{"", filePrefix, fileKey(sum) + "0", strings.ToUpper(fileKey(sum)), filePrefix + strings.ToUpper(sum.String()), manifestKey(seq)} {
		if _, ok := parseFileKey(key); ok {
			t.Errorf("%q is taken for a file", key)
		}
	}
}
