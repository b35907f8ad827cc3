// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

// timed says how long something takes now, on this machine. Nothing depends on
// it but how random moments are spread.
func timed(do func()) time.Duration {
	began := time.Now()
	do()
	return time.Since(began)
}

var errTooFew = errors.New("too few")

// killedRuns runs a command again and again, each time killed after a random
// moment of at most the given length, and returns how many runs a kill cut
// off. It returns early when a run got to its end.
func (w *world) killedRuns(random *rand.Rand, runs int, atMost time.Duration, args ...string) (cut int) {
	w.t.Helper()
	for range runs {
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Duration(random.Int64N(int64(atMost))))
		r := w.runContext(ctx, args...)
		cancel()
		if r.code >= 0 { // not by a signal
			if r.code != 0 && !strings.Contains(r.stderr, "already (ready)") {
				w.t.Fatalf("strandline %s: exit code %d\n%s", strings.Join(args, " "), r.code, r.stderr)
			}
			return cut // this one, or the one before, got to its end
		}
		cut++
	}
	return cut
}

// withHistory returns a world in which a server has done a backup and a load of
// many small events, and stopped cleanly.
func withHistory(t *testing.T, random *rand.Rand) *world {
	t.Helper()
	w := initialised(t)
	s := w.serve("a", "--record-every", "200")
	load := startLoad(t, s.door("load", "blocks"))
	c := s.plain("alice", "laptop")
	must(t, c.Init(t.Context()))
	_, err := c.Backup(t.Context(), newTree(t, random, 300).dir)
	must(t, err)
	eventually(t, "there are many events", func() error {
		if load.next.Load() < 1000 {
			return errTooFew
		}
		return nil
	})
	load.end()
	load.door.wants(200, "DELETE", named("locks", []byte("a lock of the load")), nil)
	s.endsCleanly()
	return w
}

// halfRecovered kills a recovery into the state directory name once that says
// that it is being recovered.
func (w *world) halfRecovered(name string, args ...string) {
	w.t.Helper()
	w.cutOff(name, func() bool {
		state, err := os.ReadFile(w.path(name, "state.json"))
		return err == nil && bytes.Contains(state, []byte(`"phase":"recovering"`))
	}, args...)
}

// cutOff kills a recovery into the state directory name once it is so far, and
// still is when it has ended.
func (w *world) cutOff(name string, soFar func() bool, args ...string) {
	w.t.Helper()
	w.cutWhile(func() { must(w.t, os.RemoveAll(w.path(name))) }, soFar, args...)
}

// cutWhile kills a command once it is so far, and still is when it has ended; as
// often as that takes, each time after begin.
func (w *world) cutWhile(begin func(), soFar func() bool, args ...string) {
	w.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		begin()
		ctx, cut := context.WithTimeout(w.t.Context(), patience)
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			for ctx.Err() == nil && !soFar() {
				time.Sleep(time.Millisecond)
			}
			cut()
		}()
		w.runContext(ctx, args...)
		cut()
		<-watched
		if soFar() {
			return
		}
	}
	w.t.Fatalf("no strandline %s could be cut off half way", args[0])
}

