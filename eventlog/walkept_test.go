// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/durable"
)

// closedThenOpen lays four closed generations, of which the archive has the
// first, and one that is not closed.
func closedThenOpen(t *testing.T, s *testState) Bounds {
	t.Helper()
	for n := uint64(1); n <= 4; n++ {
		first := MakeSeq(1, uint32(2*n-1))
		s.lay(gen{name: fmt.Sprintf("%d.0", n), segment: segmentOf(n, first, first+1), closed: closedOf(t, n, first, first+1)})
	}
	s.lay(gen{name: "5.0", segment: segmentOf(5, MakeSeq(1, 9), MakeSeq(1, 9))})
	return Bounds{Archived: 1, Base: MakeSeq(1, 2)}
}

// An earlier process may have ended at a failed sync: then its bytes are in the
// page cache and nowhere else, and the kernel calls them clean.
func TestClosedGenerationsThatAreNotArchivedAreSyncedAgain(t *testing.T) {
	s := newState(t)
	w := s.read(closedThenOpen(t, s))
	var synced []string
	w.sync = func(path string) error {
		name, err := filepath.Rel(s.root, path)
		must(t, err)
		synced = append(synced, name)
		return durable.SyncFile(path)
	}
	must(t, w.CloseTail(time.Now()))
	var want []string
	for n := uint64(2); n <= 4; n++ {
		dir := filepath.Join("wal", generationName(n, 0))
		want = append(want, filepath.Join(dir, payloadName), filepath.Join(dir, closedName), dir, "wal")
	}
	if !slices.Equal(synced, want) {
		t.Errorf("synced were %q, want %q", synced, want)
	}
}

// A generation that could not be synced again does not count, whether the sync
// was done or not: nothing says which.
func TestAClosedGenerationThatCannotBeSyncedAgainEndsTheStart(t *testing.T) {
	for failing := range 12 {
		for _, done := range []bool{false, true} {
			s := fastState(t)
			bounds := closedThenOpen(t, s)
			w := s.read(bounds)
			calls := 0
			w.sync = func(path string) error {
				defer func() { calls++ }()
				if calls != failing {
					return durable.SyncFile(path)
				}
				if done {
					must(t, durable.SyncFile(path))
				}
				return errDisk
			}
			if err := w.CloseTail(time.Now()); !errors.Is(err, errDisk) || calls != failing+1 {
				t.Fatalf("with sync %d failing (done: %v) it ends with %v after %d", failing, done, err, calls)
			}
			if last, _, err := s.read(bounds).Last(); err != nil || last != MakeSeq(1, 9) {
				t.Errorf("the next start finds events up to %s, %v", last, err)
			}
		}
	}
}

// A start may end anywhere while it sets generations aside. What is left in the
// WAL is then a beginning of what was there, never something with a gap.
func TestSettingAsideThatIsCutShortLeavesNoGap(t *testing.T) {
	for failing := range 4 {
		for _, done := range []bool{false, true} {
			t.Run(fmt.Sprintf("at move %d, done %v", failing, done), func(t *testing.T) {
				s := fastState(t)
				closedThenOpen(t, s)
				w := s.read(Bounds{})
				moves := 0
				w.rename = func(old, path string) error {
					defer func() { moves++ }()
					if moves != failing {
						return durable.Rename(old, path)
					}
					if done {
						must(t, durable.Rename(old, path))
					}
					return errDisk
				}
				if err := w.SetAside(2); !errors.Is(err, errDisk) {
					t.Fatalf("setting aside ends with %v", err)
				}
				left := 5 - failing // of five
				if done {
					left--
				}
				again := s.read(Bounds{})
				for i, g := range again.Generations() {
					if g.Ordinal != uint64(i+1) {
						t.Errorf("generation %d is ordinal %d", i, g.Ordinal)
					}
				}
				if n := len(again.Generations()); n != left {
					t.Errorf("%d generations are left, want %d", n, left)
				}
				must(t, again.SetAside(2))
				if names, err := os.ReadDir(s.aside()); err != nil || len(names) != 4 {
					t.Errorf("aside holds %v, %v; want four", names, err)
				}
			})
		}
	}
}

// Of several attempts the highest closed one counts. A start that ends while it
// sets them aside must not make another one count.
func TestTheAttemptThatCountsIsSetAsideLast(t *testing.T) {
	for failing := range 3 {
		for _, done := range []bool{false, true} {
			s := fastState(t)
			s.lay(gen{name: "1.0", segment: segmentOf(1, MakeSeq(1, 1), MakeSeq(1, 1))},
				gen{name: "2.0", segment: segmentOf(2, MakeSeq(1, 2), MakeSeq(1, 9))},
				gen{name: "2.1", segment: segmentOf(2, MakeSeq(1, 2), MakeSeq(1, 3)), closed: closedOf(t, 2, MakeSeq(1, 2), MakeSeq(1, 3))},
				gen{name: "2.2", segment: segmentOf(2, MakeSeq(1, 2), MakeSeq(1, 2))})
			w := s.read(Bounds{})
			moves := 0
			w.rename = func(old, path string) error {
				defer func() { moves++ }()
				if moves != failing {
					return durable.Rename(old, path)
				}
				if done {
					must(t, durable.Rename(old, path))
				}
				return errDisk
			}
			if err := w.SetAside(2); !errors.Is(err, errDisk) {
				t.Fatalf("setting aside ends with %v", err)
			}
			want := MakeSeq(1, 3)
			if failing == 2 && done { // all moved
				want = MakeSeq(1, 1)
			}
			if last, _, err := s.read(Bounds{}).Last(); err != nil || last != want {
				t.Errorf("cut short at move %d (done: %v) the WAL ends with %s, %v; want %s", failing, done, last, err, want)
			}
		}
	}
}

// Footer and trailer at the end of a payload file count, where nothing states that
// the generation is closed, only if they say what its frames say.
func TestAnEndThatSaysOtherThanTheFramesIsNone(t *testing.T) {
	for name, c := range map[string]struct {
		payload []byte
		closed  bool
	}{
		"what the frames say": {closedOf(t, 1, MakeSeq(1, 1), MakeSeq(1, 2)), true},
		"another event":       {closedBy(t, testWriter, "b", 1, MakeSeq(1, 1), MakeSeq(1, 2)), false},
		"another writer":      {closedBy(t, ID{7}, "a", 1, MakeSeq(1, 1), MakeSeq(1, 2)), false},
		"one event more":      {closedOf(t, 1, MakeSeq(1, 1), MakeSeq(1, 3)), false},
		"one event less":      {closedOf(t, 1, MakeSeq(1, 1), MakeSeq(1, 1)), false},
	} {
		s := fastState(t)
		s.lay(gen{name: "1.0", segment: segmentOf(1, MakeSeq(1, 1), MakeSeq(1, 2)), payload: c.payload})
		g := s.read(Bounds{}).Generations()[0]
		entries, err := g.Entries()
		must(t, err)
		if g.closed() != c.closed || len(entries) != 2 || entries[1].Event.Name != "a" {
			t.Errorf("%s: closed %v, with %d events, the last %q", name, g.closed(), len(entries), entries[len(entries)-1].Event.Name)
		}
	}
}
