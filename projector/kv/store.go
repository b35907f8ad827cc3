// SPDX-License-Identifier: Apache-2.0

package kv

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/strandline-project/strandline/projector"
)

// store is one Pebble database.
type store struct {
	db       *pebble.DB
	ground   *ground
	options  *pebble.Options
	log      *slog.Logger
	dir      string // for errors
	readOnly bool

	flushed   atomic.Bool   // since awaitCompaction looked
	compacted chan struct{} // holds one
}

// outcome is err, or, when the store has failed, why: Pebble may know nothing
// of it.
func (s *store) outcome(err error) error {
	if failed := s.ground.err(); failed != nil {
		return failed
	}
	return err
}

func (s *store) Get(into, key []byte) ([]byte, bool, error) {
	value, closer, err := s.db.Get(key)
	return s.got(into, value, closer, err)
}

func (s *store) got(into, value []byte, closer io.Closer, err error) ([]byte, bool, error) {
	if errors.Is(err, pebble.ErrNotFound) {
		return into, false, nil
	}
	if err != nil {
		return into, false, fmt.Errorf("read a row of %s: %w", s.dir, err)
	}
	into = append(into, value...)
	if err := closer.Close(); err != nil {
		return into, false, fmt.Errorf("read a row of %s: %w", s.dir, err)
	}
	return into, true, nil
}

func (s *store) NewBatch() projector.WriteBatch { return &batch{s.db.NewBatch(), s} }

func (s *store) Snapshot() projector.Snapshot { return &snapshot{s.db.NewSnapshot(), s} }

// Splits returns where the table files begin: those of one level are of about
// one size.
func (s *store) Splits() ([][]byte, error) {
	levels, err := s.db.SSTables()
	if err != nil {
		return nil, fmt.Errorf("list the table files of %s: %w", s.dir, err)
	}
	var keys [][]byte
	for _, level := range levels {
		for i := range level {
			keys = append(keys, level[i].Smallest.UserKey)
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	return slices.CompactFunc(keys, bytes.Equal), nil
}

func (s *store) Flush() error {
	if err := s.outcome(s.flush()); err != nil {
		return fmt.Errorf("flush %s: %w", s.dir, err)
	}
	return nil
}

// flush is pebble's Flush, which does not wait for what cannot be done.
func (s *store) flush() error {
	if err := s.ground.err(); err != nil {
		return err
	}
	done, err := s.db.AsyncFlush()
	if err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-s.ground.failed:
		return s.ground.err()
	}
}

func (s *store) Checkpoint(dir string) error {
	if err := s.Flush(); err != nil {
		return err
	}
	if err := s.outcome(s.db.Checkpoint(dir, pebble.WithFlushedWAL())); err != nil {
		return fmt.Errorf("copy %s to %s: %w", s.dir, dir, err)
	}
	return nil
}

// Close flushes first: a Bulk store has no log, and what is in memory would
// be lost; a Live one opens faster without a log to replay. A store that has
// failed is closed as it is, with the reason as the error.
func (s *store) Close() error {
	var flushed error
	if !s.readOnly {
		flushed = s.flush()
	}
	s.ground.leave()
	closed := s.db.Close()
	if err := s.outcome(errors.Join(flushed, closed)); err != nil {
		return fmt.Errorf("close %s: %w", s.dir, err)
	}
	return nil
}

// crowded is the number of layers of flushed files at which commits wait for
// a compaction.
const crowded = 24

// awaitCompaction waits while too many flushed files wait for a compaction.
// Pebble has a wait of its own, from which a failed store would not return.
func (s *store) awaitCompaction() error {
	for !s.options.DisableAutomaticCompactions && s.flushed.Swap(false) {
		if s.db.Metrics().Levels[0].Sublevels < crowded {
			break
		}
		s.log.Warn("writes to a view wait for its compaction")
		s.flushed.Store(true) // look again
		select {
		case <-s.compacted:
		case <-s.ground.failed:
			return s.ground.err()
		}
	}
	return s.ground.err()
}

type batch struct {
	*pebble.Batch
	store *store
}

func (b *batch) Set(key, value []byte) error {
	if err := b.Batch.Set(key, value, nil); err != nil {
		return fmt.Errorf("write a row of %s: %w", b.store.dir, err)
	}
	return nil
}

func (b *batch) Delete(key []byte) error {
	if err := b.Batch.Delete(key, nil); err != nil {
		return fmt.Errorf("delete a row of %s: %w", b.store.dir, err)
	}
	return nil
}

func (b *batch) Commit() error {
	err := b.store.awaitCompaction()
	if err == nil {
		err = b.store.outcome(b.Batch.Commit(pebble.NoSync))
	}
	if err != nil {
		return fmt.Errorf("commit rows to %s: %w", b.store.dir, err)
	}
	b.Reset()
	return nil
}

type snapshot struct {
	*pebble.Snapshot
	store *store
}

func (s *snapshot) Get(into, key []byte) ([]byte, bool, error) {
	value, closer, err := s.Snapshot.Get(key)
	return s.store.got(into, value, closer, err)
}

func (s *snapshot) Range(lower, upper []byte) (projector.Cursor, error) {
	it, err := s.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, fmt.Errorf("read rows of %s: %w", s.store.dir, err)
	}
	return &cursor{Iterator: it, dir: s.store.dir}, nil
}

