// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
)

// shortUntil is a bucket that shows nothing of the log from the ordinal first on,
// in lists or by name, until shown says otherwise.
func (w *world) shortUntil(first uint64, shown func() bool) *archiver.Archive {
	faulty := buckettest.NewFaulty(w.bucket)
	hidden := func(key string) bool {
		return strings.HasPrefix(key, archiver.LogPrefix) && key >= archiver.Shipped(first).Key() && !shown()
	}
	faulty.Set(buckettest.Hooks{
		Hide: hidden,
		Before: func(_ context.Context, op buckettest.Op, key string) error {
			if (op == buckettest.Head || op == buckettest.Get) && hidden(key) {
				return archiver.ErrNotFound
			}
			return nil
		},
	})
	archive := archiver.At(faulty, logID)
	archive.SetLogger(quiet)
	return archive
}

// A store that answers with an older state while the recovery begins: what it
// had not shown is there before the recovery says that it is done.
func TestARecoveryAsksForTheEndOnceMore(t *testing.T) {
	for _, killed := range []bool{false, true} {
		w := newWorld(t, 17, 300)
		var mu sync.Mutex
		begun := false
		opts := w.options("new")
		opts.Archive = w.shortUntil(uint64(w.objects)/2, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return begun
		})
		opts.Room = func(uint64) error {
			mu.Lock()
			defer mu.Unlock()
			if killed && !begun {
				begun = true
				return errKilled // the inputs are noted, nothing is built
			}
			begun = true
			return nil
		}
		result, err := Run(t.Context(), opts)
		if killed && errors.Is(err, errKilled) {
			result, err = Run(t.Context(), opts)
		}
		must(t, err)
		if result.Objects != w.objects || result.LastOrdinal != uint64(w.objects) || result.Last != result.ArchiveEnd {
			t.Errorf("killed %v: %d objects up to %s, want %d", killed, result.Objects, result.Last, w.objects)
		}
		w.check("new", result)
	}
}

// A recovery that was killed after it had found that the archive goes on takes
// in what it found, whatever was done of it.
func TestARecoveryThatIsKilledWhileItGoesOnIsFinished(t *testing.T) {
	w := newWorld(t, 18, 200)
	for kill := 1; ; kill++ {
		dir := "new-" + string(rune('a'+kill))
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		begun, left := false, kill
		opts := w.options(dir)
		opts.Archive = w.shortUntil(uint64(w.objects)/2, func() bool {
			mu.Lock()
			defer mu.Unlock()
			if begun {
				if left--; left == 0 {
					cancel()
				}
			}
			return begun
		})
		opts.Room = func(uint64) error {
			mu.Lock()
			defer mu.Unlock()
			begun = true
			return nil
		}
		_, err := Run(ctx, opts)
		cancel()
		if err == nil {
			return // there are no more calls to kill it at
		}
		opts.Archive = archiver.At(w.bucket, logID)
		result, err := Run(t.Context(), opts)
		must(t, err)
		if result.Objects != w.objects {
			t.Errorf("killed at call %d: %d objects, want %d", kill, result.Objects, w.objects)
		}
		w.check(dir, result)
		if kill > 10 {
			kill += kill / 2
		}
	}
}
