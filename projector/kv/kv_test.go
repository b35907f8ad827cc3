// SPDX-License-Identifier: Apache-2.0

package kv_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

func open(t *testing.T, engine projector.Engine, dir string, use projector.Use) projector.Store {
	t.Helper()
	store, err := engine.Open(dir, use)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func closed(t *testing.T, c interface{ Close() error }) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func set(t *testing.T, store projector.Store, pairs ...string) {
	t.Helper()
	batch := store.NewBatch()
	defer closed(t, batch)
	for i := 0; i < len(pairs); i += 2 {
		if err := batch.Set([]byte(pairs[i]), []byte(pairs[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Commit(); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, snapshot projector.Snapshot, lower, upper []byte) string {
	t.Helper()
	cursor, err := snapshot.Range(lower, upper)
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, cursor)
	var all []string
	for cursor.Next() {
		all = append(all, fmt.Sprintf("%s=%s", cursor.Key(), cursor.Value()))
	}
	if err := cursor.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " ")
}

func all(t *testing.T, store projector.Store) string {
	t.Helper()
	snapshot := store.Snapshot()
	defer closed(t, snapshot)
	return content(t, snapshot, nil, nil)
}

func TestAStoreIsAnOrderedMapThatSurvivesClosing(t *testing.T) {
	for name, engine := range map[string]*kv.Engine{"disk": kv.OnDisk(quiet), "memory": kv.InMemory(quiet)} {
		for _, use := range []projector.Use{projector.Live, projector.Bulk} {
			t.Run(fmt.Sprint(name, use), func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "store")
				store := open(t, engine, dir, use)
				set(t, store, "b", "2", "a", "1", "c", "3")
				snapshot := store.Snapshot()
				batch := store.NewBatch()
				if err := errors.Join(batch.Delete([]byte("b")), batch.Set([]byte("d"), []byte("4"))); err != nil {
					t.Fatal(err)
				}
				if _, found, err := store.Get(nil, []byte("d")); found || err != nil {
					t.Errorf("a write shows before its commit: %v", err)
				}
				if err := batch.Commit(); err != nil {
					t.Fatal(err)
				}
				if err := batch.Commit(); err != nil { // it is empty by now
					t.Fatal(err)
				}
				closed(t, batch)
				if value, found, err := store.Get([]byte(">"), []byte("d")); string(value) != ">4" || !found || err != nil {
					t.Errorf("got %q, %t, %v", value, found, err)
				}
				if value, found, err := snapshot.Get(nil, []byte("b")); string(value) != "2" || !found || err != nil {
					t.Errorf("the snapshot has %q, %t, %v", value, found, err)
				}
				if got := content(t, snapshot, []byte("a"), []byte("c")); got != "a=1 b=2" {
					t.Errorf("the snapshot's range is %q", got)
				}
				closed(t, snapshot)
				closed(t, store)

				store = open(t, engine, dir, projector.ReadOnly)
				defer closed(t, store)
				if got := all(t, store); got != "a=1 c=3 d=4" {
					t.Errorf("after closing there is %q", got)
				}
			})
		}
	}
}

// A lookup sees what a snapshot sees: rows wherever they lie, between and behind
// its cursors, and no later commit.
func TestALookupIsTheStoreAsItWas(t *testing.T) {
	store := open(t, kv.OnDisk(quiet), t.TempDir(), projector.Live)
	defer closed(t, store)
	set(t, store, "a", "1", "ab", "2", "b", "3")
	if err := store.Flush(); err != nil {
		t.Fatal(err)
	}
	set(t, store, "a", "4", "c", "5") // in memory, over the file
	lookup := store.Lookup()
	defer closed(t, lookup)
	set(t, store, "a", "6", "d", "7")
	for range 2 {
		for key, want := range map[string]string{"a": "4", "ab": "2", "b": "3", "c": "5", "d": "", "aa": "", "": ""} {
			got, found, err := lookup.Get([]byte("into:"), []byte(key))
			if err != nil || found != (want != "") || string(got) != "into:"+want {
				t.Errorf("%q: %q %v %v, want %q", key, got, found, err, want)
			}
		}
		if got := content(t, lookup, []byte("ab"), []byte("c")); got != "ab=2 b=3" {
			t.Errorf("from ab to c: %s", got)
		}
		if got := content(t, lookup, nil, nil); got != "a=4 ab=2 b=3 c=5" {
			t.Errorf("all: %s", got)
		}
	}
}

func TestACheckpointIsTheStoreAsItWas(t *testing.T) {
	dir := t.TempDir()
	engine := kv.OnDisk(quiet)
	store := open(t, engine, filepath.Join(dir, "store"), projector.Live)
	defer closed(t, store)
	set(t, store, "a", "1")
	if err := store.Checkpoint(filepath.Join(dir, "copy")); err != nil {
		t.Fatal(err)
	}
	set(t, store, "b", "2")
	if err := store.Flush(); err != nil {
		t.Fatal(err)
	}
	copied := open(t, engine, filepath.Join(dir, "copy"), projector.ReadOnly)
	defer closed(t, copied)
	if got := all(t, copied); got != "a=1" {
		t.Errorf("the copy has %q", got)
	}
	if err := store.Checkpoint(filepath.Join(dir, "copy")); err == nil {
		t.Error("a copy was made over another")
	}
}

// A copy may be written to; the files that it shares with the store stay.
func TestACopyIsAmendedBesideTheFilesThatAreThere(t *testing.T) {
	dir := t.TempDir()
	engine := kv.OnDisk(quiet)
	store := open(t, engine, filepath.Join(dir, "store"), projector.Live)
	defer closed(t, store)
	for i := range 8 { // more files than compactions leave alone
		set(t, store, fmt.Sprint("a", i), "1", "z", fmt.Sprint(i))
		if err := store.Checkpoint(filepath.Join(dir, fmt.Sprint("copy", i))); err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(dir, fmt.Sprint("copy", i))
		before := tables(t, copied)
		amended := open(t, engine, copied, projector.Amend)
		set(t, amended, "b", "2")
		closed(t, amended)
		after := tables(t, copied)
		if len(after) != len(before)+1 {
			t.Errorf("%d tables, %d before", len(after), len(before))
		}
		for name, info := range before {
			if now, ok := after[name]; !ok || !os.SameFile(info, now) {
				t.Errorf("table %s was written anew", name)
			}
		}
		read := open(t, engine, copied, projector.ReadOnly)
		if got := all(t, read); !strings.HasSuffix(got, fmt.Sprintf("b=2 z=%d", i)) {
			t.Errorf("the copy has %q", got)
		}
		closed(t, read)
	}
	if got := all(t, store); strings.Contains(got, "b=2") {
		t.Errorf("the store has %q", got)
	}
	splits, err := store.Splits()
	if err != nil || len(splits) == 0 || !slices.IsSortedFunc(splits, bytes.Compare) {
		t.Errorf("it is split at %q: %v", splits, err)
	}
}

func tables(t *testing.T, dir string) map[string]os.FileInfo {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]os.FileInfo{}
	for _, name := range names {
		if found[filepath.Base(name)], err = os.Stat(name); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func TestDirectoriesAreMovedAndRemoved(t *testing.T) {
	engine := kv.InMemory(quiet)
	for _, dir := range []string{"a", "b"} {
		closed(t, open(t, engine, dir, projector.Live))
	}
	if err := engine.Move("a", "b"); err == nil {
		t.Error("moved over another store")
	}
	if err := engine.Move("a", "c"); err != nil {
		t.Error(err)
	}
	if err := engine.Move("nothing", "d"); err == nil {
		t.Error("moved nothing")
	}
	for range 2 { // absent the second time
		if err := engine.Remove("b"); err != nil {
			t.Error(err)
		}
	}
	for dir, want := range map[string]bool{"a": false, "b": false, "c": true} {
		if there, err := engine.Exists(dir); there != want || err != nil {
			t.Errorf("%s is there: %t, %v", dir, there, err)
		}
	}
}

// A format that this build does not know, and damage, are of no use to it; a
// store that is in use, or absent, is not to be thrown away.
func TestOnlyAUselessStoreIsUnusable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	engine := kv.OnDisk(quiet)
	if _, err := engine.Open(dir, projector.ReadOnly); err == nil || errors.Is(err, projector.ErrUnusable) {
		t.Errorf("an absent store: %v", err)
	}
	store := open(t, engine, dir, projector.Live)
	if _, err := engine.Open(dir, projector.Live); err == nil || errors.Is(err, projector.ErrUnusable) {
		t.Errorf("a store in use: %v", err)
	}
	set(t, store, "a", "1")
	closed(t, store)

	markers, err := filepath.Glob(filepath.Join(dir, "marker.format-version.*"))
	if err != nil || len(markers) != 1 {
		t.Fatal(markers, err)
	}
	later := filepath.Join(dir, "marker.format-version.000099.999")
	if err := os.Rename(markers[0], later); err != nil {
		t.Fatal(err)
	}
	if _, err := engine.Open(dir, projector.Live); !errors.Is(err, projector.ErrUnusable) {
		t.Errorf("a store of a later format: %v", err)
	}
	if err := os.Rename(later, markers[0]); err != nil {
		t.Fatal(err)
	}
	manifests, err := filepath.Glob(filepath.Join(dir, "MANIFEST-*"))
	if err != nil || len(manifests) == 0 {
		t.Fatal(manifests, err)
	}
	for _, manifest := range manifests {
		raw, err := os.ReadFile(manifest)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(manifest, bytes.Repeat([]byte{0xa5}, len(raw)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := engine.Open(dir, projector.Live); !errors.Is(err, projector.ErrUnusable) {
		t.Errorf("a damaged store: %v", err)
	}
}

// The format is raised on purpose, in a change that says so.
func TestTheFormatIsPinned(t *testing.T) {
	files := vfs.NewMem()
	closed(t, open(t, kv.On(files, quiet), "store", projector.Live))
	desc, err := pebble.Peek("store", files)
	if err != nil || desc.FormatMajorVersion != 24 {
		t.Errorf("stores are written in format %d (%v), want 24", desc.FormatMajorVersion, err)
	}
}

// full is a file system that can make nothing new.
type full struct{ vfs.FS }

func (full) MkdirAll(string, os.FileMode) error { return syscall.ENOSPC }
func (full) Rename(string, string) error        { return syscall.ENOSPC }
func (full) RemoveAll(string) error             { return syscall.EIO }

func TestErrorsNameTheDirectory(t *testing.T) {
	files := vfs.NewMem()
	closed(t, open(t, kv.On(files, quiet), "views/block", projector.Live))
	engine := kv.On(full{files}, quiet)
	_, opened := engine.Open("views/block", projector.Live)
	for _, err := range []error{opened, engine.Move("views/block", "views/other"), engine.Remove("views/block")} {
		if err == nil || !strings.Contains(err.Error(), "views/block") || errors.Is(err, projector.ErrUnusable) {
			t.Errorf("got %v", err)
		}
	}
	if !errors.Is(opened, syscall.ENOSPC) {
		t.Errorf("got %v", opened)
	}
}

func TestPebblesWordsGoToTheLog(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	closed(t, open(t, kv.On(vfs.NewMem(), log), "views/block", projector.Live))
	if !strings.Contains(out.String(), "store=views/block") {
		t.Errorf("the log says %q", out.String())
	}
}

func TestAFileOfRowsThatIsNotTakenInHarmsNothing(t *testing.T) {
	dir := t.TempDir()
	for round, taken := range []bool{false, true} {
		store, err := kv.OnDisk(quiet).Open(dir, projector.Bulk)
		if err != nil {
			t.Fatal(err)
		}
		file, err := store.NewTable("rows")
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"a", "b"} {
			if err := file.Set([]byte(key), []byte("row of "+key)); err != nil {
				t.Fatal(err)
			}
		}
		if err := file.Set([]byte("a"), nil); err == nil {
			t.Error("keys may descend")
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		if taken {
			file, err = store.NewTable("rows-again")
			if err == nil {
				err = errors.Join(file.Set([]byte("c"), []byte("row of c")), file.Close(), store.Ingest(t.Context(), []string{"rows-again"}))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := store.Close(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	store, err := kv.OnDisk(quiet).Open(dir, projector.ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if value, found, err := store.Get(nil, []byte("c")); err != nil || !found || string(value) != "row of c" {
		t.Errorf("%q %v %v", value, found, err)
	}
	if _, found, err := store.Get(nil, []byte("a")); err != nil || found {
		t.Errorf("a row that was not taken in is there: %v", err)
	}
}
