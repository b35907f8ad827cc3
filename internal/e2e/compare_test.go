// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

// comparison is what `compare --json` prints, as far as tests look at it.
type comparison struct {
	Verdict string `json:"verdict"`
	A, B    struct {
		End    eventlog.Seq `json:"end"`
		Unread string       `json:"log_unread"`
	}
	Behind uint64 `json:"behind"`
	Fork   *struct {
		Seq    eventlog.Seq
		A, B   *eventlog.Event
		Common *struct {
			Seq   eventlog.Seq
			Equal *bool
			Views []comparedView
		}
	}
	Views   []comparedView
	Remarks []string
	Names   map[string]string `json:"machine_names"`
}

// comparedView is a view in a comparison.
type comparedView struct {
	View     string
	A, B     struct{ Position eventlog.Seq }
	Machines []eventlog.Seq
	Rows     []struct {
		Table   string
		Machine eventlog.Seq
		A, B    string
	} `json:"row_differences"`
}

// equalBeforeFork checks that two sides that diverge are told to have been
// equal as of the last event that both have.
func (w *world) equalBeforeFork(c *comparison, last eventlog.Seq) {
	w.t.Helper()
	common := c.Fork.Common
	if common == nil || common.Seq != last || common.Equal == nil || !*common.Equal || len(common.Views) != 2 || strings.Contains(fmt.Sprint(c.Remarks), "whether the views") {
		w.t.Errorf("before the fork: %+v, remarks %q, want to be equal at %s", common, c.Remarks, last)
		return
	}
	for _, view := range common.Views {
		if view.A.Position != last || view.B.Position != last || len(view.Machines) != 0 || len(view.Rows) != 0 {
			w.t.Errorf("before the fork, at %s: %+v", last, view)
		}
	}
}

// compare compares two sides; the verdict must be the one wanted, and the exit
// code the verdict's.
func (w *world) compare(want, a, b string) comparison {
	w.t.Helper()
	codes := map[string]int{"equal": 0, "a-is-a-prefix": 9, "b-is-a-prefix": 9, "diverged": 6, "differ": 6}
	r := w.run("compare", a, b, "--json", "--scratch", w.dir)
	var c comparison
	if err := json.Unmarshal([]byte(r.out), &c); err != nil {
		w.t.Fatalf("compare %s %s: exit code %d, %v\n%s%s", a, b, r.code, err, r.out, r.stderr)
	}
	if c.Verdict != want || r.code != codes[want] || len(c.Views) != 2 {
		w.t.Fatalf("compare %s %s: exit code %d, want %s\n%s%s", a, b, r.code, want, r.out, r.stderr)
	}
	if left, err := filepath.Glob(w.path("strandline-compare-*")); err != nil || len(left) > 0 {
		w.t.Errorf("compare left %v, %v", left, err)
	}
	return c
}

// compareBothWays checks that compare says the same the other way round.
func (w *world) compareBothWays(want, a, b string) (there, back comparison) {
	w.t.Helper()
	mirrored := map[string]string{"a-is-a-prefix": "b-is-a-prefix", "b-is-a-prefix": "a-is-a-prefix"}
	there = w.compare(want, a, b)
	if other, ok := mirrored[want]; ok {
		want = other
	}
	back = w.compare(want, b, a)
	if there.Behind != back.Behind || there.A.End != back.B.End || there.B.End != back.A.End {
		w.t.Errorf("%s and %s: %+v one way, %+v the other", a, b, there, back)
	}
	return there, back
}

// busy makes a log with some of everything, whose server still runs.
func (w *world) busy(name string) *server {
	w.t.Helper()
	s := w.serve(name)
	d := s.door("alice", "laptop")
	d.create()
	lock := d.store("locks", []byte("a lock"))
	for i := range 20 {
		d.store("data", fmt.Appendf(nil, "block %d", i))
	}
	d.wants(200, "DELETE", named("data", []byte("block 3")), nil)
	s.door("bob", "phone").create()
	d.store("snapshots", []byte("a snapshot"))
	d.wants(200, "DELETE", lock, nil)
	d.store("index", []byte("waits for the archive"))
	s.awaitArchived()
	return s
}

// sum describes every file below the paths, but what a lock writes.
func sum(t *testing.T, paths ...string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, path := range paths {
		eachFile(t, path, func(path string, body []byte) {
			if filepath.Base(path) != "LOCK" {
				files[path] = named("", body)
			}
		})
	}
	return files
}

