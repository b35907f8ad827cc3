// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// What else is kept in the archive's bucket, beside the log, is read through
// the methods here: with the same patience, and by nobody who is fenced.

// Owns returns nil when, at a moment after the call began, no epoch after the
// given one was claimed; ErrFenced when one is. It asks until it knows, for
// half a minute. Nobody has anything to put into a store that does not keep
// put-if-absent.
func (a *Archive) Owns(ctx context.Context, epoch uint32) error {
	if err := a.Unsafe(); err != nil {
		return err
	}
	err := retry(ctx, readLimit, func() error {
		err := a.stillOurs(ctx, epoch)
		if errors.Is(err, ErrFenced) {
			return permanent(err)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("epoch %d: %w", epoch, err)
	}
	return nil
}

// Keys lists the bucket's objects whose keys begin with prefix, in byte order.
func (a *Archive) Keys(ctx context.Context, prefix string) ([]Info, error) {
	var all []Info
	err := retry(ctx, readLimit, func() error {
		all = all[:0]
		for info, err := range a.bucket.List(ctx, prefix, "") {
			if err != nil {
				return err
			}
			all = append(all, info)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s of %v: %w", prefix, a.bucket, err)
	}
	return all, nil
}

// Read returns the content of key, at most limit bytes of it. ErrNotFound when
// there is no such object.
func (a *Archive) Read(ctx context.Context, key string, limit int64) ([]byte, error) {
	var data bytes.Buffer // most objects are far below their limit
	if err := readInto(ctx, a.bucket, key, 0, limit, &data); err != nil {
		return nil, fmt.Errorf("read %s of %v: %w", key, a.bucket, err)
	}
	return data.Bytes(), nil
}

// Stat asks for key by name: a list may lag. ErrNotFound when there is no such
// object.
func (a *Archive) Stat(ctx context.Context, key string) (info Info, err error) {
	err = retry(ctx, readLimit, func() error {
		info, err = a.bucket.Head(ctx, key)
		return err
	})
	if err != nil {
		return info, fmt.Errorf("ask %v for %s: %w", a.bucket, key, err)
	}
	return info, nil
}
