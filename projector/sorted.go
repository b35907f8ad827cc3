// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/strandline-project/strandline/eventlog"
)

// sorted is a view whose changes are sorted.
type sorted struct {
	*sorter
	load  *Load
	dir   string // of the store to be
	store Store  // while the rows are being written

	taken   eventlog.Seq // the last event taken in; 0: none
	takenAt int64        // its time
}

func (v *sorted) close() error {
	err := v.wait()
	if v.store != nil {
		err = errors.Join(err, v.store.Close())
	}
	return err
}

// Position returns the last event that is in a run.
func (v *sorted) Position() eventlog.Seq { return v.position() }

func (v *sorted) gathering() gathering { return newGatheredRecords() }

func (v *sorted) take(_ context.Context, g gathering, _ *stretch, position eventlog.Seq, time int64) error {
	v.taken, v.takenAt = position, time
	return v.sorter.take(g.(*gatheredRecords), position, time)
}

func (v *sorted) settle() error {
	if v.taken == 0 { // nothing came
		return v.wait()
	}
	return errors.Join(v.sorter.settle(v.taken, v.takenAt, true), v.wait())
}

func (v *sorted) restart() error {
	err := v.wait() // a run that is still being written
	v.sorter.restart()
	v.taken, v.takenAt = 0, 0
	return err
}

// finish merges the runs into a new store.
func (v *sorted) finish(ctx context.Context) (*Loaded, error) {
	engine := v.load.Engine
	if err := engine.Remove(v.dir); err != nil { // what a crash left of an earlier merge
		return nil, err
	}
	store, err := engine.Open(v.dir, Bulk)
	if err != nil {
		return nil, err
	}
	v.store = store
	at, err := v.merge(ctx)
	if err != nil {
		return nil, err
	}
	if err := v.writeState(at); err != nil {
		return nil, err
	}
	v.store = nil
	return loaded(v.projector, *at, len(v.journal.Stops)), store.Close()
}

// writeState says, after all rows, where the view stands.
func (v *sorted) writeState(at *state) (err error) {
	batch := v.store.NewBatch()
	defer func() { err = errors.Join(err, batch.Close()) }()
	if err := batch.Set(stateKey, at.append(nil, v.projector.Name(), v.projector.Version())); err != nil {
		return err
	}
	if err := batch.Commit(); err != nil {
		return err
	}
	return v.store.Flush()
}

