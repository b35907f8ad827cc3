// SPDX-License-Identifier: Apache-2.0

package kv

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// ground is the file system that one store stands on. Pebble has no answer to
// a write that fails: a flush is tried again at once and for ever, with whoever
// commits, flushes or closes waiting for it, and a failed write of its log or
// its manifest is a panic. So the first failure closes the ground, for good:
// nothing more is written below, nothing is removed, and what Pebble writes to
// come to its end goes to memory, to be forgotten. On the disk it is as if the
// process had been killed at that moment: the store is opened again at an
// earlier commit, whole.
type ground struct {
	vfs.FS
	dir string // of the store; what is written elsewhere, a copy, may fail
	log *slog.Logger

	failing sync.Once
	failed  chan struct{} // closed at the first failure, after cause and memory are set
	cause   error
	memory  *vfs.MemFS // what is made after it

	leaving sync.Once
	left    chan struct{} // closed when the store is being closed
}

func newGround(below vfs.FS, dir string, log *slog.Logger) *ground {
	dir = below.PathDir(below.PathJoin(dir, "file")) // as Pebble spells it
	return &ground{FS: below, dir: dir, log: log, failed: make(chan struct{}), left: make(chan struct{})}
}

// err returns the first failure, nil while there was none.
func (g *ground) err() error {
	select {
	case <-g.failed:
		return g.cause
	default:
		return nil
	}
}

// fail closes the ground.
func (g *ground) fail(cause error) {
	g.failing.Do(func() {
		g.cause, g.memory = cause, vfs.NewMem()
		if err := g.memory.MkdirAll(g.dir, 0o700); err != nil {
			panic("make a directory in memory: " + err.Error()) // there is nothing to fail
		}
		close(g.failed)
		g.log.Error("a view's store failed: it takes no more commits, and is closed at an earlier one; make room or mend the disk, then start again", "err", cause)
	})
}

// named says which file it was, unless err does.
func named(what, name string, err error) error {
	if path := (*fs.PathError)(nil); errors.As(err, &path) && path.Path == name {
		return err
	}
	return fmt.Errorf("%s %s: %w", what, name, err)
}

// background takes what Pebble says of its own work. That it failed is said
// once: Pebble tries again as fast as it can.
func (g *ground) background(err error) {
	if g.err() != nil {
		g.log.Debug("background work of a view's store failed", "err", err)
		return
	}
	g.fail(fmt.Errorf("work in the background: %w", err))
}

// leave lets compactions that wait since the failure end.
func (g *ground) leave() { g.leaving.Do(func() { close(g.left) }) }

// vital reports whether Pebble panics when a write to the file fails, or, for
// what it writes last when it opens a store, leaves a goroutine behind.
func vital(base string) bool {
	return strings.HasSuffix(base, ".log") || strings.HasSuffix(base, ".dbtmp") ||
		strings.HasPrefix(base, "MANIFEST-") || strings.HasPrefix(base, "marker.")
}

// flushing is what Pebble names the files that it flushes to.
const flushing = "pebble-memtable-flush"

// Create makes a file below, or in memory when the ground is closed.
func (g *ground) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return g.create(name, category, func() (vfs.File, error) { return g.FS.Create(name, category) })
}

// ReuseForWrite is Create with the bytes of an old file.
func (g *ground) ReuseForWrite(old, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return g.create(name, category, func() (vfs.File, error) { return g.FS.ReuseForWrite(old, name, category) })
}

// OpenReadWrite is Create for a file that may be there.
func (g *ground) OpenReadWrite(name string, category vfs.DiskWriteCategory, options ...vfs.OpenOption) (vfs.File, error) {
	return g.create(name, category, func() (vfs.File, error) { return g.FS.OpenReadWrite(name, category, options...) })
}

