// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"encoding/json"
	"errors"
	"strconv"
	"testing"

	"github.com/strandline-project/strandline/internal/testkit"
)

// What GOMEMLIMIT allows and what the process may take at most: the limit is
// of what Go manages; the program's text, Pebble's cache and stacks come on
// top of it.
const (
	memoryLimit = "200MiB"
	mostMemory  = 300 << 20
)

// A recovery with GOMEMLIMIT stays under one bound, that of 300,000 events and
// that of three times as many.
func TestARecoveryKeepsToItsMemory(t *testing.T) {
	if !testkit.All() {
		t.Skip("recovers more than a million events; all tests are run by:", testkit.Command)
	}
	for _, events := range []int{300_000, 900_000} {
		t.Run(strconv.Itoa(events), func(t *testing.T) {
			w := newWorld(t)
			w.ok("bench", "archive", "--archive", w.archive, "--events", strconv.Itoa(events), "--machines", "10", "--objects", "600", "--dir", w.dir)
			w.env = append(w.env, "GOMEMLIMIT="+memoryLimit)
			var r struct {
				Peak   int64  `json:"peak_memory_bytes"`
				Events uint64 `json:"events"`
				Views  []struct {
					Compared uint64 `json:"digests_compared"`
				} `json:"views"`
			}
			must(t, json.Unmarshal([]byte(w.ok("recover", "--data", w.path("new"), "--archive", w.archive, "--json")), &r))
			t.Logf("%d events, at most %d MiB", r.Events, r.Peak>>20)
			if r.Events < uint64(events) || len(r.Views) != 2 || r.Views[0].Compared == 0 || r.Views[1].Compared == 0 {
				t.Errorf("it says %+v", r)
			}
			if r.Peak == 0 {
				testkit.Lacks(t, "a system that tells how much memory a process took", errors.New("recover says nothing of it"))
			}
			if r.Peak > mostMemory {
				t.Errorf("it took %d MiB with GOMEMLIMIT=%s, want at most %d", r.Peak>>20, memoryLimit, mostMemory>>20)
			}
		})
	}
}
