// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	quiet  = slog.New(slog.DiscardHandler)
	logID  = eventlog.ID{1, 2, 3}
	writer = eventlog.ID{4}
)

// world is a server that was lost: its archive, its history, its last views.
type world struct {
	t        *testing.T
	bucket   *buckettest.Memory
	history  *modeltest.History
	engine   projector.Engine
	machines *projector.MachineView
	blocks   *projector.BlockView
	objects  int
	payloads bool // are put into objects, as bytes of zero
}

// newWorld plays a random history of so many steps on live views, which record
// their digests, and archives it in objects of random sizes.
func newWorld(t *testing.T, seed uint64, steps int) *world {
	t.Helper()
	w := &world{t: t, bucket: buckettest.NewMemory(), engine: kv.InMemory(quiet)}
	w.machines, w.blocks = open(t, w.engine, "live")
	t.Cleanup(func() { must(t, errors.Join(w.machines.Close(), w.blocks.Close())) })
	runners := []*projector.Runner{projector.NewRunner(w.machines.View, quiet), projector.NewRunner(w.blocks.View, quiet)}
	w.history = modeltest.NewHistory(seed, func() []eventlog.ViewState {
		return []eventlog.ViewState{recorded(w.machines.View), recorded(w.blocks.View)}
	})
	for range steps {
		w.history.Step()
		must(t, projector.CatchUp(t.Context(), w.history.Log, runners...))
	}
	w.archive(rand.New(rand.NewPCG(seed, 77)), w.history.Log.Entries())
	return w
}

func recorded(v *projector.View) eventlog.ViewState {
	seq, digest := v.Kept()
	if seq == 0 {
		seq, digest = v.Digest()
	}
	return eventlog.ViewState{Name: v.Name(), Version: v.Version(), Digest: digest, AsOf: seq}
}

