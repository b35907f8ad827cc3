// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"io"
	"iter"
	"time"
)

// Observed tells observe of every request to bucket: "put", "get", "head",
// "list" or "delete", how long it took until it was answered (a list: until it
// was read), and how it ended.
func Observed(bucket Bucket, observe func(op string, d time.Duration, err error)) Bucket {
	return observed{bucket, observe}
}

type observed struct {
	bucket  Bucket
	observe func(op string, d time.Duration, err error)
}

func (o observed) done(op string, began time.Time, err error) error {
	o.observe(op, time.Since(began), err)
	return err
}

func (o observed) PutIfAbsent(ctx context.Context, key string, body Body) error {
	began := time.Now()
	return o.done("put", began, o.bucket.PutIfAbsent(ctx, key, body))
}

func (o observed) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	began := time.Now()
	r, err := o.bucket.GetRange(ctx, key, offset, length)
	return r, o.done("get", began, err)
}

func (o observed) Head(ctx context.Context, key string) (Info, error) {
	began := time.Now()
	info, err := o.bucket.Head(ctx, key)
	return info, o.done("head", began, err)
}

func (o observed) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		began := time.Now()
		var last error
		defer func() { o.observe("list", time.Since(began), last) }()
		for info, err := range o.bucket.List(ctx, prefix, after) {
			last = err
			if !yield(info, err) {
				return
			}
		}
	}
}

func (o observed) Delete(ctx context.Context, key string) error {
	began := time.Now()
	return o.done("delete", began, o.bucket.Delete(ctx, key))
}

func (o observed) String() string { return o.bucket.String() }
