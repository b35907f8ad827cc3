// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// failing makes the syncs of one directory fail, and notes all that are asked
// for.
func failing(t *testing.T, dir string) (asked *[]string) {
	asked = new([]string)
	fsync = func(f *os.File) error {
		*asked = append(*asked, f.Name())
		if f.Name() == dir {
			return syscall.EIO
		}
		return f.Sync()
	}
	t.Cleanup(func() { fsync = (*os.File).Sync })
	return asked
}

func TestADirectoryWhoseMakerWasKilledBeforeItsSyncIsSyncedByTheNext(t *testing.T) {
	root := t.TempDir()
	a, ab, abc := filepath.Join(root, "a"), filepath.Join(root, "a", "b"), filepath.Join(root, "a", "b", "c")
	if err := os.MkdirAll(ab, 0o700); err != nil { // made, and not synced
		t.Fatal(err)
	}
	asked := failing(t, a)
	if err := Mkdir(ab, 0o700); !errors.Is(err, syscall.EIO) {
		t.Errorf("its parent cannot be synced, and Mkdir gives %v", err)
	}
	if err := Mkdir(abc, 0o700); !errors.Is(err, syscall.EIO) {
		t.Errorf("the parent of its parent cannot be synced, and Mkdir gives %v", err)
	}
	if _, err := os.Stat(abc); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was made all the same: %v", err)
	}
	*asked = nil
	fsync = func(f *os.File) error { *asked = append(*asked, f.Name()); return f.Sync() }
	if err := Mkdir(abc, 0o700); err != nil || !slices.Equal(*asked, []string{a, ab}) {
		t.Errorf("Mkdir gives %v and has synced %q", err, *asked)
	}
}
