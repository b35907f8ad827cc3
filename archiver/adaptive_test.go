// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
)

// slowStore answers each read after latency, serves at most capacity at a
// time, 0 for any number, and refuses what is over the limit it is told.
type slowStore struct {
	archiver.Bucket
	latency  time.Duration
	capacity chan struct{}
	refuses  int64 // more than so many at once; 0: none
	inFlight atomic.Int64
	most     atomic.Int64
	refused  atomic.Int64
}

func (s *slowStore) GetRange(ctx context.Context, _ string, _, length int64) (io.ReadCloser, error) {
	n := s.inFlight.Add(1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	if s.refuses > 0 && n > s.refuses {
		s.inFlight.Add(-1)
		s.refused.Add(1)
		return nil, archiver.ErrThrottled
	}
	if s.capacity != nil {
		s.capacity <- struct{}{}
		defer func() { <-s.capacity }()
	}
	time.Sleep(s.latency)
	return &slowBody{bytes.NewReader(make([]byte, length)), s}, ctx.Err()
}

type slowBody struct {
	io.Reader
	store *slowStore
}

func (b *slowBody) Close() error {
	b.store.inFlight.Add(-1)
	return nil
}

// readMany reads n objects with as many goroutines as the bucket lets work,
// each until it succeeds, and returns how long it took.
func readMany(t *testing.T, bucket archiver.Bucket, goroutines, n int) time.Duration {
	t.Helper()
	began := time.Now()
	var left atomic.Int64
	left.Store(int64(n))
	var all sync.WaitGroup
	for range goroutines {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				for {
					r, err := bucket.GetRange(t.Context(), "key", 0, 100_000)
					if err == nil {
						_, err = io.Copy(io.Discard, r)
						if err := errors.Join(err, r.Close()); err != nil {
							t.Error(err)
						}
						break
					}
					if !errors.Is(err, archiver.ErrThrottled) {
						t.Error(err)
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	all.Wait()
	return time.Since(began)
}

func TestConcurrencyGrowsWhileItPays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{latency: 50 * time.Millisecond}
		bucket := archiver.Adaptive(store, archiver.AdaptiveOptions{})
		took := readMany(t, bucket, 600, 20_000)
		if stats := bucket.Stats(); stats.Limit < 200 || stats.Gets != 20_000 || stats.Bytes != 20_000*100_000 || stats.InFlight != 0 {
			t.Errorf("%+v", stats)
		}
		if alone := 20_000 * store.latency; took > alone/60 {
			t.Errorf("it took %v, one after the other %v", took, alone)
		}
	})
}

func TestConcurrencyStaysWhereMoreBringsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{latency: 10 * time.Millisecond, capacity: make(chan struct{}, 16)}
		bucket := archiver.Adaptive(store, archiver.AdaptiveOptions{})
		took := readMany(t, bucket, 600, 20_000)
		if stats := bucket.Stats(); stats.Limit < 12 || stats.Limit > 40 {
			t.Errorf("%d at once, for a store that serves 16", stats.Limit)
		}
		if least := 20_000 / 16 * store.latency; took > least*5/4 {
			t.Errorf("it took %v, at best %v", took, least)
		}
	})
}

func TestConcurrencyShrinksWhenTheStoreSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{latency: 20 * time.Millisecond, refuses: 30}
		bucket := archiver.Adaptive(store, archiver.AdaptiveOptions{})
		readMany(t, bucket, 600, 20_000)
		stats := bucket.Stats()
		if stats.Throttled != uint64(store.refused.Load()) || stats.Throttled == 0 || stats.Limit > 45 {
			t.Errorf("%+v; refused %d", stats, store.refused.Load())
		}
		if share := float64(stats.Throttled) / 20_000; share > 0.1 {
			t.Errorf("%.0f %% of the requests were refused", 100*share)
		}
	})
}

// A store that comes to do less lets its readers wait for one another.
func TestConcurrencyShrinksWhenReadsTakeLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{latency: 20 * time.Millisecond}
		bucket := archiver.Adaptive(store, archiver.AdaptiveOptions{Max: 64})
		readMany(t, bucket, 200, 5000)
		before := bucket.Stats().Limit
		store.capacity = make(chan struct{}, 8)
		readMany(t, bucket, 200, 3000)
		if after := bucket.Stats().Limit; before < 48 || after > before/2 {
			t.Errorf("%d reads at once, and %d when only 8 got on at a time", before, after)
		}
	})
}

func TestConcurrencyShrinksAtTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := buckettest.NewFaulty(buckettest.NewMemory())
		bucket := archiver.Adaptive(store, archiver.AdaptiveOptions{Initial: 100})
		store.Set(buckettest.Hooks{Before: func(context.Context, buckettest.Op, string) error { return context.DeadlineExceeded }})
		for range 200 {
			if _, err := bucket.GetRange(t.Context(), "key", 0, 1); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		if now := bucket.Stats().Limit; now > 70 {
			t.Errorf("%d reads at once after 200 timeouts, began with 100", now)
		}
	})
}

func TestBoundsHoldAndCanBeChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{latency: 50 * time.Millisecond}
		bucket := archiver.Adaptive(store, archiver.AdaptiveOptions{Min: 3, Max: 5})
		readMany(t, bucket, 100, 500)
		if most := store.most.Load(); most != 5 {
			t.Errorf("%d at once, want 5", most)
		}
		if err := bucket.SetBounds(40, 50); err != nil {
			t.Fatal(err)
		}
		readMany(t, bucket, 100, 500)
		if most := store.most.Load(); most < 40 || most > 50 {
			t.Errorf("%d at once, want 40 to 50", most)
		}
		for _, wrong := range [][2]int{{0, 5}, {6, 5}, {-1, -1}} {
			if err := bucket.SetBounds(wrong[0], wrong[1]); err == nil {
				t.Errorf("took the bounds %v", wrong)
			}
		}
	})
}

func TestWhoGivesUpWaitingTakesNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{latency: time.Second}
		bucket := archiver.Adaptive(store, archiver.AdaptiveOptions{Min: 1, Max: 1})
		first, err := bucket.GetRange(t.Context(), "key", 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := bucket.GetRange(ctx, "key", 0, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the deadline", err)
		}
		if err := errors.Join(first.Close(), first.Close()); err != nil { // twice is once
			t.Fatal(err)
		}
		if took := readMany(t, bucket, 1, 3); took != 3*time.Second {
			t.Errorf("three reads took %v", took)
		}
		if stats := bucket.Stats(); stats.InFlight != 0 {
			t.Errorf("%+v", stats)
		}
	})
}

func TestAnAdaptiveBucketIsABucket(t *testing.T) {
	buckettest.Run(t, func(*testing.T) archiver.Bucket {
		return archiver.Adaptive(buckettest.NewMemory(), archiver.AdaptiveOptions{})
	})
}
