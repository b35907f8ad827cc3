// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

// shelf keeps checkpoints beside the live views, in the same engine.
type shelf struct {
	engine projector.Engine
	taken  []Checkpoint // the newest first
	fail   map[string]error
	asked  []string
}

func (s *shelf) List(context.Context) ([]Checkpoint, error) { return s.taken, nil }

func (s *shelf) Restore(_ context.Context, c Checkpoint, dir string) error {
	s.asked = append(s.asked, c.Name)
	for _, p := range []projector.Projector{projector.Machines(), projector.Blocks()} {
		from := filepath.Join(c.Name, p.Name())
		if there, err := s.engine.Exists(from); err != nil || !there {
			return errors.Join(fmt.Errorf("%w: there is no %s", ErrUnfit, from), err)
		}
		view, err := projector.Open(s.engine, from, p, projector.Live, quiet) // one that is only read cannot be copied
		if err != nil {
			return err
		}
		if err := errors.Join(view.Checkpoint(filepath.Join(dir, p.Name())), view.Close()); err != nil {
			return err
		}
		if err := s.fail[c.Name]; err != nil { // half done
			return err
		}
	}
	return nil
}

// newShelvedWorld is a newWorld that took checkpoints as it went.
func newShelvedWorld(t *testing.T, seed uint64, steps int) (*world, *shelf) {
	t.Helper()
	w := &world{t: t, bucket: buckettest.NewMemory(), engine: kv.InMemory(quiet)}
	w.machines, w.blocks = open(t, w.engine, "live")
	t.Cleanup(func() { must(t, errors.Join(w.machines.Close(), w.blocks.Close())) })
	s := &shelf{engine: w.engine, fail: map[string]error{}}
	runners := []*projector.Runner{projector.NewRunner(w.machines.View, quiet), projector.NewRunner(w.blocks.View, quiet)}
	w.history = modeltest.NewHistory(seed, func() []eventlog.ViewState {
		return []eventlog.ViewState{recorded(w.machines.View), recorded(w.blocks.View)}
	})
	for step := range steps {
		w.history.Step()
		must(t, projector.CatchUp(t.Context(), w.history.Log, runners...))
		if (step+1)%(steps/6) == 0 {
			c := Checkpoint{Name: fmt.Sprint("checkpoint-", step), Seq: w.history.Log.Last()}
			must(t, errors.Join(w.machines.Checkpoint(filepath.Join(c.Name, "machine")), w.blocks.Checkpoint(filepath.Join(c.Name, "block"))))
			s.taken = append([]Checkpoint{c}, s.taken...)
		}
	}
	w.archive(rand.New(rand.NewPCG(seed, 77)), w.history.Log.Entries())
	return w, s
}

func TestEveryCheckpointIsAsGoodAsTheFirstEvent(t *testing.T) {
	for seed := range seeds(40) {
		w, s := newShelvedWorld(t, 4000+seed, 120)
		for i := range s.taken {
			opts := w.options(fmt.Sprint("new", i))
			opts.Checkpoints = &shelf{engine: w.engine, taken: s.taken[i:]}
			result, err := Run(t.Context(), opts)
			must(t, err)
			w.check(opts.Dir, result)
			if result.Checkpoint == nil || *result.Checkpoint != s.taken[i] || len(result.Fallbacks) != 0 {
				t.Errorf("it says that it began from %+v after %v", result.Checkpoint, result.Fallbacks)
			}
			if all := uint64(len(w.history.Log.Entries())); result.Events >= all {
				t.Errorf("%d of %d events were projected", result.Events, all)
			}
		}
	}
}

// How many objects the tail has is told before it is projected, up to an event
// in the middle, too, and also when nothing is left of it.
func TestTheTailOfACheckpointIsCounted(t *testing.T) {
	w, s := newShelvedWorld(t, 4050, 240)
	entries := w.history.Log.Entries()
	for i, until := range []eventlog.Seq{0, s.taken[1].Seq, entries[len(entries)-3].Event.Seq} {
		for _, c := range s.taken {
			if until != 0 && c.Seq > until {
				continue
			}
			opts := w.options(fmt.Sprint("new-", i, c.Name))
			opts.Checkpoints, opts.Until = &shelf{engine: w.engine, taken: []Checkpoint{c}}, until
			opts.Progress = progress.New(nil, quiet)
			_, err := Run(t.Context(), opts)
			opts.Progress.Close()
			must(t, err)
			for _, phase := range opts.Progress.Phases() {
				if phase.Phase == "project the tail (objects)" && (phase.Total != phase.Done || phase.Done == 0 && c.Seq < w.history.Log.Last() && c.Seq != until) {
					t.Errorf("from %s up to %s: %d of %d objects", c.Seq, until, phase.Done, phase.Total)
				}
			}
		}
	}
}