func TestEveryKindOfSideIsEqualToEveryOther(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.busy("a")
	w.recover("b", 1)
	copyDir(t, w.path("archive"), w.path("copy"))
	before := sum(t, w.path("b"), w.path("archive"), w.path("copy"))
	end := s.status().Committed.Seq
	sides := []string{w.path("b"), w.archive, "dir:" + w.path("copy"), fmt.Sprintf("%s@%d", w.archive, end), "http://" + s.admin, s.admin}
	for i, a := range sides {
		for j, b := range sides {
			if i == 0 && j == 0 {
				continue // in use by itself
			}
			if c := w.compare("equal", a, b); c.A.End != end || c.B.End != end || len(c.Remarks) != 0 {
				t.Errorf("%s and %s: %+v", a, b, c)
			}
		}
	}
	if after := sum(t, w.path("b"), w.path("archive"), w.path("copy")); !maps.Equal(before, after) {
		t.Error("compare changed a side")
	}
	if out := w.ok("compare", w.path("b"), s.admin); !strings.Contains(out, "A and B are equal\n") || strings.Count(out, "equal at seq") != 2 ||
		!strings.Contains(out, "B: live server "+s.admin+", up to seq "+end.String()) {
		t.Errorf("compare says %s", out)
	}
	s.endsCleanly()
}

func TestAPrefixIsToldFromADivergence(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.busy("a")
	w.recover("b", 1)
	copyDir(t, w.path("archive"), w.path("copy"))
	end := s.status().Committed.Seq
	d := s.door("alice", "laptop")
	for i := range 5 {
		d.store("data", fmt.Appendf(nil, "later %d", i))
	}
	d.wants(200, "DELETE", named("data", []byte("block 5")), nil)
	d.store("index", []byte("waits again"))
	s.awaitArchived()
	now := s.status().Committed.Seq
	behind := uint64(now - end)
	old := []string{w.path("b"), "dir:" + w.path("copy"), fmt.Sprintf("%s@%s", w.archive, end)}
	for _, a := range old {
		for _, b := range []string{w.archive, "http://" + s.admin} {
			there, _ := w.compareBothWays("a-is-a-prefix", a, b)
			if there.Behind != behind || there.A.End != end || there.B.End != now {
				t.Errorf("%s is a prefix of %s: %+v, want %d behind", a, b, there, behind)
			}
		}
	}
	s.endsCleanly()
	w.recover("c", 1)
	for _, a := range old {
		w.compareBothWays("a-is-a-prefix", a, w.path("c"))
	}
	w.compareBothWays("equal", w.path("a"), w.path("c"))
	if r := w.run("compare", w.path("b"), w.path("a")); r.code != 9 || !strings.Contains(r.out, "A is a prefix of B, ") {
		t.Errorf("exit code %d: %s", r.code, r.out)
	}
}

func TestAnArchiveAsOfATime(t *testing.T) {
	w := initialised(t)
	s := w.busy("a")
	events := s.events()
	s.endsCleanly()
	middle := events[len(events)/2].Event
	at := time.Unix(0, middle.Time).UTC().Format(time.RFC3339Nano)
	c := w.compare("a-is-a-prefix", w.archive+"@"+at, w.archive)
	if c.A.End < middle.Seq {
		t.Errorf("as of the time of %s: %s", middle.Seq, c.A.End)
	}
	w.compare("equal", w.archive+"@"+at, fmt.Sprintf("%s@%d", w.archive, c.A.End))
	w.compare("equal", w.archive+"@2999-01-01T00:00:00Z", w.archive)
	random := newRandom(t)
	for range 10 {
		a, b := random.IntN(len(events)), random.IntN(len(events))
		if a == b {
			continue
		}
		low, high := events[min(a, b)].Event.Seq, events[max(a, b)].Event.Seq
		c := w.compare("a-is-a-prefix", fmt.Sprintf("%s@%s", w.archive, low), fmt.Sprintf("%s@%s", w.archive, high))
		if want := uint64(max(a, b) - min(a, b)); c.Behind != want || c.A.End != low || c.B.End != high {
			t.Errorf("%s and %s: %+v, want %d behind", low, high, c, want)
		}
	}
	for at, texts := range map[string][]string{
		"yesterday":            {"write an event (@7.1234) or a time"},
		"9.9":                  {"before 9.9"},
		"1.9":                  {"no event 1.9"},
		"1999-01-01T00:00:00Z": {"name a later time"},
	} {
		w.refused(2, texts, "compare", w.archive+"@"+at, w.archive)
	}
}

