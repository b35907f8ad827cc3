// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/strandline-project/strandline/eventlog"
)

// ErrDifferent says that the bucket holds an object of that name with other
// content: somebody else wrote it.
var ErrDifferent = errors.New("an object of that name with other content exists")

// ErrNotTaken says that a bucket which may well be read took no object within
// the time of one start: it is read-only, full, or the right to put is missing.
var ErrNotTaken = errors.New("the archive takes no objects now: it is read-only or full, or the right to put is missing")

// errBody marks what is wrong with the bytes to be put, and says nothing of the
// bucket.
var errBody = errors.New("the bytes to put cannot be read")

// BytesBody returns b as the body of an object to be. b must not change until
// it is put.
func BytesBody(b []byte) Body {
	return Body{Bytes: b, Size: int64(len(b)), Checksum: eventlog.Checksum(b)}
}

// Open returns a reader of the body's bytes. The caller closes it.
func (b Body) Open() (io.ReadCloser, error) {
	if b.Path == "" {
		return io.NopCloser(bytes.NewReader(b.Bytes)), nil
	}
	return os.Open(b.Path)
}

// check says whether the body is there as it describes itself: retrying a put
// of another one would never end.
func (b Body) check() error {
	size := int64(len(b.Bytes))
	if b.Path != "" {
		info, err := os.Stat(b.Path)
		if err != nil {
			return err
		}
		size = info.Size()
	}
	if size != b.Size {
		return fmt.Errorf("%w: %d bytes to put, but %d there", eventlog.ErrDamaged, b.Size, size)
	}
	return nil
}

// unreadable says why the bytes of body cannot be had now, nil when they can.
func unreadable(body Body) error {
	if err := body.check(); err != nil {
		return fmt.Errorf("%w: %w", errBody, err)
	}
	return nil
}

// PutEqual makes body the object key of bucket, or finds that it is already.
// What the bucket does not know for certain it tries again, with growing
// pauses, until ctx ends; so a caller that will not wait gives ctx an end. An
// object that exists is read back: equal bytes are success, because they are
// what an earlier try, or an earlier process, put; others are ErrDifferent.
func PutEqual(ctx context.Context, bucket Bucket, key string, body Body) error {
	return putEqual(ctx, bucket, key, body, 0, func(error) {})
}

// putEqual is PutEqual for at most limit (0: until ctx ends); after it, what is
// still not known is ErrNotTaken. failed hears of each try that failed.
func putEqual(ctx context.Context, bucket Bucket, key string, body Body, limit time.Duration, failed func(error)) error {
	if err := unreadable(body); err != nil {
		return fmt.Errorf("put %s into %v: %w", key, bucket, err)
	}
	var certain *backoff.PermanentError
	err := retry(ctx, limit, func() error {
		// The commit point: a crash before this call returns leaves the object
		// absent or whole, and the next PutEqual finds out which.
		err := bucket.PutIfAbsent(ctx, key, body)
		if errors.Is(err, ErrExists) {
			err = readBack(ctx, bucket, key, body)
		}
		switch {
		case errors.Is(err, ErrUnsupported):
			err = permanent(err)
		case err != nil:
			if cause := unreadable(body); cause != nil { // it is not the bucket that failed
				err = permanent(fmt.Errorf("%w; %w", cause, err))
			}
		}
		if err != nil && !errors.As(err, &certain) {
			failed(err)
		}
		return err
	})
	if err != nil && limit > 0 && certain == nil && ctx.Err() == nil && !errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("%w: tried for %v: %w", ErrNotTaken, limit, err)
	}
	if err != nil {
		return fmt.Errorf("put %s into %v: %w", key, bucket, err)
	}
	return nil
}

// readBack compares the object key, byte for byte, with what body holds. An
// error other than ErrDifferent means "not known": only the size that Head
// states makes a shorter object a different one, never a transfer that broke.
func readBack(ctx context.Context, bucket Bucket, key string, body Body) (err error) {
	info, err := bucket.Head(ctx, key)
	if err != nil {
		return fmt.Errorf("read back: %w", unknownIfAbsent(err))
	}
	if info.Size != body.Size {
		return permanent(fmt.Errorf("%w: %d bytes, not %d", ErrDifferent, info.Size, body.Size))
	}
	got, err := bucket.GetRange(ctx, key, 0, -1)
	if err != nil {
		return fmt.Errorf("read back: %w", unknownIfAbsent(err))
	}
	defer func() { err = errors.Join(err, got.Close()) }()
	want, err := body.Open()
	if err != nil {
		return permanent(fmt.Errorf("%w: %w", errBody, err))
	}
	defer func() { err = errors.Join(err, want.Close()) }()
	return compare(got, want, body.Size)
}

// unknownIfAbsent turns the absence of an object that was there a moment ago
// into an error that is tried again.
func unknownIfAbsent(err error) error {
	if errors.Is(err, ErrNotFound) {
		return errors.New("it exists, and then it does not")
	}
	return err
}

// compare returns ErrDifferent, not to be tried again, unless the size bytes
// that both readers give are the same.
func compare(got, want io.Reader, size int64) error {
	a, b := make([]byte, compareStep), make([]byte, compareStep)
	for size > 0 {
		n := min(size, compareStep)
		if _, err := io.ReadFull(want, b[:n]); err != nil {
			return permanent(fmt.Errorf("%w: %w", errBody, err))
		}
		if _, err := io.ReadFull(got, a[:n]); err != nil {
			return fmt.Errorf("read back: %w", err)
		}
		if !bytes.Equal(a[:n], b[:n]) {
			return permanent(ErrDifferent)
		}
		size -= n
	}
	return nil
}

const compareStep = 256 << 10

// permanent marks err as one that another try would not change.
func permanent(err error) error { return backoff.Permanent(err) }

// retry calls op until it succeeds, says something for certain (ErrNotFound,
// ErrExists or a permanent error), ctx ends, or limit has passed (0: no
// limit). The last error of op is always in the error returned.
//
// A pause is never long beside the limit: one that would end after it is not
// made, and op would be given up long before its time.
func retry(ctx context.Context, limit time.Duration, op func() error) error {
	var last error
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = 100*time.Millisecond, 10*time.Second
	if limit > 0 {
		pauses.MaxInterval = min(pauses.MaxInterval, limit/10)
	}
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		last = op()
		if errors.Is(last, ErrNotFound) || errors.Is(last, ErrExists) {
			return struct{}{}, permanent(last)
		}
		return struct{}{}, last
	}, backoff.WithBackOff(pauses), backoff.WithMaxElapsedTime(limit))
	if err == nil || ctx.Err() == nil || errors.Is(last, err) {
		return err
	}
	return fmt.Errorf("%w; the last try: %w", err, withoutPermanent(last))
}

func withoutPermanent(err error) error {
	var p *backoff.PermanentError
	if errors.As(err, &p) {
		return p.Unwrap()
	}
	return err
}