// merge merges all runs into the store, a range of keys on each core, and
// returns where the view stands.
func (v *sorted) merge(ctx context.Context) (at *state, err error) {
	var runs []*run
	defer func() {
		for _, r := range runs {
			err = errors.Join(err, r.close())
		}
	}()
	var total uint64
	var marks markRange
	for _, stop := range v.journal.Stops {
		r, err := openRun(filepath.Join(v.sorter.dir, stop.Run.File), stop.Run)
		if err != nil {
			return nil, err
		}
		for marks.from = marks.to; marks.to < len(v.journal.Marks) && v.journal.Marks[marks.to].Seq < stop.Position; {
			marks.to++
		}
		r.near = marks
		runs = append(runs, r)
		total += stop.Run.Records
	}
	told := func(n uint64) {
		if v.load.Merging != nil {
			v.load.Merging(n, total)
		}
	}
	var number atomic.Uint64
	cuts := cutKeys(runs, runtime.GOMAXPROCS(0))
	mergers := make([]*merger, len(cuts)+1)
	for i := range mergers {
		if mergers[i], err = v.newMerger(&number, told); err != nil {
			return nil, err
		}
	}
	group, running := errgroup.WithContext(ctx)
	var from []byte
	for i, to := range append(cuts, nil) {
		var cursors []*runCursor
		for _, r := range runs {
			cursors = append(cursors, r.cursor(from, to))
		}
		group.Go(func() error { return mergers[i].merge(running, cursors) })
		from = to
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return v.conclude(ctx, mergers, &number)
}

func (v *sorted) newMerger(number *atomic.Uint64, told func(uint64)) (*merger, error) {
	hasher, err := newRowHasher(v.projector.Name(), v.projector.Version())
	if err != nil {
		return nil, err
	}
	marks := make([]eventlog.Seq, len(v.journal.Marks))
	for i := range marks {
		marks[i] = v.journal.Marks[i].Seq
	}
	m := &merger{projector: v.projector, marks: marks, hasher: hasher, told: told,
		live: newTableWriter(v.store, number), history: &historyWriter{out: newTableWriter(v.store, number)},
		deltas: make([]sum, len(v.journal.Marks)+1), machines: map[uint64]*sum{}}
	for _, table := range v.projector.Tables() {
		m.tables[table.ID] = table
	}
	return m, nil
}

// cutKeys returns keys that cut the records of all runs into about n equal
// ranges. They end with a group's first byte at most, so that no name is the
// beginning of one beyond the cut: its history rows would be, too.
func cutKeys(runs []*run, n int) [][]byte {
	var keys [][]byte
	for _, r := range runs {
		for _, block := range r.blocks {
			keys = append(keys, block.first[:min(len(block.first), groupSize+1)])
		}
	}
	slices.SortFunc(keys, slices.Compare)
	var cuts [][]byte
	for i := 1; i < n && len(keys) > 0; i++ {
		cut := keys[i*len(keys)/n]
		if len(cuts) == 0 || slices.Compare(cuts[len(cuts)-1], cut) < 0 {
			cuts = append(cuts, cut)
		}
	}
	return cuts
}

// conclude adds up what the mergers found, and takes the rows into the store.
func (v *sorted) conclude(ctx context.Context, mergers []*merger, number *atomic.Uint64) (*state, error) {
	var broken []brokenRow
	var files []string
	deltas := make([]sum, len(v.journal.Marks)+1)
	machines := map[uint64]*sum{}
	for _, m := range mergers {
		broken = append(broken, m.broken...)
		files = append(append(files, m.live.files...), m.history.out.files...)
		for i := range deltas {
			deltas[i].addSum(&m.deltas[i])
		}
		for id, part := range m.machines {
			if machines[id] == nil {
				machines[id] = &sum{}
			}
			machines[id].addSum(part)
		}
	}
	at, wrong := v.conclusion(deltas)
	if len(broken) > 0 {
		first := lowest(broken)[0]
		if wrong == nil || first.seq < wrong.seq {
			wrong = &first
		}
	}
	if wrong != nil {
		return nil, wrong
	}
	sums, err := v.writeMachineSums(machines, number)
	if err != nil {
		return nil, err
	}
	return at, v.store.Ingest(ctx, append(files, sums...))
}

// conclusion adds up the digests, and compares them with what was recorded.
// Where they differ, it returns the first that does.
func (v *sorted) conclusion(deltas []sum) (*state, *brokenRow) {
	at := &state{position: v.position(), time: v.time()}
	var now sum
	for i, m := range v.journal.Marks {
		now.addSum(&deltas[i])
		for _, claim := range m.Claims {
			ours := now.digest()
			if claim.Before {
				ours = at.keptSum
			}
			if ours != claim.Digest {
				return nil, &brokenRow{v.projector.Name(), m.Seq, RuleDigest, digestText(claim.AsOf, claim.Digest, ours)}
			}
			at.compared++
			at.proven = claim.AsOf
		}
		at.skipped += m.Skipped
		at.kept, at.keptSum = m.Seq, now.digest()
		if v.load.Recorded != nil {
			v.load.Recorded(v.projector.Name(), at.kept, at.keptSum)
		}
	}
	now.addSum(&deltas[len(v.journal.Marks)])
	at.digest = now.digest()
	return at, nil
}

// writeMachineSums writes the sums of all machines that have rows.
func (v *sorted) writeMachineSums(machines map[uint64]*sum, number *atomic.Uint64) ([]string, error) {
	out := newTableWriter(v.store, number)
	var key []byte
	for _, id := range slices.Sorted(maps.Keys(machines)) {
		if *machines[id] == (sum{}) {
			continue
		}
		key = machineSumKey(key[:0], id)
		digest := machines[id].digest()
		if err := out.set(key, digest[:]); err != nil {
			return nil, errors.Join(err, out.finish())
		}
	}
	return out.files, out.finish()
}
