// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/internal/recovery"
)

// Rate reads files of the checkpoint c, as Restore would and to nowhere, for
// the time d or until it has had limit bytes, and returns how many bytes came
// in a second. What cannot be read is left out, and tried again while nothing
// at all comes; a file that is not there is ErrUnfit.
func (s *Shelf) Rate(ctx context.Context, c recovery.Checkpoint, d time.Duration, limit int64) (float64, error) {
	m, err := read(ctx, s.Archive, c.Seq)
	if err != nil {
		return 0, err
	}
	r := &rating{archive: s.Archive, until: time.Now().Add(d), limit: limit}
	var row failing
	for {
		began := time.Now()
		failed, err := r.files(ctx, m)
		if came := r.done.Load(); err == nil && (failed == nil || came > 0) {
			return float64(came) / time.Since(began).Seconds(), nil
		}
		if err == nil {
			err = row.pause(ctx)
		}
		if err == nil && r.over() {
			err = failed
		}
		if err != nil {
			return 0, fmt.Errorf("read files of checkpoint %s to see how fast they come: %w", c.Name, err)
		}
	}
}

// rating is files of a checkpoint being read for their rate alone.
type rating struct {
	archive *archiver.Archive
	until   time.Time
	limit   int64
	done    atomic.Int64 // bytes
}

// files reads files of m until it is over. Why one of them could not be read is
// failed; err says that the checkpoint is of no use, or that ctx has ended.
func (r *rating) files(ctx context.Context, m *Manifest) (failed, err error) {
	group, reading := errgroup.WithContext(ctx)
	group.SetLimit(filesAtOnce)
	var mu sync.Mutex
	for i := range m.Views {
		for _, f := range m.Views[i].Files {
			group.Go(func() error {
				err := r.file(reading, f)
				if err == nil || reading.Err() != nil || errors.Is(err, recovery.ErrUnfit) {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				failed = err
				return nil
			})
		}
	}
	err = group.Wait()
	return failed, err
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
