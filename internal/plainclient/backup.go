// SPDX-License-Identifier: Apache-2.0

package plainclient

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Summary says what a Backup did.
type Summary struct {
	Snapshot     Snapshot // its ID is set once the server has acknowledged the backup
	Skipped      []string // sockets, pipes, devices, and files that vanished meanwhile
	StoredBlocks int      // data blocks sent; the others were there
	StoredBytes  int64    // in them
}

// Backup stores the directory dir and everything below it. When it returns
// nil, the server has acknowledged the backup and Summary.Snapshot.ID names
// it. An error with an ID set means: saved, but the lock could not be deleted.
// A file that cannot be read fails the backup.
//
// A backup that was cut off (ctx ended, or the process was killed) leaves
// blocks without a snapshot; the next one finds and uses those that it needs.
func (c *Client) Backup(ctx context.Context, dir string) (summary Summary, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return summary, fmt.Errorf("back up %s: %w", dir, err)
	}
	if err := c.checkConfig(ctx); err != nil {
		return summary, fmt.Errorf("back up %s: %w", dir, err)
	}
	lock, session, err := c.acquire(ctx)
	if err != nil {
		return summary, fmt.Errorf("back up %s: %w", dir, err)
	}
	defer func() {
		if rerr := errors.Join(lock.release(ctx), lock.err); rerr != nil {
			err = errors.Join(err, fmt.Errorf("back up %s: %w", dir, rerr))
		}
	}()
	if err := c.backupTree(session, lock, dir, &summary); err != nil {
		return summary, fmt.Errorf("back up %s: %w", dir, err)
	}
	return summary, nil
}

// backupTree stores data, then the index that names it, then the snapshot
// that names the index: whatever is visible is complete.
func (c *Client) backupTree(ctx context.Context, lock *lock, dir string, summary *Summary) error {
	start := time.Now().UTC()
	known, err := c.loadKnown(ctx)
	if err != nil {
		return err
	}
	filler := newFiller(ctx, c, known)
	files, skipped, err := walk(filler, dir)
	if serr := filler.finish(); serr != nil {
		return serr // also why the walk ended
	}
	if err != nil {
		return err
	}
	index, err := c.putJSON(ctx, "index", tree{Version: treeVersion, Entries: files})
	if err != nil {
		return fmt.Errorf("store the list of files: %w", err)
	}
	snapshot := Snapshot{Time: start, Host: c.opts.Host, Dir: dir, Index: index}
	for _, e := range files {
		if e.Type == typeFile {
			snapshot.Files++
			snapshot.Bytes += e.Size
		}
	}
	summary.Skipped, summary.StoredBlocks, summary.StoredBytes = skipped, filler.blocks, filler.bytes
	if err := lock.check(ctx); err != nil {
		return err
	}
	// A crash before this line leaves blocks that nothing names; after it the
	// backup exists and survives.
	if snapshot.ID, err = c.putJSON(ctx, "snapshots", snapshot); err != nil {
		return fmt.Errorf("store the snapshot: %w", err)
	}
	summary.Snapshot = snapshot
	return nil
}

// putJSON stores value as a block of a kind unless an equal one is there.
func (c *Client) putJSON(ctx context.Context, kind string, value any) (string, error) {
	body, err := json.Marshal(value)
	if err != nil {
		return "", fmt.Errorf("encode: %w", err)
	}
	return c.put(ctx, kind, body)
}

// walk feeds every file below dir to the filler, in lexical order, and returns
// their entries and what it left out.
func walk(filler *filler, dir string) (files []entry, skipped []string, err error) {
	var pending []*entry
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = filler.ctx.Err()
		}
		var e *entry
		if err == nil {
			e, err = readEntry(filler, dir, path, d)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != dir, err == nil && e == nil:
			skipped = append(skipped, path)
			return nil
		case err != nil:
			return err
		}
		pending = append(pending, e)
		return nil
	})
	if err == nil {
		err = filler.flush() // only now do all pieces know their blocks
	}
	for _, e := range pending {
		files = append(files, *e)
	}
	return files, skipped, err
}

// readEntry describes one file and feeds its content to the filler; nil for a
// file of a kind that is not backed up.
func readEntry(filler *filler, dir, path string, d fs.DirEntry) (*entry, error) {
	info, err := d.Info()
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", path, err)
	}
	rel, err := filepath.Rel(dir, path)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", path, err)
	}
	e := &entry{Path: text(filepath.ToSlash(rel)), Mode: unixMode(info.Mode()), MTime: info.ModTime().UnixNano()}
	switch {
	case info.IsDir():
		e.Type = typeDir
	case info.Mode().IsRegular():
		e.Type = typeFile
		return e, readFile(filler, path, e)
	case info.Mode()&fs.ModeSymlink != 0:
		e.Type = typeSymlink
		target, err := os.Readlink(path)
		if err != nil {
			return nil, fmt.Errorf("read the link %s: %w", path, err)
		}
		e.Target = text(target)
	default:
		return nil, nil
	}
	return e, nil
}

// readFile cuts the file into pieces. Its size is what was read, whatever the
// directory said before.
func readFile(filler *filler, path string, e *entry) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close() // only read
	buf := make([]byte, pieceSize)
	for {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			e.Size += int64(n)
			if aerr := filler.add(e, buf[:n]); aerr != nil {
				return aerr
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
}

// Snapshots returns the backups that the server holds, oldest first.
func (c *Client) Snapshots(ctx context.Context) ([]Snapshot, error) {
	if err := c.checkConfig(ctx); err != nil {
		return nil, err
	}
	rows, err := c.list(ctx, "snapshots")
	if err != nil {
		return nil, fmt.Errorf("list the snapshots: %w", err)
	}
	all := make([]Snapshot, 0, len(rows))
	for _, row := range rows {
		body, err := c.get(ctx, "snapshots", row.Name, maxMetaBytes)
		if err != nil {
			return nil, fmt.Errorf("read snapshot %s: %w", row.Name, err)
		}
		s, err := decodeSnapshot(row.Name, body)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Snapshot) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID)) })
	return all, nil
}
