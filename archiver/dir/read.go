// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/strandline-project/strandline/archiver"
)

// GetRange implements archiver.Bucket.
func (b *Bucket) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	path, err := b.path(key)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("get %s from %v: %w", key, b, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("get %s from %v: %w", key, b, b.absent(err))
	}
	section, err := sectionOf(f, offset, length)
	if err != nil {
		return nil, fmt.Errorf("get %s from %v: %w", key, b, errors.Join(err, f.Close()))
	}
	return &fileRange{SectionReader: section, file: f}, nil
}

type fileRange struct {
	*io.SectionReader
	file *os.File
}

// Close closes the file.
func (r *fileRange) Close() error { return r.file.Close() }

func sectionOf(f *os.File, offset, length int64) (*io.SectionReader, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, archiver.ErrNotFound // a directory is no object
	}
	size := info.Size()
	if offset < 0 {
		offset = max(size+offset, 0)
	} else if offset >= size && offset > 0 {
		return nil, fmt.Errorf("offset %d of %d bytes", offset, size)
	}
	if length < 0 || length > size-offset {
		length = size - offset
	}
	return io.NewSectionReader(f, offset, length), nil
}

// Head implements archiver.Bucket.
func (b *Bucket) Head(ctx context.Context, key string) (archiver.Info, error) {
	path, err := b.path(key)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return archiver.Info{}, fmt.Errorf("head %s in %v: %w", key, b, err)
	}
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return archiver.Info{}, fmt.Errorf("head %s in %v: %w", key, b, b.absent(err))
	}
	return archiver.Info{Key: key, Size: info.Size()}, nil
}

// absent turns "no such file" into archiver.ErrNotFound, but only while the
// directory itself is there.
func (b *Bucket) absent(err error) error {
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return err
	}
	if gone := b.present(); gone != nil {
		return fmt.Errorf("%w", gone)
	}
	return archiver.ErrNotFound
}
