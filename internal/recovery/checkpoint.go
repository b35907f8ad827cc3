// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"syscall"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// Checkpoints are the copies of views that an archive keeps.
type Checkpoints interface {
	// List names them, the newest first, and tells the archive what they know
	// of its end (archiver.Archive.Expect).
	List(ctx context.Context) ([]Checkpoint, error)
	// Restore makes dir/<name of the view> of each view. It checks what it
	// reads against what was taken; after an error nothing that counts is
	// there. ErrUnfit says that c cannot be used; any other error, that it
	// could not be found out.
	Restore(ctx context.Context, c Checkpoint, dir string) error
}

// Checkpoint is one of them.
type Checkpoint struct {
	Name string       `json:"name"`
	Seq  eventlog.Seq `json:"seq"` // the last event that any of its views includes

	Bytes   int64  `json:"bytes,omitempty"`            // to transfer; 0: not known
	Files   int    `json:"files,omitempty"`            // that they lie in, a request each; 0: not known
	Ordinal uint64 `json:"archived_ordinal,omitempty"` // an object that was archived when it was taken; 0: not known
}

// Fallback is a checkpoint that could not be used, and why.
type Fallback struct {
	Checkpoint string `json:"checkpoint"`
	Reason     string `json:"reason"`
}

// beginning is where a recovery begins, as far as that is decided. It is noted
// before anything is built on it.
type beginning struct {
	found bool // in its note

	Version   int         `json:"version"`
	From      *Checkpoint `json:"from,omitempty"` // its views are in their place
	Full      bool        `json:"full,omitempty"` // from the first event
	Fallbacks []Fallback  `json:"fallbacks,omitempty"`
	Doubted   bool        `json:"doubted,omitempty"` // what was built came from an index object that lies
	Built     bool        `json:"built,omitempty"`   // from the first event: the views are in their place, a tail may be missing
}

const (
	beginningName    = "beginning.json"
	beginningVersion = 1
)

func (r *recovery) beginningPath() string { return filepath.Join(r.Scratch, beginningName) }

// loadBeginning reads where an interrupted run began.
func (r *recovery) loadBeginning() (err error) {
	if r.beginning.found, err = readNote(r.beginningPath(), &r.beginning); err != nil {
		return err
	}
	if r.beginning.found && r.beginning.Version != beginningVersion {
		return fmt.Errorf("%s: another version of this program began the recovery: remove the directory and recover again", r.beginningPath())
	}
	r.beginning.Version = beginningVersion
	return nil
}

// build builds the views: from the newest checkpoint that is whole and fits
// the log, or, when there is none, from the first event.
func (r *recovery) build(ctx context.Context) error {
	if r.beginning.Doubted {
		if err := r.beginAnew(); err != nil {
			return err
		}
	}
	if err := r.fromCheckpoints(ctx); err != nil {
		return err
	}
	r.result.Checkpoint, r.result.Fallbacks = r.beginning.From, r.beginning.Fallbacks
	if r.beginning.From != nil {
		return nil
	}
	if err := r.fromFirst(ctx); err != nil {
		return err
	}
	if err := r.goOn(ctx); err != nil {
		return r.doubted(ctx, err)
	}
	return r.verify(ctx)
}

// fromFirst builds the views from the first event, or, where a run before did
// and then found that the archive goes on, projects what came after them.
func (r *recovery) fromFirst(ctx context.Context) error {
	if r.beginning.Built {
		return r.doubted(ctx, r.projectTail(ctx))
	}
	if err := r.makeRoom(ctx, nil); err != nil {
		return err
	}
	r.objects = nil // nothing needs them any more
	return r.project(ctx)
}

// beginAnew removes views that were built on a lie.
func (r *recovery) beginAnew() error {
	if err := r.clear(); err != nil {
		return err
	}
	r.beginning.Doubted, r.beginning.Built, r.beginning.From = false, false, nil
	return writeNote(r.beginningPath(), &r.beginning)
}

