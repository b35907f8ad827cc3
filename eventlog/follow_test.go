// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// archive makes everything that l has closed part of the history, and drops
// all but the given number of local generations.
func archive(t *testing.T, l *Log, h *fakeHistory, keep int) {
	t.Helper()
	for _, g := range l.Local() {
		if _, last := g.Seqs(); !g.closed() || last <= l.Archived() {
			continue
		}
		entries, err := g.Entries()
		must(t, err)
		h.add(g.Ordinal, Batch{Entries: entries})
		l.MarkArchived(g, time.Millisecond)
	}
	for len(l.Local()) > keep && l.Drop(l.Local()[0]) == nil {
	}
}

func appendNotes(t *testing.T, l *Log, n int) (last Seq) {
	t.Helper()
	for i := range n {
		last = committed(t, l.Append(noteEvent(i), nil))
	}
	return last
}

func eventuallyClosed(t *testing.T, l *Log, n int) {
	t.Helper()
	eventually(t, "the generations are closed", func() bool {
		closed := 0
		for _, g := range l.Local() {
			if g.closed() {
				closed++
			}
		}
		return closed >= n
	})
}

// seamed is a log whose events lie in the archive, in closed generations with
// and without their entries in memory, and in the open one, over two epochs.
func seamed(t *testing.T) (*Log, *fakeHistory, int) {
	t.Helper()
	s := newState(t)
	s.history = &fakeHistory{}
	l := s.open(func(o *Options) { o.MaxEvents = 10 })
	appendNotes(t, l, 45)
	eventuallyClosed(t, l, 4)
	must(t, l.Close(false))
	l = s.open(func(o *Options) { o.MaxEvents = 10 })
	archive(t, l, s.history, 2)
	appendNotes(t, l, 38)
	eventuallyClosed(t, l, 5)
	return l, s.history, 45 + 38
}

func TestFollowGivesEveryEventFromAnySeqOnWithoutSeams(t *testing.T) {
	l, _, n := seamed(t)
	all := collect(t, l, FirstSeq)
	expectContiguous(t, all, FirstSeq)
	if len(all) != n {
		t.Fatalf("%d events from the first on, want %d", len(all), n)
	}
	for i := range all {
		got := collect(t, l, all[i].Event.Seq)
		expectContiguous(t, got, all[i].Event.Seq)
		if len(got) != n-i {
			t.Fatalf("%d events from %s on, want %d", len(got), all[i].Event.Seq, n-i)
		}
	}
	for _, from := range []Seq{MakeSeq(1, 46), MakeSeq(1, 99), MakeSeq(2, 0)} { // of no event: 2.1 is the next
		if got := collect(t, l, from); len(got) != 38 || got[0].Event.Seq != MakeSeq(2, 1) {
			t.Errorf("%d events from %s on, want the 38 of epoch 2", len(got), from)
		}
	}
	if got := collect(t, l, MakeSeq(2, 39)); len(got) != 0 {
		t.Errorf("%d events from behind the end on", len(got))
	}
}

// standing is a log that stands still: the archive holds the given events,
// then the only local generation those from first on.
func standing(t *testing.T, archived []Seq, first Seq) *Log {
	t.Helper()
	h := &fakeHistory{}
	h.add(6, Batch{Entries: entriesOf(archived...)})
	g := &Generation{Ordinal: 7}
	g.extend(entriesOf(first, first+1))
	w := &WAL{gens: []*Generation{g}}
	l, err := w.Reader(h, 0, ErrClosed)
	must(t, err)
	return l
}

func entriesOf(seqs ...Seq) []Entry {
	entries := make([]Entry, len(seqs))
	for i, seq := range seqs {
		entries[i] = Entry{Event: Event{Seq: seq}}
	}
	return entries
}

func TestFollowGoesFromTheArchivesEndToTheNextEpochAndNowhereElse(t *testing.T) {
	archived := []Seq{MakeSeq(1, 1), MakeSeq(1, 2), MakeSeq(1, 3)}
	tests := []struct {
		name  string
		first Seq // local
		from  Seq
		want  int // events; -1: an error
	}{
		{"an epoch was cut at 1.3", MakeSeq(2, 1), FirstSeq, 5},
		{"epochs may be skipped", MakeSeq(9, 1), MakeSeq(1, 2), 4},
		{"a reader comes back with the seq after the cut", MakeSeq(2, 1), MakeSeq(1, 4), 2},
		{"2.1 is missing", MakeSeq(2, 2), FirstSeq, -1},
		{"1.4 is missing", MakeSeq(1, 5), FirstSeq, -1},
		{"1.4 is missing and the reader begins there", MakeSeq(1, 5), MakeSeq(1, 4), -1},
		{"nothing is missing", MakeSeq(1, 4), FirstSeq, 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, err := drainTo(standing(t, archived, tt.first), tt.from)
			if tt.want < 0 {
				if err == nil || !strings.Contains(err.Error(), "neither in the archive nor in this WAL") {
					t.Errorf("%d events, then %v", n, err)
				}
			} else if err != nil || n != tt.want {
				t.Errorf("%d events, then %v; want %d", n, err, tt.want)
			}
		})
	}
}

