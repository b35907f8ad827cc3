// SPDX-License-Identifier: Apache-2.0

package projector_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

// loadOf is a load of both views, in memory, of all that log has.
func loadOf(t testing.TB, log *modeltest.Log) *projector.Load {
	return &projector.Load{Engine: kv.InMemory(quiet), Dir: "views", Scratch: filepath.Join(t.TempDir(), "runs"), Input: "test", Upto: log.Last(),
		Projectors: []projector.Projector{projector.Machines(), projector.Blocks()}, Log: quiet}
}

// every way to load views: what is looked up and what is sorted, in runs of
// which sizes.
var loads = map[string]func(*projector.Load){
	"as it comes":                func(*projector.Load) {},
	"all sorted, in one run":     func(l *projector.Load) { projector.LoadAllSorted(l, 1<<20) },
	"all sorted, in small runs":  func(l *projector.Load) { projector.LoadAllSorted(l, 2000) },
	"all sorted, batch by batch": func(l *projector.Load) { projector.LoadAllSorted(l, 1) },
}

// recordedHistory is a random history with recorded digests, and its live
// views.
func recordedHistory(t testing.TB, seed uint64, steps int) (*modeltest.History, *views) {
	live := openViews(t, kv.InMemory(quiet), "", projector.Live)
	history := modeltest.NewHistory(seed, live.states)
	for range steps {
		history.Step()
		live.catchUp(history.Log)
	}
	return history, live
}

func modelOf(log *modeltest.Log) *modeltest.Model {
	model := modeltest.NewModel()
	entries := log.Entries()
	for i := range entries {
		model.Apply(&entries[i])
	}
	return model
}

// checkLoaded checks that what a load has built is the live views, row by row
// and with all that they say of themselves.
func checkLoaded(t *testing.T, l *projector.Load, log *modeltest.Log, live *views) {
	t.Helper()
	built := openViews(t, l.Engine, "", projector.Live)
	defer built.close()
	if live.digests() != built.digests() {
		t.Fatalf("live %s; loaded %s", live.digests(), built.digests())
	}
	if err := modelOf(log).Check(t.Context(), built.machines, built.blocks); err != nil {
		t.Fatal(err)
	}
	pairs := [][2]*projector.View{{live.machines.View, built.machines.View}, {live.blocks.View, built.blocks.View}}
	for _, pair := range pairs {
		seq, digest := pair[0].Kept()
		if s, d := pair[1].Kept(); s != seq || d != digest {
			t.Errorf("the %s view kept %s %s, live %s %s", pair[0].Name(), s, d, seq, digest)
		}
		if !pair[0].LastTime().Equal(pair[1].LastTime()) {
			t.Errorf("the %s view's last time is %s, live %s", pair[0].Name(), pair[1].LastTime(), pair[0].LastTime())
		}
		compared, skipped := pair[0].Recorded()
		if c, s := pair[1].Recorded(); c != compared || s != skipped {
			t.Errorf("the %s view compared %d and skipped %d, live %d and %d", pair[0].Name(), c, s, compared, skipped)
		}
		if p := pair[1].Proven(); p != pair[0].Proven() || (p == 0) != (compared == 0) || p > pair[1].Position() {
			t.Errorf("the %s view is proven up to %s, live %s, with %d digests compared", pair[0].Name(), p, pair[0].Proven(), compared)
		}
		seq, digest, err := pair[1].Recompute(t.Context())
		if s, d := pair[1].Digest(); err != nil || s != seq || d != digest {
			t.Errorf("the %s view's rows make %s at %s (%v), it says %s at %s", pair[0].Name(), digest, seq, err, d, s)
		}
		sameRows(t, pair[0], pair[1])
	}
	// What was built goes on as any other view does.
	h := modeltest.Log{}
	h.Append(log.Entries()...)
	built.catchUp(&h)
}

// sameRows compares all rows, history and what stands aside included.
func sameRows(t *testing.T, a, b *projector.View) {
	t.Helper()
	next, stop := iter.Pull2(b.Rows(t.Context()))
	defer stop()
	for row, err := range a.Rows(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("%s %x %s %s %x %x", row.Table.Name, row.Key, row.Seq, row.Deleted, row.Value, row.Aside)
		other, err, ok := next()
		if err != nil || !ok {
			t.Fatalf("the %s view ends before %s: %v", b.Name(), want, err)
		}
		if got := fmt.Sprintf("%s %x %s %s %x %x", other.Table.Name, other.Key, other.Seq, other.Deleted, other.Value, other.Aside); got != want {
			t.Fatalf("the %s view has\n%s, live\n%s", b.Name(), got, want)
		}
	}
	if other, _, ok := next(); ok {
		t.Fatalf("the %s view has %x of %s, live has not", b.Name(), other.Key, other.Table.Name)
	}
}

