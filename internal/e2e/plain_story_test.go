// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/plainclient"
	"github.com/strandline-project/strandline/internal/testkit"
)

// storyFiles is how many files the stories back up.
func storyFiles() int {
	if testkit.Long() {
		return 2000
	}
	return 400
}

// storyKills is how often the server is killed, each time inside of a backup.
func storyKills() int {
	if testkit.Long() {
		return 10
	}
	return 3
}

// TestBackupsSurviveKillsAndTheLossOfTheMachine is the life of a block, with
// the built-in client: backups while the server is killed at random moments,
// then the machine is gone, and everything that was acknowledged comes back
// from the archive alone.
func TestBackupsSurviveKillsAndTheLossOfTheMachine(t *testing.T) {
	t.Parallel()
	st := newPlainStory(t)
	st.backup() // undisturbed
	load := startLoad(t, st.server.door("load", "blocks"))
	st.backupsUnderFire(storyKills())
	st.check(2)
	load.check(false)
	lost := st.loseTheMachine()
	load.done.Wait() // it was cut off too, and is barred
	load.mu.Lock()
	if !strings.Contains(load.barred, "unlock") {
		t.Errorf("the load ended with %q, want a 403 that names unlock", load.barred)
	}
	load.mu.Unlock()
	load.check(true)
	st.barIsLifted(lost)
	st.check(len(st.saved))
	st.cleanEnd()
}

// plainStory is a server, a tree, and the backups of it that were
// acknowledged.
type plainStory struct {
	*world
	random *rand.Rand
	tree   *tree
	server *server
	client *plainclient.Client
	fuse   *fuse
	saved  map[string]map[string]string // what each acknowledged backup has in it
}

func newPlainStory(t *testing.T) *plainStory {
	t.Helper()
	random := newRandom(t)
	st := &plainStory{world: initialised(t), random: random, saved: map[string]map[string]string{}}
	st.tree = newTree(t, random, storyFiles())
	st.server = st.serve("a", "--record-every", "500")
	transport := http.DefaultTransport.(*http.Transport).Clone()
	st.fuse = &fuse{next: transport}
	client, err := plainclient.New(st.server.url("alice", "laptop"), plainclient.Options{Transport: st.fuse, Host: "laptop", GiveUp: patience})
	must(t, err)
	t.Cleanup(transport.CloseIdleConnections)
	st.client = client
	must(t, client.Init(t.Context()))
	return st
}

// backup backs the tree up; it must succeed, whatever happens to the server.
func (st *plainStory) backup() {
	st.t.Helper()
	want := describe(st.t, st.tree.dir)
	summary, err := st.client.Backup(st.t.Context(), st.tree.dir)
	must(st.t, err)
	st.saved[summary.Snapshot.ID] = want
}

// backupsUnderFire backs up and kills until so many kills fell inside of a
// backup. The server starts again at once, and the backup goes on.
func (st *plainStory) backupsUnderFire(kills int) {
	st.t.Helper()
	for inside, rounds := 0, 0; inside < kills; rounds++ {
		if rounds > 4*kills {
			st.t.Fatalf("only %d kills in %d backups fell inside of one", inside, rounds)
		}
		st.tree.change(100)
		fired := st.fuse.light(st.random.IntN(14), st.random.IntN(3), st.server.kill)
		var again sync.WaitGroup
		again.Go(func() {
			if <-fired {
				st.server.start()
			}
		})
		st.backup()
		if st.fuse.putOut() {
			inside++
		}
		again.Wait()
	}
}

// check reads every block, restores so many of the backups, any of them, and
// compares them.
func (st *plainStory) check(restored int) {
	st.t.Helper()
	report, err := st.client.Check(st.t.Context())
	must(st.t, err)
	if report.Snapshots < len(st.saved) {
		st.t.Errorf("%d snapshots are left of %d acknowledged ones", report.Snapshots, len(st.saved))
	}
	st.t.Logf("checked %d blocks, %d bytes, %d snapshots", report.Blocks, report.Bytes, report.Snapshots)
	for id, want := range st.saved {
		if restored--; restored < 0 {
			break
		}
		dir := filepath.Join(st.t.TempDir(), "restored")
		must(st.t, st.client.Restore(st.t.Context(), id, dir))
		sameFiles(st.t, "snapshot "+id[:8], want, describe(st.t, dir))
		must(st.t, os.RemoveAll(dir))
	}
}

