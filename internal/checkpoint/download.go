// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/internal/durable"
	"github.com/strandline-project/strandline/internal/recovery"
)

var quiet = slog.New(slog.DiscardHandler)

// download is a checkpoint on its way back.
type download struct {
	*Shelf
	dir   string // of this checkpoint; a folder for each view
	views []View
}

const (
	filesAtOnce = 64 // the bucket bounds further what is read at once
	partSuffix  = ".part"
	firstPause  = 100 * time.Millisecond
	longPause   = 10 * time.Second

	// A file is given up after failures without a byte, so many and for so long:
	// a store that stops refuses at once, one that is slow fails seldom.
	leastFailures = 4
	enough        = time.Minute
)

// errUnlike says that the archive's file is not the one that the manifest names:
// it is absent, too short, or of other content.
var errUnlike = fmt.Errorf("%w: a file is not what its manifest says", recovery.ErrUnfit)

// run makes all files, each whole and synced or not under its name.
func (d *download) run(ctx context.Context) error {
	for i := range d.views {
		if err := d.prepare(&d.views[i]); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(filesAtOnce)
	for i := range d.views {
		for _, f := range d.views[i].Files {
			path := filepath.Join(d.dir, d.views[i].Name, f.Name)
			group.Go(func() error { return d.file(ctx, f, path) })
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i := range d.views {
		if err := durable.SyncDir(filepath.Join(d.dir, d.views[i].Name)); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes a view's folder, and removes what the checkpoint does not
// have: opened, a store would take it for its own.
func (d *download) prepare(v *View) error {
	dir := filepath.Join(d.dir, v.Name)
	if err := durable.Mkdir(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for an interrupted restore: %w", err)
	}
	names := map[string]bool{}
	for _, f := range v.Files {
		names[f.Name] = true
	}
	for _, entry := range entries {
		if names[entry.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return fmt.Errorf("remove what an interrupted restore left: %w", err)
		}
	}
	return nil
}

// file makes one file at path, unless an interrupted restore has made it.
func (d *download) file(ctx context.Context, f File, path string) error {
	if sum, _, err := readFile(path, f.Size); err == nil && sum == f.SHA256 {
		d.Progress.Add(f.Size)
		return nil
	} // absent, cut short, or not what it was: it is made anew
	err := archiver.AskAgain(ctx, wrongAnswer, func() error { return d.transfer(ctx, f, path+partSuffix) })
	if err != nil {
		return fmt.Errorf("restore %s: %w", path, err)
	}
	// The commit point of a file: a crash before it leaves a part, which is
	// removed, after it a file that is whole.
	if err := os.Rename(path+partSuffix, path); err != nil {
		return fmt.Errorf("restore %s: %w", path, err)
	}
	return nil
}

// transfer writes the file's bytes to part, checks and syncs them.
func (d *download) transfer(ctx context.Context, f File, part string) (err error) {
	out, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	t := &transfer{download: d, file: f, hash: sha256.New(), out: out}
	defer func() {
		if err != nil {
			d.Progress.Add(-t.done) // it counts once it is whole
		}
	}()
	if err := t.run(ctx); err != nil {
		return err
	}
	if sum := Hash(t.hash.Sum(nil)); sum != f.SHA256 {
		return fmt.Errorf("%w: %s of %v has other content than its name says (%s)", errUnlike, fileKey(f.SHA256), d.Archive.Bucket(), sum)
	}
	return out.Sync()
}

// transfer is one file on its way.
type transfer struct {
	*download
	file File
	hash hash.Hash
	out  io.Writer
	done int64 // bytes
}

// run reads all bytes; a transfer that breaks goes on where it broke.
func (t *transfer) run(ctx context.Context) error {
	var full *diskError
	var row failing
	for t.done < t.file.Size {
		before := t.done
		err := t.read(ctx)
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, recovery.ErrUnfit), errors.As(err, &full):
			return err
		case t.done > before:
			row.over()
		}
		if row.enough() {
			if err := t.blame(ctx); err != nil {
				return err
			}
			row.over()
			continue
		}
		if err := row.pause(ctx); err != nil {
			return err
		}
	}
	return nil
}

// failing is failures in a row, without a byte between them.
type failing struct {
	since time.Time // the first of them; zero: there is none
	times int
	last  time.Duration // pause
}

// over ends the row.
func (f *failing) over() { *f = failing{} }

// enough counts a failure, and reports whether there is no use in another try.
func (f *failing) enough() bool {
	if f.times++; f.times == 1 {
		f.since = time.Now()
	}
	return f.times >= leastFailures && time.Since(f.since) >= enough
}

// pause waits before the next try, longer from one to the next.
func (f *failing) pause(ctx context.Context) error {
	f.last = min(max(2*f.last, firstPause), longPause)
	return archiver.Pause(ctx, f.last)
}

// read reads what is left in one request. An object that ends too early is no
// broken transfer.
func (t *transfer) read(ctx context.Context) (err error) {
	key := fileKey(t.file.SHA256)
	in, err := t.Archive.Bucket().GetRange(ctx, key, t.done, t.file.Size-t.done)
	if errors.Is(err, archiver.ErrNotFound) {
		if _, there := t.Archive.Stat(ctx, key); !errors.Is(there, archiver.ErrNotFound) {
			return errors.Join(errors.New("it was not there, and then it was, or cannot be asked for"), err, there)
		}
		return fmt.Errorf("%w: %w", errUnlike, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out := bufio.NewWriterSize(writerTo{t}, 256<<10)
	_, err = io.Copy(out, io.LimitReader(in, t.file.Size-t.done))
	if err = errors.Join(err, out.Flush()); err != nil {
		return err
	}
	if t.done < t.file.Size {
		return fmt.Errorf("%w: %s of %v ends after %d of %d bytes", errUnlike, key, t.Archive.Bucket(), t.done, t.file.Size)
	}
	return nil
}

// blame finds out whose fault it is that a file cannot be read: the
// checkpoint's, if the store gives out other objects and then not this one.
// Without an error the store has come back, and the transfer goes on.
func (t *transfer) blame(ctx context.Context) error {
	_, away := t.Archive.Read(ctx, archiver.ManifestKey, 1)
	before := t.done
	err := t.read(ctx)
	var full *diskError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, recovery.ErrUnfit), errors.As(err, &full):
		return err
	case err == nil, t.done > before:
		return nil
	}
	key := fileKey(t.file.SHA256)
	if away != nil || storesFault(err) {
		return fmt.Errorf("%s of %v could not be read for %v; when the store answers, the same command goes on: %w", key, t.Archive.Bucket(), enough, errors.Join(err, away))
	}
	return fmt.Errorf("%w: %s of %v cannot be read, other objects can: %w", recovery.ErrUnfit, key, t.Archive.Bucket(), err)
}

// storesFault reports whether err says nothing of the object that was asked for.
func storesFault(err error) bool {
	var network net.Error
	return errors.Is(err, archiver.ErrThrottled) || errors.As(err, &network)
}

// writerTo writes to the file, and counts and sums what was written.
type writerTo struct{ t *transfer }

// Write writes p.
func (w writerTo) Write(p []byte) (int, error) {
	n, err := w.t.out.Write(p)
	w.t.hash.Write(p[:n]) // a hash never fails
	w.t.done += int64(n)
	w.t.Progress.Add(int64(n))
	if err != nil {
		return n, &diskError{err}
	}
	return n, nil
}

// diskError is a failure of this machine's disk, which no other try mends.
type diskError struct{ err error }

func (e *diskError) Error() string { return e.err.Error() }
func (e *diskError) Unwrap() error { return e.err }
