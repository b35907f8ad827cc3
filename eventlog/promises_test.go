// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"strings"
	"testing"
)

// Each promise is counted when it is given and when it resolves, however it does,
// and the count answers while the log's lock is held.
func TestPromisesAreCounted(t *testing.T) {
	l := newState(t).open(nil)
	check := func(when string, wantGiven, wantResolved uint64) {
		t.Helper()
		l.mu.Lock()
		defer l.mu.Unlock()
		if given, resolved := l.Promises(); given != wantGiven || resolved != wantResolved {
			t.Errorf("%s: %d given, %d resolved, want %d and %d", when, given, resolved, wantGiven, wantResolved)
		}
	}
	check("at first", 0, 0)
	committed(t, l.Append(noteEvent(1), nil))
	check("one is committed", 1, 1)
	long := noteEvent(1)
	long.Name = strings.Repeat("x", MaxEvent)
	if _, err := l.Append(long, nil).Wait(); err == nil {
		t.Error("an event that is too long is taken")
	}
	check("one is refused", 2, 2)
	must(t, l.Close(false))
	if _, err := l.Append(noteEvent(1), nil).Wait(); err == nil {
		t.Error("a closed log takes an event")
	}
	check("one came too late", 3, 3)
}
