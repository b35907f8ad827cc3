// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Files is the baseline: no server at all, each block a file of its own in one
// of 256 directories, made as durable as a plain program can: write a
// temporary file, fsync it, rename it, fsync the directory.
func Files() Peer {
	return Peer{Name: "files", Start: func(_ context.Context, dir string) (*Instance, error) {
		for i := range 256 {
			if err := os.Mkdir(filepath.Join(dir, fmt.Sprintf("%02x", i)), 0o700); err != nil {
				return nil, fmt.Errorf("make the directories: %w", err)
			}
		}
		return &Instance{
			Client: func() Client { return &fileClient{dir: dir} },
			Stop:   func() error { return nil },
		}, nil
	}}
}

// fileClient implements Client on plain files.
type fileClient struct {
	dir string
	buf []byte // for Get
}

var _ Client = (*fileClient)(nil)

func (c *fileClient) path(name string) string { return filepath.Join(c.dir, name[:2], name) }

func (c *fileClient) Lock(context.Context) error { return nil }
func (c *fileClient) Close() error               { return nil }

func (c *fileClient) Put(_ context.Context, name string, b body) error {
	path := c.path(name)
	if err := writeSynced(path+".tmp", b); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	return nil
}

func writeSynced(path string, b body) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b.head[:])
	if err == nil {
		_, err = f.Write(b.tail)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (c *fileClient) Range(_ context.Context, name string, b body, at, n int64) error {
	f, err := os.Open(c.path(name))
	if err != nil {
		return fmt.Errorf("get %s: %w", name, err)
	}
	defer f.Close() // only read
	if int64(len(c.buf)) < n {
		c.buf = make([]byte, n)
	}
	if _, err := f.ReadAt(c.buf[:n], at); err != nil {
		return fmt.Errorf("get %s: %w", name, err)
	}
	if !b.has(c.buf[:n], at) {
		return fmt.Errorf("get %s: %w", name, errWrongBytes)
	}
	return nil
}

func (c *fileClient) Get(_ context.Context, name string, b body) error {
	f, err := os.Open(c.path(name))
	if err != nil {
		return fmt.Errorf("get %s: %w", name, err)
	}
	defer f.Close() // only read
	if int64(len(c.buf)) <= b.size() {
		c.buf = make([]byte, b.size()+1)
	}
	n := 0
	for n < len(c.buf) && err == nil {
		var k int
		k, err = f.Read(c.buf[n:])
		n += k
	}
	if !b.equals(c.buf[:n]) {
		return fmt.Errorf("get %s: %w", name, errWrongBytes)
	}
	return nil
}

func (c *fileClient) List(context.Context) error {
	for i := range 256 {
		if _, err := os.ReadDir(filepath.Join(c.dir, fmt.Sprintf("%02x", i))); err != nil {
			return fmt.Errorf("list: %w", err)
		}
	}
	return nil
}

// Delete is as durable as Put.
func (c *fileClient) Delete(_ context.Context, name string) error {
	path := c.path(name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

// errWrongBytes is an answer that is not what was stored.
var errWrongBytes = errors.New("the bytes are not those that were stored")

// equals compares data with the block.
func (b *body) equals(data []byte) bool { return int64(len(data)) == b.size() && b.has(data, 0) }

// has compares data with the block's bytes from the one at on.
func (b *body) has(data []byte, at int64) bool {
	head := b.head[min(at, stampSize):]
	head = head[:min(len(head), len(data))]
	from := max(at-stampSize, 0)
	rest := data[len(head):]
	return bytes.Equal(data[:len(head)], head) && from+int64(len(rest)) <= int64(len(b.tail)) && bytes.Equal(rest, b.tail[from:from+int64(len(rest))])
}
