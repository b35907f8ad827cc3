// SPDX-License-Identifier: Apache-2.0

package projector_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

func randomLog(seed uint64, steps int) *modeltest.History {
	h := modeltest.NewHistory(seed, nil)
	for range steps {
		h.Step()
	}
	return h
}

func openView(t *testing.T, engine projector.Engine, dir string, p projector.Projector, use projector.Use) *projector.View {
	t.Helper()
	view, err := projector.Open(engine, dir, p, use, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return view
}

func closeView(t *testing.T, view *projector.View) {
	t.Helper()
	if err := view.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRebuildBesideTheLiveViewThenSwap(t *testing.T) {
	engine := kv.InMemory(quiet)
	h := randomLog(2, 200)
	live := openView(t, engine, "block", projector.Blocks(), projector.Live)
	if err := projector.NewRunner(live, quiet).CatchUp(t.Context(), h.Log); err != nil {
		t.Fatal(err)
	}
	seq, digest, err := projector.Rebuild(t.Context(), engine, "block", t.TempDir(), projector.Blocks(), h.Log, 0, quiet)
	if liveSeq, liveDigest := live.Digest(); err != nil || seq != liveSeq || digest != liveDigest {
		t.Errorf("rebuilt %s %s, live %s %s, %v", seq, digest, liveSeq, liveDigest, err)
	}
	closeView(t, live)
	if err := projector.Swap(engine, "block", quiet); err != nil {
		t.Fatal(err)
	}
	again := openView(t, engine, "block", projector.Blocks(), projector.Live)
	defer closeView(t, again)
	if _, now := again.Digest(); now != digest {
		t.Errorf("after the swap %s, want %s", now, digest)
	}
}

func TestRebuildUpToASeq(t *testing.T) {
	engine := kv.InMemory(quiet)
	h := randomLog(2, 100)
	for i, entry := range h.Log.Entries() {
		if i%17 != 0 {
			continue
		}
		seq, _, err := projector.Rebuild(t.Context(), engine, "machine", t.TempDir(), projector.Machines(), h.Log, entry.Event.Seq, quiet)
		if err != nil || seq != entry.Event.Seq {
			t.Errorf("asked for %s: %s, %v", entry.Event.Seq, seq, err)
		}
	}
	if _, _, err := projector.Rebuild(t.Context(), engine, "machine", t.TempDir(), projector.Machines(), h.Log, h.Log.Last()+1, quiet); err == nil {
		t.Error("rebuilt up to an event that is not there")
	}
}

func TestAFailedRebuildLeavesTheViewAsItWas(t *testing.T) {
	engine := kv.InMemory(quiet)
	h := randomLog(2, 100)
	live := openView(t, engine, "machine", projector.Machines(), projector.Live)
	if err := projector.NewRunner(live, quiet).CatchUp(t.Context(), h.Log); err != nil {
		t.Fatal(err)
	}
	closeView(t, live)
	trouble := errors.New("the archive is away")
	if _, _, err := projector.Rebuild(t.Context(), engine, "machine", t.TempDir(), projector.Machines(), &failing{log: h.Log, after: 3, err: trouble}, 0, quiet); !errors.Is(err, trouble) {
		t.Errorf("got %v", err)
	}
	for _, suffix := range []string{".rebuild", ".rebuilt", ".old"} {
		if there, err := engine.Exists("machine" + suffix); there || err != nil {
			t.Errorf("machine%s is left over: %t, %v", suffix, there, err)
		}
	}
	again := openView(t, engine, "machine", projector.Machines(), projector.Live)
	defer closeView(t, again)
	if again.Position() != h.Log.Last() {
		t.Errorf("position %s, want %s", again.Position(), h.Log.Last())
	}
}

// stopping is an engine that fails from its n-th change on: not done, or done
// and then failed.
type stopping struct {
	projector.Engine
	left int
	done bool
}

var errStopped = errors.New("the process was killed")

func (s *stopping) change(change func() error) error {
	s.left--
	if s.left > 0 || (s.left == 0 && s.done) {
		if err := change(); err != nil {
			return err
		}
	}
	if s.left <= 0 {
		return errStopped
	}
	return nil
}

func (s *stopping) Move(from, to string) error {
	return s.change(func() error { return s.Engine.Move(from, to) })
}

func (s *stopping) Remove(dir string) error {
	return s.change(func() error { return s.Engine.Remove(dir) })
}

func (s *stopping) Open(dir string, use projector.Use) (projector.Store, error) {
	var store projector.Store
	err := s.change(func() (err error) { store, err = s.Engine.Open(dir, use); return err })
	if err != nil && store != nil {
		err = errors.Join(err, store.Close())
		store = nil
	}
	return store, err
}

// A crash at any step of rebuild and swap leaves one whole view, the old one
// or the new one, and no leftovers once it was opened.
func TestACrashAtEveryStepOfRebuildAndSwap(t *testing.T) {
	h := randomLog(2, 60)
	half := h.Log.Entries()[30].Event.Seq
	for _, done := range []bool{false, true} {
		completed := false
		for n := 1; !completed; n++ {
			t.Run(fmt.Sprintf("step %d, done %t", n, done), func(t *testing.T) {
				files := vfs.NewCrashableMem()
				engine := kv.On(files, quiet)
				if _, _, err := projector.Rebuild(t.Context(), engine, "block", t.TempDir(), projector.Blocks(), h.Log, half, quiet); err != nil {
					t.Fatal(err)
				}
				closeView(t, openView(t, engine, "block", projector.Blocks(), projector.Live))

				crashing := &stopping{Engine: engine, left: n, done: done}
				_, _, err := projector.Rebuild(t.Context(), crashing, "block", t.TempDir(), projector.Blocks(), h.Log, 0, quiet)
				if err == nil {
					err = projector.Swap(crashing, "block", quiet)
				}
				completed = err == nil
				if err != nil && !errors.Is(err, errStopped) {
					t.Fatal(err)
				}
				clone := kv.On(files.CrashClone(vfs.CrashCloneCfg{}), quiet)
				view := openView(t, clone, "block", projector.Blocks(), projector.Live)
				defer closeView(t, view)
				if at := view.Position(); at != half && at != h.Log.Last() {
					t.Errorf("the view stands at %s, want %s or %s", at, half, h.Log.Last())
				}
				if _, digest := view.Digest(); true {
					if _, rows, err := view.Recompute(t.Context()); err != nil || rows != digest {
						t.Errorf("digest %s, rows %s, %v", digest, rows, err)
					}
				}
				for _, suffix := range []string{".rebuild", ".rebuilt", ".old"} {
					if there, err := clone.Exists("block" + suffix); there || err != nil {
						t.Errorf("block%s is left over: %t, %v", suffix, there, err)
					}
				}
			})
		}
	}
}

// The machine loses power at any moment: with none, half or all of what was
// not synced, each view stands, whole, at a position it had, and catches up to
// what the model says.
func TestPowerLoss(t *testing.T) {
	clones := 60
	if !testkit.Long() {
		clones = 12
	}
	for _, use := range []projector.Use{projector.Live, projector.Bulk} {
		files := vfs.NewCrashableMem()
		v := openViews(t, kv.On(files, quiet), "", use)
		h := modeltest.NewHistory(9, nil)
		rng := rand.New(rand.NewPCG(1, uint64(use)))
		for i := range clones {
			for range 1 + rng.IntN(20) {
				h.Step()
			}
			v.catchUp(h.Log)
			percent := []int{0, 50, 100}[i%3]
			clone := files.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
			checkClone(t, clone, h)
		}
	}
}

func checkClone(t *testing.T, files vfs.FS, h *modeltest.History) {
	t.Helper()
	v := openViews(t, kv.On(files, quiet), "", projector.Live)
	defer v.close()
	for _, view := range []*projector.View{v.machines.View, v.blocks.View} {
		seq, digest := view.Digest()
		if _, rows, err := view.Recompute(t.Context()); err != nil || rows != digest {
			t.Fatalf("%s view at %s: digest %s, rows %s, %v", view.Name(), seq, digest, rows, err)
		}
	}
	v.catchUp(h.Log)
	model := modeltest.NewModel()
	for i, entries := 0, h.Log.Entries(); i < len(entries); i++ {
		model.Apply(&entries[i])
	}
	if err := model.Check(t.Context(), v.machines, v.blocks); err != nil {
		t.Fatal(err)
	}
}

// versioned is the machine projector under another version.
type versioned struct {
	projector.Projector
	version uint32
}

func (v versioned) Version() uint32 { return v.version }

func TestAViewOfAnotherVersionIsDiscarded(t *testing.T) {
	engine := kv.InMemory(quiet)
	h := randomLog(2, 50)
	for version := range uint32(3) {
		p := versioned{projector.Machines(), version + 1}
		view := openView(t, engine, "machine", p, projector.Live)
		if view.Position() != 0 {
			t.Errorf("version %d finds a view at %s", version+1, view.Position())
		}
		if err := projector.NewRunner(view, quiet).CatchUp(t.Context(), h.Log); err != nil {
			t.Fatal(err)
		}
		closeView(t, view)
	}
	if _, err := projector.Open(engine, "machine", projector.Machines(), projector.ReadOnly, quiet); !errors.Is(err, projector.ErrUnusable) {
		t.Errorf("read only, another version is %v", err)
	}
	if _, err := projector.Open(engine, "machine", projector.Blocks(), projector.ReadOnly, quiet); !errors.Is(err, projector.ErrUnusable) {
		t.Errorf("read only, another view is %v", err)
	}
}

func TestCompare(t *testing.T) {
	engine := kv.InMemory(quiet)
	h := newScene()
	build := func(dir string, p projector.Projector) {
		if _, _, err := projector.Rebuild(t.Context(), engine, dir, t.TempDir(), p, h.Log, 0, quiet); err != nil {
			t.Fatal(err)
		}
		if err := projector.Swap(engine, dir, quiet); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []projector.Projector{projector.Machines(), projector.Blocks()} {
		build("a/"+p.Name(), p)
		build("b/"+p.Name(), p)
		if d, err := projector.Compare(t.Context(), engine, "a/"+p.Name(), "b/"+p.Name(), p, quiet); err != nil || !d.Equal() {
			t.Errorf("equal views: %+v, %v", d, err)
		}
	}
	h.Store(h.laptop, eventlog.KindData, nameB, 7, false)
	h.Delete(h.laptop, eventlog.KindData, nameA)
	build("b/block", projector.Blocks())
	build("b/machine", projector.Machines())
	d, err := projector.Compare(t.Context(), engine, "a/block", "b/block", projector.Blocks(), quiet)
	if err != nil || d.Equal() || len(d.Machines) != 1 || d.Machines[0] != h.laptop || len(d.Rows) != 2 {
		t.Fatalf("%+v, %v", d, err)
	}
	if d.Rows[0].B != "" || !strings.Contains(d.Rows[0].A, h.data.Seq.String()) || d.Rows[1].A != "" {
		t.Errorf("rows %+v", d.Rows)
	}
	if d.A.Position == d.B.Position || d.A.Kept != d.A.Rows || d.B.Kept != d.B.Rows {
		t.Errorf("sides %+v and %+v", d.A, d.B)
	}
	d, err = projector.Compare(t.Context(), engine, "b/machine", "a/machine", projector.Machines(), quiet)
	if err != nil || len(d.Rows) != 1 || d.Rows[0].Table != "totals" || d.Rows[0].A == "" || d.Rows[0].B == "" {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := projector.Compare(t.Context(), engine, "a/block", "nowhere", projector.Blocks(), quiet); err == nil {
		t.Error("compared with nothing")
	}
}
