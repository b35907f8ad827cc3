// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"slices"
	"time"
)

// warnAgain is how often a server asks its bucket anew what an operator should
// know of it. Clocks drift and rules are made while it runs; and a bucket that
// was away knows no answer.
const warnAgain = time.Minute

// warn begins to ask the bucket, until ctx or the app ends.
func (a *app) warn(ctx context.Context, lazy *lazyBucket) {
	ctx, a.stopWarn = context.WithCancel(ctx)
	a.warning.Go(func() {
		a.keepWarnings(ctx, func(ctx context.Context) []string {
			bucket, err := lazy.bucket()
			if err != nil {
				return nil // the start says so
			}
			return bucketWarnings(ctx, bucket, a.cfg.Data)
		})
	})
}

// keepWarnings asks again and again, and keeps what was answered last. What is
// new is logged, loudly.
func (a *app) keepWarnings(ctx context.Context, ask func(context.Context) []string) {
	ticker := time.NewTicker(warnAgain)
	defer ticker.Stop()
	for {
		limited, cancel := context.WithTimeout(ctx, warnAgain)
		warnings := ask(limited)
		cancel()
		if ctx.Err() != nil {
			return
		}
		a.mu.Lock()
		before := a.warnings
		a.warnings = warnings
		a.mu.Unlock()
		for _, text := range warnings {
			if !slices.Contains(before, text) {
				a.log.Warn(text)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
