// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/durable"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
)

// This file builds views that are empty as a recovery does: from a checkpoint,
// or by sorting from the first event. Views are empty when their directory was
// lost, when it was of another version of the view, and when what they had
// applied is not history.

const (
	// buildingPrefix begins the name of the directory beside the views in which
	// empty ones are built. The names and versions of the views follow.
	buildingPrefix = "building-"
	// lookUpBytes is how large an archive may be at most for its events to be
	// looked up one by one: that takes a second, and leaves no scratch.
	lookUpBytes = 1 << 20
)

// Build implements archiver.Views.
func (v *viewSet) Build(ctx context.Context) error {
	empty, err := v.worthBuilding(ctx)
	if err != nil || len(empty) == 0 {
		return err
	}
	dir := filepath.Join(v.dir, buildingName(empty))
	if err := v.removeBuilding(dir); err != nil {
		return err
	}
	for _, view := range empty {
		v.log.Warn("a view is empty, and is built from the archive; clients are told to come back", "view", view.Name(), "version", view.Version())
		if err := v.forget(view); err != nil {
			return err
		}
	}
	if v.building != nil {
		v.building()
	}
	err = v.buildIn(ctx, dir, empty)
	return errors.Join(v.unlessPassable(err), v.open())
}

// worthBuilding returns the views that are empty, nil when the archive has so
// little that they are as soon looked up.
func (v *viewSet) worthBuilding(ctx context.Context) (empty []*projector.View, err error) {
	if v.archive == nil || v.unfit {
		return nil, nil
	}
	for _, view := range v.views() {
		if view.Position() == 0 {
			empty = append(empty, view)
		}
	}
	if len(empty) == 0 {
		return nil, nil
	}
	objects, err := v.archive.Objects(ctx, 1)
	if err != nil {
		return nil, v.unlessPassable(err)
	}
	total := int64(0)
	for _, object := range objects {
		total += object.Size
	}
	if total <= v.lookUp {
		return nil, nil
	}
	return empty, nil
}

// buildingName names the directory of these views in these versions. What was
// begun for others is not gone on from.
func buildingName(views []*projector.View) string {
	var parts []string
	for _, view := range views {
		parts = append(parts, fmt.Sprintf("%s.%d", view.Name(), view.Version()))
	}
	slices.Sort(parts)
	return buildingPrefix + strings.Join(parts, "-")
}

// buildIn builds the views in dir and puts them in their places.
func (v *viewSet) buildIn(ctx context.Context, dir string, empty []*projector.View) error {
	_, err := os.Stat(dir)
	resumed := err == nil
	err = v.recoverIn(ctx, dir, empty)
	if err != nil && blamesBuilt(err) {
		// What was built holds what was read: nothing of it is gone on from.
		if rm := durable.RemoveAll(dir); rm != nil {
			return errors.Join(err, rm)
		}
		if resumed {
			v.log.Warn("views that were begun cannot be gone on with; they are begun anew", "error", err)
			err = v.recoverIn(ctx, dir, empty)
		}
	}
	if err != nil {
		return fmt.Errorf("build views from the archive: %w", err)
	}
	for _, view := range empty {
		// The commit point of a view: a crash before this line leaves one that
		// the next start finds built in dir, after it one that takes its place
		// when it is opened.
		if err := projector.Replace(v.engine, filepath.Join(dir, view.Name()), v.path(view.Name())); err != nil {
			return err
		}
	}
	return v.removeBuilding("")
}

// recoverIn is a recovery of these views into dir. One that was interrupted is
// gone on with.
func (v *viewSet) recoverIn(ctx context.Context, dir string, empty []*projector.View) error {
	var wanted []projector.Projector
	for _, view := range empty {
		wanted = append(wanted, view.Projector())
	}
	var pending []archiver.Waiver
	if v.waivers != nil {
		pending = v.waivers()
	}
	scratch := filepath.Join(dir, "scratch")
	shelf := newShelf(v.archive, scratch, v.progress)
	shelf.Projectors = wanted
	built, err := recovery.Run(ctx, recovery.Options{
		Archive: v.archive, Engine: v.engine, Dir: dir, Scratch: scratch, Checkpoints: shelf, Projectors: wanted,
		Waivers: pending, Granted: true, Room: roomAt(v.dir, "--data"), Progress: v.progress, More: true, Log: v.log,
	})
	if err != nil {
		return err
	}
	from := "the first event"
	if built.Checkpoint != nil {
		from = "checkpoint " + built.Checkpoint.Name
	}
	for _, passed := range built.Fallbacks {
		v.log.Warn("a checkpoint was passed over", "checkpoint", passed.Checkpoint, "reason", passed.Reason)
	}
	v.log.Info("views were built from the archive", "views", len(empty), "from", from, "events", built.Events, "last", built.Last.String())
	return nil
}

// blamesBuilt reports whether err may lie in what an interrupted build left.
func blamesBuilt(err error) bool {
	if durable.Passing(err) { // of this machine: what was built is as it was
		return false
	}
	var violation *projector.Violation
	return errors.Is(err, recovery.ErrBegun) || errors.Is(err, eventlog.ErrDamaged) || errors.Is(err, eventlog.ErrObjectDamaged) ||
		errors.Is(err, projector.ErrUnusable) || errors.As(err, &violation)
}

// unlessPassable returns what a build ended with, in a start's words. It
// returns nil for a hole or a damaged object: the local log may have the
// events, and the views are brought up by looking rows up, as far as it goes.
func (v *viewSet) unlessPassable(err error) error {
	var violation *projector.Violation
	switch {
	case errors.As(err, &violation) && violation.Rule == projector.RuleType:
		return fmt.Errorf("seq %s of %v: %w: %s", violation.Seq, v.archive.Bucket(), eventlog.ErrUnknownType, violation.Type)
	case errors.Is(err, archiver.ErrHole), errors.Is(err, eventlog.ErrObjectDamaged), errors.Is(err, eventlog.ErrCleaned):
		v.unfit = true
		v.log.Warn("views cannot be built from the archive alone; their events are looked up one by one, where this directory has what is missing", "error", err)
		return nil
	}
	return err
}

// removeBuilding removes what was begun in other directories than keep.
func (v *viewSet) removeBuilding(keep string) error {
	begun, err := filepath.Glob(filepath.Join(v.dir, buildingPrefix+"*"))
	if err != nil {
		return fmt.Errorf("look for views that were begun: %w", err)
	}
	for _, dir := range begun {
		if dir != keep {
			if err := durable.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}
