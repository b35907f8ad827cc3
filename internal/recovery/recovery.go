// SPDX-License-Identifier: Apache-2.0

// Package recovery builds the views of an archive, as of its end or of an
// earlier event, from the archive alone: what recover, a drill, a comparison
// and a look into the past have in common. It claims nothing, writes nothing
// to the archive, and serves nothing.
//
// It goes through phases: list, then restore a checkpoint and project the tail,
// or project from the first event, then verify. Each leaves something whole
// that names what it was made from, so that a recovery which was interrupted
// goes on where it was, by the same code: the list leaves inputs.json, the
// choice of a checkpoint beginning.json, the projection its sorted runs and
// views, and in waivers.json what it went on past; phases.json tells when each
// began and ended. A phase whose input is missing or is not what it was
// refuses.
package recovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/projector"
)

// Options of Run. Archive, Engine, Dir and Scratch must be set.
type Options struct {
	Archive *archiver.Archive
	Engine  projector.Engine
	Dir     string // where the views go, each to Dir/<its name>
	// Scratch is a directory for what lies between the phases. The caller
	// removes it, once it needs no resuming any more.
	Scratch string
	// Checkpoints are tried, the newest first, before the views are built from
	// the first event; nil: from the first event. Full takes of them only what
	// they know of the archive's end.
	Checkpoints Checkpoints
	Full        bool

	Until      eventlog.Seq          // the last event to include; 0: the archive's end when the recovery began
	Projectors []projector.Projector // nil: of both views
	Memory     int64                 // see projector.Load
	// Waivers are the violations to go on past. Which of them were needed is in
	// the Result, also when an interrupted run needed them.
	Waivers []archiver.Waiver
	// Granted goes on past what the log itself waives, as well: for views that
	// are to show what the log's server makes of it.
	Granted bool
	// Tolerate goes on past further violations, see projector.Load: to look
	// for them, not to build a state that is kept.
	Tolerate func(*projector.Violation) bool
	// Room is asked, before anything large is written, whether there is disk
	// for about so many more bytes; an error ends the recovery. May be nil.
	Room     func(bytes uint64) error
	Progress *progress.Progress // may be nil
	// More says that phases follow of which Run knows nothing: then Progress is
	// not told when the last one will end.
	More bool
	Log  *slog.Logger // nil: slog.Default()
}

// Result is what a recovery found and built.
type Result struct {
	Objects     int                // of the archive, when the recovery began
	Bytes       int64              // of all of them
	LastOrdinal uint64             // of the archive's last object then
	ArchiveEnd  eventlog.Seq       // last seq that it covers
	Clean       bool               // a server ended cleanly with that object
	Last        eventlog.Seq       // as of which the views are
	Events      uint64             // projected by this run
	Resumed     bool               // an interrupted run had begun it
	Waived      []archiver.Waiver  // of Options.Waivers, and with Granted of the log's own, those that were needed
	Checkpoint  *Checkpoint        // which it began from; nil: from the first event
	Fallbacks   []Fallback         // checkpoints that could not be used
	Views       []projector.Loaded // in the order of Projectors
	Began       time.Time          // of the first run, if this one went on with it
	Phases      []eventlog.Phase   // in the order of their begin, those of interrupted runs too
}

