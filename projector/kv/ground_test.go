// SPDX-License-Identifier: Apache-2.0

package kv_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/strandline-project/strandline/internal/testkit"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

// fullDisk is a file system on which the writes from a certain one on find no
// room, so many of them. What was begun is written in part.
type fullDisk struct {
	vfs.FS
	mu     sync.Mutex
	before int // writes that there is room for
	lasts  int // writes that there is none for
	failed int
}

func (d *fullDisk) write() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.before > 0:
		d.before--
	case d.failed < d.lasts:
		d.failed++
		return &os.PathError{Op: "write", Path: "disk", Err: syscall.ENOSPC}
	}
	return nil
}

func (d *fullDisk) wasFull() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed > 0
}

func (d *fullDisk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.write(); err != nil {
		return nil, err
	}
	file, err := d.FS.Create(name, category)
	return fullFile{file, d}, err
}

func (d *fullDisk) ReuseForWrite(old, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.write(); err != nil {
		return nil, err
	}
	file, err := d.FS.ReuseForWrite(old, name, category)
	return fullFile{file, d}, err
}

func (d *fullDisk) OpenDir(name string) (vfs.File, error) {
	file, err := d.FS.OpenDir(name)
	return fullFile{file, d}, err
}

func (d *fullDisk) Rename(from, to string) error {
	if err := d.write(); err != nil {
		return err
	}
	return d.FS.Rename(from, to)
}

func (d *fullDisk) Link(from, to string) error {
	return errors.Join(d.write(), d.FS.Link(from, to))
}

type fullFile struct {
	vfs.File
	disk *fullDisk
}

func (f fullFile) Write(p []byte) (int, error) {
	if err := f.disk.write(); err != nil {
		n, also := f.File.Write(p[:len(p)/2])
		return n, errors.Join(err, also)
	}
	return f.File.Write(p)
}

func (f fullFile) Sync() error { return errors.Join(f.disk.write(), f.File.Sync()) }

func (f fullFile) SyncData() error { return errors.Join(f.disk.write(), f.File.SyncData()) }

// lines counts what is logged as an error.
type lines struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (l *lines) errors() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.out.String(), "level=ERROR")
}

// ends fails the test when what it calls does not return.
func ends(t *testing.T, what func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		what()
	}()
	select {
	case <-done:
	case <-time.After(testkit.Patience):
		t.Fatal("it waits for a disk that is full")
	}
}

// commit makes commit number i: two rows of it, at both ends, and what it is.
func commit(store projector.Store, i int, value []byte) error {
	batch := store.NewBatch()
	var failed error
	for _, key := range []string{fmt.Sprintf("a%04d", i), fmt.Sprintf("z%04d", i)} {
		failed = errors.Join(failed, batch.Set([]byte(key), value))
	}
	return errors.Join(failed, batch.Set([]byte("commit"), fmt.Appendf(nil, "%04d", i)), batch.Commit(), batch.Close())
}

// writeUntilFull commits, and flushes after each when asked to, until that fails.
// It returns how many commits were made.
func writeUntilFull(store projector.Store, commits int, value []byte, flush bool) (made int, err error) {
	for ; made < commits; made++ {
		if err := commit(store, made, value); err != nil {
			return made, err
		}
		if flush {
			if err := store.Flush(); err != nil {
				return made + 1, err
			}
		}
	}
	return made, nil
}

// whole checks that the store is as of one commit, of at most so many.
func whole(t *testing.T, files vfs.FS, use projector.Use, made int) (last int) {
	t.Helper()
	store := open(t, kv.On(files, quiet), "views/block", use)
	defer closed(t, store)
	last = -1
	if value, found, err := store.Get(nil, []byte("commit")); err != nil {
		t.Fatal(err)
	} else if found {
		if _, err := fmt.Sscanf(string(value), "%d", &last); err != nil {
			t.Fatal(err)
		}
	}
	if last > made { // the commit that failed may have been made
		t.Fatalf("it is as of commit %d, of %d", last, made)
	}
	for i := range made + 1 {
		for _, key := range []string{fmt.Sprintf("a%04d", i), fmt.Sprintf("z%04d", i)} {
			if _, found, err := store.Get(nil, []byte(key)); err != nil || found != (i <= last) {
				t.Fatalf("as of commit %d, row %s is there: %t, %v", last, key, found, err)
			}
		}
	}
	if err := commit(store, last+1, nil); err != nil { // it goes on
		t.Fatal(err)
	}
	return last
}

func lacksRoom(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "views/block") || errors.Is(err, projector.ErrUnusable) {
		t.Fatalf("%s gives %v", what, err)
	}
}

// Whichever write it is that finds no room, and whether there is room again
// for the next: whatever is done with the store ends with that error, and it
// is opened again at a commit.
func TestAStoreOnAFullDiskEndsAtAWholeCommit(t *testing.T) {
	const commits = 12
	for _, use := range []projector.Use{projector.Live, projector.Bulk} {
		for _, lasts := range []int{1, 3, math.MaxInt} {
			t.Run(fmt.Sprintf("use %d, full for %d writes", use, lasts), func(t *testing.T) {
				t.Parallel()
				for before := 0; fillAt(t, use, before, lasts, commits); before++ {
					if before > 10_000 {
						t.Fatal("the disk is always full")
					}
				}
			})
		}
	}
}

