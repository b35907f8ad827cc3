// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"fmt"
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
	Events     uint64 // exact unless many epochs hold them
	Disk       uint64 // bytes that a recovery takes while it runs, about
	Cost       archiver.Cost
	// Checkpoint is what a recovery would begin from, as far as manifests
	// tell, and Tail how many events it would project then; nil: none.
	Checkpoint *Checkpoint
	Tail       uint64
	FromDisk   uint64 // bytes that a recovery from there takes while it runs, about
}

// Look lists the archive and proves that nothing is missing: otherwise the
// error is an archiver.ErrHole. checkpoints may be nil.
func Look(ctx context.Context, archive *archiver.Archive, checkpoints Checkpoints) (Found, error) {
	var all []Checkpoint
	var err error
	if checkpoints != nil {
		if all, err = checkpoints.List(ctx); err != nil {
			return Found{}, fmt.Errorf("list the checkpoints: %w", err)
		}
	}
	in, objects, err := look(ctx, archive, 0)
	if err != nil {
		return Found{}, err
	}
	found := Found{Objects: in.Objects, Bytes: in.Bytes, ArchiveEnd: in.ArchiveEnd}
	if found.Events, err = countEvents(ctx, archive, objects); err != nil {
		return Found{}, err
	}
	if found.Cost, err = archive.Cost(ctx, objects); err != nil {
		return Found{}, err
	}
	found.Disk = disk(found.Events, found.Cost)
	for _, c := range all {
		if c.Bytes > 0 && c.Seq <= in.ArchiveEnd {
			found.Checkpoint = &c
			found.Tail, found.FromDisk, err = measure(ctx, archive, after(objects, &c))
			found.FromDisk += uint64(c.Bytes)
			break
		}
	}
	return found, err
}

// Sampled is what a recovery of an archive's beginning took.
type Sampled struct {
	Objects int
	Events  uint64
	Seconds float64
}

// Sample projects the archive's beginning for about the time d, the block view
// alone, which takes most of a recovery, into scratch, which the caller
// removes. It ends earlier when it takes about so many bytes of disk.
func Sample(ctx context.Context, archive *archiver.Archive, engine projector.Engine, scratch string, d time.Duration, disk uint64) (*Sampled, error) {
	began := time.Now()
	s := &sampling{history: archive, until: began.Add(d), most: disk / eventBytes}
	view := filepath.Join(scratch, projector.Blocks().Name())
	log := slog.New(slog.DiscardHandler)
	if _, _, err := projector.Rebuild(ctx, engine, view, filepath.Join(scratch, "runs"), projector.Blocks(), s, 0, log); err != nil {
		return nil, err
	}
	return &Sampled{Objects: s.objects, Events: s.events, Seconds: time.Since(began).Seconds()}, nil
}

// sampling is a history that ends when its time is over, or its room used up.
type sampling struct {
	history eventlog.History
	until   time.Time
	most    uint64 // events
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
			if time.Now().After(s.until) || s.events >= s.most {
				return
			}
		}
	}
}
