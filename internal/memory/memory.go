// SPDX-License-Identifier: Apache-2.0

// Package memory scales what a recovery buffers to what the process may take, and
// lets the heap of a server grow before it is collected.
package memory

import (
	"runtime/debug"

	"golang.org/x/sync/semaphore"
)

// ample is the limit from which on budgets are what they are at most: together
// they stay under three quarters of it, and what else is alive under the rest.
const ample = 1 << 30

// Budget returns most, in bytes, or as much less as GOMEMLIMIT is less than a
// gibibyte; at least one byte. It changes nothing of the limit.
func Budget(most int64) int64 {
	limit := debug.SetMemoryLimit(-1) // asks only
	if limit >= ample {
		return most
	}
	return max(1, int64(float64(most)*float64(limit)/ample))
}

// Budgeted hands out the bytes of a budget.
type Budgeted struct {
	*semaphore.Weighted
	all int64
}

// NewBudgeted returns all of Budget(most), to be handed out.
func NewBudgeted(most int64) *Budgeted {
	all := Budget(most)
	return &Budgeted{semaphore.NewWeighted(all), all}
}

// AtMost returns n, or all that there is: one thing that is larger goes alone.
func (b *Budgeted) AtMost(n int64) int64 { return min(n, b.all) }