// fromCheckpoints tries one checkpoint after the other. Without one that is
// any good, it decides for the first event.
func (r *recovery) fromCheckpoints(ctx context.Context) error {
	if r.beginning.Full {
		return nil
	}
	for _, c := range r.candidates() {
		err := r.fromCheckpoint(ctx, c)
		if err == nil || !r.blames(ctx, err) {
			return err
		}
		r.Log.Warn("a checkpoint cannot be used; falling back", "checkpoint", c.Name, "err", err)
		r.beginning.From = nil
		r.beginning.Fallbacks = append(r.beginning.Fallbacks, Fallback{c.Name, err.Error()})
		if err := writeNote(r.beginningPath(), &r.beginning); err != nil {
			return err
		}
	}
	if err := r.clear(); err != nil {
		return err
	}
	r.beginning.Full = true
	return writeNote(r.beginningPath(), &r.beginning)
}

// candidates are the checkpoints to try, in this order: the one that was begun
// from, or all that have not failed and are not beyond what is built.
func (r *recovery) candidates() []Checkpoint {
	if r.Checkpoints == nil || r.Full {
		return nil
	}
	var usable []Checkpoint
	if r.beginning.From != nil {
		usable = append(usable, *r.beginning.From)
	}
	for _, c := range r.checkpoints {
		if c.Seq <= r.inputs.Upto && !r.failed(c.Name) && (r.beginning.From == nil || c.Name != r.beginning.From.Name) {
			usable = append(usable, c)
		}
	}
	return usable
}

func (r *recovery) failed(name string) bool {
	for _, f := range r.beginning.Fallbacks {
		if f.Checkpoint == name {
			return true
		}
	}
	return false
}

// blames reports whether err may be the checkpoint's fault: it could not be
// restored, does not fit the log, or breaks a rule, which may be that of a row
// which it lacks. That ctx has ended, the store does not answer or the disk
// fails is not: then the next run begins where this one ended.
func (r *recovery) blames(ctx context.Context, err error) bool {
	var network net.Error
	if ctx.Err() != nil || errors.Is(err, errElsewhere) || errors.Is(err, archiver.ErrThrottled) || errors.Is(err, syscall.ENOSPC) || errors.As(err, &network) {
		return false
	}
	var violation *projector.Violation
	return errors.Is(err, ErrUnfit) || errors.Is(err, projector.ErrAhead) || errors.Is(err, projector.ErrUnusable) ||
		errors.Is(err, eventlog.ErrDamaged) || errors.As(err, &violation)
}

// ErrUnfit says that a checkpoint cannot be begun from.
var ErrUnfit = errors.New("the checkpoint cannot be begun from")

var errElsewhere = errors.New("this is not the checkpoint's fault")

// fromCheckpoint builds the views from c on.
func (r *recovery) fromCheckpoint(ctx context.Context, c Checkpoint) error {
	if r.beginning.From == nil {
		if err := r.restore(ctx, c); err != nil {
			return err
		}
	}
	if err := r.projectTail(ctx); err != nil {
		return err
	}
	if err := r.goOn(ctx); err != nil {
		return err
	}
	err := r.verify(ctx)
	if errors.Is(err, archiver.ErrIndexUnusable) {
		return fmt.Errorf("%w: %w", errElsewhere, err)
	}
	return err
}

