// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

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
	v := &viewSet{engine: kv.OnDisk(log), dir: dir, use: use, log: log, runners: map[string]*projector.Runner{}}
	if err := v.open(); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

func (v *viewSet) path(name string) string { return filepath.Join(v.dir, name) }

// open opens whatever view is not open.
func (v *viewSet) open() error {
	var err error
	if v.machine == nil {
		if v.machine, err = projector.OpenMachineView(v.engine, v.path(projector.Machines().Name()), v.use, v.log); err != nil {
			return err
		}
		v.addRunner(v.machine.View)
	}
	if v.block == nil {
		if v.block, err = projector.OpenBlockView(v.engine, v.path(projector.Blocks().Name()), v.use, v.log); err != nil {
			return err
		}
		v.addRunner(v.block.View)
	}
	return nil
}

func (v *viewSet) addRunner(view *projector.View) {
	if v.use != projector.ReadOnly {
		v.runners[view.Name()] = projector.NewRunner(view, v.log)
	}
}

// views lists the open views.
func (v *viewSet) views() []*projector.View {
	var views []*projector.View
	if v.machine != nil {
		views = append(views, v.machine.View)
	}
	if v.block != nil {
		views = append(views, v.block.View)
	}
	return views
}

// positions returns where the views stand: what they applied was committed.
func (v *viewSet) positions() []eventlog.Seq {
	var seqs []eventlog.Seq
	for _, view := range v.views() {
		seqs = append(seqs, view.Position())
	}
	return seqs
}

// CatchUp implements archiver.Views.
func (v *viewSet) CatchUp(ctx context.Context, log eventlog.History, stale eventlog.Range) error {
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
	if err := v.open(); err != nil {
		return err
	}
	v.progress.Start("bring the views up to date (batches)", 0)
	defer v.progress.Done()
	return projector.CatchUp(ctx, recovery.Counted(log, v.progress, nil), v.all()...)
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
	name := view.Name()
	delete(v.runners, name)
	var err error
	if name == projector.Machines().Name() {
		err, v.machine = v.machine.Close(), nil
	} else {
		err, v.block = v.block.Close(), nil
	}
	if err != nil {
		return fmt.Errorf("closing the %s view: %w", name, err)
	}
	return projector.Discard(v.engine, v.path(name))
}

func (v *viewSet) all() []*projector.Runner {
	var all []*projector.Runner
	for _, runner := range v.runners {
		all = append(all, runner)
	}
	return all
}

// err returns why a view has stopped, nil while none has.
func (v *viewSet) err() error {
	for _, runner := range v.runners {
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
