// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// View is one projector's rows in a store, with the position they stand at.
// A Runner moves it forward; reading is safe meanwhile, from any goroutine,
// and sees whole events only.
type View struct {
	projector Projector
	dir       string
	store     Store
	lane      *lane      // owned by the Runner's goroutine; nil when read-only
	sink      *storeSink // the lane's
	changes   tableChanges

	mu      sync.Mutex
	state   state // as committed last
	closed  bool
	readers sync.WaitGroup // queries under way
}

var errClosed = errors.New("the view is closed")

// bulkEvents is how many events a Bulk view gathers for one commit.
const bulkEvents = 8192

// Open opens the view of p in dir, and makes it when there is none. It ends a
// swap that a crash cut short. What lies there in an older or later version,
// in a format that the engine does not know, or damaged, is discarded, which
// the log says; the view then begins at the first event. (Not when use is
// ReadOnly: then it is an error that is ErrUnusable.) The caller closes the
// view.
func Open(engine Engine, dir string, p Projector, use Use, log *slog.Logger) (*View, error) {
	if use != ReadOnly {
		if err := finishSwap(engine, dir, log); err != nil {
			return nil, err
		}
	}
	v, err := open(engine, dir, p, use)
	if errors.Is(err, ErrUnusable) && use != ReadOnly {
		log.Warn("view discarded; it is projected again from the first event", "view", p.Name(), "dir", dir, "err", err)
		if err := engine.Remove(dir); err != nil {
			return nil, err
		}
		v, err = open(engine, dir, p, use)
	}
	if err != nil {
		return nil, fmt.Errorf("open the %s view: %w", p.Name(), err)
	}
	return v, nil
}

func open(engine Engine, dir string, p Projector, use Use) (*View, error) {
	store, err := engine.Open(dir, use)
	if err != nil {
		return nil, err
	}
	v := &View{projector: p, dir: dir, store: store}
	if err := v.load(use); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return v, nil
}

func (v *View) load(use Use) error {
	raw, found, err := v.store.Get(nil, stateKey)
	if err != nil {
		return err
	}
	if found {
		if err := v.state.decode(raw, v.projector.Name(), v.projector.Version()); err != nil {
			return err
		}
	}
	if use == ReadOnly {
		return nil
	}
	minimum := 1
	if use == Bulk || use == Amend {
		minimum = bulkEvents
	}
	if v.sink, err = newStoreSink(v.projector, v.store, v.state, minimum); err != nil {
		return err
	}
	v.sink.changes = &v.changes
	if use == Bulk && !found {
		v.sink.known = &filter{}
	}
	v.lane = &lane{projector: v.projector, sink: v.sink, settled: v.publish, position: v.state.position, time: v.state.time}
	return nil
}

// publish makes what the sink committed what the view says of itself.
func (v *View) publish() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.state = v.sink.state
}

// Close waits for the queries under way, flushes and closes. The view's
// Runner must have returned.
func (v *View) Close() error {
	v.mu.Lock()
	closed := v.closed
	v.closed = true
	v.mu.Unlock()
	if closed {
		return nil
	}
	v.readers.Wait()
	var sink error
	if v.sink != nil {
		sink = v.sink.close()
	}
	if err := errors.Join(sink, v.store.Close()); err != nil {
		return fmt.Errorf("close the %s view: %w", v.Name(), err)
	}
	return nil
}

// Name returns the name of the view: "machine", "block".
func (v *View) Name() string { return v.projector.Name() }

// Projector returns what the view is a view of.
func (v *View) Projector() Projector { return v.projector }

// Version returns the version of the view's projector.
func (v *View) Version() uint32 { return v.projector.Version() }

func (v *View) committed() state {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state
}

// Position returns the last event that the view includes, 0 when it is empty.
func (v *View) Position() eventlog.Seq { return v.committed().position }

// LastTime returns the recorded time of the event at Position.
func (v *View) LastTime() time.Time { return time.Unix(0, v.committed().time) }

// Digest returns the digest of the rows as of Position.
func (v *View) Digest() (eventlog.Seq, Digest) {
	s := v.committed()
	return s.position, s.digest
}

// Kept returns the digest as of the last state_recorded applied, and its
// seq; 0 when there was none. This is what the next state_recorded says of
// the view.
func (v *View) Kept() (eventlog.Seq, Digest) {
	s := v.committed()
	return s.kept, s.keptSum
}

// Recorded returns how many recorded digests the view has met: compared and
// found equal, and skipped because they are as of a seq that the view keeps
// no digest of, below the horizon, or of another version.
func (v *View) Recorded() (compared, skipped uint64) {
	s := v.committed()
	return s.compared, s.skipped
}

// Proven returns as of which seq a recorded digest was last compared, and
// equal; 0 when none was.
func (v *View) Proven() eventlog.Seq { return v.committed().proven }

// Checkpoint makes a copy of the view, as it is now, in dir, which must not
// exist.
func (v *View) Checkpoint(dir string) error {
	if err := v.enter(); err != nil {
		return err
	}
	defer v.leave()
	return v.store.Checkpoint(dir)
}
