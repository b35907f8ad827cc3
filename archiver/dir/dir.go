// SPDX-License-Identifier: Apache-2.0

// Package dir keeps an archive in a directory: a key is a path below it.
//
// An object becomes visible by link(2), which never replaces, after its bytes
// are fsynced, and is durable when the directory of its name is. A file on the
// same file system is linked into place without a copy. Files are 0600 and
// directories 0700, whatever the umask.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/durable"
)

// Scheme begins the specification of a directory archive: "dir:PATH".
const Scheme = "dir:"

var _ archiver.Bucket = (*Bucket)(nil)

// Bucket is an archive in a directory.
type Bucket struct {
	root   string
	opened fs.FileInfo // of root; another directory in its place is a disk that went away
	failed atomic.Bool // a directory would not sync: nothing is sure any more
	named  sync.Map    // directories below root, by path, whose names are known to be durable

	link     func(source, path string) error // os.Link, but for tests
	syncName func(path string) error         // syncName, but for tests
}

// Create makes the directory that spec ("dir:PATH") names, if it is missing,
// and opens it.
func Create(spec string) (*Bucket, error) {
	root, err := parse(spec)
	if err != nil {
		return nil, err
	}
	if err := durable.Mkdir(root, 0o700); err != nil {
		return nil, fmt.Errorf("open archive %s: %w", spec, err)
	}
	return Open(spec)
}

// Open opens the directory that spec ("dir:PATH") names. One that is missing
// is an error, never made: it may be a disk that is not mounted.
func Open(spec string) (*Bucket, error) {
	root, err := parse(spec)
	if err != nil {
		return nil, err
	}
	opened, err := os.Stat(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open archive %s: %w: %w", spec, archiver.ErrNoArchive, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open archive %s: %w", spec, err)
	}
	if !opened.IsDir() {
		return nil, fmt.Errorf("open archive %s: not a directory", spec)
	}
	return &Bucket{root: root, opened: opened, link: os.Link, syncName: syncName}, nil
}

func parse(spec string) (string, error) {
	path, ok := strings.CutPrefix(spec, Scheme)
	if !ok || path == "" {
		return "", fmt.Errorf("archive %q: write dir:PATH", spec)
	}
	root, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("archive %q: %w", spec, err)
	}
	return root, nil
}

// String names the directory.
func (b *Bucket) String() string { return Scheme + b.root }

// SharesDisk reports whether the archive lies on the same file system as
// path: then one disk's death takes both.
func (b *Bucket) SharesDisk(path string) (bool, error) {
	other, err := os.Stat(path)
	if err != nil {
		return false, fmt.Errorf("compare the disks of %v and %s: %w", b, path, err)
	}
	mine, ok1 := b.opened.Sys().(*syscall.Stat_t)
	theirs, ok2 := other.Sys().(*syscall.Stat_t)
	return ok1 && ok2 && mine.Dev == theirs.Dev, nil
}

// PutIfAbsent implements archiver.Bucket.
func (b *Bucket) PutIfAbsent(ctx context.Context, key string, body archiver.Body) error {
	path, err := b.path(key)
	if err == nil {
		err = b.usable(ctx)
	}
	if err == nil {
		err = b.put(path, body)
	}
	if err != nil {
		return fmt.Errorf("put %s into %v: %w", key, b, err)
	}
	return nil
}

// putTries bounds how often a put finds its directory removed.
const putTries = 100

// put puts again when the directory went away under its hands: a Delete has
// removed it, empty. Somebody else may have made it again meanwhile, so that it
// is there now says nothing.
func (b *Bucket) put(path string, body archiver.Body) error {
	for try := 1; ; try++ {
		err := b.putOnce(path, body)
		if !errors.Is(err, fs.ErrNotExist) || try == putTries || b.present() != nil {
			return err
		}
		if body.Path != "" {
			if _, gone := os.Stat(body.Path); gone != nil { // it is the body that is not there
				return err
			}
		}
		b.named.Delete(filepath.Dir(path))
	}
}

// putOnce links the body's own file into place. What cannot share its file with
// the archive is copied into it first, once: a copy that cannot be linked either
// is an error.
func (b *Bucket) putOnce(path string, body archiver.Body) error {
	if err := b.ensure(filepath.Dir(path)); err != nil {
		return err
	}
	if body.Path != "" {
		if err := syncBody(body); err != nil {
			return err
		}
		if err := b.linkTo(path, body.Path); !cannotShare(err) {
			return err
		}
	}
	copied, err := writeTemp(filepath.Dir(path), body)
	if err != nil {
		return err
	}
	defer os.Remove(copied) // a stray temporary file harms nothing
	err = b.linkTo(path, copied)
	if cannotShare(err) {
		return fmt.Errorf("%w (an archive needs a file system with hard links)", err)
	}
	return err
}

