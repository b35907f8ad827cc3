// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package drill

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Scratch is a drill's own directory, held while its process lives: what a
// killed drill left is known by nobody holding it.
type Scratch struct {
	path string
	lock *os.File
}

const (
	scratchPrefix = "strandline-drill-"
	scratchLock   = "LOCK"
	// orphanAge is how old a directory without a lock is before it counts as
	// left: its maker may be about to lock it.
	orphanAge = time.Hour
)

// NewScratch makes a directory below parent, which is made too, after what
// killed drills left there is removed.
func NewScratch(parent string) (*Scratch, error) {
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fmt.Errorf("make a directory for the drill: %w", err)
	}
	if _, err := Sweep(parent); err != nil {
		return nil, err
	}
	for {
		s, err := makeScratch(parent)
		if s != nil || err != nil {
			return s, err
		}
	}
}

// makeScratch makes and holds a directory; nil when another drill that was
// just tidying up took it for one that was left.
func makeScratch(parent string) (*Scratch, error) {
	path, err := os.MkdirTemp(parent, scratchPrefix)
	if err != nil {
		return nil, fmt.Errorf("make a directory for the drill: %w", err)
	}
	name := filepath.Join(path, scratchLock)
	lock, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("hold the drill's directory: %w", err), os.RemoveAll(path))
	}
	held := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	_, gone := os.Lstat(name)
	if errors.Is(held, syscall.EWOULDBLOCK) || errors.Is(gone, fs.ErrNotExist) {
		return nil, lock.Close()
	}
	if err := errors.Join(held, gone); err != nil {
		return nil, errors.Join(fmt.Errorf("hold the drill's directory: %w", err), lock.Close(), os.RemoveAll(path))
	}
	return &Scratch{path: path, lock: lock}, nil
}

// Path returns a path in the directory.
func (s *Scratch) Path(name ...string) string {
	return filepath.Join(append([]string{s.path}, name...)...)
}

// Remove removes the directory and lets go of it.
func (s *Scratch) Remove() error {
	err := os.RemoveAll(s.path)
	if err := errors.Join(err, s.lock.Close()); err != nil {
		return fmt.Errorf("remove the drill's directory %s: %w; it may be removed by hand", s.path, err)
	}
	return nil
}

// Sweep removes the directories below parent that killed drills left, and
// returns which. What a drill holds, and what is not a drill's or not ours,
// stays.
func Sweep(parent string) (removed []string, err error) {
	entries, err := os.ReadDir(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for what a killed drill left: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(parent, entry.Name())
		if !entry.IsDir() || !strings.HasPrefix(entry.Name(), scratchPrefix) || !left(path) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return removed, fmt.Errorf("remove what a killed drill left: %w", err)
		}
		removed = append(removed, path)
	}
	return removed, nil
}

// left reports whether nobody holds the directory. What cannot be told is not
// left: it belongs to another user, or is just being removed.
func left(path string) bool {
	info, err := os.Lstat(path)
	if err != nil {
		return false
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Getuid() {
		return false
	}
	lock, err := os.OpenFile(filepath.Join(path, scratchLock), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Since(info.ModTime()) > orphanAge
	}
	if err != nil {
		return false
	}
	held := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	// Closing it gives a lock that was had up again: nothing depends on it.
	return errors.Join(held, lock.Close()) == nil
}