// lookup reads single rows through one iterator: a snapshot of its own would
// cost a lock of the whole store twice. The filters of the lowest level are not
// asked: those of a large store do not fit in the cache, and reading one costs
// more than reading a block of rows.
type lookup struct {
	it      *pebble.Iterator
	err     error // of making it
	bounded bool
	store   *store
}

func (s *store) Lookup() projector.Snapshot {
	it, err := s.db.NewIter(nil)
	if err != nil {
		err = fmt.Errorf("read rows of %s: %w", s.dir, err)
	}
	return &lookup{it: it, err: err, store: s}
}

func (l *lookup) Get(into, key []byte) ([]byte, bool, error) {
	if l.err != nil {
		return into, false, l.err
	}
	if l.bounded {
		l.it.SetBounds(nil, nil)
		l.bounded = false
	}
	if !l.seek(key) {
		return into, false, l.failed(l.it.Error())
	}
	value, err := l.it.ValueAndErr()
	return append(into, value...), err == nil, l.failed(err)
}

// seek goes to the row of key, if there is one.
func (l *lookup) seek(key []byte) bool {
	if len(key) == 0 { // has no first byte, which Pebble looks at under the race detector
		return l.it.First() && len(l.it.Key()) == 0
	}
	return l.it.SeekPrefixGE(key) // a key is its own prefix
}

func (l *lookup) failed(err error) error {
	if err != nil {
		return fmt.Errorf("read a row of %s: %w", l.store.dir, err)
	}
	return nil
}

func (l *lookup) Range(lower, upper []byte) (projector.Cursor, error) {
	if l.err != nil {
		return nil, l.err
	}
	l.it.SetBounds(lower, upper)
	l.bounded = true
	return lookupCursor{&cursor{Iterator: l.it, dir: l.store.dir}}, nil
}

func (l *lookup) Close() error {
	if l.it == nil {
		return nil // what it lacks was told by Get or Range
	}
	return l.failed(l.it.Close())
}

// lookupCursor leaves the iterator to its lookup.
type lookupCursor struct{ *cursor }

func (lookupCursor) Close() error { return nil }

type cursor struct {
	*pebble.Iterator
	dir     string
	started bool
}

func (c *cursor) Next() bool {
	if !c.started {
		c.started = true
		return c.First()
	}
	return c.Iterator.Next()
}

func (c *cursor) Last() bool {
	c.started = true
	return c.Iterator.Last()
}

func (c *cursor) Err() error {
	if err := c.Error(); err != nil {
		return fmt.Errorf("read rows of %s: %w", c.dir, err)
	}
	return nil
}
