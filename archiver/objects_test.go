// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

func TestObjectsAreListedFromAnOrdinalOn(t *testing.T) {
	h := newHistory(t, 600, 1) // three runs
	a := open(t, h)
	for _, from := range []uint64{0, 1, 2, 255, 256, 257, 258, 513, 599, 600, 601, 10_000} {
		objects, err := a.Objects(t.Context(), from)
		want := 600 - int(min(max(from, 1), 601)) + 1
		if err != nil && from <= 601 || len(objects) != want {
			t.Errorf("from %d: %d objects, %v; want %d", from, len(objects), err, want)
			continue
		}
		for i, object := range objects {
			data, _ := h.Get(object.Key())
			if object.First != max(from, 1)+uint64(i) || object.Size != int64(len(data)) {
				t.Fatalf("from %d: object %d is %v of %d bytes", from, i, object, object.Size)
			}
		}
	}
}

func TestAHoleIsNamedAfterLookingAgain(t *testing.T) {
	for _, tc := range []struct {
		name        string
		missing     []uint64
		expect      uint64 // an ordinal that something names
		first, last uint64
		later       []archiver.Hole
		before      int
	}{
		{"the first", []uint64{1}, 0, 1, 1, nil, 0},
		{"one in the middle", []uint64{4}, 0, 4, 4, nil, 3},
		{"three together", []uint64{4, 5, 6}, 0, 4, 6, nil, 3},
		{"two apart", []uint64{3, 7}, 0, 3, 3, []archiver.Hole{{7, 7}}, 2},
		{"three apart, the last of which a claim names", []uint64{1, 4, 5, 10}, 10, 1, 1, []archiver.Hole{{4, 5}, {10, 10}}, 0},
		{"the last, which a claim names", []uint64{9, 10}, 10, 9, 10, nil, 8},
		{"all, and a claim names some", []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 5, 1, 5, nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHistory(t, 10, 1)
				for _, ordinal := range tc.missing {
					h.Remove(archiver.Shipped(ordinal).Key())
				}
				bucket := buckettest.NewFaulty(h)
				a := open(t, bucket)
				a.Expect(tc.expect)
				objects, err := a.Objects(t.Context(), 1)
				var hole *archiver.HoleError
				if !errors.Is(err, archiver.ErrHole) || !errors.As(err, &hole) || hole.First != tc.first || hole.Last != tc.last || !slices.Equal(hole.Later, tc.later) || hole.More {
					t.Errorf("%v, want the holes %d to %d and %v", err, tc.first, tc.last, tc.later)
				}
				for _, later := range tc.later {
					if named := fmt.Sprintf(", %d to %d", later.First, later.Last); !strings.Contains(err.Error(), named) {
						t.Errorf("%v does not name%s", err, named)
					}
				}
				if len(objects) != tc.before {
					t.Errorf("%d objects before the hole, want %d", len(objects), tc.before)
				}
				if n := bucket.Calls(buckettest.List); n < 3 {
					t.Errorf("the list was read %d times", n)
				}
			})
		})
	}
}

func TestNotEveryOneOfManyHolesIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 400, 1)
		for ordinal := uint64(3); ordinal < 400; ordinal += 2 {
			h.Remove(archiver.Shipped(ordinal).Key())
		}
		bucket := buckettest.NewFaulty(h)
		objects, err := open(t, bucket).Objects(t.Context(), 1)
		var hole *archiver.HoleError
		if !errors.As(err, &hole) || hole.First != 3 || len(hole.Later) != 64 || !hole.More || !strings.Contains(err.Error(), ", 131 to 131 and perhaps more,") {
			t.Errorf("%v", err)
		}
		if len(objects) != 2 {
			t.Errorf("%d objects before the first hole, want 2", len(objects))
		}
		if n := bucket.Calls(buckettest.Head); n > 4*66 {
			t.Errorf("%d keys were asked for", n)
		}
	})
}

func TestAStoreThatFailsDoesNotHideAHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 10, 1)
		h.Remove(archiver.Shipped(3).Key())
		h.Remove(archiver.Shipped(7).Key())
		bucket := buckettest.NewFaulty(h)
		bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
			if op == buckettest.Head && key == archiver.Shipped(7).Key() {
				return buckettest.ErrInjected
			}
			return nil
		}})
		objects, err := open(t, bucket).Objects(t.Context(), 1)
		var hole *archiver.HoleError
		if !errors.As(err, &hole) || hole.First != 3 || !hole.More || len(objects) != 2 {
			t.Errorf("%d objects, %v", len(objects), err)
		}
	})
}

func TestTheVeryLastObjectsThatNothingNamesVanishWithoutTrace(t *testing.T) {
	h := newHistory(t, 10, 1)
	h.Remove(archiver.Shipped(10).Key())
	if objects, err := open(t, h).Objects(t.Context(), 1); err != nil || len(objects) != 9 {
		t.Errorf("%d objects, %v", len(objects), err)
	}
}

func TestAListThatCatchesUpIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := buckettest.NewFaulty(newHistory(t, 10, 1))
		lists, heads := 0, 0
		bucket.Set(buckettest.Hooks{
			Before: func(_ context.Context, op buckettest.Op, prefix string) error {
				switch {
				case op == buckettest.List && prefix == archiver.LogPrefix:
					lists++
				case op == buckettest.Head: // the same node lags
					if heads++; heads <= 2 {
						return archiver.ErrNotFound
					}
				}
				return nil
			},
			Hide: func(key string) bool { return lists <= 2 && key == archiver.Shipped(4).Key() },
		})
		objects, err := open(t, bucket).Objects(t.Context(), 1)
		if err != nil || len(objects) != 10 || lists != 3 {
			t.Errorf("%d objects, %v after %d lists", len(objects), err, lists)
		}
	})
}

func TestARefusedQuestionIsNoAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 10, 1)
		h.Remove(archiver.Shipped(4).Key())
		bucket := buckettest.NewFaulty(h)
		bucket.FailNext(buckettest.Head, 1000, false)
		_, err := open(t, bucket).Objects(t.Context(), 1)
		if !errors.Is(err, buckettest.ErrInjected) || errors.Is(err, archiver.ErrHole) {
			t.Errorf("%v, want the refusal", err)
		}
	})
}

func TestAListThatFailsIsReadAgain(t *testing.T) {
	for _, done := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			bucket := buckettest.NewFaulty(newHistory(t, 10, 1))
			bucket.FailNext(buckettest.List, 2, done)
			if objects, err := open(t, bucket).Objects(t.Context(), 1); err != nil || len(objects) != 10 {
				t.Errorf("done=%v: %d objects, %v", done, len(objects), err)
			}
		})
	}
}

func TestForeignKeysAreReportedAndHarmNothing(t *testing.T) {
	h := newHistory(t, 3, 1)
	h.Set("log/README", nil)
	h.Set("log/0000000000000002-0000000000000002.0000.bak", nil)
	a := open(t, h)
	if objects, err := a.Objects(t.Context(), 1); err != nil || len(objects) != 3 {
		t.Errorf("%d objects, %v", len(objects), err)
	}
	if want := []string{"log/0000000000000002-0000000000000002.0000.bak", "log/README"}; !slices.Equal(a.Foreign(), want) {
		t.Errorf("foreign: %q, want %q", a.Foreign(), want)
	}
}

func TestObjectsOfACleanerAreRefusedNotMisread(t *testing.T) {
	for _, object := range []archiver.ObjectInfo{{First: 1, Last: 3, Revision: 1}, {First: 2, Last: 3, Revision: 1}, {First: 2, Last: 3}} {
		h := newHistory(t, 3, 1)
		h.Set(object.Key(), []byte("x"))
		if _, err := open(t, h).Objects(t.Context(), 1); !errors.Is(err, archiver.ErrFormat) || !strings.Contains(err.Error(), object.Key()) {
			t.Errorf("%v: %v, want ErrFormat", object, err)
		}
	}
}