// What is only in the WAL of a server that was killed counts as well.
func TestAWALThatWasNotShippedGoesBeyondTheArchive(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.busy("a")
	s.kill()
	s.flags = []string{"--ack", "committed"}
	s.start()
	s.awaitArchived()
	must(t, os.Rename(w.path("archive"), w.path("away")))
	d := s.door("alice", "laptop")
	for i := range 7 {
		d.store("data", fmt.Appendf(nil, "unshipped %d", i))
	}
	s.kill()
	must(t, os.Rename(w.path("away"), w.path("archive")))
	there, _ := w.compareBothWays("b-is-a-prefix", w.path("a"), w.archive)
	shipped := there.B.End
	if there.Behind != 7 {
		t.Errorf("%+v", there)
	}
	w.recover("b", 1)
	w.compareBothWays("b-is-a-prefix", w.path("a"), w.path("b"))

	// Another server takes over without them: what was one log forks there.
	other := w.serve("b", "--take-over")
	other.door("alice", "laptop").create()
	other.awaitArchived()
	for _, b := range []string{w.archive, other.admin} {
		there, back := w.compareBothWays("diverged", w.path("a"), b)
		if there.Fork.Seq != back.Fork.Seq || there.Fork.A.Type != eventlog.BlockStored || there.Fork.B.Type != eventlog.EpochStarted {
			t.Errorf("%+v", there.Fork)
		}
		w.equalBeforeFork(&there, shipped)
		w.equalBeforeFork(&back, shipped)
	}
	other.endsCleanly()
	w.compareBothWays("diverged", w.path("a"), w.path("b"))
	if r := w.run("compare", w.path("a"), w.path("b")); !strings.Contains(r.out, "A and B DIVERGE at seq ") || !strings.Contains(r.out, "B says "+other.events0()) ||
		!strings.Contains(r.out, "\nas of seq "+shipped.String()+", the newest event that both have, the views built from their logs are EQUAL:\nblock view: equal at seq ") ||
		!strings.Contains(r.out, "\nas they stand:\nblock view: DIFFERS\n") {
		t.Errorf("exit code %d: %s", r.code, r.out)
	}
}

// events0 is how the epoch that the server started begins.
func (s *server) events0() string {
	out := s.ok("inspect", "wal", "--data", s.path(s.name), "--events")
	for line := range strings.Lines(out) {
		if strings.Contains(line, "epoch_started previous=") {
			return strings.Fields(line)[0]
		}
	}
	return "no epoch_started in " + out
}

func TestTwoServersOnCopiesOfOneArchiveDiverge(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	w.busy("a").endsCleanly()
	copyDir(t, w.path("archive"), w.path("copy"))
	w.ok("recover", "--data", w.path("b"), "--archive", "dir:"+w.path("copy"))
	both, _ := w.compareBothWays("equal", w.path("a"), w.path("b"))
	var servers []*server
	for _, name := range []string{"a", "b"} {
		s := w.serve(name, "--take-over")
		d := s.door("alice", "laptop")
		d.store("locks", []byte("a session"))
		for i := range 3 {
			d.store("data", fmt.Appendf(nil, "only in %s: %d", name, i))
		}
		d.store("index", []byte("waits in "+name))
		s.awaitArchived()
		servers = append(servers, s)
	}
	epoch := servers[0].status().Epoch
	if other := servers[1].status().Epoch; other != epoch {
		t.Fatalf("epochs %d and %d", epoch, other)
	}
	check := func(a, b string) {
		t.Helper()
		there, back := w.compareBothWays("diverged", a, b)
		if first := eventlog.MakeSeq(epoch, 1); there.Fork.Seq != first || back.Fork.Seq != first {
			t.Errorf("%s and %s fork at %s and %s, want %s", a, b, there.Fork.Seq, back.Fork.Seq, first)
		}
		w.equalBeforeFork(&there, both.A.End)
		w.equalBeforeFork(&back, both.A.End)
		for _, view := range there.Views {
			if view.View == "block" && (len(view.Machines) != 1 || there.Names[fmt.Sprint(uint64(view.Machines[0]))] != "alice/laptop") {
				t.Errorf("%s and %s: the block views differ in the machines %v, %v", a, b, view.Machines, there.Names)
			}
		}
	}
	check(servers[0].admin, servers[1].admin)
	check(w.archive, "dir:"+w.path("copy"))
	check(servers[0].admin, "dir:"+w.path("copy"))
	for _, s := range servers {
		s.endsCleanly()
	}
	check(w.path("a"), w.path("b"))
	check(w.path("a"), "dir:"+w.path("copy"))
	// As of an event before, they are one.
	before := fmt.Sprintf("@%d.1", epoch-1)
	w.compareBothWays("equal", w.archive+before, "dir:"+w.path("copy")+before)
	w.compareBothWays("a-is-a-prefix", w.archive+before, "dir:"+w.path("copy"))
}

