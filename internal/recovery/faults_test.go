// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/internal/testkit"
)

// recoveredThrough recovers w through a bucket with faults and adaptive
// reading, as the program does, and compares with the live views.
func (w *world) recoveredThrough(faulty *buckettest.Faulty, dir string) archiver.ReadStats {
	w.t.Helper()
	bucket := archiver.Adaptive(faulty, archiver.AdaptiveOptions{})
	opts := w.options(dir)
	opts.Archive = archiver.At(bucket, logID)
	opts.Archive.SetLogger(quiet)
	result, err := Run(w.t.Context(), opts)
	must(w.t, err)
	w.check(dir, result)
	return bucket.Stats()
}

// One request in twenty is answered with 503, and one transfer in twenty is cut
// off somewhere, those of index objects too.
func TestARecoveryGetsThroughThrottlingAndTruncatedBodiesTogether(t *testing.T) {
	for seed := range max(1, seeds(4)) {
		w := newWorld(t, 3100+seed, 400)
		w.apart()
		var mu sync.Mutex
		var throttled, cut int
		rng := rand.New(rand.NewPCG(seed, 6))
		dice := func(count *int, sides int64) int64 {
			mu.Lock()
			defer mu.Unlock()
			if rng.IntN(20) != 0 {
				return -1
			}
			*count++
			return rng.Int64N(sides)
		}
		faulty := buckettest.NewFaulty(w.bucket)
		faulty.Set(buckettest.Hooks{
			Before: func(context.Context, buckettest.Op, string) error {
				if dice(&throttled, 1) == 0 {
					return archiver.ErrThrottled
				}
				return nil
			},
			Cut: func(key string) int64 {
				data, _ := w.bucket.Get(key)
				return dice(&cut, int64(max(1, len(data))))
			},
		})
		stats := w.recoveredThrough(faulty, "new")
		if throttled == 0 || cut == 0 || stats.Throttled == 0 {
			t.Errorf("seed %d: %d requests were throttled, %d cut off; %+v", seed, throttled, cut, stats)
		}
	}
}

// ticks answers requests at ticks only: whoever asks waits for the next one.
// The ticks at which somebody was answered are the rounds that a reader takes
// one after the other, however many requests it makes in each, and however
// slow the machine is.
type ticks struct {
	mu      sync.Mutex
	waiting []chan struct{} // owned by mu
	rounds  int             // owned by mu
}

func (k *ticks) wait(ctx context.Context, _ buckettest.Op, _ string) error {
	turn := make(chan struct{})
	k.mu.Lock()
	k.waiting = append(k.waiting, turn)
	k.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run ticks until ctx ends.
func (k *ticks) run(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		k.mu.Lock()
		if len(k.waiting) > 0 {
			k.rounds++
		}
		for _, turn := range k.waiting {
			close(turn)
		}
		k.waiting = nil
		k.mu.Unlock()
	}
}

// With 50 ms added to every request a recovery is as good, and waits for few
// of them one after the other.
func TestARecoveryFromASlowStoreAsksForMuchAtOnce(t *testing.T) {
	w := newWorld(t, 3200, 800)
	runs := len(w.apart())
	ctx, stop := context.WithCancel(t.Context())
	var k ticks
	var running sync.WaitGroup
	running.Go(func() { k.run(ctx, 50*time.Millisecond) })
	defer running.Wait()
	defer stop()
	faulty := buckettest.NewFaulty(w.bucket)
	faulty.Set(buckettest.Hooks{Before: k.wait})
	stats := w.recoveredThrough(faulty, "new")
	requests := faulty.Calls(buckettest.Get) + faulty.Calls(buckettest.Head) + faulty.Calls(buckettest.List)
	t.Logf("%d objects, %d of them in no run: %d requests in %d rounds, at most %d reads at once", w.objects, w.objects-runs*archiver.RunSize, requests, k.rounds, stats.Most)
	if most := w.objects/100 + 300; requests > most {
		t.Errorf("%d requests for %d objects, want at most %d", requests, w.objects, most)
	}
	if stats.Most < 2 || k.rounds > requests/2 {
		t.Errorf("%d requests in %d rounds, at most %d at once", requests, k.rounds, stats.Most)
	}
}

// pause is how long a store does not answer: less than a read is tried again.
func pause(t *testing.T) time.Duration {
	if testkit.Long() {
		return 20 * time.Second
	}
	t.Log("a pause of 1 s; it is 20 s with", testkit.Command)
	return time.Second
}

// A store that stops for 20 s in the middle and then goes on: its requests hang
// and are answered at last, hang and are broken off, or are refused at once.
func TestARecoveryOutlastsAStoreThatStops(t *testing.T) {
	for name, stopped := range map[string]struct{ hangs, fails bool }{
		"and answers late": {hangs: true},
		"and breaks off":   {hangs: true, fails: true},
		"and refuses":      {fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait
			w := newWorld(t, 3300, 300)
			w.apart()
			const before = 8 // calls
			var mu sync.Mutex
			var calls, hit int
			again := make(chan struct{}) // closed when the store goes on
			begin := sync.OnceFunc(func() { time.AfterFunc(pause(t), func() { close(again) }) })
			faulty := buckettest.NewFaulty(w.bucket)
			faulty.Set(buckettest.Hooks{Before: func(ctx context.Context, _ buckettest.Op, _ string) error {
				mu.Lock()
				calls++
				early := calls <= before
				mu.Unlock()
				if early {
					return nil
				}
				begin()
				select {
				case <-again:
					return nil
				default:
				}
				mu.Lock()
				hit++
				mu.Unlock()
				if stopped.hangs {
					select {
					case <-again:
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				if stopped.fails {
					return buckettest.ErrInjected
				}
				return nil
			}})
			began := time.Now()
			w.recoveredThrough(faulty, "new")
			select {
			case <-again:
			default:
				t.Error("the recovery ended before the store went on")
			}
			if hit == 0 {
				t.Error("no request met the store while it stood still")
			}
			t.Logf("%d calls, %d of them while it stood still; %v", calls, hit, time.Since(began).Round(time.Millisecond))
		})
	}
}
