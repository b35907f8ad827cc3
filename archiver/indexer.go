// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// Indexer writes the index object of each run of ordinals once the run is
// archived, and of those that lack theirs when it begins. Nothing waits for it:
// it works beside the Shipper, on what is archived and does not change any more,
// and what fails is tried again. Run does the work; the other methods may be
// called by any goroutine.
type Indexer struct {
	Archive *Archive
	Log     Log
	Epoch   uint32 // ours
	// Scratch is a directory for one run's footers at a time.
	Scratch string
	// Every is how long it waits until what failed is tried again; default 1
	// minute, and longer the more often it failed, up to an hour.
	Every  time.Duration
	Logger *slog.Logger

	once sync.Once
	wake chan struct{}

	mu       sync.Mutex
	archived uint64 // owned by mu; the last ordinal that is archived
	stats    IndexStats
}

// IndexStats say what an Indexer did.
type IndexStats struct {
	Written uint64 // index objects that it put
	Failed  uint64 // tries that failed
	Missing int    // runs that are archived and have none, as far as is known
	Err     error  // of the last round, nil after one without
}

// Stats returns what was done so far.
func (x *Indexer) Stats() IndexStats {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.stats
}

// Archived says that all objects up to ordinal are archived. It never waits.
func (x *Indexer) Archived(ordinal uint64) {
	x.mu.Lock()
	completes := runOf(ordinal+1) > runOf(x.archived+1)
	x.archived = max(x.archived, ordinal)
	x.mu.Unlock()
	if completes {
		select {
		case x.woken() <- struct{}{}:
		default: // a round is due already
		}
	}
}

func (x *Indexer) woken() chan struct{} {
	x.once.Do(func() { x.wake = make(chan struct{}, 1) })
	return x.wake
}

// completeRuns is how many runs are archived as a whole.
func (x *Indexer) completeRuns() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.archived / RunSize
}

// Run works until ctx ends or this server is fenced.
func (x *Indexer) Run(ctx context.Context) {
	if x.Every == 0 {
		x.Every = time.Minute
	}
	known := uint64(0)     // runs that were looked at
	var missing []uint64   // those of them that have no index object
	var looked bool        // at what the bucket has
	failures := 0          // rounds one after the other
	for ctx.Err() == nil { // a round
		var err error
		if !looked {
			known = x.completeRuns()
			missing, err = x.find(ctx, known)
			looked = err == nil
		}
		for looked && known < x.completeRuns() {
			known++
			missing = append(missing, known)
		}
		if err == nil {
			missing, err = x.round(ctx, missing)
		}
		x.note(len(missing), err)
		if failures++; err == nil {
			failures = 0
		}
		if errors.Is(err, ErrFenced) || !x.sleep(ctx, failures) {
			return
		}
	}
}

const longestSleep = time.Hour

// sleep waits until a run is complete, or, after failures, for a while.
func (x *Indexer) sleep(ctx context.Context, failures int) bool {
	var later <-chan time.Time
	if failures > 0 {
		timer := time.NewTimer(min(x.Every<<min(failures-1, 10), max(x.Every, longestSleep)))
		defer timer.Stop()
		later = timer.C
	}
	select {
	case <-x.woken():
	case <-later:
	case <-ctx.Done():
		return false
	}
	return true
}

// find lists which of so many complete runs have no index object. A thousand
// of them, 256,000 objects, are one request. Of what the list lacks it asks by
// name: to write one anew that is there costs 256 reads.
func (x *Indexer) find(ctx context.Context, complete uint64) ([]uint64, error) {
	if complete == 0 {
		return nil, nil
	}
	missing, err := x.missing(ctx, complete)
	if err != nil && ctx.Err() == nil {
		x.Logger.Warn("which index objects are missing could not be found out; it is tried again, and nothing waits for it", "error", err)
	}
	return missing, err
}

func (x *Indexer) missing(ctx context.Context, complete uint64) ([]uint64, error) {
	indexes, err := x.Archive.IndexObjects(ctx, 1)
	if err != nil {
		return nil, err
	}
	var missing []uint64
	for run := uint64(1); run <= complete; run++ {
		if _, listed := slices.BinarySearchFunc(indexes, run, func(info IndexInfo, run uint64) int { return cmp.Compare(info.Run, run) }); listed {
			continue
		}
		_, there, err := x.Archive.indexByName(ctx, run)
		if err != nil {
			return nil, err
		}
		if !there {
			missing = append(missing, run)
		}
	}
	return missing, nil
}

// round writes the index objects of the missing runs, and returns those that
// still are. A run whose objects are damaged, or not all there, keeps no other
// from its own; what else fails ends the round.
func (x *Indexer) round(ctx context.Context, missing []uint64) (left []uint64, last error) {
	for i, run := range missing {
		info, err := x.write(ctx, run)
		if err == nil {
			x.mu.Lock()
			x.stats.Written++
			x.mu.Unlock()
			x.Logger.Info("an index object was written", "key", info.Key(), "bytes", info.Size)
			continue
		}
		left, last = append(left, run), err
		if ctx.Err() != nil {
			return append(left, missing[i+1:]...), last
		}
		x.failed(run, err)
		if !errors.Is(err, eventlog.ErrObjectDamaged) && !errors.Is(err, ErrHole) {
			return append(left, missing[i+1:]...), last
		}
	}
	return left, last
}

func (x *Indexer) failed(run uint64, err error) {
	x.mu.Lock()
	x.stats.Failed++
	x.mu.Unlock()
	first, last := IndexInfo{Run: run}.Ordinals()
	x.Logger.Warn("an index object could not be written; it is tried again, and nothing waits for it", "first ordinal", first, "last ordinal", last, "error", err)
}

func (x *Indexer) note(missing int, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stats.Missing, x.stats.Err = missing, err
}

// indexPatience is how long the writing of one index object may take.
const indexPatience = 10 * time.Minute

// write makes one run's index object, while the log is still ours: what is
// bound is archived and the same for everybody, but a server that was fenced
// has no business in the bucket.
func (x *Indexer) write(ctx context.Context, run uint64) (IndexInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, indexPatience)
	defer cancel()
	w := &indexWriter{archive: x.Archive, scratch: x.Scratch, local: x.local(run), allowed: x.allowed}
	return w.write(ctx, run, 0)
}

// allowed returns nil when the log is known to be still ours.
func (x *Indexer) allowed(ctx context.Context) error { return x.Archive.Owns(ctx, x.Epoch) }

// local returns the generations of a run that are at hand.
func (x *Indexer) local(run uint64) map[uint64]*eventlog.Generation {
	first, last := IndexInfo{Run: run}.Ordinals()
	local := map[uint64]*eventlog.Generation{}
	for _, g := range x.Log.Local() {
		if g.Ordinal >= first && g.Ordinal <= last {
			local[g.Ordinal] = g
		}
	}
	return local
}
