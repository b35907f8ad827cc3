// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// Janitor removes local copies of archived generations when they outgrow the
// cache budget or grow too many: the oldest first, none younger than MinAge, none that a later
// LIST of the archive does not show and whose metadata does not read back
// equal, and never the last one, which is what the next start begins from.
// While the disk is nearly full, age does not count, and the oldest go until
// there is room, within the budget or not.
type Janitor struct {
	Archive *Archive
	Log     Log
	Dir     *StateDir
	Budget  int64         // bytes of archived generations kept as read cache
	MinAge  time.Duration // since the generation was closed; default 10 minutes
	Every   time.Duration // between two rounds; default 1 minute
	Logger  *slog.Logger
	Now     func() time.Time
}

// Run works until ctx ends. A round that fails is logged and tried again
// later: a copy too many is never harmful.
func (j *Janitor) Run(ctx context.Context) {
	if j.MinAge == 0 {
		j.MinAge = 10 * time.Minute
	}
	if j.Every == 0 {
		j.Every = time.Minute
	}
	ticker := time.NewTicker(j.Every)
	defer ticker.Stop()
	var pressed <-chan struct{} // nil after a round because of the disk, until the pause is over
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-pause.C:
			pressed = j.Log.Pressed()
			continue
		case <-pressed: // before the disk is full, or because a body was refused
			pressed = nil
			pause.Reset(pressedPause)
		}
		if err := j.Round(ctx); err != nil && ctx.Err() == nil {
			j.Logger.Warn("removing archived local generations", "error", err)
		}
	}
}

// pressedPause is the least time between two rounds because of the disk.
const pressedPause = time.Second

// Round does what there is to do now: it records how far the archive is known
// to reach, so that the next start need not look at what lies before, and
// removes what the budget has no room for.
func (j *Janitor) Round(ctx context.Context) error {
	archived := j.archived()
	if len(archived) == 0 {
		return nil
	}
	if err := j.record(archived[len(archived)-1]); err != nil {
		return err
	}
	wanted, err := j.Log.WantsRoom()
	if err != nil {
		return err
	}
	doomed := j.doomed(archived, wanted)
	if len(doomed) == 0 {
		return nil
	}
	objects, err := j.Archive.list(ctx, doomed[0].Ordinal)
	if err != nil {
		return err
	}
	listed := map[uint64]ObjectInfo{}
	for _, object := range objects {
		listed[object.First] = object
	}
	for _, g := range doomed {
		if err := j.drop(ctx, g, listed[g.Ordinal]); err != nil {
			return err
		}
	}
	return nil
}

// archived returns the local generations below the watermark, oldest first.
func (j *Janitor) archived() []*eventlog.Generation {
	mark := j.Log.Archived()
	var gens []*eventlog.Generation
	for _, g := range j.Log.Local() {
		if _, last := g.Seqs(); last > mark {
			break
		}
		gens = append(gens, g)
	}
	return gens
}

// record makes the start after a crash begin at g. The record stands before
// any copy up to g goes: a start that finds half a copy knows that it was
// archived.
func (j *Janitor) record(g *eventlog.Generation) error {
	return recordArchived(j.Dir, ArchivedMark{Ordinal: g.Ordinal, Seq: g.Trailer.Last})
}

// maxCopies bounds the generations kept, however small they are: a start looks
// at each of them.
const maxCopies = 1024

// doomed returns the oldest generations that are over the budget, or too many,
// and old enough, or that the disk wants the room of, never the last one.
func (j *Janitor) doomed(archived []*eventlog.Generation, wanted int64) []*eventlog.Generation {
	var size int64
	pressed := wanted > 0
	for _, g := range archived {
		size += g.Size()
	}
	for i, g := range archived[:len(archived)-1] {
		within := size <= j.Budget && len(archived)-i <= maxCopies && wanted <= 0
		young := j.Now().Sub(time.Unix(0, g.Trailer.ClosedAt)) < j.MinAge
		if within || young && !pressed {
			return archived[:i]
		}
		size -= g.Size()
		wanted -= g.Size()
	}
	return archived[:len(archived)-1]
}

// drop removes one generation when the archive, which has listed it as object,
// shows once more that it has it.
func (j *Janitor) drop(ctx context.Context, g *eventlog.Generation, object ObjectInfo) error {
	if object.First == g.Ordinal && object.Size != g.Size() {
		return j.Archive.alarm(object.Key())
	}
	if object.First != g.Ordinal {
		return fmt.Errorf("%s is archived, but the archive's list does not show it; its local copy stays", g)
	}
	// From the object itself: an index object's copy of its metadata is no proof
	// that the archive has it.
	trailer, _, err := j.Archive.ownMetadata(ctx, object, tailSize, true, func(*eventlog.Trailer) error { return nil })
	if err != nil {
		return err
	}
	if *trailer != *g.Trailer {
		return j.Archive.alarm(object.Key())
	}
	return j.Log.Drop(g)
}
