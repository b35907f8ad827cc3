// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/strandline-project/strandline/eventlog"
)

// IndexBuilder makes the index object of one run in a temporary file, because
// the footers of a run can take gigabytes. Add is called for each object in
// order, then Put, then Close; it is not for several goroutines.
type IndexBuilder struct {
	info      IndexInfo
	logID     eventlog.ID
	file      *os.File
	w         *bufio.Writer
	sum       uint32 // of what was written
	directory []byte
	last      eventlog.Seq // of the object before
}

// NewIndexBuilder begins the index object of a run, whose file lies in scratch
// until Close.
func NewIndexBuilder(scratch string, logID eventlog.ID, info IndexInfo) (*IndexBuilder, error) {
	info.Size = 0
	file, err := os.CreateTemp(scratch, "index-*")
	if err != nil {
		return nil, fmt.Errorf("make a file for %v: %w", info, err)
	}
	b := &IndexBuilder{info: info, logID: logID, file: file, w: bufio.NewWriterSize(file, 256<<10)}
	if err := b.write([]byte(indexMagic)); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *IndexBuilder) write(p []byte) error {
	if _, err := b.w.Write(p); err != nil {
		return fmt.Errorf("write %v: %w", b.info, err)
	}
	b.sum, b.info.Size = eventlog.UpdateChecksum(b.sum, p), b.info.Size+int64(len(p))
	return nil
}

// Add takes the next object of the run: its trailer, and its footer as stored,
// which is not kept. An object that cannot be the next one is refused.
func (b *IndexBuilder) Add(object ObjectInfo, trailer *eventlog.Trailer, footer []byte) error {
	first, last := b.info.Ordinals()
	switch next := first + uint64(len(b.directory)/indexEntrySize); {
	case next > last || object.First != next || object.Last != next || trailer.FirstOrdinal != next || trailer.LastOrdinal != next:
		return fmt.Errorf("write %v: %v cannot stand at ordinal %d", b.info, object, next)
	case trailer.LogID != b.logID || uint64(len(footer)) != trailer.FooterSize || eventlog.Checksum(footer) != trailer.FooterSum:
		return fmt.Errorf("write %v: the footer of %v is not the one that its trailer describes", b.info, object)
	case next > first && !trailer.First.Follows(b.last):
		return fmt.Errorf("write %v: %v begins with %v, the one before it ends with %v", b.info, object, trailer.First, b.last)
	}
	if err := trailer.Check(object.Size); err != nil {
		return fmt.Errorf("write %v: %w", b.info, err)
	}
	b.directory, b.last = appendIndexEntry(b.directory, object, trailer), trailer.Last
	return b.write(footer)
}

// Put makes it an object of bucket, once all objects of the run were added, and
// returns it with its size. That it is there already is success; other content
// under its name is ErrDifferent. It tries until ctx ends.
func (b *IndexBuilder) Put(ctx context.Context, bucket Bucket) (IndexInfo, error) {
	if n := len(b.directory) / indexEntrySize; n != RunSize {
		return b.info, fmt.Errorf("write %v: only %d objects were added", b.info, n)
	}
	tail := appendIndexEnd(b.directory, b.logID, b.info.Run, b.info.Size, b.directory)
	if err := b.write(tail); err != nil {
		return b.info, err
	}
	if err := b.w.Flush(); err != nil {
		return b.info, fmt.Errorf("write %v: %w", b.info, err)
	}
	// A crash before this line leaves a run without its index object, which the
	// next round, or start, finds; after it, the run has one. No event depends
	// on it either way.
	err := PutEqual(ctx, bucket, b.info.Key(), Body{Path: b.file.Name(), Size: b.info.Size, Checksum: b.sum})
	return b.info, err
}

// Close removes the temporary file. A bucket that has linked it keeps its own
// name of it.
func (b *IndexBuilder) Close() error {
	if err := errors.Join(b.file.Close(), os.Remove(b.file.Name())); err != nil {
		return fmt.Errorf("remove the file of %v: %w", b.info, err)
	}
	return nil
}