func TestARecoveryThatIsKilledGoesOnAndComesToTheSameDigests(t *testing.T) {
	random := newRandom(t)
	w := withHistory(t, random)
	var want recovery
	length := timed(func() { want = w.recover("whole", 3) })
	cuts := 0
	for _, name := range []string{"b", "c", "d"} {
		args := []string{"recover", "--data", w.path(name), "--archive", w.archive}
		cut := w.killedRuns(random, 12, length, args...)
		t.Logf("%s: %d runs were cut off", name, cut)
		cuts += cut
		if r := w.run(args...); r.code != 0 && !strings.Contains(r.stderr, "already (ready)") {
			t.Fatalf("the last recover: exit code %d: %s", r.code, r.stderr)
		}
		out := w.ok("compare", w.path("whole"), w.path(name))
		if strings.Count(out, "equal at seq") != 2 || !strings.Contains(out, want.Views[0].Digest) {
			t.Errorf("%s: %s", name, out)
		}
	}
	t.Logf("%d runs were cut off", cuts)
	// What is half recovered is refused by everything else, and recovered on.
	args := []string{"recover", "--data", w.path("half"), "--archive", w.archive}
	w.halfRecovered("half", args...)
	w.refused(2, []string{"strandline recover"}, "serve", "--data", w.path("half"), "--no-auth", "--hold", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	w.ok(args...)
	if out := w.ok("compare", w.path("whole"), w.path("half")); strings.Count(out, "equal at seq") != 2 {
		t.Error(out)
	}
	b := w.serve("b")
	if status := b.status(); status.Lossy {
		t.Error("the start after a recovery that was killed is lossy")
	}
	_, err := b.plain("alice", "laptop").Check(t.Context())
	must(t, err)
	b.endsCleanly()
}

func TestARebuildThatIsKilledHarmsNothing(t *testing.T) {
	random := newRandom(t)
	w := withHistory(t, random)
	copyDir(t, w.path("a"), w.path("kept"))
	for _, view := range []string{"machine", "block"} {
		args := []string{"rebuild", "--data", w.path("a"), "--view", view}
		length := timed(func() { w.ok(args...) })
		t.Logf("%d rebuilds were cut off", w.killedRuns(random, 12, length, args...))
		w.cutWhile(func() { w.ok(args...) }, func() bool { // for certain, one
			_, err := os.Stat(w.path("a", "views", view+".rebuild"))
			return err == nil
		}, args...)
		if out := w.ok("compare", w.path("kept"), w.path("a")); strings.Count(out, "equal at seq") != 2 {
			t.Errorf("after a rebuild of the %s view was killed: %s", view, out)
		}
		w.ok("rebuild", "--data", w.path("a"), "--view", view)
	}
	if out := w.ok("compare", w.path("kept"), w.path("a")); strings.Count(out, "equal at seq") != 2 {
		t.Error(out)
	}
	s := w.serve("a")
	_, err := s.plain("alice", "laptop").Check(t.Context())
	must(t, err)
	s.endsCleanly()
}

func TestAnInitThatIsKilledGoesOnWhereItStopped(t *testing.T) {
	random := newRandom(t)
	length := timed(func() { newWorld(t).init() })
	for i := range 5 {
		w := newWorld(t)
		args := []string{"init", "--data", w.path("a"), "--archive", w.archive}
		if i > 0 {
			t.Logf("%d were cut off", w.killedRuns(random, 8, length, args...))
		} else { // for certain, one
			begin := func() { must(t, errors.Join(os.RemoveAll(w.path("a")), os.RemoveAll(w.archivePath()))) }
			w.cutWhile(begin, func() bool {
				state, err := os.ReadFile(w.path("a", "state.json"))
				return err == nil && bytes.Contains(state, []byte(`"phase":"initialising"`))
			}, args...)
		}
		w.init()
		s := w.serve("a")
		s.door("alice", "laptop").create()
		s.endsCleanly()
		w.recover("b", 1)
	}
}

// TestStartsThatAreKilledOverAndOverLoseNothing kills a server again and again
// while it starts, with clients at its door.
func TestStartsThatAreKilledOverAndOverLoseNothing(t *testing.T) {
	t.Parallel()
	random := newRandom(t)
	w := initialised(t)
	s := w.serve("a", "--record-every", "200")
	load := startLoad(t, s.door("load", "blocks"))
	for range 5 {
		before := load.next.Load()
		eventually(t, "the load goes on", func() error {
			if load.next.Load() < before+50 {
				return errTooFew
			}
			return nil
		})
		for range 6 {
			s.kill()
			must(t, s.launch())
			time.Sleep(time.Duration(random.Int64N(int64(150 * time.Millisecond)))) // a random moment of the start
		}
		s.kill()
		s.start()
	}
	load.end()
	load.check(false)
	if s.status().Lossy {
		t.Error("a start on a whole WAL was lossy")
	}
	s.endsCleanly()
	r := w.recover("b", 3)
	if out := w.ok("compare", w.path("a"), w.path("b")); strings.Count(out, "equal at seq") != 2 || !r.Clean {
		t.Errorf("clean %v: %s", r.Clean, out)
	}
}

func TestEveryBucketBringsABackupBackAfterTheLossOfTheMachine(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) *testkit.S3{"MinIO": testkit.MinIO, "versitygw": testkit.VersityGW} {
		t.Run(name, func(t *testing.T) {
			bucket := start(t)
			w := newWorld(t)
			w.archive, w.env = bucket.Spec(), bucket.Environ()
			w.init()
			tr := newTree(t, newRandom(t), 200)
			s := w.serve("a")
			c := s.plain("alice", "laptop")
			must(t, c.Init(t.Context()))
			_, err := c.Backup(t.Context(), tr.dir)
			must(t, err)
			s.kill()
			must(t, os.RemoveAll(w.path("a")))
			w.recover("b", 1)
			w.newServer("b").refusesToStart(8, "--take-over")
			b := w.serve("b", "--take-over")
			restored := t.TempDir()
			must(t, b.plain("alice", "laptop").Restore(t.Context(), "latest", restored))
			sameFiles(t, "the backup", describe(t, tr.dir), describe(t, restored))
			b.endsCleanly()
			w.ok("archive", "probe", "--archive", w.archive)
		})
	}
}