func TestLoadedViewsAreTheLiveOnes(t *testing.T) {
	seeds := uint64(8)
	if !testkit.Long() {
		seeds = 2
	}
	for name, change := range loads {
		t.Run(name, func(t *testing.T) {
			for seed := range seeds {
				h, live := recordedHistory(t, seed, 300)
				l := loadOf(t, h.Log)
				change(l)
				done, err := l.Run(t.Context(), h.Log)
				if err != nil {
					t.Fatal(err)
				}
				checkLoaded(t, l, h.Log, live)
				for i, view := range []*projector.View{live.machines.View, live.blocks.View} {
					seq, digest := view.Digest()
					compared, skipped := view.Recorded()
					want := projector.Loaded{View: view.Name(), Position: seq, Time: view.LastTime().UnixNano(), Digest: digest, Compared: compared, Skipped: skipped, Proven: view.Proven(), Runs: done[i].Runs}
					if done[i] != want {
						t.Errorf("it says %+v, want %+v", done[i], want)
					}
				}
				if _, err := os.Stat(l.Scratch); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the runs are left: %v", err)
				}
				if again, err := l.Run(t.Context(), h.Log); err != nil || again[1].Digest != done[1].Digest {
					t.Errorf("run again it says %+v, %v", again, err)
				}
			}
		})
	}
}

func TestNamesThatBeginWithOneAnotherKeepTheirHistoryInOrder(t *testing.T) {
	s := newScene()
	live := openViews(t, kv.InMemory(quiet), "", projector.Live)
	for _, name := range []string{"a", "a\x00", "a\x00\x00\x00", "a\x01", "aa", "a\xff", "a\xff\xff\xff\xff\xff\xff\xff\xff\xff", "b"} {
		for range 3 {
			stored := s.Store(s.laptop, eventlog.KindData, []byte(name), 9, false)
			_ = stored
			s.Delete(s.laptop, eventlog.KindData, []byte(name))
		}
	}
	live.catchUp(s.Log)
	for name, change := range loads {
		t.Run(name, func(t *testing.T) {
			l := loadOf(t, s.Log)
			change(l)
			if _, err := l.Run(t.Context(), s.Log); err != nil {
				t.Fatal(err)
			}
			checkLoaded(t, l, s.Log, live)
		})
	}
}

// quitting is a source that ends with an error after some events.
type quitting struct {
	log   *modeltest.Log
	after int
}

var errQuit = errors.New("enough")

func (q *quitting) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		for batch, err := range q.log.Follow(ctx, from) {
			if q.after <= 0 {
				yield(eventlog.Batch{}, errQuit)
				return
			}
			q.after -= len(batch.Entries)
			if !yield(batch, err) {
				return
			}
		}
	}
}

func TestAnInterruptedLoadGoesOnWhereItWas(t *testing.T) {
	h, live := recordedHistory(t, 5, 300)
	for name, change := range loads {
		t.Run(name, func(t *testing.T) {
			l := loadOf(t, h.Log)
			change(l)
			calls := 0
			for quit := 40; ; quit += 10 {
				calls++
				source := &quitting{h.Log, quit}
				_, err := l.Run(t.Context(), source)
				if err == nil {
					break
				}
				if !errors.Is(err, errQuit) {
					t.Fatal(err)
				}
			}
			if calls < 3 {
				t.Errorf("it was done after %d calls", calls)
			}
			checkLoaded(t, l, h.Log, live)
		})
	}
}

func TestALoadOfOtherInputBeginsAnew(t *testing.T) {
	a, _ := recordedHistory(t, 1, 200)
	b, live := recordedHistory(t, 2, 200)
	l := loadOf(t, a.Log)
	projector.LoadAllSorted(l, 500)
	if _, err := l.Run(t.Context(), &quitting{a.Log, 100}); !errors.Is(err, errQuit) {
		t.Fatal(err)
	}
	l.Input, l.Upto = "another", b.Log.Last()
	if _, err := l.Run(t.Context(), b.Log); err != nil {
		t.Fatal(err)
	}
	checkLoaded(t, l, b.Log, live)
}

// A run, its journal, or both damaged between two calls of Run: the second
// begins again at what is whole. A run damaged while it is used is an error.
func TestDamagedRunsCostOnlyTime(t *testing.T) {
	h, live := recordedHistory(t, 9, 300)
	rng := rand.New(rand.NewPCG(1, 1))
	rounds := 30
	if !testkit.Long() {
		rounds = 6
	}
	for round := range rounds {
		l := loadOf(t, h.Log)
		projector.LoadAllSorted(l, 800)
		if _, err := l.Run(t.Context(), &quitting{h.Log, 200}); !errors.Is(err, errQuit) {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(l.Scratch, "*", "*"))
		if err != nil || len(files) < 4 {
			t.Fatalf("%v %v", files, err)
		}
		damage(t, rng, files[rng.IntN(len(files))], round%3)
		if _, err := l.Run(t.Context(), h.Log); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		checkLoaded(t, l, h.Log, live)
	}
}

