// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/httpapi"
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
	if n := len(a.healths.hanging); n != maxHanging {
		t.Errorf("%d questions hang, want %d", n, maxHanging)
	}
}

// A question that hangs is answered with what was known last, and is itself again
// once it hangs no more.
func TestAQuestionThatHangsIsAnsweredWithTheLastAnswer(t *testing.T) {
	var q question[int]
	if n, err := q.ask(func() int { return 7 }); n != 7 || err != nil {
		t.Errorf("the answer is %d, %v", n, err)
	}
	gate := make(chan struct{})
	if n, err := q.ask(func() int { <-gate; return 8 }); n != 7 || !errors.Is(err, errStuck) {
		t.Errorf("while it hangs the answer is %d, %v", n, err)
	}
	close(gate)
	for len(q.hanging) > 0 {
		runtime.Gosched()
	}
	if n, err := q.ask(func() int { return 9 }); n != 9 || err != nil {
		t.Errorf("afterwards the answer is %d, %v", n, err)
	}
}

// Many who ask at once wait their turn: that is no hanging.
func TestMoreQuestionsThanMayHangAreAllAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q question[int]
		var asking sync.WaitGroup
		for range 5 * maxHanging {
			asking.Go(func() {
				if n, err := q.ask(func() int { time.Sleep(answerWithin / 10); return 7 }); n != 7 || err != nil {
					t.Errorf("the answer is %d, %v", n, err)
				}
			})
		}
		asking.Wait()
	})
}

// A question that panics costs its answer, not the process.
func TestAQuestionThatPanicsIsAnsweredWith500(t *testing.T) {
	var said strings.Builder
	log := slog.New(slog.NewTextHandler(&said, nil))
	a := newApp(&Config{Data: "/data"}, log) // without a state directory, views and feed
	a.metrics.Watch(a.gauges)
	a.serving = &serving{log: new(eventlog.Log)}
	admin := httpapi.New(httpapi.Options{Server: a, Metrics: a.metrics.Handler(log), Logger: log})
	for path, want := range map[string]int{"/api/status": 500, "/healthz": 500, "/metrics": 200} {
		said.Reset()
		answer := httptest.NewRecorder()
		admin.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), "GET", "http://localhost"+path, nil))
		if answer.Code != want || !strings.Contains(said.String(), "level=ERROR") || !strings.Contains(said.String(), "invalid memory address") {
			t.Errorf("%s: %d %s; the log says %s", path, answer.Code, answer.Body, said.String())
		}
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
			a.parts.begin("the view block")
			a.parts.begin("the log")
			a.parts.do("the janitor", func() {})
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
				if !hangs || c != exitStuck || !strings.Contains(said.String(), `"the log to be closed" "still running"="the log, the view block"`) {
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
