// SPDX-License-Identifier: Apache-2.0

package projector_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

var update = flag.Bool("update", false, "write testdata/copy-v1.golden anew")

// exported returns a copy of a view.
func exported(t testing.TB, view *projector.View) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := view.Export(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestACopyIsTheViewAsItWas(t *testing.T) {
	engine := kv.InMemory(quiet)
	h, live := recordedHistory(t, 5, 300)
	for _, view := range []*projector.View{live.machines.View, live.blocks.View} {
		p := projectorOf(view)
		position, err := projector.Import(t.Context(), engine, "copy/"+view.Name(), p, bytes.NewReader(exported(t, view)))
		if err != nil || position != view.Position() {
			t.Fatalf("%s, %v", position, err)
		}
		copied := openView(t, engine, "copy/"+view.Name(), p, projector.Live)
		sameRows(t, copied, view)
		keptSeq, kept := view.Kept()
		if seq, sum := copied.Kept(); seq != keptSeq || sum != kept {
			t.Errorf("the copy keeps %s %s, the view %s %s", seq, sum, keptSeq, kept)
		}
		// It goes on as any other view does.
		h.Step()
		if err := projector.NewRunner(copied, quiet).CatchUp(t.Context(), h.Log); err != nil {
			t.Error(err)
		}
		_, want := copied.Digest()
		var counting sync.Mutex
		told, total := 0, 0
		_, same, err := copied.RecomputeTelling(t.Context(), func(n, of int) {
			counting.Lock()
			defer counting.Unlock()
			told, total = told+n, of
		})
		if err != nil || same != want || told == 0 || told != total {
			t.Errorf("told of %d ranges of %d, %s, %v", told, total, same, err)
		}
		if position, rows, err := copied.Recompute(t.Context()); err != nil || position != h.Log.Last() || rows != want {
			t.Errorf("%s %s, want %s: %v", position, rows, want, err)
		}
		closeView(t, copied)
	}
}

func projectorOf(view *projector.View) projector.Projector {
	if view.Name() == projector.Machines().Name() {
		return projector.Machines()
	}
	return projector.Blocks()
}

func TestAViewMayMoveWhileItIsCopied(t *testing.T) {
	engine := kv.InMemory(quiet)
	h, live := recordedHistory(t, 6, 100)
	view := live.blocks.View
	before, digest := view.Digest()
	var out bytes.Buffer
	moved := false
	err := view.Export(t.Context(), writerFunc(func(b []byte) (int, error) {
		if !moved { // between the first bytes and the rest
			moved = true
			for range 50 {
				h.Step()
			}
			live.catchUp(h.Log)
		}
		return out.Write(b)
	}))
	if err != nil || view.Position() == before {
		t.Fatal(view.Position(), err)
	}
	if position, err := projector.Import(t.Context(), engine, "copy", projector.Blocks(), &out); err != nil || position != before {
		t.Fatalf("%s, want %s: %v", position, before, err)
	}
	copied := openView(t, engine, "copy", projector.Blocks(), projector.ReadOnly)
	defer closeView(t, copied)
	if _, rows, err := copied.Recompute(t.Context()); err != nil || rows != digest {
		t.Errorf("%s, want %s: %v", rows, digest, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestACopyThatIsNotWholeMakesNoView(t *testing.T) {
	whole := exported(t, goldenView(t))
	for i := range whole { // any byte flipped
		bad := bytes.Clone(whole)
		bad[i] ^= 0x41
		refusesCopy(t, bytes.NewReader(bad), projector.ErrCopy)
	}
	for i := range whole { // cut off anywhere
		refusesCopy(t, bytes.NewReader(whole[:i]), projector.ErrCopy)
	}
	refusesCopy(t, io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), failingReader{}), errSick)
	if _, err := projector.Import(t.Context(), kv.InMemory(quiet), "copy", projector.Machines(), bytes.NewReader(whole)); !errors.Is(err, projector.ErrUnusable) {
		t.Errorf("another view's copy: %v", err)
	}
	later := versioned{projector.Blocks(), projector.Blocks().Version() + 1}
	if _, err := projector.Import(t.Context(), kv.InMemory(quiet), "copy", later, bytes.NewReader(whole)); !errors.Is(err, projector.ErrUnusable) {
		t.Errorf("another version's copy: %v", err)
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errSick }

// sharedEngine saves making a file system for each of many refusals.
var sharedEngine = kv.InMemory(quiet)

func refusesCopy(t *testing.T, r io.Reader, want error) {
	t.Helper()
	if _, err := projector.Import(t.Context(), sharedEngine, "refused", projector.Blocks(), r); !errors.Is(err, want) {
		t.Fatalf("%v, want %v", err, want)
	}
	if there, err := sharedEngine.Exists("refused"); err != nil || there {
		t.Fatalf("something is left: %v, %v", there, err)
	}
}

func TestACopyNeverReplacesAView(t *testing.T) {
	_, live := recordedHistory(t, 8, 20)
	copied := exported(t, live.blocks.View)
	if _, err := projector.Import(t.Context(), live.engine, "views/block", projector.Blocks(), bytes.NewReader(copied)); err == nil {
		t.Error("a view was replaced")
	}
	if there, err := live.engine.Exists("views/block"); err != nil || !there {
		t.Errorf("a view was removed: %v, %v", there, err)
	}
}

func TestExportSaysThatNobodyTakesIt(t *testing.T) {
	_, live := recordedHistory(t, 8, 20)
	for n := range 3 { // the magic, the rows, the end
		left := n
		err := live.blocks.Export(t.Context(), writerFunc(func(b []byte) (int, error) {
			if left--; left < 0 {
				return 0, errSick
			}
			return len(b), nil
		}))
		if !errors.Is(err, errSick) {
			t.Errorf("write %d: %v", n, err)
		}
	}
}

func TestCopyLeavesTheViewAlone(t *testing.T) {
	_, live := recordedHistory(t, 9, 80)
	live.close()
	engine := live.engine
	for range 2 { // the second one finds the place taken
		position, err := projector.Copy(t.Context(), engine, "views/block", "to/block", projector.Blocks(), quiet)
		if position == 0 {
			if err == nil {
				t.Error("copied over a view")
			}
			break
		}
		d, err := projector.Compare(t.Context(), engine, "views/block", "to/block", projector.Blocks(), quiet)
		if err != nil || !d.Equal() || d.A.Position != position {
			t.Errorf("%+v, %v", d, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := projector.Copy(ctx, engine, "views/block", "late/block", projector.Blocks(), quiet); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := projector.Copy(t.Context(), engine, "nowhere", "none/block", projector.Blocks(), quiet); err == nil {
		t.Error("copied nothing")
	}
}

// goldenView is a view of a fixed history.
func goldenView(t testing.TB) *projector.View {
	t.Helper()
	s := newScene()
	v := openViews(t, kv.InMemory(quiet), "", projector.Live)
	v.catchUp(s.Log)
	return v.blocks.View
}

func TestTheFormatOfACopyIsPinned(t *testing.T) {
	name := filepath.Join("testdata", "copy-v1.golden")
	got := exported(t, goldenView(t))
	if *update {
		if err := os.WriteFile(name, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("a copy is now\n%x, was\n%x", got, want)
	}
	if _, err := projector.Import(t.Context(), kv.InMemory(quiet), "copy", projector.Blocks(), bytes.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func FuzzImport(f *testing.F) {
	f.Add(exported(f, goldenView(f)))
	f.Add([]byte("SLVC1\r\n\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		engine := kv.InMemory(quiet)
		if _, err := projector.Import(t.Context(), engine, "copy", projector.Blocks(), bytes.NewReader(data)); err != nil {
			return
		}
		// What is taken in is what comes out again.
		view := openView(t, engine, "copy", projector.Blocks(), projector.ReadOnly)
		defer closeView(t, view)
		var again bytes.Buffer
		if err := view.Export(t.Context(), &again); err != nil {
			t.Fatal(err)
		}
		if _, err := projector.Import(t.Context(), engine, "again", projector.Blocks(), &again); err != nil {
			t.Fatal(err)
		}
	})
}

// logOf makes a log of events for FindFork.
func logOf(s *modeltest.Log, upto eventlog.Seq) *modeltest.Log {
	var log modeltest.Log
	for _, entry := range s.Entries() {
		if entry.Event.Seq <= upto {
			log.Append(entry)
		}
	}
	return &log
}

func TestFindForkNamesTheFirstEventThatDiffers(t *testing.T) {
	a, b := randomLog(11, 200).Log, randomLog(11, 200).Log // the same
	last := a.Last()
	if fork, err := projector.FindFork(t.Context(), a, b, eventlog.FirstSeq); !errors.Is(err, projector.ErrNoFork) {
		t.Errorf("equal logs: %+v, %v", fork, err)
	}
	if fork, err := projector.FindFork(t.Context(), a, logOf(b, last-7), eventlog.FirstSeq); !errors.Is(err, projector.ErrNoFork) {
		t.Errorf("a prefix: %+v, %v", fork, err)
	}
	entries := b.Entries()
	for _, at := range []int{0, 1, len(entries) / 2, len(entries) - 1} {
		var other, hole modeltest.Log
		for i := range entries {
			entry := entries[i]
			if i != at {
				hole.Append(entry)
			} else {
				entry.Event.Time++
				entry.Raw = eventlog.AppendEvent(nil, &entry.Event)
			}
			other.Append(entry)
		}
		want, before := entries[at].Event.Seq, eventlog.Seq(0)
		if at > 0 {
			before = entries[at-1].Event.Seq
		}
		fork, err := projector.FindFork(t.Context(), a, &other, eventlog.FirstSeq)
		if err != nil || fork.Seq != want || fork.A.Seq != want || fork.B.Seq != want || fork.Common != before {
			t.Errorf("another event %s: %+v, %v", want, fork, err)
		}
		for from, common := range map[eventlog.Seq]eventlog.Seq{max(before, eventlog.FirstSeq): before, want: 0} {
			fork, err := projector.FindFork(t.Context(), a, &other, from)
			if err != nil || fork.Seq != want || fork.Common != common {
				t.Errorf("from %s on: %+v, %v", from, fork, err)
			}
		}
		if at == len(entries)-1 {
			continue // then it is a prefix
		}
		fork, err = projector.FindFork(t.Context(), &hole, a, eventlog.FirstSeq)
		if err != nil || fork.Seq != want || fork.A.Seq <= want || fork.B.Seq != want || fork.Common != before {
			t.Errorf("event %s missing: %+v, %v", want, fork, err)
		}
	}
}

func TestFindForkPassesWhatWasCleanedAway(t *testing.T) {
	s := newScene()
	doomed := s.Store(s.laptop, eventlog.KindData, nameB, 7, false)
	undo := s.Delete(s.laptop, eventlog.KindData, nameB)
	s.Store(s.laptop, eventlog.KindData, nameB, 8, false)
	cleaned := without(s, func(e eventlog.Event) bool { return e.Seq == doomed.Seq || e.Seq == undo.Seq }, one(doomed.Seq), one(undo.Seq))
	for _, pair := range [][2]projector.Source{{s.Log, cleaned}, {cleaned, s.Log}} {
		if fork, err := projector.FindFork(t.Context(), pair[0], pair[1], eventlog.FirstSeq); !errors.Is(err, projector.ErrNoFork) {
			t.Errorf("%+v, %v", fork, err)
		}
	}
}

func TestFindForkSaysWhichLogCannotBeRead(t *testing.T) {
	log := randomLog(12, 50).Log
	if _, err := projector.FindFork(t.Context(), log, &failing{log: log, err: errSick}, eventlog.FirstSeq); !errors.Is(err, errSick) {
		t.Error(err)
	}
}

func TestEventAtTellsNoneFromUnread(t *testing.T) {
	log := randomLog(13, 50).Log
	for _, entry := range log.Entries() {
		if found, err := projector.EventAt(t.Context(), log, entry.Event.Seq); err != nil || found.Event.Seq != entry.Event.Seq {
			t.Errorf("%s: %+v, %v", entry.Event.Seq, found, err)
		}
	}
	if found, err := projector.EventAt(t.Context(), log, log.Last()+1); err != nil || found != nil {
		t.Errorf("after the end: %+v, %v", found, err)
	}
	if found, err := projector.EventAt(t.Context(), &failing{log: log, err: errSick}, log.Last()); found != nil || !errors.Is(err, errSick) {
		t.Errorf("not read: %+v, %v", found, err)
	}
}
