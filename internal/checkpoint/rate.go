// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/internal/recovery"
)

// Rate reads files of the checkpoint c, as Restore would and to nowhere, for
// the time d or until it has had limit bytes, and returns how many bytes came
// in a second.
func (s *Shelf) Rate(ctx context.Context, c recovery.Checkpoint, d time.Duration, limit int64) (float64, error) {
	m, err := read(ctx, s.Archive, c.Seq)
	if err != nil {
		return 0, err
	}
	r := &rating{archive: s.Archive, until: time.Now().Add(d), limit: limit}
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(filesAtOnce)
	for i := range m.Views {
		for _, f := range m.Views[i].Files {
			group.Go(func() error { return r.file(ctx, f) })
		}
	}
	if err := group.Wait(); err != nil {
		return 0, fmt.Errorf("read files of checkpoint %s to see how fast they come: %w", c.Name, err)
	}
	return float64(r.done.Load()) / time.Since(began).Seconds(), nil
}

// rating is files of a checkpoint being read for their rate alone.
type rating struct {
	archive *archiver.Archive
	until   time.Time
	limit   int64
	done    atomic.Int64 // bytes
}

func (r *rating) over() bool { return r.done.Load() >= r.limit || time.Now().After(r.until) }

func (r *rating) file(ctx context.Context, f File) (err error) {
	if f.Size == 0 || r.over() {
		return nil
	}
	in, err := r.archive.Bucket().GetRange(ctx, fileKey(f.SHA256), 0, f.Size)
	if errors.Is(err, archiver.ErrNotFound) {
		return fmt.Errorf("%w: %w", recovery.ErrUnfit, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	for !r.over() {
		n, err := io.CopyN(io.Discard, in, 1<<20)
		r.done.Add(n)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}
