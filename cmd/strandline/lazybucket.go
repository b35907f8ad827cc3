// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/dir"
)

// lazyBucket is the bucket of a server that knows it has an archive: one that
// cannot be opened now (a disk that is not mounted) is away, not absent, and
// is opened when it comes back.
type lazyBucket struct {
	spec         string
	singleWriter bool // puts ask before, see exclusive

	mu     sync.Mutex
	opened archiver.Bucket // owned by mu; nil while it is away
}

var _ archiver.Bucket = (*lazyBucket)(nil)

// bucket opens the bucket unless it is open. Its error is never one of the
// archive's sentinels: nothing is known of a bucket that is away.
func (l *lazyBucket) bucket() (archiver.Bucket, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opened != nil {
		return l.opened, nil
	}
	opened, err := openBucket(l.spec, false)
	if err != nil {
		return nil, fmt.Errorf("the archive is away (is its disk mounted?): %s", err.Error())
	}
	if d, ok := opened.(*dir.Bucket); ok {
		if err := mounted(d); err != nil {
			return nil, err
		}
	}
	l.opened = opened
	return opened, nil
}

// mounted refuses a directory without the archive that is known to be in it:
// it is where the archive's disk will be mounted, and once that is, another
// directory.
func mounted(d *dir.Bucket) error {
	_, err := d.Head(context.Background(), archiver.ManifestKey)
	if errors.Is(err, archiver.ErrNotFound) {
		return fmt.Errorf("the archive is away (is its disk mounted?): %s is missing in %v; do not run init there", archiver.ManifestKey, d)
	}
	return err
}

func (l *lazyBucket) PutIfAbsent(ctx context.Context, key string, body archiver.Body) error {
	b, err := l.bucket()
	if err != nil {
		return err
	}
	return exclusive(b, l.singleWriter).PutIfAbsent(ctx, key, body)
}

func (l *lazyBucket) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	b, err := l.bucket()
	if err != nil {
		return nil, err
	}
	return b.GetRange(ctx, key, offset, length)
}

func (l *lazyBucket) Head(ctx context.Context, key string) (archiver.Info, error) {
	b, err := l.bucket()
	if err != nil {
		return archiver.Info{}, err
	}
	return b.Head(ctx, key)
}

func (l *lazyBucket) List(ctx context.Context, prefix, after string) iter.Seq2[archiver.Info, error] {
	b, err := l.bucket()
	if err != nil {
		return func(yield func(archiver.Info, error) bool) { yield(archiver.Info{}, err) }
	}
	return b.List(ctx, prefix, after)
}

func (l *lazyBucket) Delete(ctx context.Context, key string) error {
	b, err := l.bucket()
	if err != nil {
		return err
	}
	return b.Delete(ctx, key)
}

func (l *lazyBucket) String() string {
	if b, err := l.bucket(); err == nil {
		return b.String()
	}
	return withoutSecrets(l.spec)
}
