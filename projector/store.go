// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"context"
	"errors"
)

// An Engine opens the stores that views keep their rows in. projector/kv has
// the two implementations, on disk and in memory.
type Engine interface {
	// Open opens the store in dir, and makes it when there is none. An error
	// that is ErrUnusable means that what lies there is of no use to this
	// build and may be removed; any other error says nothing about it.
	Open(dir string, use Use) (Store, error)
	// Exists reports whether dir is there.
	Exists(dir string) (bool, error)
	// Move renames a closed store's directory, replacing nothing, and syncs
	// the directory above it.
	Move(from, to string) error
	// Remove removes dir and all in it; that it is absent is no error.
	Remove(dir string) error
}

// ErrUnusable marks a store that this build cannot read: written in a format
// it does not know, or damaged.
var ErrUnusable = errors.New("the store cannot be used by this build")

// Use says what a store is opened for.
type Use uint8

// The uses.
const (
	Live     Use = iota // small commits; a crash loses the last few
	Bulk                // large commits; a crash loses all since the store last flushed by itself
	ReadOnly            // no commits; nothing in the directory is changed
	Amend               // a few commits on a copy: Bulk, and the files that are there stay as they are
)

// A Store is an ordered map from keys to values. One goroutine writes; any
// number read at the same time.
type Store interface {
	// Get appends the value of key to into; false when there is none.
	Get(into, key []byte) ([]byte, bool, error)
	// NewBatch returns an empty batch, which the store's writer may use again
	// and again.
	NewBatch() WriteBatch
	// Snapshot returns the store as it is now; later commits do not show.
	Snapshot() Snapshot
	// Lookup is Snapshot for a few rows, and cheaper: it belongs to one goroutine,
	// and a cursor of it ends with its next call.
	Lookup() Snapshot
	// NewTable makes a file of rows, for Ingest, under a name that is free.
	NewTable(name string) (TableFile, error)
	// Ingest takes all rows of the named files in at once. No two files
	// overlap, and nothing in the store overlaps them. The files are gone
	// afterwards.
	Ingest(ctx context.Context, names []string) error
	// Splits returns keys, ascending, between which about as many rows lie, as
	// far as the store knows without reading any; none for a small store.
	Splits() ([][]byte, error)
	// Flush makes all that was committed durable.
	Flush() error
	// Checkpoint flushes, so that a copy is of few bytes, and makes a copy of
	// the store, as it is now, in dir, which must not exist. Files that do not
	// change any more are linked, not copied. The writer goes on meanwhile.
	Checkpoint(dir string) error
	// Close flushes and closes. No snapshot may be open.
	Close() error
}

// TableFile takes rows in the order of their keys, each once.
type TableFile interface {
	Set(key, value []byte) error
	// Close ends the file; it is not synced before Ingest.
	Close() error
}

// WriteBatch collects writes. Keys and values are copied.
type WriteBatch interface {
	Set(key, value []byte) error
	Delete(key []byte) error
	// Commit makes all writes visible at once, without waiting for the disk
	// or even the operating system: a process that is killed, like a machine
	// that loses power, loses the latest commits, whole ones. The batch is
	// empty afterwards.
	Commit() error
	Close() error
}

// Snapshot is a store at one moment.
type Snapshot interface {
	Get(into, key []byte) ([]byte, bool, error)
	// Range returns a cursor over lower <= key < upper; a nil upper is the end.
	Range(lower, upper []byte) (Cursor, error)
	Close() error
}

// Cursor walks keys in order: upwards by Next, or downwards by Last and then
// Prev. Key and Value are valid until the next step.
type Cursor interface {
	Next() bool
	// Last goes to the highest key of the range, at the cost of one step.
	Last() bool
	Prev() bool
	Key() []byte
	Value() []byte
	// Err says why a step returned false; nil at the end of the range.
	Err() error
	Close() error
}
