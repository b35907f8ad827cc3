// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/strandline-project/strandline/internal/testkit"
)

// proxied is a world whose archive is in a real store, behind a proxy without
// any fault yet.
func proxied(t *testing.T, store *testkit.S3) (*world, *testkit.Proxy) {
	t.Helper()
	w, proxy := newWorld(t), testkit.NewProxy(t, store.Endpoint)
	w.archive, w.env = proxy.Through(store.Spec()), store.Environ()
	return w, proxy
}

var refusesConditions = testkit.Rule{When: testkit.On(testkit.Put, ""), Do: testkit.UnsupportedCondition}

func TestAStoreThatRefusesConditionsNeedsTheOperatorsPromise(t *testing.T) {
	t.Parallel()
	w, proxy := proxied(t, testkit.MinIO(t))
	rule := proxy.Add(refusesConditions)
	promise := []string{"cannot hold an archive", "If-None-Match", "--single-writer"}
	w.refused(8, promise, "init", "--data", w.path("a"), "--archive", w.archive)
	w.refused(8, promise[:1], "archive", "probe", "--archive", w.archive)
	if rule.Count() != 2 {
		t.Errorf("the store was asked %d times", rule.Count())
	}

	w.ok("init", "--data", w.path("a"), "--archive", w.archive, "--single-writer")
	s := w.serve("a")
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	d.store("data", []byte("a block"))
	s.awaitArchived()
	s.endsCleanly()
	w.recover("b", 0)
	w.compare("equal", w.path("a"), w.path("b"))
}

func TestAStoreThatBeginsToRefuseConditionsEndsTheNextStart(t *testing.T) {
	t.Parallel()
	w, proxy := proxied(t, testkit.MinIO(t))
	w.init()
	w.serve("a").endsCleanly()
	proxy.Add(refusesConditions)
	s := w.newServer("a")
	s.refusesToStart(8, "If-None-Match", "--single-writer")
	if strings.Contains(s.printed(), "does not answer") {
		t.Error("it is told that the store does not answer")
	}
	s.flags = []string{"--single-writer"}
	s.start()
	s.endsCleanly()
}

// stores runs a test at both stores.
func stores(t *testing.T, test func(t *testing.T, store *testkit.S3)) {
	for name, open := range map[string]func(testing.TB) *testkit.S3{"MinIO": testkit.MinIO, "versitygw": testkit.VersityGW} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func TestAStoreThatBeginsToIgnoreConditionsEndsTheNextStart(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, store *testkit.S3) {
		w, proxy := proxied(t, store)
		w.init()
		proxy.Add(testkit.Rule{When: testkit.On(testkit.Put, ""), Do: testkit.IgnoreCondition})
		s := w.newServer("a")
		s.refusesToStart(8, "ignores the condition", "--single-writer")
		proxy.Clear()
		s.start()
		if epoch := s.status().Epoch; epoch != 2 {
			t.Errorf("the start that was refused claimed an epoch: this one has %d", epoch)
		}
		s.endsCleanly()
	})
}

func TestAStoreThatDeniesPutsOfWhatIsThereIsServed(t *testing.T) {
	t.Parallel()
	w, proxy := proxied(t, testkit.MinIO(t))
	w.init()
	rule := proxy.Add(testkit.Rule{When: testkit.On(testkit.Put, "strandline.json"), Do: testkit.Forbidden})
	s := w.serve("a")
	if rule.Count() != 1 || !strings.Contains(s.printed(), "could not be found out") {
		t.Errorf("it was asked %d times, and says nothing of it", rule.Count())
	}
	s.endsCleanly()
}