func open(t testing.TB, engine projector.Engine, dir string) (*projector.MachineView, *projector.BlockView) {
	t.Helper()
	machines, err := projector.OpenMachineView(engine, filepath.Join(dir, "machine"), projector.Live, quiet)
	must(t, err)
	blocks, err := projector.OpenBlockView(engine, filepath.Join(dir, "block"), projector.Live, quiet)
	must(t, err)
	return machines, blocks
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// archive puts the entries into objects. Their payloads are left out: a
// recovery that read one would find none.
func (w *world) archive(rng *rand.Rand, entries []eventlog.Entry) {
	must(w.t, archiver.Init(w.t.Context(), w.bucket, logID, time.Unix(0, entries[0].Event.Time)))
	for len(entries) > 0 {
		n := min(1+rng.IntN(12), len(entries))
		w.objects++
		w.put(uint64(w.objects), entries[:n])
		entries = entries[n:]
	}
}

func (w *world) put(ordinal uint64, entries []eventlog.Entry) {
	part := make([]eventlog.Entry, len(entries))
	object := []byte(eventlog.ObjectMagic)
	for i, e := range entries {
		part[i] = eventlog.Entry{Event: e.Event, Raw: e.Raw}
		if p := e.Placement; w.payloads && p.Length > 0 {
			part[i].Placement = eventlog.Placement{Offset: uint64(len(object)), Length: p.Length, Sums: p.Sums}
			object = append(object, make([]byte, p.Length)...) // nobody reads it
		}
		if part[i].Raw == nil {
			part[i].Raw = eventlog.AppendEvent(nil, &e.Event)
		}
	}
	last := entries[len(entries)-1].Event
	trailer := eventlog.Trailer{LogID: logID, Epoch: last.Seq.Epoch(), Writer: writer, FirstOrdinal: ordinal, LastOrdinal: ordinal,
		First: entries[0].Event.Seq, Last: last.Seq, PayloadBytes: uint64(len(object) - len(eventlog.ObjectMagic)), PayloadSum: eventlog.Checksum(object), ClosedAt: last.Time}
	w.bucket.Set(archiver.Shipped(ordinal).Key(), eventlog.AppendMetadata(object, &trailer, part, nil, 0))
}

// options is a recovery of w into dir.
func (w *world) options(dir string) Options {
	return Options{Archive: archiver.At(w.bucket, logID), Engine: w.engine, Dir: dir, Scratch: filepath.Join(w.t.TempDir(), "scratch"), Log: quiet, Memory: 3000}
}

// check compares what was recovered into dir with the live views, row by row.
func (w *world) check(dir string, result *Result) {
	w.t.Helper()
	machines, blocks := open(w.t, w.engine, dir)
	defer func() { must(w.t, errors.Join(machines.Close(), blocks.Close())) }()
	for i, pair := range [][2]*projector.View{{w.machines.View, machines.View}, {w.blocks.View, blocks.View}} {
		seq, digest := pair[0].Digest()
		if s, d := pair[1].Digest(); s != seq || d != digest || result.Views[i].Digest != digest {
			w.t.Fatalf("the %s view is %s at %s, live %s at %s", pair[0].Name(), d, s, digest, seq)
		}
		compared, skipped := pair[0].Recorded()
		if v := result.Views[i]; v.Compared != compared || v.Skipped != skipped {
			w.t.Errorf("the %s view compared %d and skipped %d, live %d and %d", v.View, v.Compared, v.Skipped, compared, skipped)
		}
		if live, got := rows(w.t, pair[0]), rows(w.t, pair[1]); live != got {
			w.t.Fatalf("the %s view has the rows\n%s\nlive\n%s", pair[0].Name(), got, live)
		}
	}
}

func rows(t *testing.T, v *projector.View) string {
	var all strings.Builder
	for row, err := range v.Rows(t.Context()) {
		must(t, err)
		fmt.Fprintf(&all, "%s %x %s %s %x\n", row.Table.Name, row.Key, row.Seq, row.Deleted, row.Value)
	}
	return all.String()
}

func seeds(n uint64) uint64 {
	if !testkit.Long() {
		return n / 8
	}
	return n
}

// Each phase of each run has a start, and an end unless the run broke off in
// it; a note of them that was edited refuses.
func TestEveryPhaseIsNotedAlsoOverAnInterruption(t *testing.T) {
	w := newWorld(t, 5, 200)
	opts := w.options("new")
	opts.Engine = &mortal{Engine: w.engine, left: 6}
	if _, err := Run(t.Context(), opts); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	opts.Engine = w.engine
	path := filepath.Join(opts.Scratch, phasesName)
	good, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte(strings.Replace(string(good), "list", "lisp", 1)), 0o600))
	if _, err := Run(t.Context(), opts); !errors.Is(err, errNote) {
		t.Errorf("with an edited note: %v", err)
	}
	must(t, os.WriteFile(path, good, 0o600))
	result, err := Run(t.Context(), opts)
	must(t, err)
	var names []string
	for _, phase := range result.Phases {
		name := phase.Name
		if phase.Ended.IsZero() {
			name += " (broken off)"
		}
		names = append(names, name)
	}
	told := strings.Join(names, ", ")
	if !strings.HasPrefix(told, "list, project objects (broken off), list, project objects, merge rows, verify") && !strings.HasPrefix(told, "list, project objects, merge rows (broken off), list,") {
		t.Error(told)
	}
	event := result.Recovery()
	if event.Began != result.Phases[0].Began || event.Ended != result.Phases[len(result.Phases)-1].Ended || event.Upto != result.Last || event.Compared == 0 {
		t.Errorf("%+v", event)
	}
}

func TestWhatIsRecoveredIsWhatWasLost(t *testing.T) {
	for seed := range seeds(100) {
		w := newWorld(t, seed, 120)
		result, err := Run(t.Context(), w.options("new"))
		must(t, err)
		w.check("new", result)
		if result.Objects != w.objects || result.LastOrdinal != uint64(w.objects) || result.Last != w.history.Log.Last() || result.ArchiveEnd != result.Last || result.Resumed {
			t.Errorf("it says %+v", result)
		}
		if want := uint64(len(w.history.Log.Entries())); result.Events != want {
			t.Errorf("%d events, want %d", result.Events, want)
		}
	}
}

