// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/memory"
)

// Load builds views from the first event on, faster than events could be
// applied one by one: what they change is sorted by row, in runs that fit into
// memory, and merged into files that the store takes in as they are. Reading,
// projecting, sorting and writing go on at the same time; the merge uses all
// cores. It is project all the same, with another sink: a view of Counters,
// whose few rows change with every event, is looked up in memory instead.
//
// A Load that was interrupted goes on where it was when it is run again with
// the same Input, Dir and Scratch.
type Load struct {
	Engine  Engine
	Dir     string // of the views; each goes to Dir/<its name>, which must not exist
	Scratch string // for runs; a directory of its own on a real disk, removed when all is done
	// Input names what is projected ("log <id> up to <seq>"): runs of another
	// input are not gone on from.
	Input      string
	Upto       eventlog.Seq // the last event that counts; the source must have it
	Projectors []Projector
	Memory     int64 // bytes for records that are being sorted; 0: 192 MiB, less where GOMEMLIMIT is low
	Log        *slog.Logger
	// Tolerate is asked about each broken expectation: true goes on as if the
	// event were not there. nil tolerates none. See Runner.Tolerate.
	Tolerate func(*Violation) bool
	// Merging is told of each n records that were merged, and how many of the
	// view there are, from any goroutine; may be nil.
	Merging func(n, total uint64)
	// Recorded is told the digest of each view as of each state_recorded, in
	// no order between views, from one goroutine for each view; may be nil.
	Recorded func(view string, seq eventlog.Seq, digest Digest)

	sortAll bool // views of counters as well; for tests
}

// Loaded says what became of one view.
type Loaded struct {
	View     string
	Position eventlog.Seq
	Time     int64  // of the event at Position, nanoseconds
	Digest   Digest // kept sum, see View.Recompute
	Compared uint64 // recorded digests, and equal
	Skipped  uint64
	Proven   eventlog.Seq // as of which a recorded digest was last compared, and equal; 0: none was
	Runs     int          // sorted runs that were merged; 0: looked up
}

// Building returns where a Load builds the view that goes to path.
func Building(path string) string { return path + suffixBuilding }

const defaultLoadMemory = 192 << 20

// Run builds the views and returns what became of each, in the order of
// Projectors. A broken expectation is a *Violation, the one of the lowest seq
// when several are found. After an error that does not mean damage, Run may be
// called again.
func (l *Load) Run(ctx context.Context, source Source) ([]Loaded, error) {
	if l.Upto == 0 {
		return nil, errors.New("load views: the last event to project is not known")
	}
	results := make([]Loaded, len(l.Projectors))
	var sites []*site
	for i, p := range l.Projectors {
		path := filepath.Join(l.Dir, p.Name())
		done, err := l.finished(p, path)
		switch {
		case err != nil:
			return nil, err
		case done != nil:
			results[i] = *done
		default:
			sites = append(sites, &site{projector: p, building: Building(path), final: path, done: &results[i]})
		}
	}
	if err := l.build(ctx, source, sites); err != nil {
		return nil, err
	}
	return results, l.clear()
}

func (l *Load) clear() error {
	if err := os.RemoveAll(l.Scratch); err != nil {
		return fmt.Errorf("remove the sorted runs: %w", err)
	}
	return nil
}