// A checkpoint that cannot be restored, is beyond what is asked for, belongs
// to another history or has other rows is passed over, for an older one or for
// none.
func TestAWrongCheckpointIsPassedOverAndNamed(t *testing.T) {
	w, s := newShelvedWorld(t, 4100, 200)
	other, lies := newShelvedWorld(t, 4101, 220)
	damaged := fmt.Errorf("%w: a file of it is damaged", ErrUnfit)
	run := func(name string, c Checkpoints, until eventlog.Seq, from *Checkpoint, reasons ...string) {
		t.Helper()
		opts := w.options(name)
		opts.Checkpoints, opts.Until = c, until
		result, err := Run(t.Context(), opts)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if until == 0 {
			w.check(name, result)
		}
		if (from == nil) != (result.Checkpoint == nil) || from != nil && *from != *result.Checkpoint || len(result.Fallbacks) != len(reasons) {
			t.Errorf("%s: from %+v, want %+v; %+v", name, result.Checkpoint, from, result.Fallbacks)
			return
		}
		for i, reason := range reasons {
			if !strings.Contains(result.Fallbacks[i].Reason, reason) {
				t.Errorf("%s: passed over because of %q, want %q", name, result.Fallbacks[i].Reason, reason)
			}
		}
	}
	run("damaged", &shelf{engine: w.engine, taken: s.taken, fail: map[string]error{s.taken[0].Name: damaged}}, 0, &s.taken[1], "damaged")
	all := map[string]error{}
	for _, c := range s.taken {
		all[c.Name] = damaged
	}
	run("all-damaged", &shelf{engine: w.engine, taken: s.taken[:2], fail: all}, 0, nil, "damaged", "damaged")
	run("none", &shelf{engine: w.engine}, 0, nil)
	run("missing", &shelf{engine: w.engine, taken: append([]Checkpoint{{Name: "nowhere", Seq: 1 << 32}}, s.taken...)}, 0, &s.taken[0], "there is no nowhere")
	run("as-of", &shelf{engine: w.engine, taken: s.taken}, s.taken[2].Seq, &s.taken[2])
	run("as-of-before", &shelf{engine: w.engine, taken: s.taken}, s.taken[2].Seq-1, &s.taken[3])

	// One of another history: it stands where the log has no event, or its
	// rows contradict the events that follow, or what is recorded of it.
	lies.engine = other.engine
	foreign := &mixed{w.engine, lies, s}
	opts := w.options("foreign")
	opts.Checkpoints = foreign
	result, err := Run(t.Context(), opts)
	must(t, err)
	w.check("foreign", result)
	var reasons strings.Builder
	for _, f := range result.Fallbacks {
		fmt.Fprintln(&reasons, f.Reason)
	}
	for _, want := range []string{"it is of another history: there is no event", "machine view stopped before event"} {
		if !strings.Contains(reasons.String(), want) {
			t.Errorf("none was passed over because %q:\n%s", want, reasons.String())
		}
	}
}

// mixed offers the checkpoints of another world before those of this one.
type mixed struct {
	engine      projector.Engine
	lies, truth *shelf
}

func (m *mixed) List(context.Context) ([]Checkpoint, error) {
	var all []Checkpoint
	for _, c := range m.lies.taken {
		all = append(all, Checkpoint{Name: "lie-" + c.Name, Seq: c.Seq})
	}
	return append(all, m.truth.taken...), nil
}

func (m *mixed) Restore(ctx context.Context, c Checkpoint, dir string) error {
	name, lie := strings.CutPrefix(c.Name, "lie-")
	if !lie {
		return m.truth.Restore(ctx, c, dir)
	}
	for _, p := range []projector.Projector{projector.Machines(), projector.Blocks()} {
		view, err := projector.Open(m.lies.engine, filepath.Join(name, p.Name()), p, projector.ReadOnly, quiet)
		if err != nil {
			return err
		}
		if err := errors.Join(copyRows(ctx, view, m.engine, filepath.Join(dir, p.Name()), p), view.Close()); err != nil {
			return err
		}
	}
	return nil
}

// copyRows sends a view from one engine to another.
func copyRows(ctx context.Context, view *projector.View, to projector.Engine, dir string, p projector.Projector) error {
	file, err := os.CreateTemp("", "copy-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if err := view.Export(ctx, file); err != nil {
		return err
	}
	if _, err := file.Seek(0, 0); err != nil {
		return err
	}
	_, err = projector.Import(ctx, to, dir, p, file)
	return err
}

// A store that does not answer, and a full disk, are no checkpoint's fault: the
// recovery ends, and the next try begins from the same checkpoint.
func TestNoCheckpointIsBlamedForTheNetwork(t *testing.T) {
	w, s := newShelvedWorld(t, 4200, 120)
	s.fail[s.taken[0].Name] = &net.OpError{Op: "read", Err: errors.New("connection reset")}
	opts := w.options("new")
	opts.Checkpoints = s
	var network net.Error
	if _, err := Run(t.Context(), opts); !errors.As(err, &network) {
		t.Fatalf("got %v", err)
	}
	delete(s.fail, s.taken[0].Name)
	result, err := Run(t.Context(), opts)
	must(t, err)
	w.check("new", result)
	if *result.Checkpoint != s.taken[0] || len(result.Fallbacks) != 0 || !result.Resumed {
		t.Errorf("%+v", result)
	}
}