// killer ends a recovery after some calls of the bucket.
func (w *world) killedAfter(calls int) (bucket archiver.Bucket, ctx context.Context, killed func() bool) {
	ctx, kill := context.WithCancel(w.t.Context())
	w.t.Cleanup(kill)
	faulty := buckettest.NewFaulty(w.bucket)
	var left atomic.Int64
	left.Store(int64(calls))
	faulty.Set(buckettest.Hooks{Before: func(context.Context, buckettest.Op, string) error {
		if left.Add(-1) < 0 {
			kill()
		}
		return ctx.Err()
	}})
	return faulty, ctx, func() bool { return ctx.Err() != nil }
}

func TestARecoveryKilledAnywhereIsResumed(t *testing.T) {
	for seed := range seeds(40) {
		w := newWorld(t, 1000+seed, 120)
		opts := w.options("new")
		rng := rand.New(rand.NewPCG(seed, 5))
		kills := 0
		for {
			bucket, ctx, killed := w.killedAfter(3 + rng.IntN(2*w.objects))
			opts.Archive = archiver.At(bucket, logID)
			result, err := Run(ctx, opts)
			if err == nil {
				w.check("new", result)
				if kills > 3 && !result.Resumed {
					t.Error("it does not say that it was resumed")
				}
				break
			}
			if !killed() {
				t.Fatal(err)
			}
			if kills++; kills > 500 {
				t.Fatal("it does not get on")
			}
		}
	}
}

func TestAnArchiveThatGrowsMeanwhileIsRecoveredToItsEnd(t *testing.T) {
	w := newWorld(t, 7, 100)
	opts := w.options("new")
	bucket, ctx, _ := w.killedAfter(8)
	opts.Archive = archiver.At(bucket, logID)
	if _, err := Run(ctx, opts); err == nil {
		t.Fatal("it was not killed")
	}
	more := []eventlog.Entry{w.history.Next(eventlog.Event{Type: eventlog.AccountOpened, Name: "later"})}
	w.put(uint64(w.objects+1), more)
	opts.Archive = archiver.At(w.bucket, logID)
	result, err := Run(t.Context(), opts)
	must(t, err)
	w.history.Log.Append(more...)
	must(t, projector.CatchUp(t.Context(), w.history.Log, projector.NewRunner(w.machines.View, quiet), projector.NewRunner(w.blocks.View, quiet)))
	w.check("new", result)
	if !result.Resumed || result.LastOrdinal != uint64(w.objects+1) {
		t.Errorf("it says %+v", result)
	}
}

func TestAStateAsOfAnEventIsTheStateOfThen(t *testing.T) {
	w := newWorld(t, 9, 150)
	entries := w.history.Log.Entries()
	for i := 3; i < len(entries); i += len(entries) / 12 {
		part := &modeltest.Log{}
		part.Append(entries[:i+1]...)
		then := &world{t: t, engine: kv.InMemory(quiet), bucket: w.bucket}
		then.machines, then.blocks = open(t, then.engine, "live")
		must(t, projector.CatchUp(t.Context(), part, projector.NewRunner(then.machines.View, quiet), projector.NewRunner(then.blocks.View, quiet)))
		opts := then.options("new")
		opts.Until = entries[i].Event.Seq
		result, err := Run(t.Context(), opts)
		must(t, err)
		then.check("new", result)
		if result.Last != opts.Until || result.ArchiveEnd != w.history.Log.Last() {
			t.Errorf("it says %+v", result)
		}
		must(t, errors.Join(then.machines.Close(), then.blocks.Close()))
		at, err := At(t.Context(), opts.Archive, time.Unix(0, entries[i].Event.Time))
		if err != nil || at != opts.Until {
			t.Errorf("the time of %s is that of %s, %v", opts.Until, at, err)
		}
	}
	for _, until := range []eventlog.Seq{w.history.Log.Last() + 1, eventlog.MakeSeq(1, 1<<20)} {
		opts := w.options("never")
		opts.Until = until
		if _, err := Run(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "there is no event "+until.String()) {
			t.Errorf("up to %s: %v", until, err)
		}
	}
}

