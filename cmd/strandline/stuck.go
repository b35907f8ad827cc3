// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"os"
	"runtime/pprof"
	"sync/atomic"
	"time"
)

// errStuck is what the admin door says of a server that does not answer its own
// questions: a disk, a file or a lock keeps it waiting.
var errStuck = errors.New("the server does not answer its own questions: something that it waits for hangs, look at its disks; /debug/pprof/goroutine?debug=2 shows what")

const (
	// answerWithin is how long the admin door waits for the server's own answer.
	answerWithin = 800 * time.Millisecond
	// maxHanging bounds how many questions may hang at once.
	maxHanging = 4
	// stopAtLast is how long a stop may take, whatever hangs.
	stopAtLast = 45 * time.Second
)

// question is one that may hang. Who asks it waits a bounded time for the answer.
// The zero value is ready for use.
type question[T any] struct {
	hanging atomic.Int32
	last    atomic.Pointer[T]
}

// ask returns the answer. When none comes in time, or too many questions hang
// already, it returns the last one there was, and false.
func (b *question[T]) ask(of func() T) (answer T, ok bool) {
	came := make(chan T, 1)
	if b.hanging.Add(1) > maxHanging {
		b.hanging.Add(-1)
	} else {
		go func() {
			defer b.hanging.Add(-1)
			answer := of()
			b.last.Store(&answer)
			came <- answer
		}()
	}
	timer := time.NewTimer(answerWithin)
	defer timer.Stop()
	select {
	case answer = <-came:
		return answer, true
	case <-timer.C:
	}
	if last := b.last.Load(); last != nil {
		answer = *last
	}
	return answer, false
}

// waitsFor notes what the stop waits for, for the last resort to tell.
func (a *app) waitsFor(what string) { a.waiting.Store(&what) }

// boundStop ends the process with exit code 10 when it has not ended by itself
// so long after ctx did. What is acknowledged is in the log: this is a kill that
// says what hung. The function returned calls it off.
func (a *app) boundStop(ctx context.Context, limit time.Duration, exit func(code int)) (callOff func()) {
	ended := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
		case <-ended:
			return
		}
		select {
		case <-ended:
			return
		case <-time.After(limit):
		}
		what := "the start to end"
		if w := a.waiting.Load(); w != nil {
			what = *w
		}
		a.log.Error("the stop did not come to its end; the process ends now, what is acknowledged is kept, and the next start goes on", "limit", limit.String(), "waits for", what)
		if err := pprof.Lookup("goroutine").WriteTo(os.Stderr, 1); err != nil {
			a.log.Error("the goroutines could not be listed", "error", err)
		}
		exit(exitStuck)
	}()
	return func() { close(ended) }
}
