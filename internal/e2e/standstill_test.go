// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

// standstill is a store that stops: connections are taken, and nothing is
// answered, nor goes on being answered, until it goes on.
type standstill struct {
	kind  string
	nth   int64 // request of that kind at which it begins
	d     time.Duration
	asked atomic.Int64
	begun chan struct{} // closed when it stops
	begin func()
	again chan struct{} // closed when it goes on
}

func stops(kind string, nth int64, d time.Duration) *standstill {
	f := &standstill{kind: kind, nth: nth, d: d, begun: make(chan struct{}), again: make(chan struct{})}
	f.begin = sync.OnceFunc(func() {
		close(f.begun)
		time.AfterFunc(d, func() { close(f.again) })
	})
	return f
}

// before is f, unless it is nil, before the other faults.
func (f *standstill) before(faults []testkit.Rule) []testkit.Rule {
	if f == nil {
		return faults
	}
	return append([]testkit.Rule{f.rule()}, faults...)
}

// rule lets every request see whether the store stands still.
func (f *standstill) rule() testkit.Rule {
	return testkit.Rule{When: f.begins, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if f.hold(r.Context()) == nil {
			next.ServeHTTP(&heldWriter{w, r.Context(), f}, r)
		}
	}}
}

// begins counts a request, and stops the store at the one that it is to stop at.
func (f *standstill) begins(r testkit.Request) bool {
	if strings.HasPrefix(r.Key, f.kind+"/") && r.Op != testkit.List && f.asked.Add(1) == f.nth {
		f.begin()
	}
	return true
}

// hold waits as long as the store stands still.
func (f *standstill) hold(ctx context.Context) error {
	select {
	case <-f.begun:
	default:
		return nil
	}
	select {
	case <-f.again:
		return nil
	default:
	}
	select {
	case <-f.again:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// heldWriter writes an answer while the store does not stand still.
type heldWriter struct {
	http.ResponseWriter
	ctx   context.Context
	fault *standstill
}

func (w *heldWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *heldWriter) Write(p []byte) (int, error) {
	if err := w.fault.hold(w.ctx); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(p)
}
