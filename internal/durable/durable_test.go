// SPDX-License-Identifier: Apache-2.0

package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/strandline-project/strandline/internal/durable"
)

func TestWriteFileMakesAFileOfTheGivenPermissionsWhateverTheUmask(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	must(t, durable.WriteFile(path, []byte("one"), 0o644))
	expectContent(t, path, "one")
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o644 {
		t.Errorf("permissions are %v, want 0644", info.Mode().Perm())
	}
}

func TestWriteFileReplacesAFileWholeAndLeavesNoTemporaryFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	must(t, durable.WriteFile(path, []byte("a longer first content"), 0o600))
	must(t, durable.WriteFile(path, []byte("two"), 0o600))
	expectContent(t, path, "two")
	expectNames(t, dir, "state")
}

func TestWriteFileThatFailsLeavesTheOldFileAndNoTemporaryFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	must(t, os.MkdirAll(filepath.Join(path, "in the way"), 0o700))
	if err := durable.WriteFile(path, []byte("x"), 0o600); err == nil {
		t.Error("a file replaced a directory")
	}
	expectNames(t, dir, "state")

	err := durable.WriteFile(filepath.Join(dir, "absent", "state"), []byte("x"), 0o600)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("writing into an absent directory gives %v, want fs.ErrNotExist", err)
	}
}

func TestMkdirMakesAllThatIsMissingAndAcceptsWhatIsThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "c")
	must(t, durable.Mkdir(path, 0o700))
	must(t, durable.Mkdir(path, 0o700))
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		t.Errorf("after Mkdir: %v, %v", info, err)
	}
}

func TestMkdirRefusesAFileInTheWay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	must(t, durable.WriteFile(path, nil, 0o600))
	if err := durable.Mkdir(path, 0o700); err == nil {
		t.Error("Mkdir took a file for a directory")
	}
	if err := durable.Mkdir(filepath.Join(path, "below"), 0o700); err == nil {
		t.Error("Mkdir made a directory below a file")
	}
}

func TestLinkNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	one, two, name := filepath.Join(dir, "one"), filepath.Join(dir, "two"), filepath.Join(dir, "name")
	must(t, durable.WriteFile(one, []byte("1"), 0o600))
	must(t, durable.WriteFile(two, []byte("2"), 0o600))
	must(t, durable.Link(one, name))
	if err := durable.Link(two, name); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second link gives %v, want fs.ErrExist", err)
	}
	expectContent(t, name, "1")
}

func TestRenameMovesBetweenDirectories(t *testing.T) {
	dir := t.TempDir()
	must(t, durable.Mkdir(filepath.Join(dir, "to"), 0o700))
	must(t, durable.WriteFile(filepath.Join(dir, "from"), []byte("x"), 0o600))
	must(t, durable.Rename(filepath.Join(dir, "from"), filepath.Join(dir, "to", "there")))
	expectNames(t, dir, "to")
	expectContent(t, filepath.Join(dir, "to", "there"), "x")
	if err := durable.Rename(filepath.Join(dir, "from"), filepath.Join(dir, "again")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("renaming what is gone gives %v, want fs.ErrNotExist", err)
	}
}

func TestRemoveIsDoneWhenTheFileIsGoneAlready(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	must(t, durable.WriteFile(path, nil, 0o600))
	must(t, durable.Remove(path))
	must(t, durable.Remove(path))
	must(t, durable.Mkdir(filepath.Join(path, "full"), 0o700))
	if err := durable.Remove(path); err == nil {
		t.Error("Remove took away a directory that is not empty")
	}
}

func TestSyncingWhatIsAbsentOrClosedFails(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent")
	if err := durable.SyncFile(absent); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SyncFile gives %v, want fs.ErrNotExist", err)
	}
	if err := durable.SyncDir(absent); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SyncDir gives %v, want fs.ErrNotExist", err)
	}
	f, err := os.Create(absent)
	must(t, err)
	must(t, durable.SyncData(f))
	must(t, f.Close())
	if err := durable.SyncData(f); err == nil {
		t.Error("SyncData of a closed file gives no error")
	}
	must(t, durable.SyncFile(absent))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func expectContent(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	must(t, err)
	if string(got) != want {
		t.Errorf("%s holds %q, want %q", path, got, want)
	}
}

func expectNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != len(want) {
		t.Fatalf("%s holds %v, want %v", dir, entries, want)
	}
	for i, entry := range entries {
		if entry.Name() != want[i] {
			t.Errorf("%s holds %v, want %v", dir, entries, want)
		}
	}
}
