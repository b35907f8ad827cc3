// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"fmt"
	"testing"

	"github.com/strandline-project/strandline/internal/testkit"
)

// elevenObjects is a world with an archive of about as many objects in a real
// store, whose server has ended.
func elevenObjects(t *testing.T, store *testkit.S3) (*world, *testkit.Proxy) {
	t.Helper()
	w, proxy := proxied(t, store)
	w.init()
	s := w.serve("a")
	d := s.door("alice", "laptop")
	d.create()
	for i := range 9 {
		d.store("data", fmt.Appendf(nil, "block %d", i))
		s.awaitArchived()
	}
	s.endsCleanly()
	return w, proxy
}

// A list that ends early, once or each time, never ends a recovery early.
func TestAListThatEndsEarlyLeavesNothingOutOfARecovery(t *testing.T) {
	t.Parallel()
	w, proxy := elevenObjects(t, testkit.MinIO(t))
	w.recover("whole", 0)
	once := proxy.Add(testkit.Rule{When: testkit.On(testkit.List, "log/"), Times: 1, Do: testkit.ListLacksLast(4)})
	w.recover("b", 0)
	if once.Count() != 1 {
		t.Errorf("%d lists were cut", once.Count())
	}
	w.compare("equal", w.path("whole"), w.path("b"))
	w.ok("drill", "--archive", w.archive, "--scratch", t.TempDir())

	proxy.Add(testkit.Rule{When: testkit.On(testkit.List, "log/"), Do: testkit.ListLacksLast(4)})
	w.refused(7, []string{"the store answered with an older state", "log/"}, "recover", "--data", w.path("c"), "--archive", w.archive)
}

// A single 404 for what is there is no finding.
func TestASingle404IsNoFinding(t *testing.T) {
	t.Parallel()
	w, proxy := elevenObjects(t, testkit.MinIO(t))
	for _, prefix := range []string{"strandline.json", "epoch/", "log/"} {
		rule := proxy.Add(testkit.Rule{When: testkit.On(testkit.Get, prefix), Times: 1, Do: testkit.Answer(404, "NoSuchKey")})
		w.ok("drill", "--archive", w.archive, "--scratch", t.TempDir())
		if rule.Count() != 1 {
			t.Errorf("%s: %d wrong answers", prefix, rule.Count())
		}
	}
}
