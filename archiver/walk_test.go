// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

// lyingList is a bucket whose lists below prefix lack what hidden says, while
// lists below it that many have begun are not more than lies.
type lyingList struct {
	*buckettest.Faulty
	mu    sync.Mutex
	lists int // owned by mu; begun below prefix
}

func newLyingList(bucket archiver.Bucket, prefix string, lies int, hidden func(key string) bool) *lyingList {
	l := &lyingList{Faulty: buckettest.NewFaulty(bucket)}
	l.Set(buckettest.Hooks{
		Before: func(_ context.Context, op buckettest.Op, key string) error {
			if op == buckettest.List && key == prefix {
				l.mu.Lock()
				l.lists++
				l.mu.Unlock()
			}
			return nil
		},
		Hide: func(key string) bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.lists <= lies && strings.HasPrefix(key, prefix) && hidden(key)
		},
	})
	return l
}

const forEver = 1 << 30

// ordinalsFrom are the objects from ordinal first on.
func ordinalsFrom(first uint64) func(string) bool {
	return func(key string) bool { return key >= archiver.Shipped(first).Key() }
}

func theOrdinals(ordinals ...uint64) func(string) bool {
	return func(key string) bool {
		return slices.ContainsFunc(ordinals, func(o uint64) bool { return archiver.Shipped(o).Key() == key })
	}
}

func TestWhatOneListLacksIsAskedForByName(t *testing.T) {
	for name, tc := range map[string]struct {
		objects int
		hidden  func(string) bool
		heads   int // at most: each round asks for the end, too
	}{
		"its last entries":             {11, ordinalsFrom(8), 4 + 2},
		"its last entry":               {11, ordinalsFrom(11), 1 + 2},
		"everything":                   {11, ordinalsFrom(1), 11 + 2},
		"entries everywhere":           {11, theOrdinals(1, 4, 5, 9, 10, 11), 6 + 2},
		"all after the first page":     {700, ordinalsFrom(101), 256 + 2},
		"more than are asked for once": {600, theOrdinals(between(2, 599)...), 256 + 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bucket := newLyingList(longList(t, tc.objects), archiver.LogPrefix, 1, tc.hidden)
				objects, err := open(t, bucket).Objects(t.Context(), 1)
				if err != nil || len(objects) != tc.objects {
					t.Errorf("%d objects, %v", len(objects), err)
				}
				for i, object := range objects {
					if object.First != uint64(i+1) || object.Size != int64(i%7) {
						t.Fatalf("object %d is %v of %d bytes", i+1, object, object.Size)
					}
				}
				if n := bucket.Calls(buckettest.Head); n > tc.heads {
					t.Errorf("%d keys asked for, want at most %d", n, tc.heads)
				}
			})
		})
	}
}

func between(first, last uint64) (ordinals []uint64) {
	for ordinal := first; ordinal <= last; ordinal++ {
		ordinals = append(ordinals, ordinal)
	}
	return ordinals
}

// A store that says of its first page that it was the last one, each time.
func TestAnArchiveOfWhichEachListIsOnePageIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1700
		bucket := &onePage{Bucket: longList(t, n), size: 300}
		objects, err := open(t, bucket).Objects(t.Context(), 1)
		if err != nil || len(objects) != n {
			t.Errorf("%d objects, %v", len(objects), err)
		}
	})
}

func TestAListThatKeepsLackingWhatIsThereIsRefused(t *testing.T) {
	for name, hidden := range map[string]func(string) bool{
		"its last entries":   ordinalsFrom(8),
		"its last entry":     ordinalsFrom(11),
		"everything":         ordinalsFrom(1),
		"one in the middle":  theOrdinals(4),
		"some in the middle": theOrdinals(1, 4, 9),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bucket := newLyingList(newHistory(t, 11, 1), archiver.LogPrefix, forEver, hidden)
				a, warned := hearing(t, bucket)
				_, err := a.Objects(t.Context(), 1)
				expectError(t, err, archiver.ErrOlderState)
				expectNone(t, err, archiver.ErrHole, archiver.ErrNotFound)
				if len(warned.said) != 1 || !strings.Contains(warned.said[0], "lacks objects that are there") {
					t.Errorf("it warned %q", warned.said)
				}
			})
		})
	}
}

// What was found by name and is absent a moment later was no loss.
func TestAnObjectThatIsThereAndThenIsNotIsAnOlderState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := buckettest.NewFaulty(newHistory(t, 11, 1))
		asked := 0
		bucket.Set(buckettest.Hooks{
			Hide: ordinalsFrom(11),
			Before: func(_ context.Context, op buckettest.Op, key string) error {
				if op == buckettest.Head && key == archiver.Shipped(11).Key() {
					if asked++; asked > 1 {
						return archiver.ErrNotFound
					}
				}
				return nil
			},
		})
		_, err := open(t, bucket).Objects(t.Context(), 1)
		expectError(t, err, archiver.ErrOlderState)
		if asked < 4 {
			t.Errorf("it was asked for %d times", asked)
		}
	})
}

