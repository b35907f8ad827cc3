// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/internal/testkit"
)

// longList is an archive of so many objects that are listed and never read.
func longList(t *testing.T, n int) *history {
	h := newHistory(t, 0, 0)
	for ordinal := range uint64(n) {
		h.Set(archiver.Shipped(ordinal+1).Key(), make([]byte, ordinal%7))
	}
	return h
}

// listings lists h twice: as if nothing were known of its length, and knowing
// that it reaches to ordinal last.
func listings(t *testing.T, h *history, from, last uint64) (serial, parallel []archiver.ObjectInfo, serialErr, parallelErr error, lists int) {
	t.Helper()
	serial, serialErr = open(t, h).Objects(t.Context(), from)
	bucket := buckettest.NewFaulty(h)
	a := open(t, bucket)
	a.Expect(last)
	parallel, parallelErr = a.Objects(t.Context(), from)
	return serial, parallel, serialErr, parallelErr, bucket.Calls(buckettest.List)
}

const longest = 40_000 // of which 39,936 are in complete runs

func TestALongArchiveIsListedInRangesAsItIsAtOnce(t *testing.T) {
	h := longList(t, longest)
	h.Set("log/0000000000008000-0000000000008000.0000.bak", nil) // right behind a border
	h.Set("log/README", nil)
	h.Set("log/0", nil)
	for _, from := range []uint64{1, 2, 257, 8000, 8001, 20_000} {
		serial, parallel, err1, err2, lists := listings(t, h, from, longest)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if len(serial) != longest-int(from)+1 || !slices.Equal(serial, parallel) {
			t.Errorf("from %d: %d objects in ranges, %d at once", from, len(parallel), len(serial))
		}
		if from == 1 && lists < 4 {
			t.Errorf("%d lists", lists)
		}
		if from > 30_000 && lists != 2 {
			t.Errorf("from %d: %d lists of a short rest", from, lists)
		}
	}
	a := open(t, h)
	a.Expect(longest)
	if _, err := a.Objects(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if want := []string{"log/0", "log/0000000000008000-0000000000008000.0000.bak", "log/README"}; !slices.Equal(a.Foreign(), want) {
		t.Errorf("foreign: %q, want %q", a.Foreign(), want)
	}
}

func TestAHoleAtTheBorderOfARangeIsFound(t *testing.T) {
	whole := longList(t, longest)
	gaps := [][]uint64{{8000, 8001}, {7999, 8000, 8001, 16_000}, {1}, {7999}, {8000}, {8001}, {16_000}, {longest - 1}}
	if !testkit.Long() {
		gaps = gaps[:2]
	}
	for _, missing := range gaps {
		synctest.Test(t, func(t *testing.T) {
			h := whole.fork()
			for _, ordinal := range missing {
				h.Remove(archiver.Shipped(ordinal).Key())
			}
			serial, parallel, err1, err2, _ := listings(t, h, 1, longest)
			var hole1, hole2 *archiver.HoleError
			if !errors.As(err1, &hole1) || !errors.As(err2, &hole2) || hole1.Error() != hole2.Error() || hole1.First != missing[0] {
				t.Errorf("without %v: %v at once, %v in ranges", missing, err1, err2)
			}
			if !slices.Equal(serial, parallel) {
				t.Errorf("without %v: %d objects in ranges, %d at once", missing, len(parallel), len(serial))
			}
		})
	}
}

func TestAnObjectOfACleanerAtABorderIsRefusedToo(t *testing.T) {
	h := longList(t, longest)
	h.Set(archiver.ObjectInfo{First: 8000, Last: 8001, Revision: 1}.Key(), nil)
	a := open(t, h)
	a.Expect(longest)
	_, err := a.Objects(t.Context(), 1)
	expectError(t, err, archiver.ErrFormat)
}

func TestEveryRangeOfAListMayFail(t *testing.T) {
	h := longList(t, longest)
	for _, done := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			bucket := buckettest.NewFaulty(h)
			a := open(t, bucket)
			a.Expect(longest)
			bucket.FailNext(buckettest.List, 4, done)
			if objects, err := a.Objects(t.Context(), 1); err != nil || len(objects) != longest {
				t.Errorf("done=%v: %d objects, %v", done, len(objects), err)
			}
		})
	}
}

// An index object tells how long a list is, and that an archive that ends
// before its run does has lost something.
func TestAnIndexObjectNamesTheEndOfItsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 512, 1).index(t)
		h.Remove(archiver.Shipped(512).Key()) // the very last one
		_, err := open(t, h).Objects(t.Context(), 1)
		var hole *archiver.HoleError
		if !errors.As(err, &hole) || hole.First != 512 || hole.Last != 512 {
			t.Errorf("%v, want the hole 512", err)
		}
		h.Remove(index2)
		if objects, err := open(t, h).Objects(t.Context(), 1); err != nil || len(objects) != 511 {
			t.Errorf("with nothing that names it: %d objects, %v", len(objects), err)
		}
		h.Set(archiver.IndexInfo{Run: 4}.Key(), nil) // whatever it holds
		if _, err := open(t, h).Objects(t.Context(), 1); !errors.As(err, &hole) || hole.First != 512 || hole.Last != 1024 {
			t.Errorf("%v, want the hole 512 to 1024", err)
		}
	})
}

func TestWithoutAnyOneObjectAnArchiveWithIndexObjectsIsRefused(t *testing.T) {
	whole := newHistory(t, 260, 1).index(t)
	for ordinal := uint64(1); ordinal < 260; ordinal++ {
		if !testkit.Long() && ordinal%50 != 1 {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			h := whole.fork()
			h.Remove(archiver.Shipped(ordinal).Key())
			entries, err := follow(t, open(t, h), 1<<32|1)
			var hole *archiver.HoleError
			if !errors.As(err, &hole) || hole.First != ordinal || hole.Last != ordinal {
				t.Errorf("without ordinal %d: %v", ordinal, err)
			}
			expectEntries(t, entries, h.entries[:ordinal-1])
		})
	}
}

func TestAListOfIndexObjectsThatIsRefusedIsNoArchiveWithout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := buckettest.NewFaulty(newHistory(t, 3, 1))
		a := open(t, bucket)
		bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
			if op == buckettest.List && key == archiver.IndexPrefix {
				return fmt.Errorf("list %s: %w", key, buckettest.ErrInjected)
			}
			return nil
		}})
		_, err := a.Objects(t.Context(), 1)
		expectError(t, err, buckettest.ErrInjected)
	})
}
