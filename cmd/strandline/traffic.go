// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"net/http"
	"sync/atomic"
	"time"
)

// traffic knows whether clients are being served.
type traffic struct {
	under atomic.Int64              // requests that are being answered
	last  atomic.Pointer[time.Time] // when one was answered last; nil: none was
}

// trafficLasts is how long after a request the next one is expected.
const trafficLasts = 100 * time.Millisecond

// watch returns next, whose requests are counted.
func (t *traffic) watch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.under.Add(1)
		defer func() {
			now := time.Now()
			t.last.Store(&now)
			t.under.Add(-1)
		}()
		next.ServeHTTP(w, r)
	})
}

// busy reports whether clients are being served.
func (t *traffic) busy() bool {
	last := t.last.Load()
	return t.under.Load() > 0 || last != nil && time.Since(*last) < trafficLasts
}
