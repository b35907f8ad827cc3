// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"sync"
	"time"
)

// AdaptiveOptions of Adaptive. The zero value finds everything by itself.
type AdaptiveOptions struct {
	Min, Max int // requests at once; 0: 2 and 512
	Initial  int // 0: 8
}

// Adaptive returns bucket with at most so many reads at once as it is worth:
// the number grows while throughput grows with it, goes back when it does not,
// and shrinks when the store says that it is too much (ErrThrottled), or times
// out. Lists, puts and deletes pass. A read holds its place until its reader is
// closed. A request that fails is not tried again here.
func Adaptive(bucket Bucket, o AdaptiveOptions) *AdaptiveBucket {
	a := &AdaptiveBucket{bucket: bucket, lowest: 2, highest: 512, limit: 8, now: time.Now}
	if o.Min > 0 {
		a.lowest = o.Min
	}
	if o.Max > 0 {
		a.highest = max(o.Max, a.lowest)
	}
	if o.Initial > 0 {
		a.limit = o.Initial
	}
	a.limit = min(max(a.limit, a.lowest), a.highest)
	a.began = a.now()
	return a
}

// AdaptiveBucket is a Bucket that finds out how many reads at once are worth
// it. It is safe for use by several goroutines.
type AdaptiveBucket struct {
	bucket Bucket
	now    func() time.Time

	mu              sync.Mutex
	lowest, highest int
	limit           int // reads at once, now
	inFlight        int
	waiting         []chan struct{} // the first come, first served
	stats           ReadStats
	window
}

// window is what was measured since the limit was last thought about.
type window struct {
	began  time.Time
	done   int     // requests
	work   int64   // bytes, and requestWork for each request
	full   bool    // somebody had to wait
	rate   float64 // work per second of the best window since the limit last fell
	before int     // the limit before it grew the last time; 0: it did not just grow
	calm   int     // windows without a change
}

const (
	// requestWork is what a request is worth beside its bytes, so that many
	// small ones count.
	requestWork = 64 << 10
	windowLeast = 50 * time.Millisecond
	better      = 1.08 // of the rate before: growing was worth it
	worse       = 0.75
	calmWindows = 32 // before growing is tried again
)

// ReadStats counts what was asked of a bucket, failures included.
type ReadStats struct {
	Lists, Gets, Heads uint64        `json:"-"`
	Requests           uint64        `json:"requests"` // all of them; a list is one for each 1,000 keys
	Bytes              uint64        `json:"bytes"`    // of gets
	Failed             uint64        `json:"failed"`
	Throttled          uint64        `json:"throttled"` // failed because the store said that it was too much
	Limit              int           `json:"limit"`     // reads at once, now
	Min                int           `json:"min_limit"` // what Limit stays between
	Max                int           `json:"max_limit"`
	InFlight           int           `json:"in_flight"`
	Most               int           `json:"most_at_once"`
	Latency            time.Duration `json:"latency_ns"` // of a read until its answer began, smoothed
}

// Stats returns the counts so far.
func (a *AdaptiveBucket) Stats() ReadStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.stats
	s.Requests = s.Lists + s.Gets + s.Heads
	s.Limit, s.Min, s.Max, s.InFlight = a.limit, a.lowest, a.highest, a.inFlight
	return s
}

// SetBounds changes between which numbers the reads at once may be.
func (a *AdaptiveBucket) SetBounds(lowest, highest int) error {
	if lowest < 1 || highest < lowest {
		return fmt.Errorf("reads at once between %d and %d: write two numbers from 1 on, the lower first", lowest, highest)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lowest, a.highest = lowest, highest
	a.setLimit(a.limit)
	return nil
}

// setLimit is called with mu held.
func (a *AdaptiveBucket) setLimit(limit int) {
	a.limit = min(max(limit, a.lowest), a.highest)
	for len(a.waiting) > 0 && a.inFlight < a.limit {
		a.inFlight++
		close(a.waiting[0])
		a.waiting = a.waiting[1:]
	}
}

func (a *AdaptiveBucket) acquire(ctx context.Context) error {
	a.mu.Lock()
	if a.inFlight < a.limit && len(a.waiting) == 0 {
		a.inFlight++
		a.mu.Unlock()
		return nil
	}
	a.full = true
	turn := make(chan struct{})
	a.waiting = append(a.waiting, turn)
	a.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, other := range a.waiting {
		if other == turn {
			a.waiting = append(a.waiting[:i], a.waiting[i+1:]...)
			return context.Cause(ctx)
		}
	}
	a.inFlight-- // its turn came meanwhile
	a.setLimit(a.limit)
	return context.Cause(ctx)
}

// release gives a place back, after a read of n bytes that ended with err.
func (a *AdaptiveBucket) release(n int64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inFlight--
	a.stats.Bytes += uint64(n)
	a.done++
	a.work += n + requestWork
	switch {
	case err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, context.Canceled):
		a.think()
	case overloaded(err):
		a.stats.Failed++
		a.stats.Throttled++
		if a.done >= a.limit || a.rate > 0 { // once for those that were on their way together
			a.setLimit(a.limit * 7 / 10)
			a.window = window{began: a.now()}
		}
	default:
		a.stats.Failed++
	}
	a.setLimit(a.limit)
}

