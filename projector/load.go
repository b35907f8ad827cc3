// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/strandline-project/strandline/eventlog"
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
	Memory     int64 // bytes for records that are being sorted; 0: 192 MiB
	Log        *slog.Logger
	// Tolerate is asked about each broken expectation: true goes on as if the
	// event were not there. nil tolerates none. See Runner.Tolerate.
	Tolerate func(*Violation) bool
	// Merging is told how many records of how many are merged, from any
	// goroutine; may be nil.
	Merging func(done, total uint64)
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
	Runs     int // sorted runs that were merged; 0: looked up
}

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
			sites = append(sites, &site{projector: p, building: path + suffixBuilding, final: path, done: &results[i]})
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
	return &Loaded{View: p.Name(), Position: s.position, Time: s.time, Digest: s.digest, Compared: s.compared, Skipped: s.skipped, Runs: runs}
}

// site is where a view is built.
type site struct {
	projector       Projector
	building, final string
	view            loading
	done            *Loaded
}

// loading is a view on its site.
type loading interface {
	follower
	// finish ends the view in its building directory.
	finish(ctx context.Context) (*Loaded, error)
	close() error
}

// build builds the views on all sites.
func (l *Load) build(ctx context.Context, source Source, sites []*site) (err error) {
	if l.Upto != 0 {
		source = until{source, l.Upto}
	}
	var followers []follower
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
		followers = append(followers, s.view)
	}
	if err := share(ctx, source, followers); err != nil {
		return l.explained(ctx, source, err)
	}
	for _, s := range sites {
		if err := l.end(ctx, s); err != nil {
			return l.explained(ctx, source, err)
		}
	}
	return nil
}

func (l *Load) open(s *site) (loading, error) {
	if (l.sortAll || sortable(s.projector)) && l.Tolerate == nil {
		memory := l.Memory
		if memory == 0 {
			memory = defaultLoadMemory
		}
		sorter, err := newSorter(s.projector, filepath.Join(l.Scratch, s.projector.Name()), l.Input, int(min(memory/3, 1<<30)))
		if err != nil {
			return nil, err
		}
		return &sorted{sorter: sorter, load: l, dir: s.building}, nil
	}
	view, err := open(l.Engine, s.building, s.projector, Bulk)
	if errors.Is(err, ErrUnusable) {
		if err := l.Engine.Remove(s.building); err != nil {
			return nil, err
		}
		view, err = open(l.Engine, s.building, s.projector, Bulk)
	}
	if err != nil {
		return nil, err
	}
	runner := NewRunner(view, l.Log)
	runner.Tolerate(l.Tolerate)
	view.sink.recorded = l.Recorded
	return &lookedUp{Runner: runner}, nil
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
type lookedUp struct{ *Runner }

func (v *lookedUp) finish(context.Context) (*Loaded, error) {
	return loaded(v.view.projector, v.view.committed(), 0), v.view.Close()
}

func (v *lookedUp) close() error { return v.view.Close() }
