// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"errors"
	"fmt"
)

// SingleWriter makes a bucket whose store has no put-if-absent usable for one
// writer: it asks for the key before every put and refuses when it is there.
// Two writers at the same time are not kept apart; whoever uses it has
// promised that there is one. The bucket is to put without a condition, which
// such a store may refuse (archiver/s3 Unconditional).
func SingleWriter(bucket Bucket) Bucket { return singleWriter{bucket} }

type singleWriter struct{ Bucket }

// PutIfAbsent implements Bucket.
func (s singleWriter) PutIfAbsent(ctx context.Context, key string, body Body) error {
	_, err := s.Head(ctx, key)
	if err == nil {
		return ErrExists
	}
	if !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("ask for %s before putting it: %w", key, err)
	}
	return s.Bucket.PutIfAbsent(ctx, key, body)
}
