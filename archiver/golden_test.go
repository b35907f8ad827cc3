// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

// golden compares got with a file of testdata, whose bytes it returns.
func golden(t *testing.T, name string, got []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *archiver.Update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s changed:\n%s\nwant\n%s\na format that is written stays readable for ever. If the change is meant: go test ./archiver -run Golden -update", path, got, want)
	}
	return want
}

// stored returns a file of testdata that an earlier version wrote, and nobody
// writes any more.
func stored(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var (
	goldenLog    = eventlog.ID{0: 0x10, 15: 1}
	goldenWriter = eventlog.ID{0: 0x20, 15: 2}
	goldenDir    = eventlog.ID{0: 0x30, 15: 3}
	goldenTime   = time.Date(2026, 11, 23, 2, 41, 13, 0, time.UTC)
)

func TestGoldenManifest(t *testing.T) {
	ctx := context.Background()
	bucket := buckettest.NewMemory()
	if err := archiver.Init(ctx, bucket, goldenLog, goldenTime); err != nil {
		t.Fatal(err)
	}
	put, _ := bucket.Get(archiver.ManifestKey)
	for _, text := range [][]byte{golden(t, "strandline-sealed.json", put), stored(t, "strandline.json")} {
		bucket = buckettest.NewMemory()
		bucket.Set(archiver.ManifestKey, text)
		archive, err := archiver.Open(ctx, bucket)
		if err != nil || archive.LogID() != goldenLog {
			t.Errorf("%s\nis read as %v, %v", text, archive, err)
		}
	}
}

func TestGoldenClaim(t *testing.T) {
	ordinal := uint64(41)
	for name, want := range map[string]*archiver.Claim{
		"claim-first": {LogID: goldenLog, Epoch: 1, Writer: goldenWriter, Directory: goldenDir, Host: "a", Time: goldenTime, Cause: "init"},
		"claim":       {LogID: goldenLog, Epoch: 1, Writer: goldenWriter, Directory: goldenDir, Host: "b", Time: goldenTime, Cause: "take-over", Archived: &ordinal},
	} {
		put, err := archiver.EncodeClaim(want)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range [][]byte{golden(t, name+"-sealed.json", put), stored(t, name+".json")} {
			bucket := buckettest.NewMemory()
			bucket.Set(archiver.EpochKey(1), text)
			got, err := archiver.At(bucket, goldenLog).HighestClaim(context.Background())
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s\nis read as %v, %v", text, got, err)
			}
		}
	}
}

func TestGoldenState(t *testing.T) {
	for name, want := range map[string]archiver.State{
		"state-first.json": {LogID: goldenLog, DirID: goldenDir, Archive: "dir:/mnt/archive", Phase: archiver.PhaseInitialising, Claims: []archiver.OwnClaim{}},
		"state.json": {
			LogID: goldenLog, DirID: goldenDir, Archive: "s3://bucket/prefix", SingleWriter: true, Phase: archiver.PhaseReady,
			Claims:   []archiver.OwnClaim{{Epoch: 7, Writer: goldenWriter}},
			Archived: &archiver.ArchivedMark{Ordinal: 41, Seq: eventlog.MakeSeq(7, 1234)},
			Lossy:    &archiver.LossyMark{Reason: "why", SetAside: eventlog.Range{First: eventlog.MakeSeq(6, 1), Last: eventlog.MakeSeq(6, 9)}},
			AsOf:     eventlog.MakeSeq(7, 1000),
			Waivers:  []archiver.Waiver{{Rule: "rule", Scope: eventlog.Range{First: eventlog.MakeSeq(5, 1), Last: eventlog.MakeSeq(5, 2)}}},
			Clean:    true,
		},
	} {
		path := filepath.Join(t.TempDir(), "state")
		dir, err := archiver.CreateStateDir(path, want)
		if err != nil {
			t.Fatal(err)
		}
		if err := dir.Close(); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(path, "state.json")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, golden(t, name, text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := archiver.ReadState(path)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is read as %+v, %v; want %+v", name, got, err, want)
		}
	}
}