// Every object but the last, which nothing else names, is missed when it is
// gone; every damaged one is named.
func TestAMissingOrDamagedObjectIsNamed(t *testing.T) {
	w := newWorld(t, 3, 60)
	for ordinal := uint64(1); ordinal <= uint64(w.objects); ordinal++ {
		t.Run(fmt.Sprint(ordinal), func(t *testing.T) {
			t.Parallel() // a hole is looked for again, with pauses
			key, last := archiver.Shipped(ordinal).Key(), ordinal == uint64(w.objects)
			gone := &world{t: t, engine: kv.InMemory(quiet), bucket: w.bucket.Clone()}
			gone.bucket.Remove(key)
			_, err := Run(t.Context(), gone.options("new"))
			var hole *archiver.HoleError
			if last != (err == nil) || !last && (!errors.As(err, &hole) || hole.First != ordinal || hole.Last != ordinal) {
				t.Errorf("without %s: %v", key, err)
			}
			if there, err := gone.engine.Exists("new/block"); err != nil || there != last {
				t.Errorf("without %s a view is there: %v, %v", key, there, err)
			}
			damaged := &world{t: t, engine: kv.InMemory(quiet), bucket: w.bucket.Clone()}
			data, _ := damaged.bucket.Get(key)
			damaged.bucket.Flip(key, 8*len(data)-8*eventlog.TrailerSize-5)
			_, err = Run(t.Context(), damaged.options("new"))
			if !errors.Is(err, eventlog.ErrObjectDamaged) || !strings.Contains(err.Error(), key) {
				t.Errorf("with %s damaged: %v", key, err)
			}
			if there, err := damaged.engine.Exists("new/block"); err != nil || there {
				t.Errorf("with %s damaged a view is there: %v", key, err)
			}
		})
	}
}

func TestAnEventThatBreaksARuleEndsTheRecoveryUnlessItIsTolerated(t *testing.T) {
	w := newWorld(t, 11, 60)
	wrong := w.history.Next(eventlog.Event{Type: eventlog.AccountOpened})
	w.put(uint64(w.objects+1), []eventlog.Entry{wrong})
	opts := w.options("new")
	var violation *projector.Violation
	_, err := Run(t.Context(), opts)
	if !errors.As(err, &violation) || violation.Seq != wrong.Event.Seq {
		t.Fatalf("got %v, want a violation of %s", err, wrong.Event.Seq)
	}
	if where := "the event lies in " + archiver.Shipped(uint64(w.objects+1)).Key(); !strings.Contains(err.Error(), where) {
		t.Errorf("it does not say %q: %v", where, err)
	}
	wide := archiver.Waiver{Rule: violation.Rule.String(), Scope: eventlog.Range{First: eventlog.FirstSeq, Last: wrong.Event.Seq}}
	elsewhere := archiver.Waiver{Rule: wide.Rule, Scope: eventlog.Range{First: eventlog.FirstSeq, Last: wrong.Event.Seq - 1}}
	otherwise := archiver.Waiver{Rule: projector.RuleTotals.String(), Scope: wide.Scope}
	opts.Waivers = []archiver.Waiver{elsewhere, otherwise}
	if _, err := Run(t.Context(), opts); !errors.As(err, &violation) || violation.Seq != wrong.Event.Seq {
		t.Fatalf("got %v, want a violation of %s, which nothing waives", err, wrong.Event.Seq)
	}
	opts.Waivers = []archiver.Waiver{elsewhere, otherwise, wide}
	result, err := Run(t.Context(), opts)
	must(t, err)
	if !slices.Equal(result.Waived, []archiver.Waiver{wide}) || result.Last != wrong.Event.Seq || !result.Resumed {
		t.Errorf("%+v", result)
	}
	asked := 0
	opts = w.options("all")
	opts.Tolerate = func(v *projector.Violation) bool {
		asked++
		return v.Seq == wrong.Event.Seq
	}
	result, err = Run(t.Context(), opts)
	must(t, err)
	if asked != 1 || result.Last != wrong.Event.Seq || len(result.Waived) != 0 {
		t.Errorf("asked %d times; %+v", asked, result)
	}
}

