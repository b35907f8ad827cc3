// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestATimeFromAClockThatWasAheadIsNeverInTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct{ told, age time.Duration }{
			"an hour ahead": {time.Hour, 0},
			"just now":      {0, 0},
			"an hour ago":   {-time.Hour, time.Hour},
		} {
			var s stamp
			when := time.Now().Add(c.told).Round(0) // as a file tells it
			for range 3 {
				if age := time.Since(s.shown(when, time.Now())); age != c.age {
					t.Errorf("%s: the age shown is %v, want %v", name, age, c.age)
				}
				time.Sleep(time.Minute)
				c.age += time.Minute
			}
		}
	})
}

func TestATimeThatIsRightIsShownAsItIs(t *testing.T) {
	var s stamp
	when := time.Now().Add(-time.Hour).Round(0)
	for range 3 {
		if got := s.shown(when, time.Now()); !got.Equal(when) {
			t.Errorf("shown is %v, want %v", got, when)
		}
	}
	if later := when.Add(time.Minute); !s.shown(later, time.Now()).Equal(later) {
		t.Error("a newer time is not shown")
	}
}
