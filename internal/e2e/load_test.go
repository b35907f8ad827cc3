// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load stores many small blocks on a machine of its own, through everything
// that happens to the server, and remembers what was acknowledged.
type load struct {
	t    *testing.T
	door *door
	stop context.CancelFunc
	done sync.WaitGroup

	next atomic.Int64

	mu       sync.Mutex
	stored   map[string]bool // acknowledged; owned by mu, as what follows
	survives map[string]bool // acknowledged before a commit point that was acknowledged
	barred   string          // the text of the 403 that ended the load
}

// loadConnections is how many blocks are on their way at a time.
const loadConnections = 4

// loadPause is how long a connection rests between two blocks: the load is
// company for the backup, not a benchmark.
const loadPause = 10 * time.Millisecond

// commitEvery is how many blocks lie between two commit points of a
// connection.
const commitEvery = 40

// startLoad begins to store. The first lock is there when it returns.
func startLoad(t *testing.T, d *door) *load {
	t.Helper()
	d.create()
	d.store("locks", []byte("a lock of the load"))
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{t: t, door: d, stop: cancel, stored: map[string]bool{}, survives: map[string]bool{}}
	for range loadConnections {
		l.done.Go(func() { l.run(ctx) })
	}
	t.Cleanup(l.end)
	return l
}

// end stops storing and waits.
func (l *load) end() {
	l.stop()
	l.done.Wait()
}

func (l *load) run(ctx context.Context) {
	pace := time.NewTicker(loadPause)
	defer pace.Stop()
	for ctx.Err() == nil && l.one(ctx) {
		<-pace.C
	}
}

// one stores a block, now and then with a commit point behind it. It returns
// false when the server says that the session is over.
func (l *load) one(ctx context.Context) bool {
	n := l.next.Add(1)
	body := fmt.Appendf(nil, "block %d of the load %0512d", n, n)
	if !l.post(ctx, named("data", body), body) {
		return false
	}
	if n%commitEvery != 0 {
		return true
	}
	l.mu.Lock()
	var before []string
	for path := range l.stored {
		before = append(before, path)
	}
	l.mu.Unlock()
	index := fmt.Appendf(nil, "index %d of the load", n)
	if !l.post(ctx, named("index", index), index) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, path := range before {
		l.survives[path] = true
	}
	l.survives[named("index", index)] = true
	return true
}

func (l *load) post(ctx context.Context, path string, body []byte) bool {
	a, err := l.door.persist(ctx, "POST", path, body)
	if err != nil {
		return false // the end of the load
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.status != 200 {
		if a.status != 403 {
			l.t.Errorf("the load got %d %s", a.status, a.body)
		}
		l.barred = a.body
		return false
	}
	l.stored[path] = true
	return true
}

// check reads what must be there: all that was acknowledged, or, after the
// loss of the machine, what a commit point has confirmed.
func (l *load) check(machineLost bool) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	expected := l.stored
	if machineLost {
		expected = l.survives
	}
	if len(expected) == 0 {
		l.t.Error("the load has stored nothing")
	}
	missing := 0
	for path := range expected {
		if a := l.door.do("GET", path, nil); a.status != 200 || named(path[:len(path)-65], []byte(a.body)) != path {
			l.t.Logf("%s: %d", path, a.status)
			missing++
		}
	}
	if missing > 0 {
		l.t.Errorf("%d of %d acknowledged blocks cannot be read", missing, len(expected))
	}
	l.t.Logf("%d blocks of the load were read back", len(expected))
}
