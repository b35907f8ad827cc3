// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

// lost is a server that was killed, whose archive is in MinIO.
type lost struct {
	*world
	store  *testkit.S3
	blocks map[string][]byte // by their paths, some of its last ones
	mu     sync.Mutex        // held by who reads its state directory
}

// newLost makes an archive of so many events, in so many objects, and a state
// directory of it that no fault had a part in.
func newLost(t *testing.T, events, objects string) *lost {
	t.Helper()
	l := &lost{world: newWorld(t), store: testkit.MinIO(t), blocks: map[string][]byte{}}
	l.archive, l.env = l.store.Spec(), l.store.Environ()
	l.ok("bench", "archive", "--archive", l.archive, "--events", events, "--machines", "10", "--objects", objects, "--dir", l.dir)
	l.recover("a", 1)
	return l
}

// serves lets a server take a checkpoint of the state and store blocks after
// it, and kills it.
func (l *lost) serves() {
	l.t.Helper()
	s := l.serve("a", "--checkpoint-every", "1s")
	s.awaitCheckpoint(uint64(s.status().Committed.Seq))
	s.kill()
	s.flags = []string{"--checkpoint-every", "1h", "--record-every", "20"}
	s.start()
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	for i := range 40 {
		body := pattern(fmt.Sprintf("block %d", i), 300_000)
		l.blocks[d.store("data", body)] = body
	}
	s.awaitArchived()
	s.kill()
}

// through is a world in which the lost server's archive is behind a proxy with
// faults. Whoever comes there is not to write.
func (l *lost) through(t *testing.T, faults ...testkit.Rule) (*world, []*testkit.Active) {
	t.Helper()
	proxy := testkit.NewProxy(t, l.store.Endpoint, testkit.Rule{
		When: func(r testkit.Request) bool { return r.Op == testkit.Put || r.Op == testkit.Delete },
		Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			t.Errorf("%s %s came to the store", r.Method, r.URL)
			testkit.Forbidden(w, r, next)
		},
	})
	var active []*testkit.Active
	for _, rule := range faults {
		active = append(active, proxy.Add(rule))
	}
	return &world{t: t, dir: t.TempDir(), archive: proxy.Through(l.archive), env: l.env}, active
}

// equals compares a recovered state directory with the lost one.
func (l *lost) equals(w *world, name string) {
	w.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	w.compare("equal", l.path("a"), w.path(name))
}

// reads reads the lost server's last blocks from a server that was recovered,
// which gets them from the archive.
func (l *lost) reads(w *world, name string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	s := w.serve(name, "--hold")
	d := s.door("alice", "laptop")
	for path, want := range l.blocks {
		a, err := d.persist(ctx, "GET", path, nil)
		if err != nil || a.status != 200 || a.body != string(want) {
			w.t.Errorf("%s: %d with %d bytes, %v", path, a.status, len(a.body), err)
		}
	}
	s.endsCleanly()
}

// The faults that stores and networks have.
var (
	refuses = testkit.Rule{Every: 20, Do: testkit.Throttled}
	waits   = testkit.Rule{Do: testkit.Delay(50 * time.Millisecond)}
	resets  = testkit.Rule{Every: 10, Do: testkit.Reset}
	ends    = testkit.Rule{Every: 10, Do: testkit.EndEarly}
)

// A recovery through the faults that stores and networks have comes to the
// lost server's views, from the first event as well as from a checkpoint, and
// writes nothing: the proxy would not let it.
func TestARecoveryFromARealStoreGetsThroughItsFaults(t *testing.T) {
	t.Parallel()
	l := newLost(t, "80000", "740") // two runs with index objects, and many objects in none
	l.serves()
	for way, how := range map[string]struct {
		flags []string
		kind  string // of most requests
		nth   int64  // of them, in the middle
	}{
		"from the first event": {[]string{"--full"}, "log", 100},
		"from a checkpoint":    {nil, "checkpoint", 10},
	} {
		for name, tc := range map[string]struct {
			stop   *standstill
			faults []testkit.Rule
		}{
			"503 to one request in twenty": {nil, []testkit.Rule{refuses}},
			"50 ms before every answer":    {nil, []testkit.Rule{waits}},
			"transfers that are reset":     {nil, []testkit.Rule{resets}},
			"transfers that end early":     {nil, []testkit.Rule{ends}},
			"a store that stops for 20 s":  {stops(how.kind, how.nth, 20*time.Second), nil},
			"all at once":                  {stops(how.kind, how.nth, time.Second), []testkit.Rule{waits, refuses, resets, ends}},
		} {
			t.Run(way+", "+name, func(t *testing.T) {
				t.Parallel()
				w, active := l.through(t, tc.stop.before(tc.faults)...)
				r := w.recover("b", 1, how.flags...)
				if full := how.flags != nil; (r.Checkpoint == nil) != full || len(r.Fallbacks) > 0 {
					t.Errorf("it began from %+v after %+v", r.Checkpoint, r.Fallbacks)
				}
				checkFaults(t, active, tc.stop)
				l.equals(w, "b")
				l.reads(w, "b")
			})
		}
	}
}

// checkFaults makes sure that each fault was there, and that a stop was over.
func checkFaults(t *testing.T, faults []*testkit.Active, stop *standstill) {
	t.Helper()
	for i, f := range faults {
		t.Logf("fault %d: %d times", i, f.Count())
		if f.Count() == 0 {
			t.Errorf("fault %d: nothing met it", i)
		}
	}
	if stop == nil {
		return
	}
	select {
	case <-stop.again:
	default:
		t.Error("the recovery ended while the store stood still, or before")
	}
}

// With GOGC=off nothing but GOMEMLIMIT makes Go collect garbage: without it this
// recovery takes 300 MiB.
func TestARecoveryThroughFaultsKeepsToItsMemory(t *testing.T) {
	t.Parallel()
	const most = 260 << 20 // the limit is of what Go manages; text, Pebble's cache and stacks come on top
	l := newLost(t, "700000", "300")
	stop := stops("log", 20, time.Second)
	w, active := l.through(t, stop.before([]testkit.Rule{waits, refuses, resets, ends})...)
	w.env = append(slices.Clone(w.env), "GOGC=off", "GOMEMLIMIT=150MiB")
	r := w.recover("b", 1)
	t.Logf("%d events, at most %d MiB", r.Events, r.Peak>>20)
	if r.Peak == 0 {
		testkit.Lacks(t, "a system that tells how much memory a process took", errors.New("recover says nothing of it"))
	}
	if r.Peak > most {
		t.Errorf("it took %d MiB, want at most %d", r.Peak>>20, most>>20)
	}
	checkFaults(t, active, stop)
	l.equals(w, "b")
}