// linkTo makes the synced file source the object at path, unless there is one.
func (b *Bucket) linkTo(path, source string) error {
	// The commit point: a crash before the link leaves the object absent,
	// after it whole, and after the directory's fsync durable.
	err := b.link(source, path)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Somebody else may have linked it and not synced it: whoever finds these
	// bytes equal to its own relies on them.
	if syncErr := b.sync(path); syncErr != nil {
		return syncErr
	}
	if err != nil {
		return archiver.ErrExists
	}
	return nil
}

// cannotShare reports whether a link failed because the two names cannot share
// a file: other file systems, or mounts of the same one, or too many names.
func cannotShare(err error) bool {
	var link *os.LinkError // of link(2), not of a sync after it
	return errors.As(err, &link) && (errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EMLINK))
}

// ensure makes dir, unless it is there, and makes its name durable, and those
// of the directories above it: an object below a name that a crash takes away is
// gone. Whoever made the directory may have been killed before the sync.
func (b *Bucket) ensure(dir string) error {
	if _, known := b.named.Load(dir); known {
		return nil
	}
	if dir != b.root {
		if err := b.ensure(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	if err := durable.Mkdir(dir, 0o700); err != nil {
		return err
	}
	b.named.Store(dir, nil)
	return nil
}

// syncBody makes the file of a body durable, which is to be as it says.
func syncBody(body archiver.Body) error {
	info, err := os.Stat(body.Path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != body.Size {
		return fmt.Errorf("%s is %d bytes long, want %d", body.Path, info.Size(), body.Size)
	}
	return durable.SyncFile(body.Path)
}

// writeTemp copies the body into a synced temporary file in dir, checking
// size and checksum on the way.
func writeTemp(dir string, body archiver.Body) (path string, err error) {
	r, err := body.Open()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	f, err := os.CreateTemp(dir, durable.TempPrefix+"*") // 0600
	if err != nil {
		return "", err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	sum := &checksum{}
	n, err := io.Copy(io.MultiWriter(f, sum), r)
	if err != nil {
		return "", err
	}
	if n != body.Size || sum.crc != body.Checksum {
		return "", fmt.Errorf("a body of %d bytes (%08x), said to be %d (%08x)", n, sum.crc, body.Size, body.Checksum)
	}
	return f.Name(), f.Sync()
}

type checksum struct{ crc uint32 }

// Write adds p to the checksum.
func (c *checksum) Write(p []byte) (int, error) {
	c.crc = eventlog.UpdateChecksum(c.crc, p)
	return len(p), nil
}

// sync makes the name path durable. After a failure the kernel may call clean
// what the disk does not have, so no later put succeeds before a new Open.
func (b *Bucket) sync(path string) error {
	if err := b.syncName(path); err != nil {
		b.failed.Store(true)
		return err
	}
	return nil
}

func syncName(path string) error {
	return errors.Join(durable.SyncFile(path), durable.SyncDir(filepath.Dir(path)))
}

// Delete implements archiver.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	path, err := b.path(key)
	if err == nil {
		err = b.usable(ctx)
	}
	if err == nil {
		if err = os.Remove(path); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	if err == nil {
		err = b.tidy(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("delete %s from %v: %w", key, b, err)
	}
	return nil
}

// tidy makes a removal in dir durable and removes dir, and those above it, if
// that has left them empty: keys have no directories that could stay behind.
func (b *Bucket) tidy(dir string) error {
	for {
		if err := durable.SyncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if dir == b.root {
			return nil
		}
		b.named.Delete(dir)
		err := os.Remove(dir)
		if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist) {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the empty directory %s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
}

// path returns where key lies. A key that is not a plain relative path, or
// that a temporary file could have, is refused.
func (b *Bucket) path(key string) (string, error) {
	if !fs.ValidPath(key) || key == "." || strings.ContainsAny(key, "\\\x00") {
		return "", fmt.Errorf("the key %q is no path", key)
	}
	for part := range strings.SplitSeq(key, "/") {
		if strings.HasPrefix(part, durable.TempPrefix) {
			return "", fmt.Errorf("the key %q is kept for temporary files", key)
		}
	}
	return filepath.Join(b.root, filepath.FromSlash(key)), nil
}

// usable says whether the directory is still the one that was opened and all
// of its syncs went well.
func (b *Bucket) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.failed.Load() {
		return errors.New("an earlier write could not be synced: check the disk, then restart")
	}
	return b.present()
}

func (b *Bucket) present() error {
	now, err := os.Stat(b.root)
	if err != nil {
		return fmt.Errorf("the archive's directory has gone: is its disk mounted? %w", err)
	}
	if !os.SameFile(now, b.opened) {
		return errors.New("another directory stands in the archive's place: is its disk mounted?")
	}
	return nil
}