// What an interrupted recovery went on past is in the result of the one that
// goes on, and is not gone on from without the same waiver.
func TestAWaiverOutlivesAnInterruption(t *testing.T) {
	w := newWorld(t, 12, 60)
	wrong := w.history.Next(eventlog.Event{Type: eventlog.AccountOpened})
	w.put(uint64(w.objects+1), []eventlog.Entry{wrong})
	for n := range 8 { // far enough behind it for the views to be committed past it
		w.put(uint64(w.objects+2+n), []eventlog.Entry{w.history.Next(eventlog.Event{Type: eventlog.AccountOpened, Name: fmt.Sprint("later", n)})})
	}
	waiver := archiver.Waiver{Rule: projector.RuleForm.String(), Scope: eventlog.Range{First: wrong.Event.Seq, Last: wrong.Event.Seq}}
	opts := w.options("new")
	opts.Waivers = []archiver.Waiver{waiver}
	ctx, kill := context.WithCancel(t.Context())
	opts.Log = slog.New(killOn{slog.DiscardHandler, "waived", kill})
	if _, err := Run(ctx, opts); err == nil {
		t.Fatal("it was not killed")
	}
	opts.Log, opts.Waivers = quiet, nil
	if _, err := Run(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "waive the same again") {
		t.Errorf("without the waiver: %v", err)
	}
	opts.Waivers = []archiver.Waiver{waiver}
	for range 2 { // and once more, as after a crash before the end
		result, err := Run(t.Context(), opts)
		must(t, err)
		if !slices.Equal(result.Waived, opts.Waivers) || !result.Resumed {
			t.Errorf("%+v", result)
		}
	}
	path := filepath.Join(opts.Scratch, waiversName)
	must(t, os.WriteFile(path, []byte(`{"sha256":"","content":[]}`), 0o600))
	if _, err := Run(t.Context(), opts); !errors.Is(err, errNote) {
		t.Errorf("edited: %v", err)
	}
}

// A waiver that cannot be noted is not used.
func TestAWaiverThatCannotBeNotedEndsTheRecovery(t *testing.T) {
	w := &waivers{path: filepath.Join(t.TempDir(), "file", waiversName), log: quiet, granted: []archiver.Waiver{{Rule: "known-machine", Scope: eventlog.Range{First: 1, Last: 9}}}}
	must(t, os.WriteFile(filepath.Dir(w.path), nil, 0o600))
	if w.tolerate(&projector.Violation{Rule: projector.RuleMachine, Seq: 5}) || w.err == nil || len(w.used) != 0 {
		t.Errorf("used %v, %v", w.used, w.err)
	}
}

// killOn calls kill when a message begins with a word.
type killOn struct {
	slog.Handler
	word string
	kill func()
}

func (k killOn) Enabled(context.Context, slog.Level) bool { return true }
func (k killOn) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, k.word) {
		k.kill()
	}
	return nil
}

