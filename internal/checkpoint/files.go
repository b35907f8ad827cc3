// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/strandline-project/strandline/eventlog"
)

// source is a file of a copy, on disk.
type source struct {
	File
	path   string
	crc32c uint32
}

// hashes remembers what files contain: a table file is linked from one copy to
// the next and never changes, so it is read once in a process.
type hashes map[string]hashed // by view and name

type hashed struct {
	info   os.FileInfo
	sum    Hash
	crc32c uint32
}

// list returns the files of the view's copy in dir, in the order of their
// names. rest is called after each file that had to be read.
func (h hashes) list(ctx context.Context, dir, view string, rest func(context.Context) error) ([]source, error) {
	entries, err := os.ReadDir(filepath.Join(dir, view))
	if err != nil {
		return nil, fmt.Errorf("list the copy of the %s view: %w", view, err)
	}
	var all []source
	for _, entry := range entries {
		if entry.Name() == lockName {
			continue
		}
		path := filepath.Join(dir, view, entry.Name())
		known, read, err := h.hash(view, path, entry)
		if err != nil {
			return nil, fmt.Errorf("read the copy of the %s view: %w", view, err)
		}
		all = append(all, source{File{entry.Name(), known.info.Size(), known.sum}, path, known.crc32c})
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if read {
			if err := rest(ctx); err != nil {
				return nil, err
			}
		}
	}
	h.forget(view, all)
	return all, nil
}

// hash returns what the file holds; read says that it was not known.
func (h hashes) hash(view, path string, entry os.DirEntry) (known hashed, read bool, err error) {
	info, err := entry.Info()
	if err != nil {
		return known, false, err
	}
	if !info.Mode().IsRegular() {
		return known, false, fmt.Errorf("%s is no regular file", path)
	}
	key := view + "/" + entry.Name()
	if known, ok := h[key]; ok && os.SameFile(known.info, info) && known.info.Size() == info.Size() && known.info.ModTime().Equal(info.ModTime()) {
		return known, false, nil
	}
	known = hashed{info: info}
	if known.sum, known.crc32c, err = readFile(path, info.Size()); err != nil {
		return known, false, err
	}
	h[key] = known
	return known, true, nil
}

// forget drops what is no file of the view any more.
func (h hashes) forget(view string, all []source) {
	there := map[string]bool{}
	for _, f := range all {
		there[view+"/"+f.Name] = true
	}
	for key := range h {
		if filepath.Dir(key) == view && !there[key] {
			delete(h, key)
		}
	}
}

func readFile(path string, size int64) (sum Hash, crc32c uint32, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, 0, err
	}
	defer f.Close()
	hash, crc := sha256.New(), &checksum{}
	n, err := io.Copy(io.MultiWriter(hash, crc), f)
	if err != nil {
		return sum, 0, err
	}
	if n != size {
		return sum, 0, fmt.Errorf("%s has %d bytes, and had %d: it must not change", path, n, size)
	}
	hash.Sum(sum[:0])
	return sum, crc.crc32c, nil
}

type checksum struct{ crc32c uint32 }

// Write adds p to the checksum.
func (c *checksum) Write(p []byte) (int, error) {
	c.crc32c = eventlog.UpdateChecksum(c.crc32c, p)
	return len(p), nil
}
