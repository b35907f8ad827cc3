// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever the server waits for, the admin door answers, however often it is
// asked, and keeps few questions hanging.
func TestTheAdminDoorAnswersWhateverHangs(t *testing.T) {
	a := newApp(&Config{Data: "/data"}, slog.New(slog.DiscardHandler))
	a.mu.Lock() // never unlocked: it stands for all that can hang
	var asking sync.WaitGroup
	for range 3 * maxHanging {
		asking.Go(func() {
			if err := a.Health(); !errors.Is(err, errStuck) {
				t.Errorf("health says %v", err)
			}
			if err := a.Ready(); !errors.Is(err, errStuck) {
				t.Errorf("readiness says %v", err)
			}
			status := a.Status()
			if status.Ready || status.Reason != errStuck.Error() || status.StateDir != "/data" || len(status.Next) == 0 {
				t.Errorf("the status is %+v", status)
			}
			if state := a.gauges(); state.Ready {
				t.Error("the metrics say that it is ready")
			}
		})
	}
	asking.Wait()
	if n := a.healths.hanging.Load(); n != maxHanging {
		t.Errorf("%d questions hang, want %d", n, maxHanging)
	}
}

// A question that hangs is answered with what was known last, and is itself again
// once it hangs no more.
func TestAQuestionThatHangsIsAnsweredWithTheLastAnswer(t *testing.T) {
	var q question[int]
	if n, ok := q.ask(func() int { return 7 }); n != 7 || !ok {
		t.Errorf("the answer is %d, %v", n, ok)
	}
	gate := make(chan struct{})
	if n, ok := q.ask(func() int { <-gate; return 8 }); n != 7 || ok {
		t.Errorf("while it hangs the answer is %d, %v", n, ok)
	}
	close(gate)
	for q.hanging.Load() > 0 {
		runtime.Gosched()
	}
	if n, ok := q.ask(func() int { return 9 }); n != 9 || !ok {
		t.Errorf("afterwards the answer is %d, %v", n, ok)
	}
}

// A stop that hangs ends with its exit code, and says what it waits for; one that
// comes to its end is left alone.
func TestAStopThatHangsIsCutShort(t *testing.T) {
	for _, hangs := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var said strings.Builder
			a := newApp(&Config{}, slog.New(slog.NewTextHandler(&said, nil)))
			a.waitsFor("the log to be closed")
			ctx, stop := context.WithCancel(t.Context())
			code := make(chan int, 1)
			callOff := a.boundStop(ctx, stopAtLast, func(c int) { code <- c })
			time.Sleep(time.Hour) // serving has no bound
			stop()
			time.Sleep(stopAtLast - time.Second)
			if !hangs {
				callOff()
			}
			time.Sleep(time.Minute)
			select {
			case c := <-code:
				if !hangs || c != exitStuck || !strings.Contains(said.String(), "the log to be closed") {
					t.Errorf("hangs %v: it ends with %d and says %s", hangs, c, said.String())
				}
			default:
				if hangs {
					t.Error("it hangs on")
				}
			}
		})
	}
}