func TestWhatWasBegunOtherwiseIsNotGoneOnWith(t *testing.T) {
	w := newWorld(t, 13, 80)
	begin := func() Options {
		opts := w.options("new")
		bucket, ctx, _ := w.killedAfter(8)
		opts.Archive = archiver.At(bucket, logID)
		if _, err := Run(ctx, opts); err == nil {
			t.Fatal("it was not killed")
		}
		opts.Archive = archiver.At(w.bucket, logID)
		return opts
	}
	refused := func(opts Options, text string) {
		t.Helper()
		if _, err := Run(t.Context(), opts); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %q", err, text)
		}
	}
	opts := begin()
	opts.Until = w.history.Log.Entries()[5].Event.Seq
	refused(opts, "ask for the same, or name a new directory")

	opts = begin()
	opts.Archive = archiver.At(w.bucket, eventlog.ID{9})
	refused(opts, "name a new directory")

	for _, change := range []func(string) string{
		func(text string) string { return strings.Replace(text, `"objects":`, `"objects":1`, 1) },
		func(text string) string { return text[:len(text)/2] },
		func(string) string { return "" },
		func(string) string { return "{}" },
	} {
		opts = begin()
		path := filepath.Join(opts.Scratch, inputsName)
		raw, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, []byte(change(string(raw))), 0o600))
		refused(opts, "remove the directory and recover again")
	}

	opts = w.options("whole") // the note of what the views were made from is gone
	if _, err := Run(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	must(t, os.Remove(filepath.Join(opts.Scratch, inputsName)))
	refused(opts, "name a new directory")
	opts = begin() // the last object is another one of the same name
	w.bucket = w.bucket.Clone()
	entries := w.history.Log.Entries()
	trailer, footer, err := opts.Archive.Metadata(t.Context(), lastObject(t, opts.Archive))
	must(t, err)
	entries = entries[len(entries)-len(footer.Entries):]
	entries[0].Raw = append(entries[0].Raw, 0xf8, 7, 1) // a field of a later version
	w.bucket.Remove(archiver.Shipped(trailer.LastOrdinal).Key())
	w.put(trailer.LastOrdinal, entries)
	opts.Archive = archiver.At(w.bucket, logID)
	refused(opts, "this is not the archive that it was begun from")
	opts = begin() // and the archive's end is gone meanwhile
	w.bucket = w.bucket.Clone()
	w.bucket.Remove(archiver.Shipped(uint64(w.objects)).Key())
	opts.Archive = archiver.At(w.bucket, logID)
	if _, err := Run(t.Context(), opts); !errors.Is(err, archiver.ErrHole) {
		t.Errorf("got %v, want a hole at the end", err)
	}
}

func lastObject(t *testing.T, archive *archiver.Archive) archiver.ObjectInfo {
	t.Helper()
	objects, err := archive.Objects(t.Context(), 1)
	must(t, err)
	return objects[len(objects)-1]
}

// The inputs are noted last: with them, another note that is missing was
// removed, and what stood in it is not taken for nothing. Without them, what
// another note says was done was done for inputs that nobody knows.
func TestANoteThatWasRemovedIsMissed(t *testing.T) {
	w := newWorld(t, 14, 80)
	for _, name := range []string{waiversName, beginningName, phasesName} {
		for _, ended := range []bool{false, true} {
			opts := w.options(fmt.Sprint("new-", name, ended))
			if !ended { // as soon as the inputs are noted
				opts.Room = func(uint64) error { return errKilled }
			}
			if _, err := Run(t.Context(), opts); ended != (err == nil) {
				t.Fatal(err)
			}
			opts.Room = nil
			path := filepath.Join(opts.Scratch, name)
			kept, err := os.ReadFile(path)
			must(t, err)
			must(t, os.Remove(path))
			for range 2 { // the refusal makes no note either
				if _, err := Run(t.Context(), opts); err == nil || !strings.Contains(err.Error(), path+" is missing") || !strings.Contains(err.Error(), "name a new directory") {
					t.Errorf("without %s, ended %v: %v", name, ended, err)
				}
			}
			must(t, os.WriteFile(path, kept, 0o600))
			result, err := Run(t.Context(), opts)
			must(t, err)
			w.check(opts.Dir, result)
		}
	}
	waiver := archiver.Waiver{Rule: projector.RuleForm.String(), Scope: eventlog.Range{First: eventlog.FirstSeq, Last: eventlog.FirstSeq}}
	for name, content := range map[string]any{
		waiversName:   []archiver.Waiver{waiver},
		beginningName: &beginning{Version: beginningVersion, Fallbacks: []Fallback{{"checkpoint", "damaged"}}},
	} {
		opts := w.options("without-inputs")
		opts.Waivers = []archiver.Waiver{waiver}
		must(t, writeNote(filepath.Join(opts.Scratch, name), content))
		if _, err := Run(t.Context(), opts); err == nil || !strings.Contains(err.Error(), name+" is there") || !strings.Contains(err.Error(), "name a new directory") {
			t.Errorf("%s without the inputs: %v", name, err)
		}
	}
}

