// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"log/slog"
	"path/filepath"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/internal/checkpoint"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/metrics"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/projector/kv"
)

// checkpointScratch is the folder of a state directory that holds copies of
// the views while a checkpoint is taken.
const checkpointScratch = "checkpoint"

// busyBacklog is how many bytes may wait for the archive before a checkpoint
// lets them go first: two objects.
const busyBacklog = 128 << 20

// newTaker is what takes checkpoints of the views that s serves from.
func (s *serving) newTaker() *checkpoint.Taker {
	a := s.app
	return checkpoint.New(checkpoint.Options{
		Archive: a.archive, Epoch: s.head.Epoch, Writer: s.head.Writer, Log: s.log, Engine: a.views.engine, Views: a.views.views(),
		Dir: a.dir.Path(checkpointScratch),
		Schedule: checkpoint.Schedule{
			Every: a.cfg.CheckpointEvery, Events: a.cfg.CheckpointEvents, Keep: int(a.cfg.CheckpointKeep), Days: int(a.cfg.CheckpointDays),
		},
		LastOrdinal: func() uint64 {
			if mark := s.archivedMark(); mark != nil {
				return mark.Ordinal
			}
			return 0
		},
		Busy: func() bool {
			bytes, _ := s.log.Backlog()
			return bytes > busyBacklog
		},
		Logger: a.log,
	})
}

// lastCheckpoint takes one of views that have come to their end, unless the
// time of the stop is over before. All events are archived.
func (s *serving) lastCheckpoint(ctx context.Context) {
	if end, _ := s.log.Committed(); s.log.Archived() != end {
		return // what is not shipped counts for more
	}
	s.taker.Final(ctx)
}

// newShelf gives the checkpoints of an archive to a recovery whose scratch
// folder is given.
func newShelf(archive *archiver.Archive, scratch string, bar *progress.Progress) *checkpoint.Shelf {
	return &checkpoint.Shelf{Archive: archive, Engine: kv.OnDisk(slog.Default()), Scratch: filepath.Join(scratch, "restore"), Progress: bar}
}

// checkpointStatus describes the newest checkpoint, nil when nothing is known
// of any.
func checkpointStatus(taker *checkpoint.Taker) *httpapi.Checkpoint {
	s := taker.Status()
	if s.Seq == 0 && s.Err == "" {
		return nil
	}
	c := &httpapi.Checkpoint{Bytes: uint64(max(s.Bytes, 0)), Uploaded: s.Uploaded, Error: s.Err}
	if s.Seq != 0 {
		c.Seq, c.At, c.Time = s.Seq, s.Seq.String(), s.Time.UTC()
	}
	return c
}

// checkpointGauge is what the metrics say of checkpoints.
func checkpointGauge(taker *checkpoint.Taker) metrics.CheckpointState {
	s := taker.Status()
	return metrics.CheckpointState{Seq: s.Seq, Time: s.Time, Took: s.Took, Bytes: uint64(max(s.Bytes, 0)), Uploaded: s.Uploaded, Taken: s.Taken, Failures: s.Failures}
}