// finished returns what is known of a view that an earlier Run has ended, nil
// when there is none.
func (l *Load) finished(p Projector, path string) (done *Loaded, err error) {
	there, err := l.Engine.Exists(path)
	if err != nil || !there {
		return nil, err
	}
	view, err := Open(l.Engine, path, p, ReadOnly, l.Log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	if view.Position() != l.Upto {
		return nil, fmt.Errorf("load the %s view up to event %s: %s has one already, which stands at %s; name another directory",
			p.Name(), l.Upto, path, view.Position())
	}
	return loaded(p, view.committed(), 0), nil
}

func loaded(p Projector, s state, runs int) *Loaded {
	return &Loaded{View: p.Name(), Position: s.position, Time: s.time, Digest: s.digest, Compared: s.compared, Skipped: s.skipped, Proven: s.proven, Runs: runs}
}

// site is where a view is built.
type site struct {
	projector       Projector
	building, final string
	view            loading
	done            *Loaded

	begin eventlog.Seq   // where the view stood when it was opened
	idle  chan gathering // to be used again
}

// loading is a view on its site. One goroutine moves it.
type loading interface {
	Position() eventlog.Seq
	// gathering makes what a stretch gathers for the view.
	gathering() gathering
	// take takes in what a stretch gathered, up to the event at position,
	// whose time is given. again yields the events once more.
	take(ctx context.Context, g gathering, again *stretch, position eventlog.Seq, time int64) error
	// settle ends the taking in.
	settle() error
	// restart forgets all that was taken in.
	restart() error
	// finish ends the view in its building directory.
	finish(ctx context.Context) (*Loaded, error)
	close() error
}

// gathering returns one that is empty.
func (s *site) gathering() gathering {
	select {
	case g := <-s.idle:
		return g
	default:
		return s.view.gathering()
	}
}

// putBack keeps g to be used again.
func (s *site) putBack(g gathering) {
	g.reset()
	select {
	case s.idle <- g:
	default:
	}
}

// build builds the views on all sites.
func (l *Load) build(ctx context.Context, source Source, sites []*site) (err error) {
	defer func() {
		for _, s := range sites {
			if s.view != nil {
				err = errors.Join(err, s.view.close())
			}
		}
	}()
	for _, s := range sites {
		if s.view, err = l.open(s); err != nil {
			return fmt.Errorf("load the %s view: %w", s.projector.Name(), err)
		}
	}
	if err := l.fill(ctx, source, sites); err != nil {
		return l.explained(ctx, source, err)
	}
	for _, s := range sites {
		if err := l.end(ctx, s); err != nil {
			return l.explained(ctx, source, err)
		}
	}
	return nil
}

// fill brings the views up to the source's end.
func (l *Load) fill(ctx context.Context, source Source, sites []*site) error {
	if len(sites) == 0 {
		return nil
	}
	if l.Tolerate != nil { // what is passed over depends on the rows
		return l.fillOneByOne(ctx, source, sites)
	}
	err := l.gather(ctx, source, sites)
	if !errors.Is(err, eventlog.ErrCleaned) {
		return err
	}
	for _, s := range sites { // the history that they hold was cleaned meanwhile
		if err := s.view.restart(); err != nil {
			return err
		}
	}
	return l.gather(ctx, source, sites)
}

// gather cuts what the source yields into stretches, has them projected on all
// cores, and takes in, in order, what they gathered.
func (l *Load) gather(ctx context.Context, source Source, sites []*site) error {
	for _, s := range sites {
		s.begin, s.idle = s.view.Position(), make(chan gathering, 2*runtime.GOMAXPROCS(0)+2)
	}
	running, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	c := newCutting(source, l.Upto, sites, &all)
	all.Go(func() { c.run(running) })
	for s := range c.queue {
		if err := take(ctx, s, sites); err != nil {
			return err
		}
		c.release(s)
	}
	if err := ctx.Err(); err != nil { // a source may just end then
		return &sourceError{sites[0].projector.Name(), sites[0].view.Position(), context.Cause(ctx)}
	}
	for _, s := range sites {
		if err := s.view.settle(); err != nil {
			return err
		}
	}
	return nil
}

// take takes in what a stretch gathered for all views.
func take(ctx context.Context, s *stretch, sites []*site) error {
	<-s.done
	if s.err != nil {
		return s.err
	}
	for i, site := range sites {
		if l := s.lanes[i]; l.position != s.begin[i] { // it had an event
			if err := site.view.take(ctx, s.gathered[i], s, l.position, l.time); err != nil {
				return err
			}
		}
		site.putBack(s.gathered[i])
	}
	return nil
}

// fillOneByOne applies one event after the other.
func (l *Load) fillOneByOne(ctx context.Context, source Source, sites []*site) error {
	var followers []follower
	for _, s := range sites {
		followers = append(followers, s.view.(*lookedUp))
	}
	if l.Upto != 0 {
		source = until{source, l.Upto}
	}
	return share(ctx, source, followers)
}

func (l *Load) open(s *site) (loading, error) {
	if (l.sortAll || sortable(s.projector)) && l.Tolerate == nil {
		bytes := l.Memory
		if bytes == 0 {
			bytes = memory.Budget(defaultLoadMemory)
		}
		sorter, err := newSorter(s.projector, filepath.Join(l.Scratch, s.projector.Name()), l.Input, int(min(bytes/3, 1<<30)))
		if err != nil {
			return nil, err
		}
		return &sorted{sorter: sorter, load: l, dir: s.building}, nil
	}
	v := &lookedUp{load: l, site: s}
	return v, v.open()
}

// sortable reports whether the view's changes are worth sorting: counters,
// which change with every event, are not.
func sortable(p Projector) bool {
	return !slices.ContainsFunc(p.Tables(), func(t *Table) bool { return t.Counters })
}

// end finishes a view and puts it in its place.
func (l *Load) end(ctx context.Context, s *site) error {
	if l.Upto != 0 && s.view.Position() != l.Upto {
		return fmt.Errorf("load the %s view: the events end at %s, before %s", s.projector.Name(), s.view.Position(), l.Upto)
	}
	done, err := s.view.finish(ctx)
	if err != nil {
		return fmt.Errorf("load the %s view: %w", s.projector.Name(), err)
	}
	*s.done = *done
	// The commit point of a view: a crash before this line leaves one that is
	// being built, after it one that is whole.
	return l.Engine.Move(s.building, s.final)
}

// explained adds to a violation what later events say.
func (l *Load) explained(ctx context.Context, source Source, err error) error {
	if row := (*brokenRow)(nil); errors.As(err, &row) {
		err = row.lookUp(ctx, source)
	}
	if violation := (*Violation)(nil); errors.As(err, &violation) && len(violation.Later) == 0 {
		violation.Explain(ctx, source)
	}
	return err
}

// lookedUp is a view whose rows are looked up.
type lookedUp struct {
	*Runner
	load *Load
	site *site
}

func (v *lookedUp) open() error {
	engine, s := v.load.Engine, v.site
	view, err := open(engine, s.building, s.projector, Bulk)
	if errors.Is(err, ErrUnusable) {
		if err := engine.Remove(s.building); err != nil {
			return err
		}
		view, err = open(engine, s.building, s.projector, Bulk)
	}
	if err != nil {
		return err
	}
	v.Runner = NewRunner(view, v.load.Log)
	v.Tolerate(v.load.Tolerate)
	view.sink.recorded = v.load.Recorded
	return nil
}

func (v *lookedUp) gathering() gathering { return newFold() }

// take applies what a stretch folded, or, where that does not hold, its events
// one by one.
func (v *lookedUp) take(ctx context.Context, g gathering, again *stretch, position eventlog.Seq, time int64) error {
	l, f := v.view.lane, g.(*fold)
	for i := range f.sections[:f.used] {
		part := &f.sections[i]
		err := v.view.sink.applyFold(part)
		if errors.Is(err, errFolded) {
			l.gone = again.before.lend()
			return project(ctx, again.part.source, l)
		}
		if err == nil && part.mark != nil {
			err = v.view.sink.compare(&part.mark.entry, part.mark.last, part.mark.horizon)
		}
		if err != nil {
			return err
		}
		l.position = part.last
	}
	l.position, l.time = position, time
	return l.settle(false)
}

func (v *lookedUp) settle() error { return v.view.lane.settle(true) }

func (v *lookedUp) restart() error {
	if err := v.view.Close(); err != nil {
		return err
	}
	if err := v.load.Engine.Remove(v.site.building); err != nil {
		return err
	}
	return v.open()
}

func (v *lookedUp) finish(context.Context) (*Loaded, error) {
	return loaded(v.view.projector, v.view.committed(), 0), v.view.Close()
}

func (v *lookedUp) close() error {
	if v.Runner == nil {
		return nil
	}
	return v.view.Close()
}
