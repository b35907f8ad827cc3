// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

// follow reads all that Follow yields, and checks that FollowPacked yields the
// same.
func follow(t *testing.T, a *archiver.Archive, from eventlog.Seq) ([]eventlog.Entry, error) {
	t.Helper()
	entries, err := followDecoded(t, a, from)
	packed, packedErr := followPacked(t, a, from)
	expectEntries(t, packed, entries)
	if fmt.Sprint(packedErr) != fmt.Sprint(err) {
		t.Errorf("packed: %v, decoded: %v", packedErr, err)
	}
	return entries, err
}

func followPacked(t *testing.T, a *archiver.Archive, from eventlog.Seq) ([]eventlog.Entry, error) {
	t.Helper()
	var entries []eventlog.Entry
	for packed, err := range a.FollowPacked(t.Context(), from) {
		if err != nil {
			return entries, err
		}
		part, err := unpack(t.Context(), packed, from)
		if errors.Is(err, eventlog.ErrObjectDamaged) && packed.Again != nil {
			if packed, err = packed.Again(t.Context()); err == nil {
				part, err = unpack(t.Context(), packed, from)
			}
		}
		if err != nil {
			return entries, err
		}
		entries = append(entries, part...)
	}
	return entries, nil
}

func unpack(ctx context.Context, packed *eventlog.Packed, from eventlog.Seq) ([]eventlog.Entry, error) {
	var entries []eventlog.Entry
	for batch, err := range packed.Follow(ctx, from) {
		if err != nil {
			return entries, err
		}
		entries = append(entries, batch.Entries...)
	}
	return entries, nil
}

func followDecoded(t *testing.T, a *archiver.Archive, from eventlog.Seq) ([]eventlog.Entry, error) {
	t.Helper()
	var entries []eventlog.Entry
	for batch, err := range a.Follow(t.Context(), from) {
		if err != nil {
			return entries, err
		}
		if len(batch.Entries) == 0 {
			t.Error("an empty batch")
		}
		entries = append(entries, batch.Entries...)
	}
	return entries, nil
}

func expectEntries(t *testing.T, got, want []eventlog.Entry) {
	t.Helper()
	if len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got, want) {
		t.Errorf("followed %d entries, want %d", len(got), len(want))
	}
}

// epochs is an archive of several epochs, one of them skipped.
func epochs(t *testing.T) *history {
	h := newHistory(t, 3, 4)
	for _, epoch := range []uint32{2, 2, 5, 6, 6, 6} {
		h.ship(epoch, 3)
	}
	return h
}

func TestEverythingIsFollowedInOrder(t *testing.T) {
	defer goleak.VerifyNone(t)
	h := epochs(t)
	a := open(t, h)
	for _, from := range []eventlog.Seq{0, eventlog.FirstSeq} {
		entries, err := follow(t, a, from)
		if err != nil {
			t.Fatal(err)
		}
		expectEntries(t, entries, h.entries)
	}
}

func TestEveryPlaceInTheLogIsFoundWithAndWithoutMemory(t *testing.T) {
	h := epochs(t)
	remembering := open(t, h)
	for i, entry := range h.entries {
		for _, a := range []*archiver.Archive{open(t, h), remembering} {
			entries, err := follow(t, a, entry.Event.Seq)
			if err != nil {
				t.Fatalf("from %v: %v", entry.Event.Seq, err)
			}
			expectEntries(t, entries, h.entries[i:])
		}
	}
}

func TestASeqThatWasNeverIssuedIsFollowedFromTheNext(t *testing.T) {
	h := epochs(t)
	a := open(t, h)
	s := eventlog.MakeSeq
	for from, want := range map[eventlog.Seq]eventlog.Seq{
		s(1, 13): s(2, 1), s(1, 1000): s(2, 1), s(2, 7): s(5, 1), s(3, 1): s(5, 1), s(4, 9): s(5, 1),
		s(6, 10): 0, s(7, 1): 0,
	} {
		entries, err := follow(t, a, from)
		if err != nil {
			t.Fatal(err)
		}
		if want == 0 && len(entries) > 0 || want != 0 && (len(entries) == 0 || entries[0].Event.Seq != want) {
			t.Errorf("from %v: %d entries, want them from %v", from, len(entries), want)
		}
	}
}

