// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"strings"
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
	s.refusesToStart(8, "If-None-Match")
	if strings.Contains(s.printed(), "does not answer") {
		t.Error("it is told that the store does not answer")
	}
	s.flags = []string{"--single-writer"}
	s.start()
	s.endsCleanly()
}
