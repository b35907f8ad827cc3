// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

const (
	resticKills = 15 // of the server, each inside of a restic's run
	keepLast    = 3  // snapshots that forget leaves
)

// TestResticOnMinIO is one continued story: the Go source tree is backed up,
// changed, forgotten, pruned, checked and restored, while the server is
// killed, NATS comes and goes and MinIO is away for a while; then the machine
// is lost.
func TestResticOnMinIO(t *testing.T) {
	testkit.Need(t, "restic")
	t.Parallel()
	minio := testkit.MinIO(t)
	w := newWorld(t)
	w.archive, w.env = minio.Spec(), minio.Environ()
	random := newRandom(t)
	st := newResticStory(t, w, random, copyTree(t, random, goSource(t)))
	st.disturbances = []func(){st.nats.stop, st.nats.start, func() { st.away(minio) }, st.nats.stop, st.nats.start}
	st.tell()
}

// goSource is the folder of the Go source.
func goSource(t *testing.T) string {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	must(t, err)
	return filepath.Join(strings.TrimSpace(string(root)), "src")
}

// TestResticOnADirectory is the same story with a tree of 2,000 files and a
// directory for an archive.
func TestResticOnADirectory(t *testing.T) {
	testkit.Need(t, "restic")
	t.Parallel()
	random := newRandom(t)
	st := newResticStory(t, newWorld(t), random, newTree(t, random, storyFiles()))
	st.disturbances = []func(){st.nats.stop, st.nats.start, st.nats.stop, st.nats.start}
	st.tell()
}

// resticStory is a server, a tree, and the snapshots of it that restic
// reported as saved and that were not forgotten.
type resticStory struct {
	*world
	random *rand.Rand
	tree   *tree
	nats   *natsServer
	server *server
	restic *restic

	disturbances []func() // what else happens, one in each round
	kills        int      // inside of a run
	order        []string // of the snapshots
	saved        map[string]map[string]string
}

func newResticStory(t *testing.T, w *world, random *rand.Rand, tr *tree) *resticStory {
	t.Helper()
	w.init()
	st := &resticStory{world: w, random: random, tree: tr, nats: newNATS(t), saved: map[string]map[string]string{}}
	st.server = st.serve("a", "--record-every", "500", "--nats", st.nats.url())
	st.restic = newRestic(t, st.server.url("alice", "laptop"), w.environ())
	return st
}

func (st *resticStory) tell() {
	st.restic.ok("init")
	st.backup(false)
	for round := 0; st.kills < resticKills || len(st.disturbances) > 0; round++ {
		if round > 2*resticKills {
			st.t.Fatalf("only %d kills in %d rounds fell inside of a run", st.kills, round)
		}
		if len(st.disturbances) > 0 {
			st.disturbances[0]()
			st.disturbances = st.disturbances[1:]
		}
		st.tree.change(200)
		st.backup(true)
		[]func(){st.check, st.restoreLatest, st.forget}[round%3]()
	}
	st.restic.ok("check", "--read-data")
	st.restoreAll()
	st.loseTheMachine()
	st.restic.ok("check", "--read-data")
	st.cleanEnd()
}

// underFire waits for a run of restic, and kills the server up to three times
// while it lasts. It starts again at once, and restic, which tries everything
// again, must not notice.
func (st *resticStory) underFire(s *session, atMost time.Duration) string {
	st.t.Helper()
	for range 3 {
		select {
		case <-s.ended:
			if s = s.opened(); !s.runs() {
				return s.succeeds()
			}
			continue
		case <-time.After(time.Duration(st.random.Int64N(int64(atMost)))):
		}
		st.server.kill()
		if s.runs() {
			st.kills++
		}
		st.server.start()
	}
	<-s.ended
	return s.opened().succeeds()
}

func (st *resticStory) backup(fire bool) {
	st.t.Helper()
	want := describe(st.t, st.tree.dir)
	s := st.restic.begin(st.tree.dir, "backup", "--json", ".")
	var out string
	if fire {
		out = st.underFire(s, 3*time.Second)
	} else {
		out = s.succeeds()
	}
	id := snapshotOf(st.t, out)
	st.saved[id] = want
	st.order = append(st.order, id)
}

// check reads every byte under fire.
func (st *resticStory) check() {
	st.t.Helper()
	st.underFire(st.restic.begin("", "check", "--read-data"), 3*time.Second)
}

// restoreLatest restores the last snapshot under fire and compares it.
func (st *resticStory) restoreLatest() {
	st.t.Helper()
	id := st.order[len(st.order)-1]
	dir := filepath.Join(st.t.TempDir(), "restored")
	st.underFire(st.restic.begin("", "restore", id, "--target", dir), time.Second)
	sameFiles(st.t, "snapshot "+id, st.saved[id], describe(st.t, dir))
	must(st.t, os.RemoveAll(dir))
}

// forget prunes under fire, and checks what is left.
func (st *resticStory) forget() {
	st.t.Helper()
	st.underFire(st.restic.begin("", "forget", "--prune", "--keep-last", fmt.Sprint(keepLast)), 3*time.Second)
	for len(st.order) > keepLast {
		delete(st.saved, st.order[0])
		st.order = st.order[1:]
	}
	if left := st.restic.snapshots(); len(left) != len(st.order) {
		st.t.Errorf("forget left %q, want %q", left, st.order)
	}
}

