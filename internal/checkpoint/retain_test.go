// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

func writeOver(path string) error { return os.WriteFile(path, []byte("rot"), 0o600) }

// Whatever the schedule, what is kept is whole, nothing else of the archive is
// touched, and nothing that nobody names stays.
func TestWhatIsKeptIsWholeAndNothingElseIsLeft(t *testing.T) {
	for seed := range uint64(rounds(6)) {
		rng := rand.New(rand.NewPCG(seed, 7))
		w := newWorld(t, 300+seed)
		w.steps(20)
		w.bucket.Set(Prefix+"note.txt", []byte("somebody's")) // no key of ours
		w.bucket.Set(filePrefix+"note.txt", []byte("somebody's"))
		for range rounds(16) {
			w.clock.Advance(time.Duration(rng.IntN(40)) * time.Hour)
			w.steps(1 + rng.IntN(5))
			taker := w.taker(w.bucket, Schedule{Every: time.Hour, Keep: 1 + rng.IntN(3), Days: rng.IntN(4)})
			must(t, taker.take(t.Context(), true))
			before, others := w.manifests(), w.others()
			must(t, taker.retain(t.Context()))
			after := w.manifests()
			for seq := range before {
				if _, kept := after[seq]; kept != wanted(taker, before, seq, w.clock.Now()) {
					t.Fatalf("keep %d and of %d days: checkpoint %s of %v is kept: %v", taker.Keep, taker.Days, seq, before[seq].Time, kept)
				}
			}
			if spare := w.whole(); spare != 1 || w.others() != others { // the note
				t.Fatalf("%d files that no checkpoint names", spare)
			}
			if _, ok := w.bucket.Get(Prefix + "note.txt"); !ok {
				t.Fatal("a foreign key was removed")
			}
		}
		w.recovered(w.options(w.bucket))
	}
}

// wanted says it in other words: one of the newest, or the newest of its day,
// no longer ago than so many days.
func wanted(t *Taker, all map[eventlog.Seq]*Manifest, seq eventlog.Seq, now time.Time) bool {
	newer, sameDay := 0, false
	for other, m := range all {
		if other > seq {
			newer++
			sameDay = sameDay || m.Time.YearDay() == all[seq].Time.YearDay()
		}
	}
	recent := now.Sub(all[seq].Time) < time.Duration(t.Days)*24*time.Hour
	return newer < t.Keep || recent && !sameDay
}

func TestNothingIsRemovedWhileItIsNotKnownWhatIsNamed(t *testing.T) {
	w := newWorld(t, 310)
	w.steps(20)
	first := w.take()
	w.steps(10)
	taker := w.taker(w.bucket, Schedule{Every: time.Hour, Keep: 1})
	must(t, taker.take(t.Context(), true))
	later := *first
	later.Version++
	w.bucket.Set(manifestKey(first.Seq), seal(t, &later))
	before := w.bucket.Keys()
	if err := taker.retain(t.Context()); err == nil || !strings.Contains(err.Error(), "a later version wrote") {
		t.Errorf("beside a later version's: %v", err)
	}
	if !slices.Equal(before, w.bucket.Keys()) {
		t.Error("something was removed")
	}
	// One that is damaged can never be used, and goes; what only it named, too.
	w.bucket.Set(manifestKey(first.Seq), []byte("{}"))
	must(t, taker.retain(t.Context()))
	if spare := w.whole(); spare != 0 || len(w.manifests()) != 1 {
		t.Errorf("%d spare files, %d checkpoints", spare, len(w.manifests()))
	}
	// A list that lacks what was just put is an old one.
	w.bucket.Remove(manifestKey(taker.last.Seq))
	before = w.bucket.Keys()
	if err := taker.retain(t.Context()); err == nil || !strings.Contains(err.Error(), "is not whole any more") {
		t.Errorf("a list that lags: %v", err)
	}
	if !slices.Equal(before, w.bucket.Keys()) {
		t.Error("something was removed")
	}
}
