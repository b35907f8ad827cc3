// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// Found is what an archive holds.
type Found struct {
	Objects    int
	Bytes      int64
	ArchiveEnd eventlog.Seq
}

// Look lists the archive and proves that nothing is missing: otherwise the
// error is an archiver.ErrHole.
func Look(ctx context.Context, archive *archiver.Archive) (Found, error) {
	in, err := look(ctx, archive, 0)
	if err != nil {
		return Found{}, err
	}
	return Found{in.Objects, in.Bytes, in.ArchiveEnd}, nil
}

// Sampled is what a recovery of an archive's beginning took.
type Sampled struct {
	Objects int
	Events  uint64
	Seconds float64
	Disk    uint64 // bytes of runs and views together
}

// runBytes is what a sorted run takes for an event, about.
const runBytes = 120

// Sample projects the archive's beginning for about the time d, the block view
// alone, which takes most of a recovery, into scratch, which the caller
// removes.
func Sample(ctx context.Context, archive *archiver.Archive, engine projector.Engine, scratch string, d time.Duration) (*Sampled, error) {
	began := time.Now()
	s := &sampling{history: archive, until: began.Add(d)}
	view := filepath.Join(scratch, projector.Blocks().Name())
	log := slog.New(slog.DiscardHandler)
	if _, _, err := projector.Rebuild(ctx, engine, view, filepath.Join(scratch, "runs"), projector.Blocks(), s, 0, log); err != nil {
		return nil, err
	}
	took := time.Since(began)
	built, err := sizeOf(scratch)
	return &Sampled{Objects: s.objects, Events: s.events, Seconds: took.Seconds(), Disk: built + s.events*runBytes}, err
}

// sampling is a history that ends when its time is over.
type sampling struct {
	history eventlog.History
	until   time.Time
	objects int
	events  uint64
}

func (s *sampling) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		for batch, err := range s.history.Follow(ctx, from) {
			if !yield(batch, err) || err != nil {
				return
			}
			s.objects++
			s.events += uint64(len(batch.Entries))
			if time.Now().After(s.until) {
				return
			}
		}
	}
}

// sizeOf adds up the files below dir.
func sizeOf(dir string) (total uint64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			total += uint64(max(info.Size(), 0))
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("add up what a sample took: %w", err)
	}
	return total, nil
}
