// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"

	"github.com/strandline-project/strandline/eventlog"
)

// Where a rebuild works, beside the view's own directory. Each step is one
// rename or one removal, so whatever a crash leaves is recognised:
//
//	DIR.rebuild   being built, of no use: removed
//	DIR.rebuilt   whole: takes DIR's place
//	DIR.old       replaced: removed, once DIR is there
const (
	suffixBuilding = ".rebuild"
	suffixBuilt    = ".rebuilt"
	suffixOld      = ".old"
)

// Rebuild projects the view of p anew from the first event to the event upto (0: to the source's end)
// into a fresh directory beside dir, as Load does, with sorted runs in scratch.
// The view in dir may be in use meanwhile. What is built takes its place in
// Swap, or when the view is opened next. It returns the position and digest of
// what it built. An error leaves the view as it was.
func Rebuild(ctx context.Context, engine Engine, dir, scratch string, p Projector, source Source, upto eventlog.Seq, log *slog.Logger) (eventlog.Seq, Digest, error) {
	return RebuildTolerating(ctx, engine, dir, scratch, p, source, upto, nil, log)
}

// RebuildTolerating is Rebuild, past the violations that tolerate says true
// of; see Load.Tolerate.
func RebuildTolerating(ctx context.Context, engine Engine, dir, scratch string, p Projector, source Source, upto eventlog.Seq, tolerate func(*Violation) bool, log *slog.Logger) (eventlog.Seq, Digest, error) {
	for _, suffix := range []string{suffixBuilding, suffixBuilt} {
		if err := engine.Remove(dir + suffix); err != nil {
			return 0, Digest{}, err
		}
	}
	// The move of what is whole to its name is Load's commit point: a crash
	// before it leaves work to be thrown away, after it a view that waits for
	// its place.
	load := Load{Engine: engine, Scratch: scratch, Input: "rebuild", Upto: upto, Tolerate: tolerate, Log: log}
	if err := load.clear(); err != nil {
		return 0, Digest{}, err
	}
	var done Loaded
	s := &site{projector: p, building: dir + suffixBuilding, final: dir + suffixBuilt, done: &done}
	if err := errors.Join(load.build(ctx, source, []*site{s}), load.clear()); err != nil {
		return 0, Digest{}, errors.Join(fmt.Errorf("rebuild the %s view: %w", p.Name(), err), engine.Remove(dir+suffixBuilding))
	}
	return done.Position, done.Digest, nil
}

// until is a source that ends after the event last.
type until struct {
	source Source
	last   eventlog.Seq
}

func (u until) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		for batch, err := range u.source.Follow(ctx, from) {
			if err != nil {
				yield(batch, err)
				return
			}
			end := len(batch.Entries) - len(since(batch.Entries, u.last+1))
			whole := end == len(batch.Entries)
			batch.Entries = batch.Entries[:end]
			if (end > 0 && !yield(batch, nil)) || !whole {
				return
			}
		}
	}
}

// Swap puts what Rebuild built in the place of the view in dir, which must be
// closed. It does nothing when nothing was built.
func Swap(engine Engine, dir string, log *slog.Logger) error {
	return finishSwap(engine, dir, log)
}

// Replace puts a whole view that was built elsewhere on the same volume into
// the place of the view in dir, which must be closed, when that is opened next.
func Replace(engine Engine, built, dir string) error {
	if err := engine.Remove(dir + suffixBuilt); err != nil {
		return err
	}
	return engine.Move(built, dir+suffixBuilt)
}

// finishSwap ends what Rebuild and Swap began, from wherever a crash left it.
func finishSwap(engine Engine, dir string, log *slog.Logger) error {
	built, err := engine.Exists(dir + suffixBuilt)
	if err != nil {
		return err
	}
	if built {
		if err := takePlace(engine, dir); err != nil {
			return fmt.Errorf("put the rebuilt view in its place: %w", err)
		}
		log.Info("a rebuilt view took its place", "dir", dir)
	}
	for _, suffix := range []string{suffixBuilding, suffixOld} {
		if err := engine.Remove(dir + suffix); err != nil {
			return err
		}
	}
	return nil
}

// takePlace moves DIR.rebuilt to DIR. A crash leaves DIR and DIR.rebuilt, or
// DIR.rebuilt with DIR.old, or DIR: each is ended by doing this again.
func takePlace(engine Engine, dir string) error {
	there, err := engine.Exists(dir)
	if err != nil {
		return err
	}
	if there {
		if err := engine.Remove(dir + suffixOld); err != nil {
			return err
		}
		if err := engine.Move(dir, dir+suffixOld); err != nil {
			return err
		}
	}
	return engine.Move(dir+suffixBuilt, dir)
}

// Discard removes the view in dir, which must be closed, and whatever was
// being built beside it: it applied events that do not count any more, or is
// ahead of the log. The next Open begins at the first event.
func Discard(engine Engine, dir string) error {
	for _, suffix := range []string{suffixBuilding, suffixBuilt, suffixOld, ""} {
		if err := engine.Remove(dir + suffix); err != nil {
			return err
		}
	}
	return nil
}
