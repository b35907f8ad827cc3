// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"math"
	"runtime/debug"
	"testing"
)

func TestBudgetsFollowTheLimit(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	for _, test := range []struct{ limit, most, want int64 }{
		{math.MaxInt64, 192 << 20, 192 << 20}, // none
		{4 << 30, 192 << 20, 192 << 20},
		{1 << 30, 192 << 20, 192 << 20},
		{256 << 20, 192 << 20, 48 << 20},
		{0, 192 << 20, 1}, // nonsense; what takes a budget of one byte takes one thing at a time
	} {
		debug.SetMemoryLimit(test.limit)
		if got := Budget(test.most); got != test.want {
			t.Errorf("of %d with a limit of %d: %d, want %d", test.most, test.limit, got, test.want)
		}
		if debug.SetMemoryLimit(-1) != test.limit {
			t.Error("the limit was changed")
		}
	}
}