func TestAPlaceInALongLogIsFoundWithFewRequests(t *testing.T) {
	h := newHistory(t, 1000, 1)
	bucket := buckettest.NewFaulty(h)
	a := open(t, bucket)
	entries, err := followDecoded(t, a, h.entries[990].Event.Seq)
	if err != nil {
		t.Fatal(err)
	}
	expectEntries(t, entries, h.entries[990:])
	if n := bucket.Calls(buckettest.Get); n > 1+10+10 {
		t.Errorf("%d requests to read the last 10 of 1,000 objects", n)
	}
	before := bucket.Calls(buckettest.Get)
	if _, err := followDecoded(t, a, h.last); err != nil {
		t.Fatal(err)
	}
	if n := bucket.Calls(buckettest.Get) - before; n > 1 {
		t.Errorf("%d requests to read the last object again", n)
	}
}

func TestFollowedAgainTheArchiveGoesOn(t *testing.T) {
	h := newHistory(t, 3, 2)
	a := open(t, h)
	first, err := follow(t, a, eventlog.FirstSeq)
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := follow(t, a, h.last.Next()); err != nil || len(entries) > 0 {
		t.Errorf("%d entries, %v after the end", len(entries), err)
	}
	h.ship(1, 2)
	h.ship(2, 2)
	second, err := follow(t, a, first[len(first)-1].Event.Seq.Next())
	if err != nil {
		t.Fatal(err)
	}
	expectEntries(t, append(first, second...), h.entries)
}

func TestAnArchiveWithoutAnyObjectHasNoEvents(t *testing.T) {
	if entries, err := follow(t, open(t, newHistory(t, 0, 0)), eventlog.FirstSeq); err != nil || len(entries) > 0 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}

func TestFollowingStopsAtAHoleAfterAllThatStandsBefore(t *testing.T) {
	for ordinal := uint64(1); ordinal < 9; ordinal++ {
		synctest.Test(t, func(t *testing.T) {
			h := epochs(t)
			h.Remove(archiver.Shipped(ordinal).Key())
			entries, err := follow(t, open(t, h), eventlog.FirstSeq)
			if !errors.Is(err, archiver.ErrHole) || !strings.Contains(err.Error(), fmt.Sprintf("ordinals %d to %d", ordinal, ordinal)) {
				t.Errorf("without ordinal %d: %v", ordinal, err)
			}
			expectEntries(t, entries, before(h.entries, ordinal))
		})
	}
}

func before(entries []eventlog.Entry, ordinal uint64) []eventlog.Entry {
	for i, entry := range entries {
		if entry.Placement.Ordinal >= ordinal {
			return entries[:i]
		}
	}
	return entries
}

func TestFollowingStopsAtADamagedObjectAfterAllThatStandsBefore(t *testing.T) {
	defer goleak.VerifyNone(t)
	synctest.Test(t, func(t *testing.T) {
		for ordinal := uint64(1); ordinal <= 9; ordinal++ {
			h := epochs(t)
			data, _ := h.Get(archiver.Shipped(ordinal).Key())
			h.Flip(archiver.Shipped(ordinal).Key(), len(data)*8-eventlog.TrailerSize*8-1) // in the footer
			entries, err := follow(t, open(t, h), eventlog.FirstSeq)
			if !errors.Is(err, eventlog.ErrObjectDamaged) || !strings.Contains(err.Error(), fmt.Sprintf("ordinal %d ", ordinal)) {
				t.Errorf("damage in ordinal %d: %v", ordinal, err)
			}
			expectEntries(t, entries, before(h.entries, ordinal))
		}
	})
}

// Entries that cannot be are found late, by who decodes them, and are told as
// if they had been found at once.
func TestEntriesThatCannotBeAreToldWithTheirObject(t *testing.T) {
	h := newHistory(t, 3, 4)
	key := archiver.Shipped(2).Key()
	object, _ := h.Get(key)
	trailer, err := eventlog.DecodeTrailer(object[len(object)-eventlog.TrailerSize:])
	if err != nil {
		t.Fatal(err)
	}
	footer, err := eventlog.DecodeFooter(trailer, object[trailer.FooterOffset:trailer.FooterOffset+trailer.FooterSize])
	if err != nil {
		t.Fatal(err)
	}
	footer.Entries[0], footer.Entries[1] = footer.Entries[1], footer.Entries[0]
	h.Set(key, eventlog.AppendMetadata(slices.Clone(object[:trailer.FooterOffset]), trailer, footer.Entries, nil, 0))
	_, err = followPacked(t, open(t, h), eventlog.FirstSeq)
	if !errors.Is(err, eventlog.ErrObjectDamaged) || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "restore this object") {
		t.Errorf("got %v", err)
	}
}

