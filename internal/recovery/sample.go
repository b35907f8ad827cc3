// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// Found is what an archive holds, up to where it was looked at.
type Found struct {
	Objects int
	Bytes   int64
	Last    eventlog.Seq  // up to which a recovery would go
	Events  uint64        // exact unless many epochs hold them, or the last object has others behind Last
	Disk    uint64        // bytes that a recovery takes while it runs, about
	Listing time.Duration // what finding out the objects took
	Cost    archiver.Cost
	// Checkpoint is what a recovery would begin from, as far as manifests
	// tell, and Tail how many events it would project then; nil: none.
	Checkpoint *Checkpoint
	Tail       uint64
	FromDisk   uint64 // bytes that a recovery from there takes while it runs, about

	archive *archiver.Archive
	inputs  *inputs
	objects []archiver.ObjectInfo // that have the events
}

// Look lists the archive and proves that nothing is missing: otherwise the
// error is an archiver.ErrHole. What it finds is of a recovery up to the event
// until, 0: to the archive's end. checkpoints may be nil.
func Look(ctx context.Context, archive *archiver.Archive, checkpoints Checkpoints, until eventlog.Seq) (*Found, error) {
	began := time.Now()
	var all []Checkpoint
	var err error
	if checkpoints != nil {
		if all, err = checkpoints.List(ctx); err != nil {
			return nil, fmt.Errorf("list the checkpoints: %w", err)
		}
	}
	in, objects, err := look(ctx, archive, until)
	if err != nil {
		return nil, err
	}
	if until != 0 {
		last, err := archive.Find(ctx, objects, until)
		if err != nil {
			return nil, err
		}
		objects = objects[:last+1]
	}
	found := &Found{Objects: len(objects), Last: in.Upto, Listing: time.Since(began), archive: archive, inputs: in, objects: objects}
	for _, object := range objects {
		found.Bytes += object.Size
	}
	if found.Events, err = countEvents(ctx, archive, objects); err != nil {
		return nil, err
	}
	if found.Cost, err = archive.Cost(ctx, objects); err != nil {
		return nil, err
	}
	found.Disk = disk(found.Events, found.Cost)
	for _, c := range all {
		if c.Bytes > 0 && c.Seq <= in.Upto {
			found.Checkpoint = &c
			found.Tail, found.FromDisk, err = measure(ctx, archive, after(objects, &c))
			found.FromDisk += uint64(c.Bytes)
			break
		}
	}
	return found, err
}

// Sampled is what a recovery of an archive's beginning took, by the code that
// recovers: both views built and verified, and then the tail, further objects,
// projected as what comes after a checkpoint is.
type Sampled struct {
	Objects int // without the tail
	Events  uint64
	Seconds float64

	VerifySeconds float64 // of Seconds

	Tail        uint64 // events; 0: there was nothing left for one
	TailSeconds float64
}

// firstSample is how many objects are tried first, and sampleGrows how many
// times as many next, while that took less than so much of the time.
const (
	firstSample = 1
	sampleGrows = 4
)

// Sample recovers larger and larger parts of the archive's beginning into
// scratch, which the caller removes, until one took enough to tell what all of
// it takes; all of that takes about the time d, and at most about so many bytes
// of disk. waivers are those of the recovery; a rule that is broken all the same
// is a *projector.Violation.
func (f *Found) Sample(ctx context.Context, engine projector.Engine, scratch string, waivers []archiver.Waiver, d time.Duration, disk uint64) (*Sampled, error) {
	for n := firstSample; ; n = min(sampleGrows*n, len(f.objects)) {
		began := time.Now()
		s, err := f.sample(ctx, engine, scratch, waivers, n)
		if err != nil {
			return nil, err
		}
		enough := time.Since(began) >= d/sampleGrows || s.Events*sampleGrows*eventBytes > disk
		if n == len(f.objects) || enough {
			return s, nil
		}
	}
}

// sample recovers the first n objects; a sixteenth of them are the tail, which
// takes longer for an event.
func (f *Found) sample(ctx context.Context, engine projector.Engine, scratch string, waivers []archiver.Waiver, n int) (s *Sampled, err error) {
	if scratch, err = os.MkdirTemp(scratch, "sample-"); err != nil {
		return nil, fmt.Errorf("make a directory for a sample: %w", err)
	}
	main := n - n/16
	upto, err := f.upto(ctx, main)
	if err != nil {
		return nil, err
	}
	r, err := begin(Options{Archive: f.archive, Engine: engine, Dir: filepath.Join(scratch, "views"), Scratch: scratch, Waivers: waivers, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	in := *f.inputs
	r.inputs, r.objects = &in, f.objects[:n]
	in.Objects, in.Upto = main, upto
	began := time.Now()
	if err := r.project(ctx); err != nil {
		return nil, err
	}
	projected := time.Now()
	if err := r.verify(ctx); err != nil {
		return nil, err
	}
	s = &Sampled{Objects: main, Events: r.result.Events, Seconds: time.Since(began).Seconds(), VerifySeconds: time.Since(projected).Seconds()}
	if main < n {
		if in.Upto, err = f.upto(ctx, n); err != nil {
			return nil, err
		}
		began = time.Now()
		if err := r.projectTail(ctx); err != nil {
			return nil, err
		}
		s.Tail, s.TailSeconds = r.result.Events-s.Events, time.Since(began).Seconds()
	}
	return s, errors.Join(r.phases.end(), os.RemoveAll(scratch))
}

// upto returns the last event of the first n objects that a recovery would
// have.
func (f *Found) upto(ctx context.Context, n int) (eventlog.Seq, error) {
	trailer, err := f.archive.Trailer(ctx, f.objects[n-1])
	if err != nil {
		return 0, err
	}
	return min(trailer.Last, f.Last), nil
}