// Killed at any step, or at any call of the bucket, a recovery from a
// checkpoint is ended by the next process, which may have to fall back.
func TestARecoveryFromACheckpointKilledAnywhereIsResumed(t *testing.T) {
	for seed := range seeds(8) {
		w, s := newShelvedWorld(t, 4300+seed, 100)
		best := s.taken[0]
		if seed%2 == 1 {
			s.fail[best.Name] = fmt.Errorf("%w: damaged", ErrUnfit)
			best = s.taken[1]
		}
		begun := func(r *Result) { // a process that dies makes no checkpoint worse
			t.Helper()
			if r.Checkpoint == nil || *r.Checkpoint != best || len(r.Fallbacks) != int(seed%2) {
				t.Fatalf("it began from %+v after %v, want %+v", r.Checkpoint, r.Fallbacks, best)
			}
		}
		for step := 0; ; step++ {
			ended := true
			for _, done := range []bool{false, true} {
				opts := w.options(fmt.Sprint("new-", step, done))
				process := &mortal{Engine: w.engine, left: step, done: done}
				opts.Engine, opts.Checkpoints = process, s
				result, err := Run(t.Context(), opts)
				if process.died {
					ended = false
					if err == nil {
						t.Fatalf("killed at step %d (%s), it says %+v", step, process.at, result)
					}
					opts.Engine = w.engine
					result, err = Run(t.Context(), opts)
				}
				must(t, err)
				w.check(opts.Dir, result)
				begun(result)
			}
			if ended {
				break
			}
		}
		opts := w.options("calls")
		opts.Checkpoints = s
		for calls := 1; ; calls++ {
			bucket, ctx, killed := w.killedAfter(calls)
			opts.Archive = archiver.At(bucket, logID)
			result, err := Run(ctx, opts)
			if err == nil {
				w.check("calls", result)
				begun(result)
				break
			}
			if !killed() {
				t.Fatal(err)
			}
		}
	}
}

func TestABeginningThatWasEditedIsRefused(t *testing.T) {
	w, s := newShelvedWorld(t, 4400, 100)
	opts := w.options("new")
	opts.Checkpoints = s
	ctx, kill := context.WithCancel(t.Context())
	opts.Log = slog.New(killOn{slog.DiscardHandler, "a checkpoint", kill})
	s.fail[s.taken[0].Name] = fmt.Errorf("%w: damaged", ErrUnfit)
	if _, err := Run(ctx, opts); err == nil {
		t.Fatal("it was not killed")
	}
	path := filepath.Join(opts.Scratch, beginningName)
	raw, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte(strings.Replace(string(raw), `damaged`, `dumaged`, 1)), 0o600))
	if _, err := Run(t.Context(), opts); !errors.Is(err, errNote) {
		t.Errorf("edited: %v", err)
	}
	must(t, writeNote(path, &beginning{Version: 9}))
	if _, err := Run(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("of another version: %v", err)
	}
}

// thief restores views that lack a row.
type thief struct{ *shelf }

func (s thief) Restore(ctx context.Context, c Checkpoint, dir string) error {
	if err := s.shelf.Restore(ctx, c, dir); err != nil || c != s.taken[0] {
		return err
	}
	path := filepath.Join(dir, "block")
	view, err := projector.Open(s.engine, path, projector.Blocks(), projector.ReadOnly, quiet)
	if err != nil {
		return err
	}
	var key []byte
	for row, err := range view.Rows(ctx) {
		if err != nil {
			return err
		}
		if row.Deleted == 0 {
			key = append([]byte{row.Table.ID}, row.Key...)
		}
	}
	if err := view.Close(); err != nil {
		return err
	}
	store, err := s.engine.Open(path, projector.Live)
	if err != nil {
		return err
	}
	batch := store.NewBatch()
	return errors.Join(batch.Delete(key), batch.Commit(), batch.Close(), store.Close())
}

// A kept sum never looks at rows; the end of a recovery does.
func TestACheckpointThatLacksARowIsPassedOver(t *testing.T) {
	w, s := newShelvedWorld(t, 4500, 120)
	opts := w.options("new")
	opts.Checkpoints = thief{s}
	result, err := Run(t.Context(), opts)
	must(t, err)
	w.check("new", result)
	if *result.Checkpoint != s.taken[1] || len(result.Fallbacks) != 1 || !strings.Contains(result.Fallbacks[0].Reason, "its rows make the digest") {
		t.Errorf("from %+v after %+v", result.Checkpoint, result.Fallbacks)
	}
}
