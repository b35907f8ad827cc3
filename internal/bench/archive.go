// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// Archive describes a synthetic archive with the shapes of a real one: of the
// events about 90 % store a block, 8 % delete one, the rest are locks, digests
// and machines that change hands. The same description makes the same events.
type Archive struct {
	Events   int // at least; a few more open and close it
	Machines int
	Objects  int    // at most 65,536 events go into one
	Payload  int    // bytes of each block, which a recovery never reads
	Seed     uint64 //
	// Engine keeps the views that the recorded digests are taken from, in
	// Scratch; both are used for the time of Write only.
	Engine  projector.Engine
	Scratch string // an empty directory

	Metadata int64    // set by Write: bytes of all footers and trailers
	Paths    []string // set by Write: each machine's at the end, "account-0/machine-0"
	// NoIndex leaves the index objects out, to see what they are worth.
	NoIndex bool
}

// leastPayload makes payloads differ, and so the names of blocks.
const leastPayload = 16

// Check refuses what no archive can be.
func (a *Archive) Check() error {
	switch {
	case a.Events < 1, a.Machines < 1, a.Objects < 1, a.Payload < 1:
		return errors.New("events, machines, objects and the payload's bytes must be positive")
	case a.Payload < leastPayload:
		return fmt.Errorf("blocks are named by the hash of their payload: it takes %d bytes or more to make each different", leastPayload)
	case a.Machines > a.Events:
		return fmt.Errorf("%d machines need as many events, not %d", a.Machines, a.Events)
	case a.Events > a.Objects*(eventlog.MaxEvents/2):
		return fmt.Errorf("%d events need %d objects or more", a.Events, 1+a.Events/(eventlog.MaxEvents/2))
	}
	return nil
}

// Write makes the archive in bucket, which must hold none, and returns the
// last seq. It projects the events first, to know the digests that the events
// are to record, and then writes them.
func (a *Archive) Write(ctx context.Context, bucket archiver.Bucket, archiveSpec string, written func(objects int)) (last eventlog.Seq, err error) {
	if err := a.Check(); err != nil {
		return 0, err
	}
	archive, writer, err := a.begin(ctx, bucket, archiveSpec)
	if err != nil {
		return 0, err
	}
	plan := &plan{Archive: a, archive: archive, digests: map[eventlog.Seq][]eventlog.ViewState{}}
	if err := plan.project(ctx); err != nil {
		return 0, fmt.Errorf("find the digests of a synthetic archive: %w", err)
	}
	w := &objectWriter{bucket: bucket, logID: archive.LogID(), writer: writer, ordinal: 1, perObject: (a.Events + a.Objects - 1) / a.Objects}
	if !a.NoIndex {
		if err := w.beginIndex(ctx, archive, a.Scratch); err != nil {
			return 0, err
		}
	}
	defer func() { err = errors.Join(err, w.endIndex()) }()
	s := newSynthesis(plan)
	for {
		entry, ok := s.next()
		if !ok {
			break
		}
		if w.add(entry, s.payload); len(w.entries) < w.perObject {
			continue
		}
		if err := w.put(ctx, 0); err != nil {
			return 0, err
		}
		if written != nil {
			written(int(w.ordinal))
		}
	}
	err = w.put(ctx, eventlog.FlagCleanEnd)
	a.Metadata, a.Paths = w.metadata, s.paths()
	return s.last, err
}

// begin makes an archive that is as empty as one can be.
func (a *Archive) begin(ctx context.Context, bucket archiver.Bucket, spec string) (archive *archiver.Archive, writer eventlog.ID, err error) {
	state, err := archiver.CreateStateDir(filepath.Join(a.Scratch, "init"), archiver.State{
		LogID: archiver.NewID(), DirID: archiver.NewID(), Archive: spec, Phase: archiver.PhaseInitialising,
	})
	if err != nil {
		return nil, writer, err
	}
	defer func() { err = errors.Join(err, state.Close()) }()
	if err := archiver.Initialise(ctx, state, bucket, "bench", time.Unix(0, syntheticStart)); err != nil {
		return nil, writer, err
	}
	return archiver.At(bucket, state.State().LogID), state.State().Claims[0].Writer, nil
}

// plan is what both passes over the events share.
type plan struct {
	*Archive
	archive *archiver.Archive // its beginning

	mu      sync.Mutex
	digests map[eventlog.Seq][]eventlog.ViewState // as of each state_recorded
}

// project runs the events through both views.
func (p *plan) project(ctx context.Context) error {
	dir := filepath.Join(p.Scratch, "views")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make a directory for views: %w", err)
	}
	first := newSynthesis(p)
	for ok := true; ok; _, ok = first.next() {
	}
	load := projector.Load{
		Engine: p.Engine, Dir: dir, Scratch: filepath.Join(p.Scratch, "runs"), Input: "bench", Upto: first.last,
		Projectors: []projector.Projector{projector.Machines(), projector.Blocks()}, Log: slog.New(slog.DiscardHandler), Recorded: p.record,
	}
	_, err := load.Run(ctx, p)
	for _, view := range load.Projectors {
		err = errors.Join(err, p.Engine.Remove(filepath.Join(dir, view.Name())))
	}
	return err
}