func TestObjectsWhoseSeqsDoNotTileAreRefused(t *testing.T) {
	for name, build := range map[string]func(h *history){
		"events missing between two ordinals": func(h *history) { h.ship(1, 2); h.last += 1; h.ship(1, 2) },
		"events twice":                        func(h *history) { h.ship(1, 2); h.last -= 1; h.ship(1, 2) },
		"an epoch that goes back":             func(h *history) { h.ship(1, 2); h.ship(3, 2); h.last = 0; h.ship(2, 2) },
		"the start of an epoch missing":       func(h *history) { h.ship(1, 2); h.last = eventlog.MakeSeq(2, 1); h.ship(2, 2) },
		"the start of the log missing":        func(h *history) { h.last = eventlog.FirstSeq; h.ship(1, 2) },
		"a log that begins at epoch 2":        func(h *history) { h.ship(2, 2) },
	} {
		h := newHistory(t, 0, 0)
		build(h)
		if entries, err := follow(t, open(t, h), eventlog.FirstSeq); !errors.Is(err, eventlog.ErrObjectDamaged) {
			t.Errorf("%s: %d entries, %v", name, len(entries), err)
		}
	}
}

func TestAReaderBelowTheHorizonMustStartFromTheFirst(t *testing.T) {
	h := newHistory(t, 1, 5)
	h.horizon = eventlog.MakeSeq(1, 4)
	h.ship(1, 5)
	a := open(t, h)
	for from, cleaned := range map[eventlog.Seq]bool{
		eventlog.FirstSeq: false, eventlog.MakeSeq(1, 2): true, eventlog.MakeSeq(1, 3): true, eventlog.MakeSeq(1, 4): false, eventlog.MakeSeq(1, 9): false,
	} {
		if _, err := follow(t, a, from); errors.Is(err, eventlog.ErrCleaned) != cleaned {
			t.Errorf("from %v: %v", from, err)
		}
	}
}

func TestAFollowerMayLeaveAtAnyPointAndNothingGoesOn(t *testing.T) {
	defer goleak.VerifyNone(t)
	h := newHistory(t, 50, 2)
	a := open(t, h)
	for stop := range 5 {
		for batch, err := range a.Follow(t.Context(), eventlog.FirstSeq) {
			if err != nil {
				t.Fatal(err)
			}
			if batch.Entries[0].Placement.Ordinal > uint64(stop) {
				break
			}
		}
	}
}

func TestFollowingEndsWithItsContext(t *testing.T) {
	defer goleak.VerifyNone(t)
	h := newHistory(t, 50, 2)
	bucket := buckettest.NewFaulty(h)
	a := open(t, bucket)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	bucket.Set(buckettest.Hooks{Before: func(ctx context.Context, op buckettest.Op, key string) error {
		if op == buckettest.Get && key == archiver.Shipped(20).Key() {
			cancel(why)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}})
	var last error
	for _, last = range a.Follow(ctx, eventlog.FirstSeq) {
	}
	if !errors.Is(last, why) && !errors.Is(last, context.Canceled) {
		t.Errorf("%v, want the context's end", last)
	}
}

func TestFootersAreReadAheadButNotWithoutBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 100, 1)
		bucket := buckettest.NewFaulty(h)
		a := open(t, bucket)
		var running, most atomic.Int64
		hold := make(chan struct{})
		bucket.Set(buckettest.Hooks{Before: func(ctx context.Context, op buckettest.Op, _ string) error {
			if op == buckettest.Get {
				most.Store(max(most.Load(), running.Add(1)))
				<-hold
				running.Add(-1)
			}
			return nil
		}})
		done := make(chan error)
		go func() {
			n := 0
			for _, err := range a.Follow(t.Context(), eventlog.FirstSeq) {
				if err != nil {
					done <- err
					return
				}
				n++
			}
			done <- fmt.Errorf("%d batches", n)
		}()
		synctest.Wait() // everything that can be asked for has been
		if n := running.Load(); n < 32 || n > 70 {
			t.Errorf("%d reads at once", n)
		}
		close(hold)
		if err := <-done; err.Error() != "100 batches" {
			t.Error(err)
		}
	})
}