// No field of the inputs is ever taken for known when it is zero.
func TestUnknownInputsAreRefused(t *testing.T) {
	whole := inputs{Version: inputsVersion, LogID: logID, Objects: 1, LastOrdinal: 1, EndSum: "00", ArchiveEnd: eventlog.MakeSeq(1, 9), Upto: eventlog.MakeSeq(1, 9)}
	for name, change := range map[string]func(*inputs){
		"whole": func(*inputs) {}, "no log": func(in *inputs) { in.LogID = eventlog.ID{} }, "no objects": func(in *inputs) { in.Objects = 0 },
		"no last ordinal": func(in *inputs) { in.LastOrdinal = 0 }, "no end": func(in *inputs) { in.ArchiveEnd = 0 }, "no sum": func(in *inputs) { in.EndSum = "" },
		"no last event": func(in *inputs) { in.Upto = 0 }, "an event beyond the end": func(in *inputs) { in.Upto++ },
		"another version": func(in *inputs) { in.Version++ },
	} {
		in := whole
		change(&in)
		path := filepath.Join(t.TempDir(), "scratch", inputsName)
		must(t, in.store(path))
		got, err := loadInputs(path)
		if ok := name == "whole"; ok != (err == nil) || ok && *got != whole {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func FuzzInputs(f *testing.F) {
	f.Add([]byte(`{"sha256":"","content":{}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var in inputs
		if err := decodeNote("path", raw, &in); err == nil && in.check("path") == nil && in.Upto == 0 {
			t.Error("an unknown end was taken")
		}
	})
}

func TestASampleIsAPartOfIt(t *testing.T) {
	w := newWorld(t, 21, 200)
	archive := archiver.At(w.bucket, logID)
	found, err := Look(t.Context(), archive, nil, 0)
	if err != nil || found.Objects != w.objects || found.Last != w.history.Log.Last() || found.Events != uint64(len(w.history.Log.Entries())) {
		t.Fatalf("%+v, %v", found, err)
	}
	sampled, err := found.Sample(t.Context(), kv.OnDisk(quiet), t.TempDir(), nil, 0, 1<<40)
	must(t, err)
	if sampled.Objects != 1 || sampled.Events == 0 || sampled.Seconds < sampled.VerifySeconds || sampled.VerifySeconds <= 0 {
		t.Errorf("%+v", sampled)
	}

	// Of a state as of then, what comes later is no part.
	entries := w.history.Log.Entries()
	until := entries[len(entries)/2].Event.Seq
	then, err := Look(t.Context(), archive, nil, until)
	must(t, err)
	if then.Last != until || then.Objects >= found.Objects || then.Bytes >= found.Bytes || then.Events >= found.Events || then.Disk >= found.Disk {
		t.Errorf("as of %s: %+v, of all: %+v", until, then, found)
	}
	sampled, err = then.Sample(t.Context(), kv.OnDisk(quiet), t.TempDir(), nil, time.Hour, 1<<40)
	must(t, err)
	if all := uint64(len(entries)/2 + 1); sampled.Events+sampled.Tail != all {
		t.Errorf("as of %s %d events and %d more were sampled, want %d", until, sampled.Events, sampled.Tail, all)
	}
	if _, err := Look(t.Context(), archive, nil, w.history.Log.Last()+1); err == nil {
		t.Error("a plan for an event that is not there")
	}
}