func (p *plan) record(view string, seq eventlog.Seq, digest projector.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.digests[seq] = append(p.digests[seq], eventlog.ViewState{Name: view, Version: 1, Digest: digest, AsOf: seq})
	slices.SortFunc(p.digests[seq], func(a, b eventlog.ViewState) int { return strings.Compare(a.Name, b.Name) })
}

// Follow yields all events, the archive's own beginning first; a load reads
// from there only.
func (p *plan) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		for batch, err := range p.archive.Follow(ctx, from) {
			if !yield(batch, err) || err != nil {
				return
			}
		}
		s := newSynthesis(p)
		for more := true; more; {
			var batch eventlog.Batch
			for len(batch.Entries) < 4096 {
				entry, ok := s.next()
				if more = ok; !ok {
					break
				}
				batch.Entries = append(batch.Entries, entry)
			}
			if len(batch.Entries) > 0 && !yield(batch, ctx.Err()) {
				return
			}
		}
	}
}

// objectWriter gathers entries into objects, as the shipper would have
// shipped them.
type objectWriter struct {
	bucket    archiver.Bucket
	logID     eventlog.ID
	writer    eventlog.ID
	ordinal   uint64 // of the last object
	perObject int
	object    []byte
	entries   []eventlog.Entry
	metadata  int64 // bytes of footers and trailers so far
	scratch   string
	index     *archiver.IndexBuilder // of the run under way; nil: none is written
}

// beginIndex begins the first index object with what is there already.
func (w *objectWriter) beginIndex(ctx context.Context, archive *archiver.Archive, scratch string) error {
	w.scratch = scratch
	objects, err := archive.Objects(ctx, 1)
	if err != nil {
		return err
	}
	if w.index, err = archiver.NewIndexBuilder(scratch, w.logID, archiver.IndexInfo{Run: 1}); err != nil {
		return err
	}
	for _, object := range objects {
		trailer, err := archive.Trailer(ctx, object)
		if err != nil {
			return err
		}
		r, err := archive.OpenRange(ctx, object.First, trailer.FooterOffset, trailer.FooterSize)
		if err != nil {
			return err
		}
		footer, err := io.ReadAll(io.LimitReader(r, eventlog.MaxFooter))
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
		if err := w.index.Add(object, trailer, footer); err != nil {
			return err
		}
	}
	return nil
}

// addIndex adds the object that was put to its run's index object, and puts
// that when the run is complete.
func (w *objectWriter) addIndex(ctx context.Context, object []byte, trailer *eventlog.Trailer) error {
	info := archiver.Shipped(w.ordinal)
	info.Size = int64(len(object))
	if err := w.index.Add(info, trailer, object[trailer.FooterOffset:][:trailer.FooterSize]); err != nil {
		return err
	}
	if w.ordinal%archiver.RunSize != 0 {
		return nil
	}
	_, err := w.index.Put(ctx, w.bucket)
	if err = errors.Join(err, w.index.Close()); err != nil {
		w.index = nil
		return err
	}
	w.index, err = archiver.NewIndexBuilder(w.scratch, w.logID, archiver.IndexInfo{Run: w.ordinal/archiver.RunSize + 1})
	return err
}

// endIndex lets go of the run that is not complete.
func (w *objectWriter) endIndex() error {
	if w.index == nil {
		return nil
	}
	return w.index.Close()
}

func (w *objectWriter) add(entry eventlog.Entry, payload []byte) {
	if len(w.object) == 0 {
		w.object = append(w.object, eventlog.ObjectMagic...)
	}
	if entry.Placement.Length > 0 {
		entry.Placement.Ordinal, entry.Placement.Offset = w.ordinal+1, uint64(len(w.object))
		w.object = append(w.object, payload...)
	}
	w.entries = append(w.entries, entry)
}

func (w *objectWriter) put(ctx context.Context, flags uint16) error {
	if len(w.entries) == 0 {
		return nil
	}
	w.ordinal++
	first, last := &w.entries[0].Event, &w.entries[len(w.entries)-1].Event
	trailer := eventlog.Trailer{
		LogID: w.logID, Epoch: last.Seq.Epoch(), Writer: w.writer, FirstOrdinal: w.ordinal, LastOrdinal: w.ordinal,
		First: first.Seq, Last: last.Seq, PayloadBytes: uint64(len(w.object) - len(eventlog.ObjectMagic)), PayloadSum: eventlog.Checksum(w.object),
		Flags: flags, ClosedAt: last.Time,
	}
	object := eventlog.AppendMetadata(w.object, &trailer, w.entries, nil, 0)
	w.metadata += int64(trailer.FooterSize) + eventlog.TrailerSize
	w.object, w.entries = object[:0], w.entries[:0]
	if err := archiver.PutEqual(ctx, w.bucket, archiver.Shipped(w.ordinal).Key(), archiver.BytesBody(object)); err != nil {
		return fmt.Errorf("write a synthetic archive: %w", err)
	}
	if w.index == nil {
		return nil
	}
	return w.addIndex(ctx, object, &trailer)
}