func TestAStoreThatBeginsToRefuseConditionsIsGivenNothingUntilItKeepsThemAgain(t *testing.T) {
	t.Parallel()
	w, proxy := proxied(t, testkit.MinIO(t))
	w.init()
	s := w.serve("a")
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	s.awaitArchived()
	refused := proxy.Add(refusesConditions)
	d.store("data", []byte("a block"))
	eventually(t, "it is told", func() error { return s.scrapes("strandline_archive_unsafe 1") })
	status := s.status()
	if !slices.ContainsFunc(status.Warnings, func(text string) bool { return strings.Contains(text, "--single-writer") }) || status.Mode != "serving" {
		t.Errorf("mode %s, warnings %q", status.Mode, status.Warnings)
	}
	if n := strings.Count(s.printed(), "takes nothing"); n != 1 {
		t.Errorf("it is logged %d times", n)
	}
	if n := refused.Count(); n > 3 {
		t.Errorf("%d puts were tried", n)
	}
	proxy.Clear()
	s.awaitArchived()
	must(t, s.scrapes("strandline_archive_unsafe 0"))
	s.endsCleanly()
	w.recover("b", 0)
	w.compare("equal", w.path("a"), w.path("b"))
}

// scrapes looks for a line among the server's metrics.
func (s *server) scrapes(line string) error {
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + s.admin + "/metrics")
	if err != nil {
		return err
	}
	text, err := io.ReadAll(answer.Body)
	if err = errors.Join(err, answer.Body.Close()); err == nil && !strings.Contains(string(text), "\n"+line+"\n") {
		err = fmt.Errorf("the metrics lack %q", line)
	}
	return err
}

func isPut(r testkit.Request) bool { return r.Op == testkit.Put }

// takenOver is a log whose first server was killed while its puts were on their
// way, and whose second one, of the directory b, has archived events since.
func takenOver(t *testing.T) (w *world, b *server, late *testkit.Late, ignores *atomic.Bool) {
	t.Helper()
	w, proxy := proxied(t, testkit.MinIO(t))
	late, ignores = new(testkit.Late), new(atomic.Bool)
	w.init()
	a := w.serve("a")
	d := a.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	a.awaitArchived()
	held := proxy.Add(testkit.Rule{When: testkit.On(testkit.Put, "log/"), Do: late.Fault})
	overlooked := testkit.Rule{Do: testkit.IgnoreCondition, When: func(r testkit.Request) bool { return ignores.Load() && isPut(r) }}
	proxy.Add(overlooked) // those that land late, too
	d.store("data", []byte("of the first server, never archived"))
	eventually(t, "a put is on its way", func() error {
		if held.Count() == 0 {
			return errors.New("none yet")
		}
		return nil
	})
	a.kill()
	proxy.Clear()
	proxy.Add(overlooked)
	w.recover("b", 0)
	b = w.serve("b", "--take-over", "--checkpoint-every", "1h")
	b.flags = nil
	e := b.door("bob", "phone")
	e.create()
	e.store("data", []byte("of the second server"))
	b.awaitArchived()
	return w, b, late, ignores
}

func TestALatePutOfAFencedServerChangesNothing(t *testing.T) {
	t.Parallel()
	w, b, late, _ := takenOver(t)
	for _, status := range late.Land() {
		if status != http.StatusPreconditionFailed {
			t.Errorf("a late put is answered with %d", status)
		}
	}
	b.endsCleanly()
	w.recover("c", 0, "--full")
	w.compare("equal", w.path("b"), w.path("c"))
}

// Where the condition is overlooked, a late put replaces an object that was
// archived, of the server that took over. No start, no recovery and no drill
// takes what is there for history.
func TestAnObjectThatALatePutHasReplacedIsNoHistory(t *testing.T) {
	t.Parallel()
	w, b, late, ignores := takenOver(t)
	ignores.Store(true)
	for _, status := range late.Land() {
		if status != http.StatusOK {
			t.Errorf("a late put is answered with %d", status)
		}
	}
	b.kill()
	ignores.Store(false)
	b.refusesToStart(5, "it was replaced")
	w.refused(5, nil, "recover", "--data", w.path("c"), "--archive", w.archive, "--full")
	w.refused(5, nil, "drill", "--archive", w.archive, "--full")
}