// overloaded reports whether fewer requests would have fared better.
func overloaded(err error) bool {
	var network net.Error
	return errors.Is(err, ErrThrottled) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &network) && network.Timeout()
}

// think judges a window that is long enough. It is called with mu held.
func (a *AdaptiveBucket) think() {
	took := a.now().Sub(a.began)
	if a.done < 2*a.limit || took < windowLeast {
		return
	}
	w := a.window
	a.window = window{began: a.now(), rate: w.rate, before: w.before, calm: w.calm + 1}
	if !w.full {
		return // whoever reads wants no more at once
	}
	rate := float64(w.work) / took.Seconds()
	switch {
	case rate >= w.rate*better:
		a.grow(max(1, a.limit/2))
	case w.before != 0 || rate < w.rate*worse:
		// Growing brought nothing, or it is slower than it was with as many.
		back := w.before
		if back == 0 {
			back = a.limit * 8 / 10
		}
		a.setLimit(back)
		a.before, a.calm = 0, 0
		rate = max(rate, w.rate*worse)
	case w.calm >= calmWindows:
		a.grow(max(1, a.limit/8))
	}
	a.rate = rate
}

func (a *AdaptiveBucket) grow(by int) {
	if a.limit == a.highest {
		a.before = 0
		return
	}
	a.before, a.calm = a.limit, 0
	a.setLimit(a.limit + by)
}

// GetRange implements Bucket.
func (a *AdaptiveBucket) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := a.acquire(ctx); err != nil {
		return nil, err
	}
	began := a.now()
	r, err := a.bucket.GetRange(ctx, key, offset, length)
	a.answered(&a.stats.Gets, began)
	if err != nil {
		a.release(0, err)
		return nil, err
	}
	return &adaptiveReader{ReadCloser: r, bucket: a}, nil
}

func (a *AdaptiveBucket) answered(count *uint64, began time.Time) {
	took := a.now().Sub(began)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stats.Most = max(a.stats.Most, a.inFlight)
	*count++
	if a.stats.Latency == 0 {
		a.stats.Latency = took
	}
	a.stats.Latency += (took - a.stats.Latency) / 16
}

// adaptiveReader gives its place back when it is closed.
type adaptiveReader struct {
	io.ReadCloser
	bucket *AdaptiveBucket
	n      int64
	err    error
	once   sync.Once
}

func (r *adaptiveReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

func (r *adaptiveReader) Close() error {
	err := r.ReadCloser.Close()
	r.once.Do(func() { r.bucket.release(r.n, r.err) })
	return err
}

// Head implements Bucket.
func (a *AdaptiveBucket) Head(ctx context.Context, key string) (Info, error) {
	if err := a.acquire(ctx); err != nil {
		return Info{}, err
	}
	began := a.now()
	info, err := a.bucket.Head(ctx, key)
	a.answered(&a.stats.Heads, began)
	a.release(0, err)
	return info, err
}

// listPage is how many keys a store gives for one request.
const listPage = 1000

// List implements Bucket.
func (a *AdaptiveBucket) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		n := 0
		defer func() { a.listed(max(1, uint64(n+listPage-1)/listPage)) }()
		for info, err := range a.bucket.List(ctx, prefix, after) {
			n++
			if !yield(info, err) {
				return
			}
		}
	}
}

func (a *AdaptiveBucket) listed(requests uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stats.Lists += requests
}

// PutIfAbsent implements Bucket.
func (a *AdaptiveBucket) PutIfAbsent(ctx context.Context, key string, body Body) error {
	return a.bucket.PutIfAbsent(ctx, key, body)
}

// Delete implements Bucket.
func (a *AdaptiveBucket) Delete(ctx context.Context, key string) error {
	return a.bucket.Delete(ctx, key)
}

// String names the bucket.
func (a *AdaptiveBucket) String() string { return a.bucket.String() }
