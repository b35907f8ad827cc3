// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"testing"

	"github.com/strandline-project/strandline/eventlog"
)

// A waiter is released by its own event, not by the one before it.
func TestAWaiterIsReleasedByItsEvent(t *testing.T) {
	view := &View{state: state{position: 5}}
	r := &Runner{view: view, waiters: map[*waiter]struct{}{}}
	w := r.enlist(7)
	for position := eventlog.Seq(5); position <= 7; position++ {
		view.state.position = position
		r.release()
		released := false
		select {
		case <-w.done:
			released = true
		default:
		}
		if released != (position == 7) {
			t.Fatalf("at event %d the waiter for event 7 is released: %v", position, released)
		}
	}
}
