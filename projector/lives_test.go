// SPDX-License-Identifier: Apache-2.0

package projector_test

import (
	"sync/atomic"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

// countedEngine counts the rows that are read from its stores.
type countedEngine struct {
	projector.Engine
	rows *atomic.Int64
}

func (e countedEngine) Open(dir string, use projector.Use) (projector.Store, error) {
	store, err := e.Engine.Open(dir, use)
	return countedStore{store, e.rows}, err
}

type countedStore struct {
	projector.Store
	rows *atomic.Int64
}

func (s countedStore) Get(into, key []byte) ([]byte, bool, error) {
	s.rows.Add(1)
	return s.Store.Get(into, key)
}

func (s countedStore) Snapshot() projector.Snapshot {
	return countedSnapshot{s.Store.Snapshot(), s.rows}
}

func (s countedStore) Lookup() projector.Snapshot {
	return countedSnapshot{s.Store.Lookup(), s.rows}
}

type countedSnapshot struct {
	projector.Snapshot
	rows *atomic.Int64
}

func (s countedSnapshot) Get(into, key []byte) ([]byte, bool, error) {
	s.rows.Add(1)
	return s.Snapshot.Get(into, key)
}

func (s countedSnapshot) Range(lower, upper []byte) (projector.Cursor, error) {
	cursor, err := s.Snapshot.Range(lower, upper)
	return countedCursor{cursor, s.rows}, err
}

type countedCursor struct {
	projector.Cursor
	rows *atomic.Int64
}

func (c countedCursor) Next() bool { c.rows.Add(1); return c.Cursor.Next() }
func (c countedCursor) Last() bool { c.rows.Add(1); return c.Cursor.Last() }
func (c countedCursor) Prev() bool { c.rows.Add(1); return c.Cursor.Prev() }

// However often a block was stored and deleted, whatever asks for it reads a
// few rows.
func TestAHundredThousandLivesOfABlockCostNoMoreThanOne(t *testing.T) {
	const lives = 100_000
	h := modeltest.NewHistory(1, nil)
	h.Log.BatchSize = 8192
	machine := h.Register(h.Open("alice"), "laptop")
	var stored, deleted [lives]eventlog.Seq
	for i := range lives {
		stored[i] = h.Store(machine, eventlog.KindData, nameA, 10, false).Seq
		deleted[i] = h.Delete(machine, eventlog.KindData, nameA).Seq
	}
	rows := new(atomic.Int64)
	v := openViews(t, countedEngine{kv.InMemory(quiet), rows}, "", projector.Live)
	v.catchUp(h.Log)
	check := func(what string, most int64, want eventlog.Seq, ask func() (projector.BlockRow, bool, error)) {
		t.Helper()
		before := rows.Load()
		row, found, err := ask()
		if n := rows.Load() - before; n > most {
			t.Errorf("%s read %d rows", what, n)
		}
		if err != nil || found != (want != 0) || row.Stored != want {
			t.Errorf("%s: the row of event %s, %t, %v; want that of %s", what, row.Stored, found, err, want)
		}
	}
	asOf := func(seq eventlog.Seq) func() (projector.BlockRow, bool, error) {
		return func() (projector.BlockRow, bool, error) {
			return v.blocks.AsOf(machine, eventlog.KindData, nameA, seq)
		}
	}
	latest := func() (projector.BlockRow, bool, error) {
		return v.blocks.Latest(machine, eventlog.KindData, nameA)
	}
	check("a deleted block", 3, stored[lives-1], latest)
	check("as of before the first life", 3, 0, asOf(stored[0]-1))
	for _, i := range []int{0, 1, lives / 2, lives - 1} {
		check("as of a life's begin", 3, stored[i], asOf(stored[i]))
		check("as of a life's end", 3, 0, asOf(deleted[i]))
	}

	before := rows.Load()
	again := h.Store(machine, eventlog.KindData, nameA, 10, true)
	v.catchUp(h.Log)
	if n := rows.Load() - before; n > 50 {
		t.Errorf("to apply one more store, %d rows were read", n)
	}
	check("a live block", 3, again.Seq, latest)
	check("a live block's first life", 3, stored[0], asOf(stored[0]))
	check("its placement", 4, again.Seq, func() (projector.BlockRow, bool, error) {
		row, found, err := latest()
		if err != nil {
			return row, found, err
		}
		_, err = v.blocks.Placement(row)
		return row, found, err
	})
}
