// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
)

// Buckets that cannot hold an archive, each for another reason.

// overwriting ignores the condition of a put.
type overwriting struct{ *buckettest.Memory }

func (b overwriting) PutIfAbsent(_ context.Context, key string, body archiver.Body) error {
	b.Set(key, body.Bytes)
	return nil
}

// racy checks the condition and puts in two steps.
type racy struct{ *buckettest.Memory }

func (b racy) PutIfAbsent(_ context.Context, key string, body archiver.Body) error {
	if _, exists := b.Get(key); exists {
		return archiver.ErrExists
	}
	for range 100 {
		runtime.Gosched()
	}
	b.Set(key, body.Bytes)
	return nil
}

// trusting takes a body whatever its checksum is.
type trusting struct{ *buckettest.Memory }

func (b trusting) PutIfAbsent(ctx context.Context, key string, body archiver.Body) error {
	return b.Memory.PutIfAbsent(ctx, key, archiver.BytesBody(body.Bytes))
}

// whole gives the whole object for any range.
type whole struct{ *buckettest.Memory }

func (b whole) GetRange(ctx context.Context, key string, _, _ int64) (io.ReadCloser, error) {
	return b.Memory.GetRange(ctx, key, 0, -1)
}

// lagging does not list what was just put.
func lagging(t *testing.T) archiver.Bucket {
	t.Helper()
	bucket := buckettest.NewFaulty(buckettest.NewMemory())
	bucket.Set(buckettest.Hooks{Hide: func(key string) bool { return strings.HasSuffix(key, "list/2") }})
	return bucket
}

// refusing answers 403 where an object is absent, as Amazon does to those who
// may not list.
func refusing(t *testing.T) archiver.Bucket {
	t.Helper()
	bucket := buckettest.NewFaulty(buckettest.NewMemory())
	bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
		if op == buckettest.Head && strings.HasSuffix(key, "/absent") {
			return errors.New("403 Forbidden")
		}
		return nil
	}})
	return bucket
}

// keeping does not delete.
func keeping(t *testing.T) archiver.Bucket {
	t.Helper()
	bucket := buckettest.NewFaulty(buckettest.NewMemory())
	bucket.FailNext(buckettest.Delete, 1<<30, false)
	return bucket
}

func TestWhatTheProbeCannotDeleteIsReported(t *testing.T) {
	report, err := archiver.Probe(t.Context(), keeping(t))
	if err != nil || len(report.Left) == 0 {
		t.Errorf("left %q, %v", report.Left, err)
	}
}
