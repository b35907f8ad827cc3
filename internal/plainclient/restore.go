// SPDX-License-Identifier: Apache-2.0

package plainclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Restore writes a backup into dir, which must be absent or empty. The
// snapshot is named by its ID, a unique prefix of it, or "latest". Contents,
// names, permissions, symbolic links and the times of files and directories
// come back; owners do not. Every block is verified before a byte of it is
// written, and nothing is ever written outside of dir, whatever the server
// answers. What a restore that failed has left in dir is not usable.
func (c *Client) Restore(ctx context.Context, snapshot, dir string) error {
	s, err := c.find(ctx, snapshot)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	t, err := c.loadTree(ctx, s.Index)
	if err != nil {
		return fmt.Errorf("restore %s: %w", s.ID, err)
	}
	root, err := openEmpty(dir)
	if err != nil {
		return fmt.Errorf("restore %s: %w", s.ID, err)
	}
	err = c.restoreTree(ctx, t, root)
	if err = errors.Join(err, root.Close()); err != nil {
		return fmt.Errorf("restore %s to %s: %w", s.ID, dir, err)
	}
	return nil
}

// find returns the snapshot that name means.
func (c *Client) find(ctx context.Context, name string) (Snapshot, error) {
	all, err := c.Snapshots(ctx)
	if err != nil {
		return Snapshot{}, err
	}
	if name == "latest" && len(all) > 0 {
		return all[len(all)-1], nil
	}
	var found []Snapshot
	for _, s := range all {
		if name != "" && strings.HasPrefix(s.ID, name) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Snapshot{}, fmt.Errorf("no snapshot %q among the %d at %s", name, len(all), c.base)
	}
	return Snapshot{}, fmt.Errorf("%d snapshots begin with %q: write more of the ID", len(found), name)
}

// openEmpty makes sure that dir is an empty directory and opens it such that
// no path can leave it.
func openEmpty(dir string) (*os.Root, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory: %w", err)
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look into the directory: %w", err)
	}
	if len(there) > 0 {
		return nil, fmt.Errorf("%s is not empty (it holds %s): name a directory that is", dir, there[0].Name())
	}
	return os.OpenRoot(dir)
}

// restoreTree makes directories and empty files first, fills the files block
// by block, and sets permissions, times and links last, children before their
// parents, so that nothing on the way is in its own way.
func (c *Client) restoreTree(ctx context.Context, t *tree, root *os.Root) error {
	entries := slices.Clone(t.Entries)
	slices.SortFunc(entries, parentsFirst)
	for _, e := range entries {
		if err := makeEntry(root, e); err != nil {
			return err
		}
	}
	if err := c.fill(ctx, root, entries); err != nil {
		return err
	}
	for _, e := range slices.Backward(entries) {
		if err := finishEntry(root, e); err != nil {
			return err
		}
	}
	return nil
}

// parentsFirst orders entries such that a directory comes before what is in it.
func parentsFirst(a, b entry) int {
	key := func(e entry) string {
		if e.Path == "." {
			return ""
		}
		return string(e.Path)
	}
	return cmp.Compare(key(a), key(b))
}

func makeEntry(root *os.Root, e entry) error {
	var err error
	switch {
	case e.Type == typeDir && e.Path != ".":
		err = root.Mkdir(string(e.Path), 0o700)
	case e.Type == typeFile:
		var f *os.File
		if f, err = root.OpenFile(string(e.Path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", e.Path, err)
	}
	return nil
}

// target is a place in a file that a piece belongs to.
type target struct {
	path   string
	offset int64
	piece  piece
}

// fill reads every block once, a few at a time, and writes its pieces to all
// the places that want them.
func (c *Client) fill(ctx context.Context, root *os.Root, entries []entry) error {
	byBlock := map[string][]target{}
	for _, e := range entries {
		var offset int64
		for _, p := range e.Pieces {
			byBlock[p.Block] = append(byBlock[p.Block], target{string(e.Path), offset, p})
			offset += p.Length
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(c.opts.Connections)
	for _, name := range slices.Sorted(maps.Keys(byBlock)) {
		group.Go(func() error { return c.fillFrom(ctx, root, name, byBlock[name]) })
	}
	return group.Wait()
}

func (c *Client) fillFrom(ctx context.Context, root *os.Root, name string, targets []target) error {
	body, err := c.get(ctx, "data", name, maxBlock)
	if err != nil {
		return fmt.Errorf("read block %s: %w", name, err)
	}
	for _, t := range targets {
		if t.piece.Offset+t.piece.Length > int64(len(body)) {
			return fmt.Errorf("block %s has %d bytes, %s wants %d from %d on", name, len(body), t.path, t.piece.Length, t.piece.Offset)
		}
		data := body[t.piece.Offset : t.piece.Offset+t.piece.Length]
		if hashName(data) != t.piece.Hash {
			return fmt.Errorf("block %s, piece of %s at %d: %w", name, t.path, t.offset, errDamaged)
		}
		if err := writeAt(root, t, data); err != nil {
			return fmt.Errorf("write %s: %w", t.path, err)
		}
	}
	return nil
}

func writeAt(root *os.Root, t target, data []byte) error {
	f, err := root.OpenFile(t.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, t.offset)
	return errors.Join(err, f.Close())
}

func finishEntry(root *os.Root, e entry) error {
	path := string(e.Path)
	if e.Type == typeSymlink {
		if err := root.Symlink(string(e.Target), path); err != nil {
			return fmt.Errorf("make the link %s: %w", path, err)
		}
		return nil
	}
	if err := root.Chmod(path, fileMode(e.Mode)); err != nil {
		return fmt.Errorf("set the permissions of %s: %w", path, err)
	}
	mtime := time.Unix(0, e.MTime)
	if err := root.Chtimes(path, mtime, mtime); err != nil {
		return fmt.Errorf("set the time of %s: %w", path, err)
	}
	return nil
}
