// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/metrics"
)

// errStuck is what the admin door says of a server that does not answer its own
// questions: a disk, a file or a lock keeps it waiting.
var errStuck = errors.New("the server does not answer its own questions: something that it waits for hangs, look at its disks; /debug/pprof/goroutine?debug=2 shows what")

// errPanicked is a question that ended in a panic.
var errPanicked = errors.New("a question to the server ended in a panic; please report it with what follows")

const (
	// answerWithin is how long the admin door waits for the server's own answer.
	answerWithin = 800 * time.Millisecond
	// maxHanging bounds how many questions may hang at once.
	maxHanging = 4
	// stopAtLast is how long a stop may take, whatever hangs.
	stopAtLast = 45 * time.Second
)

// questions are what is asked of the server, whatever hangs.
type questions struct {
	statuses question[httpapi.Status]
	healths  question[error]
	readies  question[error]
	gauged   question[metrics.State]
	logs     question[*eventlog.Log]
}

// question is one that may hang. Who asks it waits a bounded time for the answer.
// The zero value is ready for use.
type question[T any] struct {
	once    sync.Once
	hanging chan struct{} // one each, maxHanging at most
	last    atomic.Pointer[T]
}

// outcome is what a question came to: an answer, or that it panicked.
type outcome[T any] struct {
	answer T
	err    error
}

// ask returns the answer. When none comes in time, it is the last one there was,
// with errStuck; after a panic, with errPanicked. It waits its turn when many ask
// at once.
func (q *question[T]) ask(of func() T) (answer T, err error) {
	q.once.Do(func() { q.hanging = make(chan struct{}, maxHanging) })
	timer := time.NewTimer(answerWithin)
	defer timer.Stop()
	select {
	case q.hanging <- struct{}{}:
	case <-timer.C:
		return q.known(), errStuck
	}
	came := make(chan outcome[T], 1)
	go func() {
		defer func() { <-q.hanging }()
		came <- q.answer(of)
	}()
	select {
	case out := <-came:
		if out.err != nil {
			return q.known(), out.err
		}
		return out.answer, nil
	case <-timer.C:
		return q.known(), errStuck
	}
}

// answer asks. A panic is an outcome: here nobody else would catch it, and the
// process would end.
func (q *question[T]) answer(of func() T) (out outcome[T]) {
	defer func() {
		if cause := recover(); cause != nil {
			out.err = fmt.Errorf("%w: %v\n%s", errPanicked, cause, debug.Stack())
		}
	}()
	out.answer = of()
	q.last.Store(&out.answer)
	return out
}

// known is the last answer there was, if any.
func (q *question[T]) known() (answer T) {
	if last := q.last.Load(); last != nil {
		return *last
	}
	return answer
}

// waits are what the last resort of a stop tells.
type waits struct {
	waiting atomic.Pointer[string] // what the stop waits for
	parts   parts
}

// parts are the parts of the server that run, by their names. The zero value is
// ready for use.
type parts struct {
	mu      sync.Mutex
	running map[string]int // owned by mu
}

// begin notes that a part runs, until the function returned is called.
func (p *parts) begin(name string) (end func()) {
	p.add(name, 1)
	return func() { p.add(name, -1) }
}

func (p *parts) add(name string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		p.running = map[string]int{}
	}
	if p.running[name] += n; p.running[name] == 0 {
		delete(p.running, name)
	}
}

// do runs f as a part.
func (p *parts) do(name string, f func()) {
	defer p.begin(name)()
	f()
}

// String names the parts that run, in the alphabet's order.
func (p *parts) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(p.running)), ", ")
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
		a.log.Error("the stop did not come to its end; the process ends now, what is acknowledged is kept, and the next start goes on", "limit", limit.String(), "waits for", what, "still running", a.parts.String())
		if err := pprof.Lookup("goroutine").WriteTo(os.Stderr, 1); err != nil {
			a.log.Error("the goroutines could not be listed", "error", err)
		}
		exit(exitStuck)
	}()
	return func() { close(ended) }
}
