// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

// awaitCheckpoint waits until the newest checkpoint is as of after or later.
func (s *server) awaitCheckpoint(after uint64) uint64 {
	s.t.Helper()
	var seq uint64
	eventually(s.t, "there is a checkpoint", func() error {
		c := s.status().Checkpoint
		if c == nil || uint64(c.Seq) < after || c.Error != "" {
			return fmt.Errorf("the newest is %+v", c)
		}
		seq = uint64(c.Seq)
		return nil
	})
	return seq
}

// checkpointStory is a server with checkpoints that is killed and lost, and
// recovered from the newest one and what came after.
func checkpointStory(t *testing.T, w *world) {
	t.Helper()
	tr := newTree(t, newRandom(t), 150)
	s := w.serve("a", "--record-every", "50", "--checkpoint-every", "1s", "--checkpoint-keep", "1", "--checkpoint-days", "0")
	c := s.plain("alice", "laptop")
	must(t, c.Init(t.Context()))
	_, err := c.Backup(t.Context(), tr.dir)
	must(t, err)
	s.awaitArchived()
	first := s.awaitCheckpoint(uint64(s.status().Committed.Seq))
	s.kill()
	s.start() // another epoch, whose events change rows
	s.awaitArchived()
	second := s.awaitCheckpoint(first + 1)
	s.kill()
	s.flags = append(s.flags, "--checkpoint-every", "1h") // what comes now is in no checkpoint
	s.start()
	tail := s.plain("alice", "desk")
	must(t, tail.Init(t.Context()))
	_, err = tail.Backup(t.Context(), tr.dir)
	must(t, err)
	s.awaitArchived()
	s.kill()
	must(t, os.RemoveAll(w.path("a")))

	from := w.recover("b", 0)
	if from.Checkpoint == nil || from.Checkpoint.Seq < second || len(from.Fallbacks) != 0 || from.Events == 0 {
		t.Errorf("it began from %+v after %+v and projected %d events", from.Checkpoint, from.Fallbacks, from.Events)
	}
	full := w.recover("c", 1, "--full")
	if full.Checkpoint != nil || full.Events <= from.Events {
		t.Errorf("in full: from %+v, %d events, from a checkpoint %d", full.Checkpoint, full.Events, from.Events)
	}
	if out := w.ok("compare", w.path("b"), w.path("c")); strings.Count(out, "equal at seq") != 2 {
		t.Error(out)
	}
	b := w.serve("b", "--take-over")
	restored := t.TempDir()
	must(t, b.plain("alice", "desk").Restore(t.Context(), "latest", restored))
	sameFiles(t, "the backup", describe(t, tr.dir), describe(t, restored))
	b.endsCleanly()

	// A clean stop takes one: nothing is left to project.
	last := w.recover("d", 0)
	if last.Checkpoint == nil || last.Checkpoint.Seq != last.Last || last.Events != 0 {
		t.Errorf("after a clean stop: from %+v up to %d, %d events projected", last.Checkpoint, last.Last, last.Events)
	}
	if out := w.ok("compare", w.path("b"), w.path("d")); strings.Count(out, "equal at seq") != 2 {
		t.Error(out)
	}
}

func TestALostServerIsRecoveredFromACheckpointAndWhatCameAfter(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	checkpointStory(t, w)

	// Each file of it damaged: the recovery says so, and comes to the same.
	files, err := filepath.Glob(w.archivePath("checkpoint", "file", "*"))
	must(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		text[len(text)/2] ^= 4
		must(t, os.Remove(file)) // it is linked from elsewhere
		must(t, os.WriteFile(file, text, 0o600))
	}
	fallen := w.recover("e", 1)
	if fallen.Checkpoint != nil || len(fallen.Fallbacks) == 0 || !strings.Contains(fallen.Fallbacks[0].Reason, "other content than its name says") {
		t.Errorf("from %+v after %+v", fallen.Checkpoint, fallen.Fallbacks)
	}
	report, err := os.ReadFile(w.path("e", "recovery-report.json"))
	must(t, err)
	if !strings.Contains(string(report), fallen.Fallbacks[0].Checkpoint) {
		t.Error("the report does not say which checkpoint was passed over")
	}
	if out := w.ok("compare", w.path("e"), w.path("d")); strings.Count(out, "equal at seq") != 2 {
		t.Error(out)
	}
	if out := w.ok("recover", "--data", w.path("f"), "--archive", w.archive); !strings.Contains(out, "PASSED OVER: checkpoint "+fallen.Fallbacks[0].Checkpoint) {
		t.Errorf("it prints %s", out)
	}
}

func TestCheckpointsInARealBucket(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) *testkit.S3{"MinIO": testkit.MinIO, "versitygw": testkit.VersityGW} {
		t.Run(name, func(t *testing.T) {
			bucket := start(t)
			w := newWorld(t)
			w.archive, w.env = bucket.Spec(), bucket.Environ()
			w.init()
			checkpointStory(t, w)
		})
	}
}

// Killed while it takes checkpoints, and while it recovers from them, again and
// again.
func TestCheckpointsSurviveKills(t *testing.T) {
	t.Parallel()
	random := newRandom(t)
	w := initialised(t)
	s := w.serve("a", "--record-every", "100", "--checkpoint-every", "1s", "--checkpoint-keep", "1", "--checkpoint-days", "0")
	load := startLoad(t, s.door("load", "blocks"))
	for range 5 {
		before := load.next.Load()
		eventually(t, "the load goes on", func() error {
			if load.next.Load() < before+100 {
				return errTooFew
			}
			return nil
		})
		time.Sleep(time.Duration(random.Int64N(int64(1200 * time.Millisecond)))) // a random moment of a checkpoint, or of none
		s.kill()
		s.start()
	}
	s.awaitCheckpoint(1)
	load.end()
	s.endsCleanly()
	var want recovery
	length := timed(func() { want = w.recover("whole", 3, "--full") })
	for _, name := range []string{"b", "c"} {
		args := []string{"recover", "--data", w.path(name), "--archive", w.archive}
		cut := w.killedRuns(random, 8, length, args...)
		t.Logf("%s: %d runs were cut off", name, cut)
		if r := w.run(args...); r.code != 0 && !strings.Contains(r.stderr, "already (ready)") {
			t.Fatalf("the last recover: exit code %d: %s", r.code, r.stderr)
		}
		out := w.ok("compare", w.path("whole"), w.path(name))
		if strings.Count(out, "equal at seq") != 2 || !strings.Contains(out, want.Views[0].Digest) {
			t.Errorf("%s: %s", name, out)
		}
		report, err := os.ReadFile(w.path(name, "recovery-report.json"))
		must(t, err)
		if !strings.Contains(string(report), `"checkpoint"`) {
			t.Errorf("%s was not recovered from a checkpoint", name)
		}
	}
}

// What was begun one way is not gone on with the other.
func TestARecoveryGoesOnAsItWasBegun(t *testing.T) {
	random := newRandom(t)
	w := withHistory(t, random)
	for name, c := range map[string]struct{ first, second []string }{
		"b": {nil, []string{"--full"}},
		"c": {[]string{"--full"}, nil},
	} {
		args := []string{"recover", "--data", w.path(name), "--archive", w.archive}
		w.cutOff(name, func() bool {
			_, err := os.Stat(w.path(name, "recovery", "inputs.json"))
			return err == nil
		}, append(args, c.first...)...)
		w.refused(1, []string{"name a new directory", "--full"}, append(args, c.second...)...)
		w.ok(append(args, c.first...)...)
	}
}