func damage(t *testing.T, rng *rand.Rand, path string, how int) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	switch how {
	case 0:
		raw[rng.IntN(len(raw))] ^= 1 << rng.IntN(8)
	case 1:
		raw = raw[:rng.IntN(len(raw))]
	case 2:
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The rules hold in the merge as they do event by event: the violation of the
// lowest seq is told, with the same words.
func TestALoadTellsTheSameViolation(t *testing.T) {
	for _, test := range seatbelts {
		t.Run(test.name, func(t *testing.T) {
			s := newScene()
			wrong := test.wrong(s)
			entry := s.Next(wrong)
			if wrong.Type == eventlog.EpochStarted && wrong.Barred != nil {
				entry.Event.Seq = eventlog.MakeSeq(s.Log.Last().Epoch()+1, 1)
			}
			s.Log.Append(entry)
			v := openViews(t, kv.InMemory(quiet), "", projector.Live)
			for i, p := range []projector.Projector{projector.Machines(), projector.Blocks()} {
				var want *projector.Violation
				if err := v.runners[i].CatchUp(t.Context(), s.Log); err != nil && !errors.As(err, &want) {
					t.Fatal(err)
				}
				for name, change := range loads {
					l := loadOf(t, s.Log)
					l.Projectors = []projector.Projector{p}
					change(l)
					_, err := l.Run(t.Context(), s.Log)
					var got *projector.Violation
					if want == nil && err == nil {
						continue
					}
					if want == nil || !errors.As(err, &got) {
						t.Errorf("%s: the load says %v, live %v", name, err, want)
						continue
					}
					if got.Seq != want.Seq || got.Rule != want.Rule && want.View != "machine" || got.Machine != want.Machine {
						t.Errorf("%s: the load says\n%v, live\n%v", name, got, want)
					}
					if there, err := l.Engine.Exists("views/" + p.Name()); err != nil || there {
						t.Errorf("%s: a view is there after a violation (%v)", name, err)
					}
				}
			}
		})
	}
}

func TestALoadFindsAWrongDigest(t *testing.T) {
	for name, change := range loads {
		t.Run(name, func(t *testing.T) {
			h, live := recordedHistory(t, 3, 100)
			states := live.states()
			states[1].Digest[7]++
			wrong := h.Record(states...)
			for range 50 {
				h.Step()
			}
			l := loadOf(t, h.Log)
			change(l)
			_, err := l.Run(t.Context(), h.Log)
			var violation *projector.Violation
			if !errors.As(err, &violation) || violation.Rule != projector.RuleDigest || violation.Seq != wrong.Seq || violation.View != "block" {
				t.Errorf("got %v, want a wrong digest at %s", err, wrong.Seq)
			}
		})
	}
}

func TestALoadGoesOnPastWhatIsTolerated(t *testing.T) {
	s := newScene()
	stored := s.Store(s.laptop, eventlog.KindData, nameB, 9, false)
	wrong := s.Next(s.block(eventlog.BlockStored, eventlog.KindData, nameB, 9))
	s.Log.Append(wrong)
	after := s.Next(s.undo(stored, nil))
	s.Log.Append(after)
	l := loadOf(t, s.Log)
	l.Projectors = l.Projectors[1:]
	if _, err := l.Run(t.Context(), s.Log); err == nil {
		t.Fatal("a live block was stored again")
	}
	var seen []string
	l.Tolerate = func(v *projector.Violation) bool {
		seen = append(seen, fmt.Sprintf("%s@%d", v.Rule, v.Seq))
		return true
	}
	done, err := l.Run(t.Context(), s.Log)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("[%s@%d]", projector.RuleStoreLive, wrong.Event.Seq); fmt.Sprint(seen) != want || done[0].Position != after.Event.Seq {
		t.Errorf("tolerated %v up to %s, want %s", seen, done[0].Position, want)
	}
}

func TestALoadNeedsToKnowItsEnd(t *testing.T) {
	h, _ := recordedHistory(t, 1, 20)
	l := loadOf(t, h.Log)
	l.Upto = 0
	if _, err := l.Run(t.Context(), h.Log); err == nil {
		t.Error("it took an unknown end for one")
	}
	l.Upto = h.Log.Last() + 1
	if _, err := l.Run(t.Context(), h.Log); err == nil {
		t.Error("it took the events' end for the one that it was told")
	}
	if there, _ := l.Engine.Exists("views/block"); there {
		t.Error("a view that is not whole took its place")
	}
}

// Views as of every event of a history are those that were live then.
func TestALoadStopsAtTheEventItIsTold(t *testing.T) {
	live := openViews(t, kv.InMemory(quiet), "", projector.Live)
	h := modeltest.NewHistory(4, live.states)
	for range 60 {
		h.Step()
	}
	entries := h.Log.Entries()
	for i := 0; i < len(entries); i += 7 {
		part := &modeltest.Log{}
		part.Append(entries[:i+1]...)
		then := openViews(t, kv.InMemory(quiet), "", projector.Live)
		then.catchUp(part)
		l := loadOf(t, part)
		projector.LoadAllSorted(l, 300)
		if _, err := l.Run(t.Context(), h.Log); err != nil {
			t.Fatal(err)
		}
		checkLoaded(t, l, part, then)
	}
}
