// SPDX-License-Identifier: Apache-2.0

// Package durable writes files and directories so that they survive a power
// loss: every function that changes a name has fsynced the directory of that
// name, and the file's bytes before it, when it returns nil.
//
// After an error from a sync nothing is known: the kernel may have marked
// pages clean that the disk does not have. Callers must not go on with the
// file as it is; they write it anew or stop.
//
// POSIX promises a new name only after an fsync of its directory; most file
// systems are kinder, this package does not rely on it. Nothing here retries.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// TempPrefix begins the name of every temporary file that WriteFile makes. A
// crash can leave one behind; it is never part of anything and may be removed
// by whoever owns the directory.
const TempPrefix = ".tmp-"

// WriteFile makes data the content of path, whole or not at all, with the
// permissions perm (the umask does not apply). An existing file is replaced.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return WriteFileWith(path, perm, func(string) ([]byte, error) { return data, nil })
}

// WriteFileWith is WriteFile of a file that tells about itself: content is
// called with the name that the file has before it gets its own.
func WriteFileWith(path string, perm fs.FileMode, content func(temp string) ([]byte, error)) error {
	temp, err := writeTemp(filepath.Dir(path), perm, content)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	// The commit point: a crash before the rename leaves the old file and a
	// stray temporary one; after it, the old or the new file, whole; after
	// the directory's fsync, the new one.
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(temp)))
	}
	return SyncDir(filepath.Dir(path))
}

// writeTemp makes a fsynced temporary file in dir and returns its path. It
// leaves nothing behind when it fails.
func writeTemp(dir string, perm fs.FileMode, content func(temp string) ([]byte, error)) (path string, err error) {
	f, err := os.CreateTemp(dir, TempPrefix+"*")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	data, err := content(f.Name())
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	return f.Name(), errors.Join(err, f.Close())
}

// Mkdir makes the directory path and those above it that are missing, and
// fsyncs the parent of each one that it made. A directory that exists already
// is no error, and its parent is synced, too: who made it may have been killed
// before that.
func Mkdir(path string, perm fs.FileMode) error {
	if info, err := os.Stat(path); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("make directory %s: a file of that name exists", path)
		}
		return syncMade(filepath.Dir(path))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make directory: %w", err)
	}
	parent := filepath.Dir(path)
	if parent == path {
		return fmt.Errorf("make directory %s: %w", path, fs.ErrNotExist)
	}
	if err := Mkdir(parent, perm); err != nil {
		return err
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make directory: %w", err)
	}
	return SyncDir(parent)
}

// syncMade syncs the parent of a directory that was found. One that we may not
// even read is not where we, or an earlier process of ours, made a directory.
func syncMade(parent string) error {
	if err := SyncDir(parent); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// Link gives the file old the further name path on the same file system,
// never replacing a file of that name: then errors.Is(err, fs.ErrExist). The
// file's bytes must have been synced before.
func Link(old, path string) error {
	// The commit point: after the link another process sees the file; after
	// the directory's fsync the name survives.
	if err := os.Link(old, path); err != nil {
		return fmt.Errorf("link: %w", err)
	}
	return SyncDir(filepath.Dir(path))
}

// Rename gives the file or directory old the name path, replacing a file of
// that name, and fsyncs both directories.
func Rename(old, path string) error {
	if err := os.Rename(old, path); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	if err := SyncDir(filepath.Dir(path)); err != nil || filepath.Dir(old) == filepath.Dir(path) {
		return err
	}
	return SyncDir(filepath.Dir(old))
}

// Remove removes the file or empty directory path and fsyncs its directory.
// That it was absent is no error: an earlier removal may lack the fsync only.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove: %w", err)
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir fsyncs the directory path, so that the names in it survive.
func SyncDir(path string) error { return syncPath(path) }

// SyncFile fsyncs the file path: its bytes, not its name.
func SyncFile(path string) error { return syncPath(path) }

// fsync is that of a file; a test's in tests.
var fsync = (*os.File).Sync

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := errors.Join(fsync(f), f.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}
