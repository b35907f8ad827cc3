// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

// viewSet is the two views of a state directory with their runners.
type viewSet struct {
	engine projector.Engine
	dir    string // the state directory's views folder
	use    projector.Use
	log    *slog.Logger
	// progress is told how far CatchUp is; may be nil.
	progress *progress.Progress
	// waivers returns those of a recovery that the log may not hold yet; may be
	// nil.
	waivers func() []archiver.Waiver
	// archive is what empty views are built from; nil: they are brought up by
	// looking rows up.
	archive  *archiver.Archive
	lookUp   int64  // bytes of an archive that is not worth building from
	building func() // called when views begin to be built; may be nil
	unfit    bool   // the archive lacks something; owned by the goroutine of the start

	// mu guards what follows: a start throws views away and opens others while
	// the admin door looks at them. Only the goroutine of the start changes them,
	// so it needs mu for that alone.
	mu      sync.Mutex
	machine *projector.MachineView
	block   *projector.BlockView
	runners map[string]*projector.Runner // by the view's name
}

var _ archiver.Views = (*viewSet)(nil)

// projectors are all views there are, by name.
func projectors() map[string]projector.Projector {
	all := map[string]projector.Projector{}
	for _, p := range []projector.Projector{projector.Machines(), projector.Blocks()} {
		all[p.Name()] = p
	}
	return all
}

