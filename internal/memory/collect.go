// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// The collector's share of the time falls as the heap may grow between two
// collections. Most is what that is at most, in percent of what is alive, so
// that a server with little to do stays small.
const (
	leastGrowth = 100 // Go's own
	mostGrowth  = 400
)

// CollectFrom lets the heap of this process grow to size bytes before it is
// collected, as far as that is not over five times what is alive, and by what is
// alive above that, as Go has it. Who sets GOGC keeps it; GOMEMLIMIT holds as
// ever. To be called once.
func CollectFrom(size uint64) {
	if _, set := os.LookupEnv("GOGC"); set {
		return
	}
	collectFrom(size)
}

// collectFrom sets the growth again after each collection: what dies with one
// tells of it.
func collectFrom(size uint64) {
	debug.SetGCPercent(growth(size, alive()))
	tells := new([64]byte)
	runtime.AddCleanup(tells, collectFrom, size)
}

// growth is how many percent of alive bytes may come up to size.
func growth(size, alive uint64) int {
	if alive == 0 || size <= alive {
		return leastGrowth
	}
	return int(min(max(100*(size-alive)/alive, leastGrowth), mostGrowth))
}

// alive returns the bytes that the last collection found in use.
func alive() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
