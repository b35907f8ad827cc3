// SPDX-License-Identifier: Apache-2.0

package projector_test

import (
	"errors"
	"testing"

	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

// sickEngine's stores fail at the n-th call of one kind: not done, or done
// and then failed.
type sickEngine struct {
	projector.Engine
	call string
	left int
	done bool
}

var errSick = errors.New("input/output error")

type sickStore struct {
	projector.Store
	engine *sickEngine
}

type sickBatch struct {
	projector.WriteBatch
	engine *sickEngine
}

func (e *sickEngine) Open(dir string, use projector.Use) (projector.Store, error) {
	store, err := e.Engine.Open(dir, use)
	if err != nil {
		return nil, err
	}
	return &sickStore{store, e}, nil
}

// due counts a call, and reports whether it is the one that fails.
func (e *sickEngine) due(call string) bool {
	if e.call == call {
		e.left--
	}
	return e.call == call && e.left == 0
}

func (s *sickStore) Lookup() projector.Snapshot { return &sickSnapshot{s.Store.Lookup(), s.engine} }

type sickSnapshot struct {
	projector.Snapshot
	engine *sickEngine
}

func (s *sickSnapshot) Get(into, key []byte) ([]byte, bool, error) {
	if s.engine.due("get") {
		return into, false, errSick
	}
	return s.Snapshot.Get(into, key)
}

func (s *sickSnapshot) Close() error {
	if s.engine.due("close") {
		return errors.Join(errSick, s.Snapshot.Close())
	}
	return s.Snapshot.Close()
}

func (s *sickStore) NewBatch() projector.WriteBatch {
	return &sickBatch{s.Store.NewBatch(), s.engine}
}

func (b *sickBatch) Set(key, value []byte) error {
	if b.engine.due("set") {
		return errSick
	}
	return b.WriteBatch.Set(key, value)
}

func (b *sickBatch) Delete(key []byte) error {
	if b.engine.due("delete") {
		return errSick
	}
	return b.WriteBatch.Delete(key)
}

func (b *sickBatch) Commit() error {
	if !b.engine.due("commit") {
		return b.WriteBatch.Commit()
	}
	if b.engine.done {
		return errors.Join(errSick, b.WriteBatch.Commit())
	}
	return errSick
}

// A store that fails, whether it did what it was asked or not, stops the
// view. Opened again, the view is whole and catches up.
func TestAFailingStoreStopsTheView(t *testing.T) {
	h := modeltest.NewHistory(4, nil)
	for range 80 {
		h.Step()
	}
	model := modeltest.NewModel()
	for i, entries := 0, h.Log.Entries(); i < len(entries); i++ {
		model.Apply(&entries[i])
	}
	for _, test := range []struct {
		call string
		done bool
	}{{"get", false}, {"set", false}, {"delete", false}, {"close", false}, {"commit", false}, {"commit", true}} {
		for _, n := range []int{2, 3, 5, 9} {
			memory := kv.InMemory(quiet)
			sick := &sickEngine{Engine: memory, call: test.call, left: n, done: test.done}
			view := openView(t, sick, "views/block", projector.Blocks(), projector.Live)
			r := projector.NewRunner(view, quiet)
			err := r.CatchUp(t.Context(), h.Log)
			if sick.left <= 0 && (!errors.Is(err, errSick) || !errors.Is(r.WaitApplied(t.Context(), h.Log.Last()), errSick)) {
				t.Errorf("%s %d: %v", test.call, n, err)
			}
			closeView(t, view)
			v := openViews(t, memory, "", projector.Live)
			v.catchUp(h.Log)
			if err := model.Check(t.Context(), v.machines, v.blocks); err != nil {
				t.Errorf("%s %d: %v", test.call, n, err)
			}
			v.close()
		}
	}
}
