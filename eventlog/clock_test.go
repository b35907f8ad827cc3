// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"testing"
	"testing/synctest"
	"time"
)

// wallClock is a wall clock that can be set.
type wallClock struct{ off time.Duration }

func (w *wallClock) show(now time.Time) time.Time { return now.Round(0).Add(w.off) }

func TestAnAgeDoesNotFollowTheWallClock(t *testing.T) {
	const hour = time.Hour
	for name, c := range map[string]struct{ before, after time.Duration }{
		"never set":                {0, 0},
		"set back":                 {0, -hour},
		"set back from the future": {hour, 0},
		"set forward":              {0, hour},
		"ahead all the time":       {hour, hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				wall, log := &wallClock{off: c.before}, new(Log)
				event := func(counter uint32) *Event {
					now := time.Now()
					ev := &Event{Seq: MakeSeq(3, counter), Time: wall.show(now).UnixNano()}
					log.clock.note(ev.Seq, ev.Time, now)
					return ev
				}
				expect := func(what string, ev *Event, want time.Duration) {
					t.Helper()
					if got := log.Age(ev); got != want {
						t.Errorf("%s is %v old, want %v", what, got, want)
					}
				}
				opened := event(1)
				time.Sleep(time.Minute)
				before := event(2)
				time.Sleep(time.Minute)
				wall.off = c.after
				expect("an event from before", before, time.Minute)
				after := event(3)
				time.Sleep(time.Minute)
				later := event(4)
				time.Sleep(time.Minute)
				expect("the first event", opened, 4*time.Minute)
				expect("an event from before", before, 3*time.Minute)
				expect("the first event after", after, 2*time.Minute)
				expect("a later event", later, time.Minute)
			})
		})
	}
}

// What an earlier process recorded says nothing about this one's clocks.
func TestAnEventOfAnEarlierProcessIsAtLeastAsOldAsTheLogIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, now := new(Log), time.Now()
		log.clock.note(MakeSeq(3, 1), now.UnixNano(), now)
		time.Sleep(time.Minute)
		for recorded, want := range map[time.Duration]time.Duration{-time.Hour: time.Hour + time.Minute, time.Hour: time.Minute, 0: time.Minute} {
			if got := log.Age(&Event{Seq: MakeSeq(2, 7), Time: now.Add(recorded).UnixNano()}); got != want {
				t.Errorf("an event recorded %v before the log was opened is %v old, want %v", -recorded, got, want)
			}
		}
	})
}

func TestAWallClockThatIsSetAllTheTimeCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(Log)
		var last Event
		for i := range uint32(3 * maxClockMarks) {
			now := time.Now()
			last = Event{Seq: MakeSeq(3, i+1), Time: now.Add(-time.Duration(i) * time.Second).UnixNano()}
			log.clock.note(last.Seq, last.Time, now)
		}
		if n := len(log.clock.marks); n > maxClockMarks {
			t.Errorf("%d marks are kept, more than %d", n, maxClockMarks)
		}
		time.Sleep(time.Second)
		if got := log.Age(&last); got != time.Second {
			t.Errorf("the last event is %v old, want 1s", got)
		}
	})
}

func TestALogTellsAgesWhileItsWallClockIsSetBack(t *testing.T) {
	wall := &wallClock{off: time.Hour}
	log := newState(t).open(func(opts *Options) { opts.Wall = wall.show })
	ev := &Event{Type: AccountOpened, Name: "a"}
	seq, err := log.Append(*ev, nil).Wait()
	if err != nil {
		t.Fatal(err)
	}
	committed, at := log.Committed()
	if ahead := time.Until(time.Unix(0, at)); committed != seq || ahead < 50*time.Minute {
		t.Fatalf("the log stands at %s, %v ahead; the wall clock was not used", committed, ahead)
	}
	if age := log.Age(&Event{Seq: seq, Time: at}); age < 0 || age > 30*time.Minute {
		t.Errorf("the event is %v old", age)
	}
}
