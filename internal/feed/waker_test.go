// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/strandline-project/strandline/eventlog"
)

var at = eventlog.MakeSeq(7, 100)

// standing is the position of a reader that finds nothing.
func standing(at eventlog.Seq) func() eventlog.Seq { return func() eventlog.Seq { return at } }

// waited runs one Wait in fake time and returns how long it took.
func waited(t *testing.T, w *Waker, after eventlog.Seq) time.Duration {
	t.Helper()
	begin := time.Now()
	if err := w.Wait(t.Context(), standing(after)); err != nil {
		t.Fatal(err)
	}
	return time.Since(begin)
}

func TestWaitReturns(t *testing.T) {
	tests := []struct {
		name  string
		hints []eventlog.Seq
		want  time.Duration
	}{
		{"at once when a hint is already there", []eventlog.Seq{at + 1}, 0},
		{"at once for the first event of a later epoch", []eventlog.Seq{eventlog.MakeSeq(8, 1)}, 0},
		{"at once when hints come in the wrong order", []eventlog.Seq{at + 3, at + 1, at - 5}, 0},
		{"after silence without a hint", nil, Silence},
		{"after silence when the hint is about what is known", []eventlog.Seq{at, at, at - 1}, Silence},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWaker()
				for _, hint := range tt.hints {
					w.hear(hint)
				}
				if took := waited(t, w, at); took != tt.want {
					t.Errorf("woke after %s, want %s", took, tt.want)
				}
			})
		})
	}
}

func TestWaitReturnsWhenTheHintComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaker()
		time.AfterFunc(20*time.Millisecond, func() { w.hear(at) }) // known already
		time.AfterFunc(30*time.Millisecond, func() { w.hear(at + 1) })
		if took := waited(t, w, at); took != 30*time.Millisecond {
			t.Errorf("woke after %s, want when the hint came", took)
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		if err := newWaker().Wait(ctx, standing(at)); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the context's error", err)
		}
	})
}

func TestAForgedHintWakesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaker()
		w.hear(math.MaxUint64)
		if took := waited(t, w, at); took != 0 {
			t.Fatalf("the hint woke after %s", took)
		}
		for range 3 {
			if took := waited(t, w, at); took != Silence {
				t.Fatalf("the used hint woke again, after %s", took)
			}
		}
	})
}

func TestAFloodOfForgedHintsCostsNoMoreThanSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaker()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for ctx.Err() == nil {
				w.hear(math.MaxUint64)
				time.Sleep(100 * time.Microsecond)
			}
		}()
		looks := 0
		for w.Wait(ctx, standing(at)) == nil {
			looks++
		}
		<-ended
		if most := int(10*time.Second/Silence) + 10; looks > most {
			t.Errorf("%d looks in 10 s, want at most %d", looks, most)
		}
	})
}

func TestTrustReturnsWhenALookFindsSomething(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaker()
		for range 20 { // to the longest doubt
			w.hear(math.MaxUint64)
			waited(t, w, at)
		}
		w.hear(at + 2)
		if took := waited(t, w, at+1); took != 0 { // at+1 was found
			t.Errorf("a true hint after progress woke only after %s", took)
		}
	})
}

// A reader that is at work when it waits again has not found a lie.
func TestAHintIsDoubtedUntilItsReaderMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaker()
		w.hear(at + 1)
		waited(t, w, at)
		var position atomic.Uint64
		position.Store(uint64(at))
		time.AfterFunc(firstDoubt/5, func() { w.hear(at + 2) })
		time.AfterFunc(firstDoubt/4, func() { position.Store(uint64(at + 1)) })
		time.AfterFunc(firstDoubt/2, func() { w.hear(at + 2) })
		begin := time.Now()
		if err := w.Wait(t.Context(), func() eventlog.Seq { return eventlog.Seq(position.Load()) }); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != firstDoubt/2 {
			t.Errorf("the hint after the move woke after %s", took)
		}
	})
}

func TestHintsThatAlwaysHoldTrueAreNeverDoubted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaker()
		for seq := at; seq < at+1000; seq++ {
			w.hear(seq + 1)
			w.hear(seq + 1) // a duplicate
			if took := waited(t, w, seq); took != 0 {
				t.Fatalf("the hint about %s woke after %s", seq+1, took)
			}
		}
	})
}

// Whatever the feed says, the reader is never further behind than one
// silence.
func TestAnyHintsLetTheReaderReachTheEnd(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOf(rapid.Uint64Range(0, 40)).Draw(rt, "steps")
		synctest.Test(t, func(t *testing.T) {
			w, log := newWaker(), &memoryLog{last: at}
			position := at
			for _, step := range steps {
				switch {
				case step < 10:
					log.append(log.last + 1) // and the feed says nothing
				case step < 20:
					log.append(log.last + 1)
					w.hear(log.last)
				default:
					w.hear(at + eventlog.Seq(step) - 30) // stale, duplicate, reordered or forged
				}
				position = max(position, log.look())
			}
			begin := time.Now()
			log.append(log.last + 1)
			if err := log.read(t.Context(), w, log.last); err != nil {
				rt.Fatal(err)
			}
			if took := time.Since(begin); took > Silence {
				rt.Fatalf("the reader at %s needed %s for the last event", position, took)
			}
		})
	})
}
