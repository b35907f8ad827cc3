// SPDX-License-Identifier: Apache-2.0

package drill

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

// absentFor makes the first n reads of each object whose key begins with prefix
// answer that it is absent; negative: all of them.
func absentFor(n int, prefix string) (hooks buckettest.Hooks, told func() int) {
	var mu sync.Mutex
	asked, total := map[string]int{}, 0
	return buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
			mu.Lock()
			defer mu.Unlock()
			if op != buckettest.Get || !strings.HasPrefix(key, prefix) {
				return nil
			}
			if asked[key]++; n >= 0 && asked[key] > n {
				return nil
			}
			total++
			return archiver.ErrNotFound
		}}, func() int {
			mu.Lock()
			defer mu.Unlock()
			return total
		}
}

// Each object is called absent when it is read first, though it was listed; or
// one of them for so long that the drill itself does the step once more.
func TestADrillOutlastsAStoreThatCallsObjectsAbsentForAWhile(t *testing.T) {
	for prefix, n := range map[string]int{archiver.LogPrefix: 1, archiver.Shipped(2).Key(): 5} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 40)
			o, faulty := w.options()
			hooks, told := absentFor(n, prefix)
			faulty.Set(hooks)
			if result := run(t, o); result.Drill.Verdict != eventlog.DrillPassed || told() < 3 {
				t.Errorf("%d wrong answers: %s, %s", told(), result.Drill.Verdict, result.Drill.Reason)
			}
		})
	}
}

func TestADrillFailsWhenAStoreGoesOnContradictingItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 40)
		o, faulty := w.options()
		hooks, told := absentFor(-1, archiver.LogPrefix)
		faulty.Set(hooks)
		result := run(t, o)
		if result.Drill.Verdict != eventlog.DrillFailed || !strings.Contains(result.Drill.Reason, archiver.ErrOlderState.Error()) || told() < 8 {
			t.Errorf("%d wrong answers: %s, %s", told(), result.Drill.Verdict, result.Drill.Reason)
		}
	})
}

func TestAStoreThatContradictsItselfOnceIsNoProof(t *testing.T) {
	d := &drill{}
	if err := errors.Join(archiver.ErrOlderState, archiver.ErrHole); d.proves(err) {
		t.Errorf("%v proves a loss", err)
	}
	if !d.proves(archiver.ErrHole) {
		t.Error("a hole proves nothing")
	}
}

// A list that ends early leaves nothing out of a drill.
func TestADrillOfAnArchiveWhoseFirstListEndsEarlyIsOfAllOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 90)
		o, faulty := w.options()
		var mu sync.Mutex
		lists := 0
		faulty.Set(buckettest.Hooks{
			Before: func(_ context.Context, op buckettest.Op, key string) error {
				mu.Lock()
				defer mu.Unlock()
				if op == buckettest.List && key == archiver.LogPrefix {
					lists++
				}
				return nil
			},
			Hide: func(key string) bool {
				mu.Lock()
				defer mu.Unlock()
				return lists <= 1 && strings.HasPrefix(key, archiver.LogPrefix) && key >= archiver.Shipped(3).Key()
			},
		})
		if result := run(t, o); result.Drill.Verdict != eventlog.DrillPassed || result.Recovery.Objects != w.objects() || result.Recovery.Upto != w.seq {
			t.Errorf("%+v", result.Drill)
		}
	})
}