func (g *ground) create(name string, category vfs.DiskWriteCategory, below func() (vfs.File, error)) (vfs.File, error) {
	if g.PathDir(name) != g.dir {
		if err := g.err(); err != nil {
			return nil, err
		}
		return below()
	}
	isVital := vital(g.PathBase(name))
	if g.err() == nil {
		file, err := below()
		if err == nil {
			return &groundFile{file, g, name, isVital}, nil
		}
		g.fail(named("make", name, err))
	}
	switch {
	case isVital || category == flushing:
		return g.memory.Create(name, category)
	case category != vfs.WriteCategoryUnspecified:
		<-g.left // a compaction: it would be tried again as fast as it fails
	}
	return nil, g.cause
}

// inMemory reports whether the file was made after the failure.
func (g *ground) inMemory(name string) bool {
	if g.err() == nil {
		return false
	}
	_, err := g.memory.Stat(name)
	return err == nil
}

// Open opens a file to read it.
func (g *ground) Open(name string, options ...vfs.OpenOption) (vfs.File, error) {
	if g.inMemory(name) {
		return g.memory.Open(name, options...)
	}
	return g.FS.Open(name, options...)
}

// OpenDir opens a directory to sync it.
func (g *ground) OpenDir(name string) (vfs.File, error) {
	file, err := g.FS.OpenDir(name)
	if err != nil || name != g.dir {
		return file, err
	}
	return &groundFile{file, g, name, true}, nil
}

// Stat describes a file.
func (g *ground) Stat(name string) (vfs.FileInfo, error) {
	if g.inMemory(name) {
		return g.memory.Stat(name)
	}
	return g.FS.Stat(name)
}

// Remove removes a file; one that was there before the failure stays.
func (g *ground) Remove(name string) error {
	switch {
	case g.err() == nil:
		return g.FS.Remove(name)
	case g.inMemory(name):
		return g.memory.Remove(name)
	}
	return nil
}

// RemoveAll removes a directory, unless the ground is closed.
func (g *ground) RemoveAll(name string) error {
	if err := g.err(); err != nil {
		return err
	}
	return g.FS.RemoveAll(name)
}

// Rename renames a file, unless the ground is closed.
func (g *ground) Rename(from, to string) error {
	if g.err() == nil {
		err := g.FS.Rename(from, to)
		if err == nil || !vital(g.PathBase(from)) {
			return err
		}
		g.fail(err)
	}
	if vital(g.PathBase(from)) {
		return nil
	}
	return g.err()
}

// Link links a file, unless the ground is closed.
func (g *ground) Link(from, to string) error {
	if err := g.err(); err != nil {
		return err
	}
	return g.FS.Link(from, to)
}

// MkdirAll makes a directory, unless the ground is closed.
func (g *ground) MkdirAll(dir string, mode os.FileMode) error {
	if err := g.err(); err != nil {
		return err
	}
	return g.FS.MkdirAll(dir, mode)
}

// Unwrap returns the file system below.
func (g *ground) Unwrap() vfs.FS { return g.FS }

// groundFile is a file that was made before the failure.
type groundFile struct {
	vfs.File
	ground *ground
	name   string
	vital  bool // see vital
}

// do writes, unless the ground is closed, and closes it when that fails. To a
// vital file nothing fails: what did is known to the ground.
func (f *groundFile) do(what string, write func() error) error {
	if f.ground.err() == nil {
		err := write()
		if err == nil {
			return nil
		}
		f.ground.fail(named(what, f.name, err))
	}
	if f.vital {
		return nil
	}
	return f.ground.err()
}

func (f *groundFile) Write(p []byte) (n int, err error) {
	err = f.do("write", func() (err error) {
		n, err = f.File.Write(p)
		return err
	})
	if err == nil {
		return len(p), nil
	}
	return n, err
}

func (f *groundFile) WriteAt(p []byte, at int64) (n int, err error) {
	err = f.do("write", func() (err error) {
		n, err = f.File.WriteAt(p, at)
		return err
	})
	if err == nil {
		return len(p), nil
	}
	return n, err
}

func (f *groundFile) Sync() error { return f.do("sync", f.File.Sync) }

func (f *groundFile) SyncData() error { return f.do("sync", f.File.SyncData) }

func (f *groundFile) SyncTo(length int64) (whole bool, err error) {
	err = f.do("sync", func() (err error) {
		whole, err = f.File.SyncTo(length)
		return err
	})
	return whole, err
}