func openViews(dir string, use projector.Use, log *slog.Logger) (*viewSet, error) {
	v := &viewSet{engine: kv.OnDisk(log), dir: dir, use: use, log: log, lookUp: lookUpBytes, runners: map[string]*projector.Runner{}}
	if err := v.open(); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

func (v *viewSet) path(name string) string { return filepath.Join(v.dir, name) }

// open opens whatever view is not open.
func (v *viewSet) open() error {
	if v.machine == nil {
		machine, err := projector.OpenMachineView(v.engine, v.path(projector.Machines().Name()), v.use, v.log)
		if err != nil {
			return err
		}
		v.add(machine.View, func() { v.machine = machine })
	}
	if v.block == nil {
		block, err := projector.OpenBlockView(v.engine, v.path(projector.Blocks().Name()), v.use, v.log)
		if err != nil {
			return err
		}
		v.add(block.View, func() { v.block = block })
	}
	return nil
}

// add takes in a view that was opened, and makes its runner.
func (v *viewSet) add(view *projector.View, set func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	set()
	if v.use != projector.ReadOnly {
		v.runners[view.Name()] = projector.NewRunner(view, v.log)
	}
}

// views lists the open views.
func (v *viewSet) views() []*projector.View {
	v.mu.Lock()
	defer v.mu.Unlock()
	var views []*projector.View
	if v.machine != nil {
		views = append(views, v.machine.View)
	}
	if v.block != nil {
		views = append(views, v.block.View)
	}
	return views
}

// barred returns the epoch_started that barred a machine, false when it is not
// barred, or the view is not open now.
func (v *viewSet) barred(machine eventlog.Seq) (eventlog.Seq, bool, error) {
	v.mu.Lock()
	view := v.machine
	v.mu.Unlock()
	if view == nil {
		return 0, false, nil
	}
	return view.Barred(machine)
}

// stopped returns why a view has stopped, nil while it has not.
func (v *viewSet) stopped(name string) error {
	v.mu.Lock()
	runner := v.runners[name]
	v.mu.Unlock()
	if runner == nil {
		return nil
	}
	return runner.Err()
}

// positions returns where the views stand: what they applied was committed.
func (v *viewSet) positions() []eventlog.Seq {
	var seqs []eventlog.Seq
	for _, view := range v.views() {
		seqs = append(seqs, view.Position())
	}
	return seqs
}

// Applied implements archiver.Views.
func (v *viewSet) Applied() eventlog.Seq {
	if len(v.positions()) == 0 { // none could be opened again
		return 0
	}
	return slices.Min(v.positions())
}

// CatchUp implements archiver.Views.
func (v *viewSet) CatchUp(ctx context.Context, log eventlog.History, stale eventlog.Range) error {
	if err := v.discardStale(ctx, log, stale); err != nil {
		return err
	}
	if err := v.Build(ctx); err != nil {
		return err
	}
	return v.lookUpRest(ctx, log)
}

// CatchUpHere is CatchUp while the archive does not answer: nothing is built from
// it. A view that lacks more than the local log has fails.
func (v *viewSet) CatchUpHere(ctx context.Context, log eventlog.History) error {
	if err := v.discardStale(ctx, log, eventlog.Range{}); err != nil {
		return err
	}
	return v.lookUpRest(ctx, log)
}

// discardStale empties the views that have applied what is not history.
func (v *viewSet) discardStale(ctx context.Context, log eventlog.History, stale eventlog.Range) error {
	for _, view := range v.views() {
		position := view.Position()
		good := position == 0 || !stale.Contains(position)
		if good {
			var err error
			if good, err = holds(ctx, log, position); err != nil {
				return err
			}
		}
		if good {
			continue
		}
		v.log.Warn("a view has applied events that are not history; it is projected again from the first", "view", view.Name(), "position", position)
		if err := v.discard(view); err != nil {
			return err
		}
	}
	return v.open()
}

// lookUpRest applies what the views lack, row by row. It goes on past what the
// log itself waives, or is about to: a view that is projected anew meets it again.
func (v *viewSet) lookUpRest(ctx context.Context, log eventlog.History) error {
	v.progress.Start("bring the views up to date (batches)", 0)
	defer v.progress.Done()
	var pending []archiver.Waiver
	if v.waivers != nil {
		pending = v.waivers()
	}
	granted := recovery.NewGranted(log, pending, v.log)
	err := granted.CatchUp(ctx, recovery.Counted(log, v.progress, nil), v.all()...)
	if granted.Err() != nil {
		v.renew()
	}
	return err
}

// renew lets views move again that stopped while the log could not be asked
// what it waives: they are as they were.
func (v *viewSet) renew() {
	for _, view := range v.views() {
		v.add(view, func() {})
	}
}

// holds reports whether the log holds the event seq, 0 being before all.
func holds(ctx context.Context, log eventlog.History, seq eventlog.Seq) (bool, error) {
	if seq == 0 {
		return true, nil
	}
	for batch, err := range log.Follow(ctx, seq) {
		if err != nil {
			return false, fmt.Errorf("looking for seq %s in the log: %w", seq, err)
		}
		return batch.Entries[0].Event.Seq == seq, nil
	}
	return false, nil
}

func (v *viewSet) discard(view *projector.View) error {
	if err := v.forget(view); err != nil {
		return err
	}
	return projector.Discard(v.engine, v.path(view.Name()))
}

// forget closes a view, which open opens again.
func (v *viewSet) forget(view *projector.View) error {
	name := view.Name()
	v.mu.Lock()
	delete(v.runners, name)
	if name == projector.Machines().Name() {
		v.machine = nil
	} else {
		v.block = nil
	}
	v.mu.Unlock()
	if err := view.Close(); err != nil { // whoever still looks at it ends first
		return fmt.Errorf("closing the %s view: %w", name, err)
	}
	return nil
}

func (v *viewSet) all() []*projector.Runner {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []*projector.Runner
	for _, runner := range v.runners {
		all = append(all, runner)
	}
	return all
}

// err returns why a view has stopped, nil while none has.
func (v *viewSet) err() error {
	for _, runner := range v.all() {
		if err := runner.Err(); err != nil {
			return err
		}
	}
	return nil
}

// Interrupted implements archiver.Views.
func (v *viewSet) Interrupted(ctx context.Context) ([]eventlog.Seq, error) {
	return v.machine.InterruptedAt(ctx, v.machine.Position())
}

// Close closes the views; their runners must have returned.
func (v *viewSet) Close() error {
	var err error
	if v.machine != nil {
		err = v.machine.Close()
	}
	if v.block != nil {
		err = errors.Join(err, v.block.Close())
	}
	return err
}
