// SPDX-License-Identifier: Apache-2.0

// Package kv keeps views in Pebble, one store per view. It is the only
// importer of Pebble.
//
// Nothing here is synced per commit: a view is rebuilt from the log, so a
// crash may rewind it. What must hold is that it rewinds to a commit that was
// made, whole, which Pebble's log (Live) and the order of its flushes (Bulk)
// see to.
package kv

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"path"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/strandline-project/strandline/projector"
)

// format is the version of Pebble's files that this build writes. It is
// raised on purpose, never by a new release of the library; a store of a
// later format is unusable and its view is projected again.
const format = pebble.FormatValueSeparation

// Sizes in bytes.
const (
	cacheSize    = 32 << 20
	liveMemTable = 4 << 20 // stays in the processor's cache: rows are looked up there before and while they are written
	bulkMemTable = 32 << 20
)

// Engine opens Pebble stores.
type Engine struct {
	fs  vfs.FS
	log *slog.Logger
}

var _ projector.Engine = (*Engine)(nil)

// OnDisk returns the engine of real directories.
func OnDisk(log *slog.Logger) *Engine { return &Engine{fs: vfs.Default, log: log} }

// InMemory returns an engine whose directories are lost with it; for tests
// and tools. See Crash.
func InMemory(log *slog.Logger) *Engine { return &Engine{fs: vfs.NewCrashableMem(), log: log} }

// On returns an engine over any file system that Pebble knows, for tests
// that make it fail.
func On(files vfs.FS, log *slog.Logger) *Engine { return &Engine{fs: files, log: log} }

// Open opens or makes the store in dir.
func (e *Engine) Open(dir string, use projector.Use) (projector.Store, error) {
	if use != projector.ReadOnly {
		if err := e.fs.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the view's directory %s: %w", dir, err)
		}
	}
	log := e.log.With("store", dir)
	s := &store{ground: newGround(e.fs, dir, log), log: log, dir: dir, readOnly: use == projector.ReadOnly, compacted: make(chan struct{}, 1)}
	s.options = s.optionsFor(use)
	db, err := pebble.Open(dir, s.options)
	if err != nil {
		s.ground.leave()
		err = s.outcome(classify(err))
		if use != projector.ReadOnly && errors.Is(err, fs.ErrNotExist) { // a file of the store: its directory was made
			err = fmt.Errorf("%w: %w", projector.ErrUnusable, err)
		}
		return nil, fmt.Errorf("open the view's store in %s: %w", dir, err)
	}
	s.db = db
	if s.ground.err() != nil { // Pebble does not know: see ground
		return nil, fmt.Errorf("open the view's store in %s: %w", dir, s.Close())
	}
	return s, nil
}

func (s *store) optionsFor(use projector.Use) *pebble.Options {
	listener := s.events()
	options := &pebble.Options{
		FS: s.ground, CacheSize: cacheSize, FormatMajorVersion: format,
		MemTableSize: liveMemTable, MemTableStopWritesThreshold: 4,
		L0CompactionThreshold: 4, L0StopWritesThreshold: math.MaxInt32, // see awaitCompaction
		CompactionConcurrencyRange: func() (int, int) { return 1, 2 },
		Logger:                     logger{s.log}, EventListener: &listener,
		ReadOnly: use == projector.ReadOnly, ErrorIfNotExists: use == projector.ReadOnly,
	}
	if use == projector.Bulk || use == projector.Amend {
		options.MemTableSize, options.DisableWAL = bulkMemTable, true
	}
	options.DisableAutomaticCompactions = use == projector.Amend
	options.EnsureDefaults()
	for i := range options.Levels {
		options.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	options.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	return options
}

// classify marks the errors after which only a new store helps. A locked
// directory, a full disk or a refused permission are none of them.
func classify(err error) error {
	if pebble.IsCorruptionError(err) || strings.Contains(err.Error(), "format major version") {
		return fmt.Errorf("%w: %w", projector.ErrUnusable, err)
	}
	return err
}

// Exists reports whether dir is there.
func (e *Engine) Exists(dir string) (bool, error) {
	_, err := e.fs.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the view's store %s: %w", dir, err)
	}
	return true, nil
}

// Move renames a directory and syncs the one above.
func (e *Engine) Move(from, to string) error {
	there, err := e.Exists(to)
	if err != nil {
		return err
	}
	if there {
		return fmt.Errorf("move the view's store %s: %s is there already", from, to)
	}
	if err := e.fs.Rename(from, to); err != nil {
		return fmt.Errorf("move the view's store %s to %s: %w", from, to, err)
	}
	return e.syncDir(path.Dir(to))
}

// Remove removes dir and all in it, and syncs the directory above.
func (e *Engine) Remove(dir string) error {
	there, err := e.Exists(dir)
	if err != nil || !there {
		return err
	}
	if err := e.fs.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the view's store %s: %w", dir, err)
	}
	return e.syncDir(path.Dir(dir))
}

func (e *Engine) syncDir(dir string) error {
	d, err := e.fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("open directory %s to sync it: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