func TestTwoObjectsForOneOrdinalAreNamed(t *testing.T) {
	h := newHistory(t, 3, 1)
	other := archiver.ObjectInfo{First: 2, Last: 2, Revision: 1}
	h.Set(other.Key(), []byte("x"))
	_, err := open(t, h).Objects(t.Context(), 1)
	for _, want := range []string{"two objects for ordinal 2", archiver.Shipped(2).Key(), other.Key(), "inspect object 2", "remove it"} {
		if !errors.Is(err, eventlog.ErrDamaged) || errors.Is(err, archiver.ErrFormat) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

func TestMetadataIsReadWithOneRequestOrTwo(t *testing.T) {
	h := newHistory(t, 1, 10)
	h.ship(1, 20_000) // a footer of more than 256 KiB
	bucket := buckettest.NewFaulty(h)
	a := open(t, bucket)
	objects, err := a.Objects(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for i, object := range objects {
		before := bucket.Calls(buckettest.Get)
		trailer, footer, err := a.Metadata(t.Context(), object)
		if err != nil {
			t.Fatal(err)
		}
		if got := bucket.Calls(buckettest.Get) - before; got != i+1 {
			t.Errorf("object %d: %d requests for a footer of %d bytes", i, got, trailer.FooterSize)
		}
		if len(footer.Entries) != int(trailer.Events) || trailer.FirstOrdinal != object.First {
			t.Errorf("object %d: %d entries, ordinal %d", i, len(footer.Entries), trailer.FirstOrdinal)
		}
	}
}

func TestEveryFlippedBitOfTheMetadataIsAnErrorThatNamesTheObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 3, 2)
		a := open(t, h)
		objects, err := a.Objects(t.Context(), 2)
		if err != nil {
			t.Fatal(err)
		}
		object := objects[0]
		trailer, _, err := a.Metadata(t.Context(), object)
		if err != nil {
			t.Fatal(err)
		}
		for bit := int(trailer.FooterOffset) * 8; bit < int(object.Size)*8; bit++ {
			h.Flip(object.Key(), bit)
			_, _, err := a.Metadata(t.Context(), object)
			if !errors.Is(err, eventlog.ErrObjectDamaged) || !strings.Contains(err.Error(), "ordinal 2") {
				t.Fatalf("bit %d: %v", bit, err)
			}
			h.Flip(object.Key(), bit)
		}
	})
}

func TestATransferAtFaultIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := buckettest.NewFaulty(newHistory(t, 1, 2))
		a := open(t, bucket)
		objects, err := a.Objects(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		cuts := 0
		bucket.Set(buckettest.Hooks{Cut: func(string) int64 {
			if cuts++; cuts <= 5 {
				return int64(cuts)
			}
			return -1
		}})
		if _, _, err := a.Metadata(t.Context(), objects[0]); err != nil {
			t.Error(err)
		}
	})
}

func TestAnObjectThatIsNotWhatItsNameSaysIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		foreign := newHistory(t, 0, 0)
		foreign.logID = eventlog.ID{7}
		foreign.ship(1, 2)
		other, _ := foreign.Get(archiver.Shipped(1).Key())
		for name, tc := range map[string]struct {
			damage func(h *history)
			want   error
		}{
			"of another log":     {func(h *history) { h.Set(archiver.Shipped(1).Key(), other) }, archiver.ErrOtherLog},
			"of another ordinal": {func(h *history) { data, _ := h.Get(archiver.Shipped(2).Key()); h.Set(archiver.Shipped(1).Key(), data) }, eventlog.ErrObjectDamaged},
			"cut short": {func(h *history) {
				data, _ := h.Get(archiver.Shipped(1).Key())
				h.Set(archiver.Shipped(1).Key(), data[:len(data)-1])
			}, eventlog.ErrObjectDamaged},
			"empty": {func(h *history) { h.Set(archiver.Shipped(1).Key(), nil) }, eventlog.ErrObjectDamaged},
		} {
			h := newHistory(t, 2, 2)
			tc.damage(h)
			a := open(t, h)
			objects, err := a.Objects(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := a.Metadata(t.Context(), objects[0]); !errors.Is(err, tc.want) {
				t.Errorf("%s: %v, want %v", name, err, tc.want)
			}
		}
	})
}