// fillAt runs into the full disk after so many writes; false when it did not.
func fillAt(t *testing.T, use projector.Use, before, lasts, commits int) bool {
	t.Helper()
	var log lines
	disk := &fullDisk{FS: vfs.NewMem(), before: before, lasts: lasts}
	made := 0
	ends(t, func() {
		store, err := kv.On(disk, slog.New(slog.NewTextHandler(&log, nil))).Open("views/block", use)
		if err != nil {
			lacksRoom(t, "opening", err)
			return
		}
		made, err = writeUntilFull(store, commits, []byte("value"), true)
		if err != nil {
			lacksRoom(t, "writing", err)
			lacksRoom(t, "a commit", commit(store, 99, nil))
			lacksRoom(t, "a flush", store.Flush())
			lacksRoom(t, "a copy", store.Checkpoint("views/copy"))
			lacksRoom(t, "taking in", store.Ingest(t.Context(), []string{"rows"}))
			if value, found, err := store.Get(nil, []byte("commit")); made > 0 && (!found || err != nil) {
				t.Errorf("reads do not go on: %q, %t, %v", value, found, err)
			}
		}
		if err := store.Close(); err != nil {
			lacksRoom(t, "closing", err)
		} else if disk.wasFull() {
			t.Errorf("full after %d writes, and nobody heard of it", before)
		}
	})
	if n := log.errors(); n > 3 {
		t.Errorf("%d lines of errors:\n%s", n, log.out.String())
	}
	if last := whole(t, disk.FS, use, made); !disk.wasFull() && last != made-1 {
		t.Errorf("of %d commits, it is as of %d", made, last)
	}
	return disk.wasFull()
}

// A commit that waits for a flush ends, too, when the flush cannot be done.
func TestACommitDoesNotWaitForAFlushOnAFullDisk(t *testing.T) {
	value := make([]byte, 1<<20)
	random := rand.NewChaCha8([32]byte{1})
	if _, err := random.Read(value); err != nil {
		t.Fatal(err)
	}
	for _, use := range []projector.Use{projector.Live, projector.Bulk} {
		for _, before := range []int{60, 200} {
			t.Run(fmt.Sprint(use, before), func(t *testing.T) {
				disk := &fullDisk{FS: vfs.NewMem(), before: before, lasts: math.MaxInt}
				var made int
				ends(t, func() {
					store := open(t, kv.On(disk, quiet), "views/block", use)
					var err error
					made, err = writeUntilFull(store, 400, value, false)
					if err != nil {
						lacksRoom(t, "writing", err)
					}
					lacksRoom(t, "closing", store.Close())
				})
				whole(t, disk.FS, use, made)
			})
		}
	}
}

// The disk that a copy, or a file of rows, finds full is the store's own or
// another: only its own is the end of it.
func TestACopyThatFindsNoRoomDoesNotHarmItsStore(t *testing.T) {
	for before := 0; ; before++ {
		disk := &fullDisk{FS: vfs.NewMem(), before: math.MaxInt, lasts: math.MaxInt}
		elsewhere := &onlyBelow{fullDisk: disk, dir: "copies/"}
		store := open(t, kv.On(elsewhere, quiet), "views/block", projector.Live)
		if err := errors.Join(commit(store, 0, nil), store.Flush()); err != nil {
			t.Fatal(err)
		}
		disk.before = before
		err := store.Checkpoint("copies/block")
		if errors.Is(err, syscall.ENOSPC) != disk.wasFull() {
			t.Fatalf("a copy, with room for %d writes: %v", before, err)
		}
		if err := commit(store, 1, nil); err != nil {
			t.Fatal(err)
		}
		closed(t, store)
		if last := whole(t, disk.FS, projector.Live, 2); last != 1 {
			t.Errorf("it is as of commit %d", last)
		}
		if !disk.wasFull() {
			return
		}
	}
}

// onlyBelow is a fullDisk of which one directory only is full.
type onlyBelow struct {
	*fullDisk
	dir string
}

func (d *onlyBelow) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(name, d.dir) {
		return d.fullDisk.Create(name, category)
	}
	return d.FS.Create(name, category)
}

func (d *onlyBelow) ReuseForWrite(old, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return d.FS.ReuseForWrite(old, name, category)
}

func (d *onlyBelow) OpenDir(name string) (vfs.File, error) { return d.FS.OpenDir(name) }

// Rows are written to files beside Pebble's; they end the same way.
func TestAFileOfRowsOnAFullDisk(t *testing.T) {
	for before := 0; ; before++ {
		disk := &fullDisk{FS: vfs.NewMem(), before: math.MaxInt, lasts: math.MaxInt}
		store := open(t, kv.On(disk, quiet), "views/block", projector.Bulk)
		disk.mu.Lock()
		disk.before = before
		disk.mu.Unlock()
		err := takeIn(t, store)
		err = errors.Join(err, store.Close())
		if !disk.wasFull() {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		lacksRoom(t, fmt.Sprintf("taking rows in, with room for %d writes,", before), err)
		again := open(t, kv.On(disk.FS, quiet), "views/block", projector.Bulk)
		if err := takeIn(t, again); err != nil { // over what may be there
			t.Fatal(err)
		}
		closed(t, again)
	}
}

func takeIn(t *testing.T, store projector.Store) error {
	t.Helper()
	file, err := store.NewTable("rows")
	if err != nil {
		return err
	}
	if err := errors.Join(file.Set([]byte("a"), make([]byte, 100<<10)), file.Set([]byte("b"), nil), file.Close()); err != nil {
		return err
	}
	return store.Ingest(t.Context(), []string{"rows"})
}