// Where the archive of a side is out of reach the fork is found in its WAL; what
// came before that cannot be built then, and a remark says so.
func TestBeforeAForkWithoutTheArchive(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	w.busy("a").endsCleanly()
	last := w.compare("equal", w.path("a"), w.archive).A.End
	copyDir(t, w.path("a"), w.path("b"))
	copyDir(t, w.path("archive"), w.path("copy"))
	for _, name := range []string{"a", "b"} {
		s := w.serve(name)
		d := s.door("alice", "laptop")
		d.store("locks", []byte("a session of "+name))
		d.store("index", []byte("waits in "+name))
		s.awaitArchived()
		s.endsCleanly()
		must(t, os.RemoveAll(w.path("archive")))
		if name == "a" {
			copyDir(t, w.path("copy"), w.path("archive")) // b never sees what a did
		}
	}
	there, back := w.compareBothWays("diverged", w.path("a"), w.path("b"))
	w.equalBeforeFork(&there, last) // the WAL still has it all
	w.equalBeforeFork(&back, last)
	for _, name := range []string{"a", "b"} {
		generations, err := filepath.Glob(w.path(name, "wal", "*"))
		must(t, err)
		slices.Sort(generations)
		must(t, os.RemoveAll(generations[0]))
	}
	there, back = w.compareBothWays("diverged", w.path("a"), w.path("b"))
	for _, c := range []comparison{there, back} {
		if c.Fork.Seq != eventlog.MakeSeq(last.Epoch()+1, 1) || c.Fork.Common == nil || c.Fork.Common.Seq != last || c.Fork.Common.Equal != nil ||
			len(c.Remarks) != 1 || !strings.Contains(c.Remarks[0], "whether the views were equal as of "+last.String()) {
			t.Errorf("%+v, %+v, remarks %q", c.Fork, c.Fork.Common, c.Remarks)
		}
	}
	if r := w.run("compare", w.path("a"), w.path("b")); r.code != 6 || !strings.Contains(r.out, "note: whether the views were equal as of ") || strings.Contains(r.out, "EQUAL") {
		t.Errorf("exit code %d\n%s", r.code, r.out)
	}
}

func TestARunningServerThatIsWrittenTo(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.busy("a")
	w.recover("b", 1)
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	stop := sync.OnceFunc(func() { cancel(); writers.Wait() })
	defer stop()
	for i := range 3 {
		d := s.door("alice", fmt.Sprintf("machine%d", i))
		d.create()
		d.store("locks", []byte("a session"))
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				body := fmt.Appendf(nil, "%d of %d", n, i)
				for _, method := range []string{"POST", "DELETE"} {
					if a, err := d.try(ctx, method, named("data", body), body); ctx.Err() == nil && (err != nil || a.status != 200) {
						t.Errorf("%s: %+v, %v", method, a, err)
						return
					}
					if n%3 == 0 {
						break
					}
				}
			}
		})
	}
	last := eventlog.Seq(0)
	for range 3 {
		w.compareLive(s, w.archive)
		c := w.compareLive(s, w.path("b"))
		if c.A.End <= last {
			t.Errorf("nothing was written between %s and %s", last, c.A.End)
		}
		last = c.A.End
	}
	stop()
	s.awaitArchived()
	w.compare("equal", s.admin, w.archive)
	s.endsCleanly()
}