// away takes the bucket away for ten seconds while a backup runs.
func (st *resticStory) away(bucket *testkit.S3) {
	st.t.Helper()
	st.tree.change(200)
	want := describe(st.t, st.tree.dir)
	s := st.restic.begin(st.tree.dir, "backup", "--json", ".")
	bucket.Stop()
	time.Sleep(10 * time.Second) // how long it is away, nothing is waited for
	if err := st.server.ready(); err != nil {
		st.t.Errorf("with the bucket away for a moment the server is not ready: %v", err)
	}
	bucket.Start()
	id := snapshotOf(st.t, s.succeeds())
	st.saved[id] = want
	st.order = append(st.order, id)
}

// restoreAll restores every snapshot that is left.
func (st *resticStory) restoreAll(flags ...string) {
	st.t.Helper()
	there := st.restic.snapshots(flags...)
	for _, id := range st.order {
		if !slices.ContainsFunc(there, func(full string) bool { return strings.HasPrefix(full, id) }) {
			st.t.Errorf("snapshot %s was reported as saved and is gone", id)
			continue
		}
		sameFiles(st.t, "snapshot "+id, st.saved[id], st.restic.restored(id, flags...))
	}
}

// loseTheMachine kills the server inside of a backup and deletes its state
// directory. What restic reported as saved is there, the session that was cut
// off is refused, and after an unlock everything goes on.
func (st *resticStory) loseTheMachine() {
	st.t.Helper()
	cutOff := st.interrupted()
	must(st.t, os.RemoveAll(st.path("a")))
	st.recover("b", 3)
	old := st.server
	st.server = st.newServer("b", "--record-every", "500", "--nats", st.nats.url(), "--take-over")
	st.server.listen, st.server.admin = old.listen, old.admin // its address moves along
	st.server.start()
	if status := st.server.status(); !status.Lossy || len(status.Barred) != 1 {
		st.t.Errorf("after the loss: lossy %v, barred %v", status.Lossy, status.Barred)
	}
	st.restoreAll("--no-lock")
	st.isTold403(cutOff)
	st.server.door("alice", "laptop").refusedWith(403, "unlock", "data")
	if !cutOff.runs() && cutOff.cmd.ProcessState.ExitCode() == 0 {
		st.t.Error("the session that ran across the loss has succeeded")
	}
	cutOff.kill() // before 0.17 it would go on for minutes
	st.restic.ok("unlock")
	st.backup(false)
}

// isTold403 waits until the session that ran across the loss hears that it is
// barred. restic before 0.17 tries for about a minute and may have given up on a
// busy machine before the server was back; then the next one hears it.
func (st *resticStory) isTold403(s *session) {
	st.t.Helper()
	told := func() bool {
		return strings.Contains(s.stderr.String(), "403") || strings.Contains(s.out.String(), "403")
	}
	if !s.runs() && !told() {
		if s.cmd.ProcessState.ExitCode() == 0 {
			st.t.Error("the session that ran across the loss has succeeded")
		}
		s = st.restic.begin(st.tree.dir, "backup", "--json", ".")
		defer s.kill()
	}
	eventually(st.t, "restic is told 403", func() error {
		if told() {
			return nil
		}
		return fmt.Errorf("it says %s", tail(s.stderr.String(), 3))
	})
}

// interrupted starts a backup and kills the server once it has stored data
// under its lock.
func (st *resticStory) interrupted() *session {
	st.t.Helper()
	d := st.server.door("alice", "laptop")
	_, before, err := locksAndData(d)
	must(st.t, err)
	for i := range 20 { // enough to be at it for a while
		st.tree.write(filepath.Join(st.tree.dir, fmt.Sprintf("large %d", i)), 8<<20)
	}
	s := st.restic.begin(st.tree.dir, "backup", "--json", ".")
	eventually(st.t, "the backup has stored data", func() error {
		if !s.runs() {
			st.t.Fatalf("the backup ended too early: %s", s.stderr.String())
		}
		locks, data, err := locksAndData(d)
		if err == nil && (locks == 0 || data == before) {
			err = fmt.Errorf("%d locks, %d data, %d of them old", locks, data, before)
		}
		return err
	})
	st.server.kill()
	return s
}

// refusedWith sends a block of the kind and expects a refusal that says text.
func (d *door) refusedWith(status int, text, kind string) {
	d.t.Helper()
	body := []byte("refuse this")
	if a := d.wants(status, "POST", named(kind, body), body); !strings.Contains(a.body, text) {
		d.t.Errorf("the refusal %q does not say %q", a.body, text)
	}
}

// cleanEnd stops the server; the next one needs no --take-over and bars
// nobody.
func (st *resticStory) cleanEnd() {
	st.t.Helper()
	st.server.endsCleanly()
	if r := st.recover("c", 3); !r.Clean {
		st.t.Error("the log does not end cleanly")
	}
	old := st.server
	st.server = st.newServer("c")
	st.server.listen, st.server.admin = old.listen, old.admin
	st.server.start()
	if status := st.server.status(); status.Lossy || len(status.Barred) != 0 {
		st.t.Errorf("after a clean end: lossy %v, barred %v", status.Lossy, status.Barred)
	}
	st.restoreAll()
	st.backup(false)
	st.server.endsCleanly()
}