// loseTheMachine kills the server inside of a backup, deletes its state
// directory, and starts a new one from the archive. It returns what the
// interrupted backup got.
func (st *plainStory) loseTheMachine() error {
	st.t.Helper()
	st.tree.change(100)
	fired := st.fuse.lightAt("POST", "/data/", st.server.kill)
	got := make(chan error, 1)
	ctx, cancel := context.WithTimeout(st.t.Context(), patience)
	defer cancel()
	go func() {
		_, err := st.client.Backup(ctx, st.tree.dir)
		got <- err
	}()
	if !<-fired {
		st.t.Fatal("the last backup sent no data")
	}
	must(st.t, os.RemoveAll(st.path("a")))
	st.recover("b", 3)
	old := st.server
	st.server = st.newServer("b", "--record-every", "500", "--take-over")
	st.server.listen, st.server.admin = old.listen, old.admin // its address moves along
	st.server.start()
	if status := st.server.status(); !status.Lossy || len(status.Barred) != 2 {
		st.t.Errorf("after the loss: lossy %v, barred %v", status.Lossy, status.Barred)
	}
	return <-got
}

// barIsLifted makes sure that the interrupted backup was refused with a reason
// that says what to do, and that doing it helps.
func (st *plainStory) barIsLifted(lost error) {
	st.t.Helper()
	var refused *plainclient.StatusError
	if !errors.As(lost, &refused) || refused.Status != http.StatusForbidden || !strings.Contains(refused.Reason, "unlock") {
		st.t.Fatalf("the backup that ran across the loss ended with %v, want a 403 that names unlock", lost)
	}
	n, err := st.client.Unlock(st.t.Context())
	must(st.t, err)
	st.t.Logf("unlock removed %d locks", n)
	st.backup()
}

// cleanEnd stops the server: everything is shipped, and whoever recovers
// takes over without a word.
func (st *plainStory) cleanEnd() {
	st.t.Helper()
	st.server.endsCleanly()
	copyDir(st.t, st.path("b"), st.path("kept"))
	r := st.recover("c", 3)
	if !r.Clean {
		st.t.Error("the log does not end cleanly")
	}
	if out := st.ok("compare", st.path("kept"), st.path("c")); strings.Count(out, "equal at seq") != 2 {
		st.t.Errorf("compare says %s", out)
	}
	st.server = st.serve("c")
	if status := st.server.status(); status.Lossy || len(status.Barred) != 1 {
		st.t.Errorf("after a clean end: lossy %v, barred %v; the load's machine is the only one that was never unlocked", status.Lossy, status.Barred)
	}
	client, err := plainclient.New(st.server.url("alice", "laptop"), plainclient.Options{})
	must(st.t, err)
	st.t.Cleanup(client.Close)
	st.client = client
	st.check(1)
	st.backup()
	st.server.endsCleanly()
}

// fuse is an HTTP transport that does something at one moment of one request:
// the kill of the server.
type fuse struct {
	next http.RoundTripper

	mu    sync.Mutex
	match func(*http.Request) bool // nil: nothing is lit
	phase int                      // 0: before the request, 1: while it runs, 2: after its answer, which is lost
	act   func()
	fired chan bool
	burnt bool
}

// light makes the n-th request from now the one.
func (f *fuse) light(n, phase int, act func()) <-chan bool {
	return f.set(phase, act, func(*http.Request) bool { n--; return n < 0 })
}

// lightAt makes the next request of that method whose path holds the text the
// one.
func (f *fuse) lightAt(method, text string, act func()) <-chan bool {
	return f.set(2, act, func(r *http.Request) bool { return r.Method == method && strings.Contains(r.URL.Path, text) })
}

func (f *fuse) set(phase int, act func(), match func(*http.Request) bool) <-chan bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.match, f.phase, f.act, f.fired, f.burnt = match, phase, act, make(chan bool, 1), false
	return f.fired
}

// putOut ends the wait for the moment and reports whether it came.
func (f *fuse) putOut() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.match != nil {
		f.match = nil
		f.fired <- false
	}
	return f.burnt
}

// RoundTrip implements http.RoundTripper.
func (f *fuse) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	hit := f.match != nil && f.match(r)
	phase, act, fired := f.phase, f.act, f.fired
	if hit {
		f.match, f.burnt = nil, true
	}
	f.mu.Unlock()
	if !hit {
		return f.next.RoundTrip(r)
	}
	return f.burn(r, phase, act, fired)
}

func (f *fuse) burn(r *http.Request, phase int, act func(), fired chan bool) (*http.Response, error) {
	var done sync.WaitGroup
	defer func() {
		done.Wait()
		fired <- true
	}()
	switch phase {
	case 0:
		act()
	case 1:
		done.Go(func() {
			time.Sleep(time.Millisecond) // somewhere in the middle
			act()
		})
	}
	resp, err := f.next.RoundTrip(r)
	if phase == 2 {
		act()
		if err == nil {
			err = errors.Join(errors.New("the answer was lost"), resp.Body.Close())
		}
		return nil, err
	}
	return resp, err
}
