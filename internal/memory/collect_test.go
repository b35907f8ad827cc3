// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

func TestTheHeapGrowsToItsSize(t *testing.T) {
	for _, test := range []struct {
		size, alive uint64
		want        int
	}{
		{256 << 20, 0, 100}, // before the first collection
		{256 << 20, 1 << 20, 400},
		{256 << 20, 64 << 20, 300},
		{256 << 20, 100 << 20, 156},
		{256 << 20, 128 << 20, 100},
		{256 << 20, 1 << 30, 100},
	} {
		if got := growth(test.size, test.alive); got != test.want {
			t.Errorf("%d alive of %d: %d %%, want %d", test.alive, test.size, got, test.want)
		}
	}
}

// What is set follows what is alive, collection after collection.
func TestEachCollectionSetsTheGrowth(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	t.Setenv("GOGC", "70")
	CollectFrom(1 << 20)
	if got := percent(); got != 100 {
		t.Fatalf("%d %%, though GOGC is set", got)
	}
	const size = 256 << 20
	collectFrom(size)
	for _, kept := range []int{64 << 20, 200 << 20, 1 << 20} {
		block := make([]byte, kept)
		runtime.GC()
		want := func() bool { return percent() == growth(size, alive()) }
		for deadline := time.Now().Add(testkit.Patience); !want(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d %% with %d bytes alive, want %d", percent(), alive(), growth(size, alive()))
			}
		}
		runtime.KeepAlive(block)
	}
}

func percent() int {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return int(sample[0].Value.Uint64())
}