// compareLive compares a server that is written to with what was, or is just
// being, archived: one of them may be ahead, nothing differs.
func (w *world) compareLive(s *server, other string) comparison {
	w.t.Helper()
	r := w.run("compare", s.admin, other, "--json")
	var c comparison
	if err := json.Unmarshal([]byte(r.out), &c); err != nil || r.code != 0 && r.code != 9 {
		w.t.Fatalf("%s: exit code %d, %v\n%s%s", other, r.code, err, r.out, r.stderr)
	}
	for _, view := range c.Views {
		if view.A != view.B || view.A.Position < min(c.A.End, c.B.End) {
			w.t.Errorf("%s: the %s views were compared at %+v and %+v", other, view.View, view.A, view.B)
		}
	}
	return c
}

func TestWithoutItsArchiveOnlyTheViewsAreCompared(t *testing.T) {
	w := initialised(t)
	w.busy("a").endsCleanly()
	w.recover("b", 1)
	s := w.serve("a")
	s.door("alice", "laptop").create()
	s.endsCleanly()
	copyDir(t, w.path("b"), w.path("c"))
	must(t, os.Rename(w.path("archive"), w.path("away")))
	c := w.compare("equal", w.path("b"), w.path("c"))
	if len(c.Remarks) != 2 || c.A.Unread == "" || c.B.Unread == "" {
		t.Errorf("%+v", c)
	}
	// The WAL of a still has what lies between.
	must(t, os.RemoveAll(w.path("a", "wal")))
	w.refused(7, []string{"nothing tells what lies between", "log of B could not be read"}, "compare", w.path("b"), w.path("a"))
}

func TestASideThatCannotBeComparedSaysWhy(t *testing.T) {
	w := initialised(t)
	w.busy("a").endsCleanly()
	other := newWorld(t)
	other.init()
	w.refused(2, []string{"the archive of another log", "there is nothing to compare"}, "compare", w.path("a"), other.archive)
	w.refused(2, []string{"the archive of another log"}, "compare", other.path("a"), w.path("a"))
	w.refused(7, []string{"no server answers at"}, "compare", freeAddress(t), w.archive)
	w.refused(2, []string{"no state directory"}, "compare", w.path("nowhere"), w.archive)
	w.refused(2, []string{"no archive here"}, "compare", w.archive, "dir:"+w.dir)
	s := w.serve("a")
	w.refused(4, []string{"in use by pid", "admin address"}, "compare", w.path("a"), w.archive)
	w.compare("equal", "http://"+s.admin+"/", s.admin)
	s.endsCleanly()

	// Views of another version, and damaged ones.
	copyDir(t, w.path("a"), w.path("b"))
	engine := kv.OnDisk(slog.New(slog.DiscardHandler))
	store, err := engine.Open(w.path("b", "views", "block"), projector.Live)
	must(t, err)
	key := append([]byte{0}, "state"...)
	value, _, err := store.Get(nil, key)
	must(t, err)
	value[2+len("block")+3]++ // the version's last byte
	batch := store.NewBatch()
	must(t, errors.Join(batch.Set(key, value), batch.Commit(), batch.Close(), store.Close()))
	w.refused(1, []string{"version 1", "strandline rebuild"}, "compare", w.path("b"), w.path("a"))
	must(t, os.RemoveAll(w.path("b", "views", "block")))
	if c := w.compare("equal", w.path("b"), w.path("a")); len(c.Remarks) != 1 || !strings.Contains(c.Remarks[0], "lacks a view") {
		t.Errorf("%+v", c)
	}

	// A hole in an archive is told, and no verdict given.
	logs, err := filepath.Glob(w.archivePath("log", "*"))
	must(t, err)
	slices.Sort(logs)
	must(t, os.Remove(logs[1]))
	w.refused(5, []string{"ordinals 2 to 2"}, "compare", w.archive, w.path("a"))
}

func TestCompareWithMinIO(t *testing.T) {
	minio := testkit.MinIO(t)
	w := newWorld(t)
	w.archive, w.env = minio.Spec(), minio.Environ()
	w.init()
	s := w.busy("a")
	end := s.status().Committed.Seq
	w.compareBothWays("equal", s.admin, w.archive)
	s.door("alice", "laptop").store("locks", []byte("later"))
	s.awaitArchived()
	w.compareBothWays("a-is-a-prefix", fmt.Sprintf("%s@%s", w.archive, end), s.admin)
	s.endsCleanly()
	w.compareBothWays("equal", w.path("a"), w.archive)
}
