// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// While clients are served a drill's process stands still most of the time, and
// it goes on when they are not; one that ends meanwhile is heard of.
func TestADrillGivesWayToClients(t *testing.T) {
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	var busy atomic.Bool
	busy.Store(true)
	child := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
	started := make(chan int, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- runLow(child, func() bool {
			select {
			case started <- child.Process.Pid:
			default:
			}
			return busy.Load()
		})
	}()
	pid := <-started
	// runs in a row that were seen: far more than one turn has.
	awaitState(t, pid, func(inARow int) bool { return inARow < 0 })
	busy.Store(false)
	awaitState(t, pid, func(inARow int) bool { return inARow == 100 })
	busy.Store(true)
	awaitState(t, pid, func(inARow int) bool { return inARow < 0 })
	kill() // as it stands still, or as it runs
	if err := <-ended; err == nil {
		t.Error("a child that was killed is said to have ended well")
	}

	// One that ends by itself, as it is told to by its input once it has stood
	// still.
	short := exec.CommandContext(t.Context(), "cat")
	in, err := short.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	rounds := 0
	if err := runLow(short, func() bool {
		if rounds++; rounds == 3 {
			_ = in.Close() // else it would not end
		}
		return true
	}); err != nil {
		t.Errorf("a child that ended by itself: %v", err)
	}
}

// awaitState looks at the process every few milliseconds until enough says so
// of how often in a row it was seen not to stand still; -1: it stands still.
func awaitState(t *testing.T, pid int, enough func(inARow int) bool) {
	t.Helper()
	looks, enoughLooks := time.NewTicker(2*time.Millisecond), time.NewTimer(time.Minute)
	defer looks.Stop()
	defer enoughLooks.Stop()
	for inARow := 0; ; {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		inARow++
		if _, state, _ := bytes.Cut(stat, []byte(") ")); state[0] == 'T' {
			inARow = -1
		}
		if enough(inARow) {
			return
		}
		inARow = max(inARow, 0)
		select {
		case <-looks.C:
		case <-enoughLooks.C:
			t.Fatal("the process was never seen so")
		}
	}
}

// The kernel takes the drill's process before the server, which is not changed.
func TestADrillsProcessIsTheFirstThatTheKernelKillsForMemory(t *testing.T) {
	score := func(pid int) string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	ours := score(os.Getpid())
	program, err := ownProgram()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), program)
	child.Args = []string{"strandline", childCommand}
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(in, `{"archive":"dir:/no/such/archive"}`); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n') // it is there until it is waited for
	if err != nil || score(child.Process.Pid) != "1000" || score(os.Getpid()) != ours {
		t.Errorf("the child %s, this process %s; it said %q, %v", score(child.Process.Pid), score(os.Getpid()), line, err)
	}
	_ = in.Close()
	_ = child.Wait() // with the error of an archive that is not there
}

func TestTrafficIsThereWhileAndShortlyAfterAClientIsServed(t *testing.T) {
	var now traffic
	if now.busy() {
		t.Error("busy before the first request")
	}
	served := httptest.NewServer(now.watch(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if now.under.Load() != 1 || !now.busy() {
			t.Error("not busy while a client is served")
		}
	})))
	answer, err := http.Get(served.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	served.Close() // waits for the request
	if now.under.Load() != 0 || now.last.Load() == nil {
		t.Errorf("%d requests under way, the last at %v", now.under.Load(), now.last.Load())
	}
	before := time.Now().Add(-trafficLasts)
	now.last.Store(&before)
	if now.busy() {
		t.Error("busy long after the last request")
	}
}
