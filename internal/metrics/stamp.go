// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"sync"
	"time"
)

// stamp shows when something happened so that its age, by today's clock, is
// right: a clock that was ahead when it happened and was set back since would
// put it into the future, and silence the alert on its age until then.
type stamp struct {
	mu   sync.Mutex
	what time.Time     // owned by mu; as it was told
	seen time.Time     // owned by mu; when it was first told, with a monotonic reading
	age  time.Duration // owned by mu; its age then
}

// stampOff is by how much a time may be off before it is shown corrected.
const stampOff = time.Second

// shown is the time to show for t at now.
func (s *stamp) shown(t, now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !t.Equal(s.what) {
		s.what, s.seen, s.age = t, now, max(0, now.Sub(t))
	}
	happened := now.Add(-s.age - now.Sub(s.seen))
	if happened.Sub(t).Abs() < stampOff {
		return t
	}
	return happened
}
