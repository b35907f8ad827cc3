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

// Rebuild projects the view of p anew from the first event to the event upto
// (0: to the source's end) into a fresh directory beside dir. The view in dir
// may be in use meanwhile. What is built takes its place in Swap, or when the
// view is opened next. It returns the position and digest of what it built.
// An error leaves the view as it was.
func Rebuild(ctx context.Context, engine Engine, dir string, p Projector, source Source, upto eventlog.Seq, log *slog.Logger) (eventlog.Seq, Digest, error) {
	for _, suffix := range []string{suffixBuilding, suffixBuilt} {
		if err := engine.Remove(dir + suffix); err != nil {
			return 0, Digest{}, err
		}
	}
	seq, digest, err := build(ctx, engine, dir+suffixBuilding, p, source, upto, log)
	if err != nil {
		return 0, Digest{}, errors.Join(fmt.Errorf("rebuild the %s view: %w", p.Name(), err), engine.Remove(dir+suffixBuilding))
	}
	// The commit point of building: a crash before this line leaves work to
	// be thrown away, after it a whole view that waits for its place.
	if err := engine.Move(dir+suffixBuilding, dir+suffixBuilt); err != nil {
		return 0, Digest{}, err
	}
	return seq, digest, nil
}

func build(ctx context.Context, engine Engine, dir string, p Projector, source Source, upto eventlog.Seq, log *slog.Logger) (seq eventlog.Seq, digest Digest, err error) {
	view, err := open(engine, dir, p, Bulk)
	if err != nil {
		return 0, digest, err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	if upto != 0 {
		source = until{source, upto}
	}
	if err := NewRunner(view, log).CatchUp(ctx, source); err != nil {
		return 0, digest, err
	}
	if upto != 0 && view.Position() != upto {
		return 0, digest, fmt.Errorf("the events end at %s, before %s", view.Position(), upto)
	}
	seq, digest = view.Digest()
	return seq, digest, nil
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
