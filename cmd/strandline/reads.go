// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"io"
	"sync"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/internal/progress"
)

// archives are those that one operation reads much of, opened as it goes. The
// bounds of reads under way at once are the same for each.
type archives struct {
	mu      sync.Mutex
	bounds  archiver.AdaptiveOptions   // owned by mu
	buckets []*archiver.AdaptiveBucket // owned by mu
}

func (a *archives) adaptive(opened archiver.Bucket) *archiver.AdaptiveBucket {
	a.mu.Lock()
	defer a.mu.Unlock()
	bucket := archiver.Adaptive(opened, a.bounds)
	a.buckets = append(a.buckets, bucket)
	return bucket
}

// SetBounds changes the bounds of all, those to come among them.
func (a *archives) SetBounds(lowest, highest int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, bucket := range a.buckets {
		if err := bucket.SetBounds(lowest, highest); err != nil {
			return err
		}
	}
	a.bounds.Min, a.bounds.Max = lowest, highest
	return nil
}

// reading tells a progress what is read of all, and of the one that most reads
// are under way from how many may be.
func (a *archives) reading() progress.Reading {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all, busiest progress.Reading
	for _, bucket := range a.buckets {
		r := readingOf(bucket)()
		all.Requests, all.Bytes = all.Requests+r.Requests, all.Bytes+r.Bytes
		if r.InFlight >= busiest.InFlight { // none: the one that was opened last
			busiest = r
		}
	}
	busiest.Requests, busiest.Bytes = all.Requests, all.Bytes
	return busiest
}

// waitedFor is a bucket that tells a progress while somebody waits for its
// answers to begin: for work that is all reading. How long the rest of an
// answer takes is not told from how long its reader takes for it.
type waitedFor struct {
	archiver.Bucket
	progress *progress.Progress

	mu    sync.Mutex
	reads int    // under way; owned by mu
	over  func() // ends the wait of now; owned by mu
}

func (w *waitedFor) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	w.begin()
	defer w.end()
	return w.Bucket.GetRange(ctx, key, offset, length)
}

func (w *waitedFor) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reads++; w.reads == 1 {
		w.over = w.progress.Waiting()
	}
}

// end ends the wait also where others wait on: something has come.
func (w *waitedFor) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over()
	if w.reads--; w.reads > 0 {
		w.over = w.progress.Waiting()
	}
}