// A damaged copy of an archived generation is taken out of the WAL; what lies
// before and after it stays.
func TestFollowAsksTheArchiveForAGenerationThatIsMissingInTheMiddle(t *testing.T) {
	l, h, _ := seamed(t)
	archive(t, l, h, 99)
	all := collect(t, l, FirstSeq)
	for missing := 1; missing < len(l.Local()); missing++ {
		whole := l.Local()
		if !whole[missing].closed() {
			continue
		}
		l.gens = slices.Delete(slices.Clone(whole), missing, missing+1)
		for i := range all {
			if got := collect(t, l, all[i].Event.Seq); len(got) != len(all)-i || got[0].Event.Seq != all[i].Event.Seq {
				t.Errorf("without %s there are %d events from %s on, the first is %s; want %d",
					whole[missing], len(got), all[i].Event.Seq, got[0].Event.Seq, len(all)-i)
			}
		}
		l.gens = whole
	}
}

func TestFollowKeepsSayingWhatWasCleanedAndGoesOnBehindIt(t *testing.T) {
	l := standing(t, []Seq{MakeSeq(1, 1)}, MakeSeq(1, 4))
	h := l.opts.History.(*fakeHistory)
	h.batches[0].Cleaned = []Range{{MakeSeq(1, 2), MakeSeq(1, 3)}}
	h.batches[0].Horizon = MakeSeq(1, 3)
	for batch, err := range l.ReadTo(context.Background(), FirstSeq) {
		must(t, err)
		if batch.Entries[0].Event.Seq == FirstSeq && (len(batch.Cleaned) != 1 || batch.Horizon != MakeSeq(1, 3)) {
			t.Errorf("the batch lost what it says about cleaning: %+v", batch)
		}
	}
}

func TestFollowEndsWithTheErrorOfWhatItReadsOrWaitsFor(t *testing.T) {
	l, h, _ := seamed(t)
	h.err = ErrCleaned
	_, err := drainTo(l, FirstSeq)
	if !errors.Is(err, ErrCleaned) {
		t.Errorf("below the horizon: %v, want ErrCleaned", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	for _, err := range l.Follow(ctx, MakeSeq(2, 1), l.WaitCommitted) {
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
			break
		}
		cancel()
	}
	cancel()
	must(t, l.Close(false))
	var last error
	for _, err := range l.Follow(context.Background(), MakeSeq(2, 1), l.WaitCommitted) {
		last = err
	}
	if !errors.Is(last, ErrClosed) {
		t.Errorf("closed: %v, want ErrClosed", last)
	}
}

func drainTo(l *Log, from Seq) (n int, err error) {
	for batch, err := range l.ReadTo(context.Background(), from) {
		if err != nil {
			return n, err
		}
		n += len(batch.Entries)
	}
	return n, nil
}

func TestFollowWithoutAnythingNewWaitsForTheNextSeqOnly(t *testing.T) {
	s := newState(t)
	l := s.open(nil)
	last := appendNotes(t, l, 3)
	var asked []Seq
	stop := errors.New("stop")
	for _, err := range l.Follow(context.Background(), last+1, func(_ context.Context, after Seq) error {
		asked = append(asked, after)
		return stop
	}) {
		if !errors.Is(err, stop) {
			t.Errorf("Follow ends with %v", err)
		}
	}
	if len(asked) != 1 || asked[0] != last {
		t.Errorf("it waits for what comes after %v, want %s: anything less is a busy loop", asked, last)
	}
}

func TestFollowStopsWhenItsConsumerDoes(t *testing.T) {
	l, _, _ := seamed(t)
	for _, from := range []Seq{FirstSeq, MakeSeq(2, 1)} {
		n := 0
		for range l.Follow(context.Background(), from, l.WaitCommitted) {
			n++
			break
		}
		if n != 1 {
			t.Errorf("%d batches after a break", n)
		}
	}
}

func TestAGenerationDroppedBetweenLookAndReadIsReadFromTheArchive(t *testing.T) {
	l, h, n := seamed(t)
	g := l.Local()[0]
	g.forget()
	archive(t, l, h, 99)
	must(t, g.remove()) // as Drop does, just after localOf has found it
	entries, ok, err := l.local(MakeSeq(1, 31))
	if entries != nil || ok || err != nil {
		t.Errorf("local gives %d entries, %v, %v; want to be sent to the archive", len(entries), ok, err)
	}
	must(t, l.Drop(g))
	if got := len(collect(t, l, FirstSeq)); got != n {
		t.Errorf("%d events, want %d", got, n)
	}
}

func TestFollowersSeeEverythingInOrderWhileTheLogGrowsAndDrops(t *testing.T) {
	s := newState(t)
	s.history = &fakeHistory{}
	l := s.open(func(o *Options) { o.MaxEvents = 50 })
	const writers, each = 4, 250
	var work sync.WaitGroup
	for range writers {
		work.Go(func() {
			for i := range each {
				if _, err := l.Append(noteEvent(i), nil).Wait(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	var ship sync.WaitGroup
	ship.Go(func() {
		for after := uint64(0); ; {
			g, err := l.NextClosed(ctx, after)
			if err != nil {
				return
			}
			after = g.Ordinal
			archive(t, l, s.history, 2)
		}
	})
	for range 4 {
		work.Go(func() {
			var last Seq
			for batch, err := range l.Follow(ctx, FirstSeq, l.WaitCommitted) {
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range batch.Entries {
					if !e.Event.Seq.Follows(last) {
						t.Errorf("%s follows %s", e.Event.Seq, last)
					}
					last = e.Event.Seq
				}
				if last == MakeSeq(1, writers*each) {
					return
				}
			}
		})
	}
	within(t, "following", work.Wait)
	cancel()
	ship.Wait()
	must(t, l.Close(true))
	if len(l.Local()) > 4 {
		t.Errorf("%d generations are still local: nothing was dropped", len(l.Local()))
	}
}
