// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/internal/durable"
)

// List implements archiver.Bucket. One directory at a time is held in memory.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[archiver.Info, error] {
	return func(yield func(archiver.Info, error) bool) {
		w := &walk{ctx: ctx, prefix: prefix, after: after, yield: yield}
		err := b.present()
		if err == nil {
			err = w.directory(b.root, "")
		}
		if err != nil && !errors.Is(err, errStop) {
			yield(archiver.Info{}, fmt.Errorf("list %v: %w", b, err))
		}
	}
}

// errStop says that the caller's loop has ended.
var errStop = errors.New("stop")

// walk is one List under way.
type walk struct {
	ctx           context.Context //nolint:containedctx // lives as long as one call
	prefix, after string
	yield         func(archiver.Info, error) bool
}

// directory yields what lies below path, whose keys begin with base: "" or
// something that ends with a slash.
func (w *walk) directory(path, base string) error {
	entries, err := w.read(path, base)
	if errors.Is(err, fs.ErrNotExist) && base != "" {
		return nil // removed since its parent was read
	}
	if err != nil {
		return err
	}
	// Byte order of whole keys: a directory sorts as its name and a slash, so
	// "a-b" stands before what lies in "a".
	slices.SortFunc(entries, func(x, y os.DirEntry) int { return cmp.Compare(sortName(x), sortName(y)) })
	for _, entry := range entries {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if strings.HasPrefix(entry.Name(), durable.TempPrefix) {
			continue
		}
		if err := w.entry(path, base, entry); err != nil {
			return err
		}
	}
	return nil
}

// read returns the directory's entries, unsorted, without the files that are
// not wanted: a long list is read in ranges, and each sorts its own part.
func (w *walk) read(path, base string) (wanted []os.DirEntry, err error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	for {
		entries, err := d.ReadDir(4096)
		for _, entry := range entries {
			if key := base + entry.Name(); entry.IsDir() || key > w.after && strings.HasPrefix(key, w.prefix) {
				wanted = append(wanted, entry)
			}
		}
		if errors.Is(err, io.EOF) {
			return wanted, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func sortName(entry os.DirEntry) string {
	if entry.IsDir() {
		return entry.Name() + "/"
	}
	return entry.Name()
}

func (w *walk) entry(path, base string, entry os.DirEntry) error {
	key := base + sortName(entry)
	if entry.IsDir() {
		if !w.mayHold(key) {
			return nil
		}
		return w.directory(filepath.Join(path, entry.Name()), key)
	}
	if !entry.Type().IsRegular() || !strings.HasPrefix(key, w.prefix) || key <= w.after {
		return nil
	}
	info, err := entry.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since the directory was read
	}
	if err != nil {
		return err
	}
	if !w.yield(archiver.Info{Key: key, Size: info.Size()}, nil) {
		return errStop
	}
	return nil
}

// mayHold reports whether a key below the directory base can be wanted.
func (w *walk) mayHold(base string) bool {
	if !strings.HasPrefix(base, w.prefix) && !strings.HasPrefix(w.prefix, base) {
		return false
	}
	return base > w.after || strings.HasPrefix(w.after, base)
}
