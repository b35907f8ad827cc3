// SPDX-License-Identifier: Apache-2.0

package kv

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/strandline-project/strandline/projector"
)

// bottom is the level whose options a table file is written with: an empty
// store takes it in there.
const bottom = 6

// Table files are written in large blocks, uncompressed: most of a row is a
// hash, and what repeats in the keys is left out anyway. Compressing took a
// tenth of a recovery's time to save a tenth of its bytes.
const tableBlock = 16 << 10 // bytes

// tableSync is after how many bytes the kernel is told to begin writing, so
// that the sync at the end has little left to wait for.
const tableSync = 4 << 20

// tableBuffer is how many bytes are written at once: written block by block,
// the kernel took three times as long for them.
const tableBuffer = 512 << 10

// NewTable makes a file of rows in the store's own directory, where Pebble
// leaves names that it does not know alone.
func (s *store) NewTable(name string) (projector.TableFile, error) {
	file, err := s.ground.Create(s.tablePath(name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("make a file of rows for %s: %w", s.dir, err)
	}
	file = vfs.NewSyncingFile(file, vfs.SyncingFileOptions{BytesPerSync: tableSync})
	options := s.options.MakeWriterOptions(bottom, s.db.TableFormat())
	options.BlockSize, options.Compression = tableBlock, block.NoCompression
	return &tableFile{sstable.NewWriter(&writable{file, bufio.NewWriterSize(file, tableBuffer)}, options), s.dir}, nil
}

func (s *store) tablePath(name string) string { return path.Join(s.dir, name+".table") }

func (s *store) Ingest(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if err := s.ground.err(); err != nil {
		return fmt.Errorf("take files of rows into %s: %w", s.dir, err)
	}
	paths := make([]string, len(names))
	for i, name := range names {
		paths[i] = s.tablePath(name)
	}
	if err := s.outcome(s.db.Ingest(ctx, paths)); err != nil {
		return fmt.Errorf("take files of rows into %s: %w", s.dir, err)
	}
	return nil
}

// writable is Pebble's own for files, with a larger buffer.
type writable struct {
	file   vfs.File
	buffer *bufio.Writer
}

func (w *writable) Write(p []byte) error {
	_, err := w.buffer.Write(p)
	return err
}

func (w *writable) Finish() error {
	err := w.buffer.Flush()
	if err == nil {
		err = w.file.Sync()
	}
	return errors.Join(err, w.file.Close())
}

// Abort gives the file up; that it does is the error of who calls it.
func (w *writable) Abort() { _ = w.file.Close() }

type tableFile struct {
	writer *sstable.Writer
	dir    string // for errors
}

func (t *tableFile) Set(key, value []byte) error {
	if err := t.writer.Set(key, value); err != nil {
		return fmt.Errorf("write a file of rows for %s: %w", t.dir, err)
	}
	return nil
}

func (t *tableFile) Close() error {
	if err := t.writer.Close(); err != nil {
		return fmt.Errorf("end a file of rows for %s: %w", t.dir, err)
	}
	return nil
}