// An archive that grows while it is listed is no disagreement.
func TestAnArchiveThatGrowsWhileItIsListedIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 5, 1)
		bucket := buckettest.NewFaulty(h)
		grown := 0
		bucket.Set(buckettest.Hooks{After: func(_ context.Context, op buckettest.Op, key string) error {
			if op == buckettest.List && key == archiver.LogPrefix && grown < 3 {
				grown++
				h.ship(1, 1)
			}
			return nil
		}})
		a, warned := hearing(t, bucket)
		objects, err := a.Objects(t.Context(), 1)
		if err != nil || len(objects) != 8 || len(warned.said) > 0 {
			t.Errorf("%d objects, %v, %q", len(objects), err, warned.said)
		}
	})
}

// Of a whole archive the end is asked for once.
func TestTheEndOfAnArchiveIsAskedForWithOneRequest(t *testing.T) {
	bucket := buckettest.NewFaulty(newHistory(t, 300, 1).index(t))
	a := open(t, bucket)
	if _, err := a.Objects(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if lists, heads := bucket.Calls(buckettest.List), bucket.Calls(buckettest.Head); lists != 2 || heads != 1 {
		t.Errorf("%d lists and %d questions by name, want 2 and 1", lists, heads)
	}
}

func TestAnIndexObjectThatTheListLacksIsFoundByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 600, 1).index(t)
		for name, hidden := range map[string]func(string) bool{
			"the last":   func(key string) bool { return key == index2 },
			"the first":  func(key string) bool { return key == index1 },
			"everything": func(string) bool { return true },
		} {
			bucket := newLyingList(h, archiver.IndexPrefix, forEver, hidden)
			a, _ := hearing(t, bucket)
			runs := 0
			err := a.VerifyIndex(t.Context(), 1, func(r archiver.RunReport) error {
				if runs++; r.Was != archiver.RunWhole {
					t.Errorf("without %s: %+v", name, r)
				}
				return nil
			})
			if err != nil || runs != 2 {
				t.Errorf("without %s: %d runs, %v", name, runs, err)
			}
		}
	})
}

func TestAnIndexObjectIsMadeOfARunWhoseListEndsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 512, 1)
		want, _ := h.fork().index(t).Get(index2)
		bucket := newLyingList(h, archiver.LogPrefix, 2, ordinalsFrom(400))
		x := &archiver.Indexer{Archive: archiver.At(bucket, h.logID), Log: elsewhere{}, Epoch: 1, Scratch: t.TempDir(), Logger: quiet()}
		x.Archived(512)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { x.Run(ctx); close(done) }()
		synctest.Wait()
		cancel()
		<-done
		if got, _ := h.Get(index2); !slices.Equal(got, want) || x.Stats().Failed > 0 {
			t.Errorf("%d bytes, %+v", len(got), x.Stats())
		}
	})
}

func TestAListOfClaimsThatEndsEarlyHidesNone(t *testing.T) {
	h := newHistory(t, 1, 1)
	for epoch := uint32(1); epoch <= 5; epoch++ {
		text, err := archiver.EncodeClaim(&archiver.Claim{LogID: h.logID, Epoch: epoch})
		if err != nil {
			t.Fatal(err)
		}
		h.Set(archiver.EpochKey(epoch), text)
	}
	for first := uint32(1); first <= 5; first++ {
		bucket := newLyingList(h, archiver.EpochPrefix, forEver, func(key string) bool { return key >= archiver.EpochKey(first) })
		claim, err := open(t, bucket).HighestClaim(t.Context())
		if err != nil || claim.Epoch != 5 {
			t.Errorf("without those from %d on: %v, %v", first, claim, err)
		}
	}
}

func TestABucketWhoseListHidesAnObjectIsNotVacant(t *testing.T) {
	h := newHistory(t, 3, 1)
	h.Remove(archiver.ManifestKey)
	bucket := newLyingList(h, archiver.LogPrefix, forEver, ordinalsFrom(1))
	expectError(t, archiver.CheckVacant(t.Context(), bucket, eventlog.ID{}), archiver.ErrOtherLog)
}

func TestAStoreThatFailsBehindTheListsEndIsNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := buckettest.NewFaulty(newHistory(t, 3, 1))
		a := open(t, bucket)
		bucket.Set(failing(buckettest.Head, archiver.LogPrefix))
		objects, err := a.Objects(t.Context(), 1)
		if !errors.Is(err, buckettest.ErrInjected) {
			t.Errorf("%d objects, %v", len(objects), err)
		}
	})
}

// onePage is a bucket each of whose lists ends after so many entries.
type onePage struct {
	archiver.Bucket
	size int
}

func (b *onePage) List(ctx context.Context, prefix, after string) iter.Seq2[archiver.Info, error] {
	return func(yield func(archiver.Info, error) bool) {
		n := 0
		for info, err := range b.Bucket.List(ctx, prefix, after) {
			if n++; n > b.size || !yield(info, err) {
				return
			}
		}
	}
}