// Run builds the views. A hole is an archiver.ErrHole, a damaged object an
// eventlog.ErrObjectDamaged, a broken rule a *projector.Violation; nothing
// that could be taken for a whole state is left then.
func Run(ctx context.Context, opts Options) (*Result, error) {
	r, err := begin(opts)
	if err != nil {
		return nil, &begunError{err}
	}
	for _, phase := range []func(context.Context) error{r.list, r.build} {
		if err := phase(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.phases.end(); err != nil {
		return nil, err
	}
	r.result.Waived = append(slices.Clip(r.result.Waived), r.honoured().Used()...)
	r.result.Began, r.result.Phases = r.phases.noted.Began, r.phases.noted.Phases
	return r.result, nil
}

// ErrBegun says that what an interrupted recovery left cannot be gone on from.
var ErrBegun = errors.New("the recovery that was begun cannot be gone on with")

// begunError is why, and ErrBegun.
type begunError struct{ err error }

func (e *begunError) Error() string        { return e.err.Error() }
func (e *begunError) Unwrap() error        { return e.err }
func (e *begunError) Is(target error) bool { return target == ErrBegun }

// begin begins a recovery, or goes on with one that was interrupted.
func begin(opts Options) (*recovery, error) {
	if opts.Projectors == nil {
		opts.Projectors = []projector.Projector{projector.Machines(), projector.Blocks()}
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	r := &recovery{Options: opts, result: &Result{}, granted: NewGranted(opts.Archive, nil, opts.Log)}
	return r, r.resume()
}

type recovery struct {
	Options
	inputs      *inputs               // nil: not known yet
	objects     []archiver.ObjectInfo // as listed; let go of when the room is made
	checkpoints []Checkpoint          // as listed
	waivers     *waivers
	granted     *Granted // what the log waives; see honoured
	phases      *phases
	beginning   beginning
	events      atomic.Uint64 // projected
	result      *Result
}

// resume reads what an interrupted run noted.
func (r *recovery) resume() (err error) {
	if r.inputs, err = loadInputs(r.inputsPath()); err != nil {
		return err
	}
	if r.phases, err = loadPhases(r.Scratch, r.Progress); err != nil {
		return err
	}
	if r.waivers, err = loadWaivers(r.Scratch, r.Waivers, r.Log); err != nil {
		return err
	}
	if err := r.honoured().keep(r.Scratch); err != nil {
		return err
	}
	if err := r.loadBeginning(); err != nil {
		return err
	}
	if r.inputs == nil {
		return r.nothingBuilt()
	}
	for _, n := range []struct {
		path  string
		found bool
	}{{r.phases.path, r.phases.found}, {r.waivers.path, r.waivers.found}, {r.beginningPath(), r.beginning.found}} {
		if !n.found {
			return fmt.Errorf("going on with a recovery: %s is missing, which was written before %s: what the interrupted recovery did cannot be known without it; name a new directory", n.path, r.inputsPath())
		}
	}
	return nil
}

// list finds out what the archive holds, and proves that nothing is missing.
// What it found when the recovery began is what is built, and before the end
// what has come since (goOn).
func (r *recovery) list(ctx context.Context) (err error) {
	r.phases.start("list", 0)
	found := r.inputs
	if found != nil {
		if err := found.match(r.Archive.LogID(), r.Until, r.Full); err != nil {
			return &begunError{err}
		}
		r.Archive.Expect(found.LastOrdinal)
	}
	if r.Checkpoints != nil {
		if r.checkpoints, err = r.Checkpoints.List(ctx); err != nil {
			return fmt.Errorf("list the checkpoints: %w", err)
		}
	}
	now, objects, err := look(ctx, r.Archive, r.Until)
	if err != nil {
		return err
	}
	r.Progress.Add(int64(now.Objects))
	if found == nil {
		found = now
		found.Full = r.Full
		if err := r.store(found); err != nil {
			return err
		}
	} else if err := r.stillThere(ctx, found); err != nil {
		return err
	} else {
		r.result.Resumed = true
	}
	r.take(found, objects)
	return nil
}

// store notes the inputs, after the other notes, so that they stand for all: a
// note that is missing beside them was removed, and does not read as one in
// which nothing stands.
func (r *recovery) store(found *inputs) error {
	if err := r.phases.noting(); err != nil {
		return err
	}
	if err := r.waivers.note(); err != nil {
		return err
	}
	if err := writeNote(r.beginningPath(), &r.beginning); err != nil {
		return err
	}
	// A crash before this line leaves nothing that counts, after it what is to
	// be built stands fast.
	return found.store(r.inputsPath())
}

// nothingBuilt refuses views, and notes of what was done for them, that nothing
// says what they were made from.
func (r *recovery) nothingBuilt() error {
	refuse := func(path string) error {
		return fmt.Errorf("%s is there, but not the note of what it was made from, %s: name a new directory", path, r.inputsPath())
	}
	if len(r.waivers.used) > 0 {
		return refuse(r.waivers.path)
	}
	if b := &r.beginning; b.From != nil || b.Full || len(b.Fallbacks) > 0 {
		return refuse(r.beginningPath())
	}
	for _, p := range r.Projectors {
		path := filepath.Join(r.Dir, p.Name())
		there, err := r.Engine.Exists(path)
		if err != nil {
			return err
		}
		if there {
			return refuse(path)
		}
	}
	return nil
}

func (r *recovery) inputsPath() string { return filepath.Join(r.Scratch, inputsName) }

// stillThere checks that the archive's end of then is what it was.
func (r *recovery) stillThere(ctx context.Context, found *inputs) error {
	objects, err := r.Archive.Objects(ctx, found.LastOrdinal)
	if err != nil {
		return err
	}
	trailer, _, err := r.Archive.Metadata(ctx, objects[0])
	if err != nil {
		return err
	}
	if trailer.Last != found.ArchiveEnd || trailerSum(trailer) != found.EndSum {
		return &begunError{fmt.Errorf("going on with a recovery: ordinal %d ended at event %s when it began, and is another object now, which ends at %s: this is not the archive that it was begun from; name a new directory",
			found.LastOrdinal, found.ArchiveEnd, trailer.Last)}
	}
	return nil
}

// project builds the views from the first event on.
func (r *recovery) project(ctx context.Context) error {
	before := r.events.Load()
	err := r.honoured().Build(ctx, func(granted func(*projector.Violation) bool) error {
		r.events.Store(before)
		return r.load(ctx, r.tolerance(granted))
	})
	r.result.Events, r.result.Waived = r.events.Load(), r.waivers.used
	return errors.Join(r.doubted(ctx, err), r.waivers.err)
}

func (r *recovery) load(ctx context.Context, tolerate func(*projector.Violation) bool) (err error) {
	r.phases.start("project objects", int64(r.inputs.Objects))
	if tolerate == nil { // else there is no merge
		r.ahead(mergeOfProject + verifyOfProject)
	}
	var merging sync.Once
	load := projector.Load{
		Engine: r.Engine, Dir: r.Dir, Scratch: filepath.Join(r.Scratch, "runs"), Input: r.inputs.String(), Upto: r.inputs.Upto,
		Projectors: r.Projectors, Memory: r.Memory, Tolerate: tolerate, Log: r.Log,
		Merging: func(n, total uint64) {
			merging.Do(func() {
				r.phases.start("merge rows", int64(total))
				r.ahead(verifyOfProject / mergeOfProject)
			})
			r.Progress.Add(int64(n))
		},
	}
	r.result.Views, err = load.Run(ctx, Counted(r.Archive, r.Progress, &r.events))
	return err
}

// How long the later phases of a recovery take, of the processor time of an
// earlier one spread over all cores: so the end is told before they begin.
// Measured at ten million events: projecting 10 to 14 s of processor time, then
// merging 2.8 to 3.5 s on two cores and verifying 1.5 to 1.9; restoring a
// checkpoint 2.5 s, then verifying 1.6.
const (
	mergeOfProject  = 0.6
	verifyOfProject = 0.3
	verifyOfRestore = 1.3
)

// ahead tells how much comes behind the phase that runs.
func (r *recovery) ahead(times float64) {
	if !r.More {
		r.Progress.Ahead(times)
	}
}

// honoured is what the log waives, when this recovery goes on past that.
func (r *recovery) honoured() *Granted {
	if !r.Granted {
		return nil
	}
	return r.granted
}

// doubted says what else a violation may come from: what was projected was
// mostly read out of index objects, and one that lies with right checksums is
// told by nothing but what does not follow from it. What the log itself waives
// does not come from that.
func (r *recovery) doubted(ctx context.Context, err error) error {
	violation := (*projector.Violation)(nil)
	if !errors.As(err, &violation) {
		return err
	}
	if where := PlacesOf(r.Archive).Of(ctx, violation); where != "" {
		err = fmt.Errorf("%w%s", err, where)
	}
	if r.granted.covers(ctx, violation) {
		return fmt.Errorf("%w; the log says that an earlier recovery went on past this: to do so again, add what it waives: %s", err, r.granted.flags())
	}
	if unknown := r.granted.Err(); unknown != nil {
		err = fmt.Errorf("%w; whether the log itself waives this is not known (%w)", err, unknown)
	}
	return fmt.Errorf("%w; an index object that lies would look the same: `strandline index verify` tells, `strandline index rebuild` writes a right one; after that remove the directory, which holds what was read from it, and recover again", err)
}

// tolerance is what goes on past violations; nil when nothing does, because
// views are built faster then. granted may be nil.
func (r *recovery) tolerance(granted func(*projector.Violation) bool) func(*projector.Violation) bool {
	if len(r.Waivers) == 0 && granted == nil {
		return r.Tolerate
	}
	return func(v *projector.Violation) bool {
		return r.waivers.tolerate(v) || granted != nil && granted(v) || r.Tolerate != nil && r.Tolerate(v)
	}
}

// verify adds the digests up again from the rows that were written. It counts
// ranges of keys, which the store cuts into about the same size.
func (r *recovery) verify(ctx context.Context) error {
	r.phases.start("verify", 0)
	var errs []error
	for i, p := range r.Projectors {
		errs = append(errs, r.verifyView(ctx, p, &r.result.Views[i]))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return r.confirm(ctx)
}

// confirm holds the index objects that events were read from after the last
// digest that proves them against the objects themselves.
func (r *recovery) confirm(ctx context.Context) error {
	proven := r.inputs.Upto
	for i := range r.result.Views {
		proven = min(proven, r.result.Views[i].Proven)
	}
	if from := r.beginning.From; from != nil {
		proven = max(proven, from.Seq) // what it has was not read
	}
	err := r.Archive.ConfirmIndex(ctx, proven, r.inputs.Upto)
	if !errors.Is(err, archiver.ErrIndexUnusable) {
		return err
	}
	// A crash before this line leaves views that are confirmed once more; after
	// it the next run builds them anew, whatever the index objects say then.
	r.beginning.Doubted = true
	noted := writeNote(r.beginningPath(), &r.beginning)
	err = fmt.Errorf("%w: what was recovered came in part from an index object that lies: %w; "+
		"`strandline index rebuild` writes a right one, after that recover again", eventlog.ErrDamaged, err)
	return errors.Join(err, noted)
}

func (r *recovery) verifyView(ctx context.Context, p projector.Projector, built *projector.Loaded) (err error) {
	view, err := projector.Open(r.Engine, filepath.Join(r.Dir, p.Name()), p, projector.ReadOnly, r.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	position, digest, err := view.RecomputeTelling(ctx, func(n, total int) {
		if n == 0 {
			r.Progress.Expect(int64(total))
		}
		r.Progress.Add(int64(n))
	})
	if err != nil {
		return err
	}
	if position != r.inputs.Upto || digest != built.Digest {
		return fmt.Errorf("%w: the %s view stands at %s, its rows make the digest %s, %s was projected up to %s; remove the directory and recover again",
			eventlog.ErrDamaged, p.Name(), position, digest, built.Digest, r.inputs.Upto)
	}
	return nil
}

// At returns the seq as of which t is: the last event before the first one
// that is later than t. It reads the log up to there.
func At(ctx context.Context, log eventlog.History, t time.Time) (eventlog.Seq, error) {
	var last eventlog.Seq
	for batch, err := range log.Follow(ctx, eventlog.FirstSeq) {
		if err != nil {
			return 0, err
		}
		for i := range batch.Entries {
			event := &batch.Entries[i].Event
			switch at := time.Unix(0, event.Time).UTC(); {
			case !at.After(t):
				last = event.Seq
			case last == 0:
				return 0, fmt.Errorf("%w: its first event is of %s: name a later time than %s", ErrBefore, at.Format(time.RFC3339), t.Format(time.RFC3339))
			default:
				return last, nil
			}
		}
	}
	return last, nil
}

// ErrBefore says that a time lies before the whole log.
var ErrBefore = errors.New("the log begins later")