// restore puts the views of c in their place, and checks that the log has the
// events that they end with: a checkpoint beyond a cut is of another history.
func (r *recovery) restore(ctx context.Context, c Checkpoint) error {
	if err := r.clear(); err != nil {
		return err
	}
	if err := r.makeRoom(ctx, &c); err != nil {
		return fmt.Errorf("%w: %w", errElsewhere, err)
	}
	r.phases.start("restore a checkpoint (bytes)", c.Bytes)
	r.ahead(verifyOfRestore) // beside a tail, which is short
	if err := r.Checkpoints.Restore(ctx, c, r.Dir); err != nil {
		return fmt.Errorf("restore checkpoint %s: %w", c.Name, err)
	}
	for _, p := range r.Projectors {
		position, err := r.positionOf(p)
		if err != nil {
			return err
		}
		if position == 0 || position > r.inputs.Upto {
			return fmt.Errorf("%w: its %s view stands at %s", ErrUnfit, p.Name(), position)
		}
		err = exists(ctx, r.Archive, position, r.inputs.ArchiveEnd)
		if errors.Is(err, errNoEvent) {
			return fmt.Errorf("%w: it is of another history: %w", ErrUnfit, err)
		}
		if errors.Is(err, eventlog.ErrCleaned) {
			return fmt.Errorf("%w: it lies below the horizon: %w", ErrUnfit, err)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errElsewhere, err)
		}
	}
	// A crash before this line leaves views that are removed and restored once
	// more, after it such as are gone on from.
	next := r.beginning
	next.From = &c
	if err := writeNote(r.beginningPath(), &next); err != nil {
		return err
	}
	r.beginning = next
	return nil
}

// clear removes the views of a checkpoint that came to nothing.
func (r *recovery) clear() error {
	for _, p := range r.Projectors {
		if err := r.Engine.Remove(filepath.Join(r.Dir, p.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (r *recovery) positionOf(p projector.Projector) (position eventlog.Seq, err error) {
	view, err := projector.Open(r.Engine, filepath.Join(r.Dir, p.Name()), p, projector.ReadOnly, r.Log)
	if err != nil {
		return 0, err
	}
	return view.Position(), view.Close()
}

// projectTail projects what came after the checkpoint, by looking rows up. A
// crash takes views back to where they last stood.
func (r *recovery) projectTail(ctx context.Context) (err error) {
	var views []*projector.View
	defer func() {
		for _, view := range views {
			err = errors.Join(err, view.Close())
		}
	}()
	var runners []*projector.Runner
	for _, p := range r.Projectors {
		if _, err := r.positionOf(p); err != nil { // opened for writing, a damaged view would begin anew
			return err
		}
		view, err := projector.Open(r.Engine, filepath.Join(r.Dir, p.Name()), p, projector.Bulk, r.Log)
		if err != nil {
			return err
		}
		views = append(views, view)
		runner := projector.NewRunner(view, r.Log)
		runner.Tolerate(r.tolerance(r.honoured().tolerate(ctx)))
		runners = append(runners, runner)
	}
	r.phases.start("project the tail (objects)", r.tailObjects(ctx, views))
	log := &blamed{history: r.Archive}
	err = projector.CatchUp(ctx, Counted(UpTo(log, r.inputs.Upto), r.Progress, &r.events), runners...)
	r.result.Waived = r.waivers.used
	if log.err != nil {
		return fmt.Errorf("%w: %w", errElsewhere, err)
	}
	if r.waivers.err != nil {
		return fmt.Errorf("%w: %w", errElsewhere, r.waivers.err)
	}
	if err != nil {
		return r.honoured().doubted(err)
	}
	r.result.Views, r.result.Events = nil, r.events.Load()
	for _, view := range views {
		position, digest := view.Digest()
		compared, skipped := view.Recorded()
		r.result.Views = append(r.result.Views, projector.Loaded{View: view.Name(), Position: position, Time: view.LastTime().UnixNano(),
			Digest: digest, Compared: compared, Skipped: skipped, Proven: view.Proven()})
	}
	return nil
}

// tailObjects returns how many objects have the events that the views lack, 0
// when that cannot be told: whoever reads the events then says why.
func (r *recovery) tailObjects(ctx context.Context, views []*projector.View) int64 {
	lowest := r.inputs.Upto
	for _, view := range views {
		lowest = min(lowest, view.Position())
	}
	if lowest == r.inputs.Upto {
		return 0
	}
	first, err := r.Archive.Find(ctx, r.objects, lowest+1)
	if err != nil {
		return 0
	}
	last, err := r.Archive.Find(ctx, r.objects[first:], r.inputs.Upto)
	if err != nil {
		return 0
	}
	return int64(last + 1)
}
