// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/internal/testkit"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

// What a recovery may meet, one of each kind for each history.
var (
	starts  = []string{"full", "checkpoint"}
	kills   = []string{"none", "phase boundary", "bucket call", "engine step"}
	indexes = []string{"none", "whole", "deleted", "truncated", "bit flipped", "stale"}
)

// circumstances are those of one history's recovery.
type circumstances struct{ start, kill, index string }

// allCircumstances are all of them together, in a random order that is always
// the same.
func allCircumstances() (all []circumstances) {
	for _, start := range starts {
		for _, kill := range kills {
			for _, index := range indexes {
				all = append(all, circumstances{start, kill, index})
			}
		}
	}
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// TestTheOracle is the whole promise in one place. For each of 200 random
// histories: whatever a recovery begins from, wherever its process is killed
// (and the next one, and the one after that), and whatever has become of the
// index objects, its digests and its rows are those of the live views, and of
// the model. Every history is recovered from the first event, too, and those that have checkpoints from each of
// them.
func TestTheOracle(t *testing.T) {
	const histories = 200
	all := allCircumstances()
	ran, died := map[string]int{}, map[string]int{}
	n := histories
	if !testkit.Long() {
		n /= 8
	}
	for seed := range uint64(n) {
		c := all[seed%uint64(len(all))]
		t.Run(fmt.Sprintf("seed %d, start %s, kill %s, index %s", seed, c.start, c.kill, c.index), func(t *testing.T) {
			deaths := underCircumstances(t, seed, c)
			ran["start "+c.start]++
			ran["kill "+c.kill]++
			ran["index "+c.index]++
			ran[fmt.Sprint(c)]++
			for _, at := range deaths {
				died["killed at "+at]++
			}
		})
	}
	t.Logf("%d histories, %d combinations: %v; killed: %v", n, len(all), perKind(ran), died)
	if !testkit.Long() || t.Failed() {
		return
	}
	for _, c := range all {
		if ran[fmt.Sprint(c)] == 0 {
			t.Errorf("%v ran zero times", c)
		}
	}
	for _, at := range []string{"begins: list", "begins: restore", "begins: project", "begins: merge", "begins: verify", "a bucket call", "open", "look", "move", "remove", "ingest", "flush"} {
		if !dead(died, at) {
			t.Errorf("no process was killed at %q", at)
		}
	}
}

func dead(died map[string]int, at string) bool {
	for place := range died {
		if strings.HasPrefix(place, "killed at "+at) {
			return true
		}
	}
	return false
}

// perKind are the counts without those of combinations.
func perKind(ran map[string]int) map[string]int {
	kinds := map[string]int{}
	for name, n := range ran {
		if !strings.HasPrefix(name, "{") {
			kinds[name] = n
		}
	}
	return kinds
}

// underCircumstances plays the history of seed, recovers it, and compares. It
// returns where processes were killed.
func underCircumstances(t *testing.T, seed uint64, c circumstances) (deaths []string) {
	rng := rand.New(rand.NewPCG(seed, 11))
	engine := kv.InMemory(quiet)
	if c.start == "checkpoint" {
		engine = kv.OnDisk(quiet)
	}
	w := newWorldOn(t, 7000+seed, engine)
	taken := w.play(rng, archiver.RunSize+5+rng.IntN(30), c.start == "checkpoint")
	var gone string
	if c.index != "none" {
		gone = w.reindex(rng, c.index)
	}
	w.whole()
	opts := w.options(w.bucket)
	opts.Memory = 3000 // sorted runs are spilled
	opts.Full = c.start == "full"
	result, deaths := w.untilDone(rng, opts, c.kill, gone)
	w.begunFrom(taken, result)
	w.compare(opts.Dir, result)
	for len(taken) > 1 { // and from those before
		w.bucket.Remove(manifestKey(taken[len(taken)-1].Seq))
		taken = taken[:len(taken)-1]
		opts = w.options(w.bucket)
		result, err := recovery.Run(t.Context(), opts)
		must(t, err)
		w.begunFrom(taken, result)
		w.compare(opts.Dir, result)
	}
	if c.start == "checkpoint" { // and from the first event all the same
		opts = w.options(w.bucket)
		opts.Memory, opts.Full = 3000, true
		result, err := recovery.Run(t.Context(), opts)
		must(t, err)
		w.compare(opts.Dir, result)
	}
	return deaths
}

// begunFrom checks that a recovery began from the last of the checkpoints that
// were taken.
func (w *world) begunFrom(taken []*Manifest, result *recovery.Result) {
	w.t.Helper()
	from := result.Checkpoint
	if (from != nil) != (len(taken) > 0) || from != nil && (from.Seq != taken[len(taken)-1].Seq || len(result.Fallbacks) != 0) {
		w.t.Errorf("it began from %+v after %v", from, result.Fallbacks)
	}
}

// play plays a history of at least so many events, each archived as an object
// of its own, and takes checkpoints at random moments of it if it is to.
func (w *world) play(rng *rand.Rand, events int, checkpoints bool) (taken []*Manifest) {
	w.t.Helper()
	var at []int
	for range 1 + rng.IntN(3) {
		at = append(at, 10+rng.IntN(events-20))
	}
	slices.Sort(at)
	for n := 0; n < events; n = len(w.history.Log.Entries()) {
		w.history.Step()
		w.place(n)
		must(w.t, projector.CatchUp(w.t.Context(), w.history.Log, w.runners...))
		if checkpoints && len(taken) < len(at) && n >= at[len(taken)] {
			w.shipEach()
			taker := w.taker(w.bucket, Schedule{Keep: len(at)})
			must(w.t, taker.take(w.t.Context(), true))
			taken = append(taken, taker.last)
		}
	}
	w.shipEach()
	return taken
}

// place says of the events after the first n where their payloads come to lie,
// before a view hears of them.
func (w *world) place(n int) {
	for i, entries := n, w.history.Log.Entries(); i < len(entries); i++ {
		if p := &entries[i].Placement; p.Length > 0 {
			p.Ordinal, p.Offset = uint64(i+1), uint64(len(eventlog.ObjectMagic))
		}
	}
}

// placed is the object of one event, with nothing but zeros for its payload.
func placed(ordinal uint64, entry eventlog.Entry) []byte {
	seq, n := entry.Event.Seq, entry.Placement.Length
	data := append([]byte(eventlog.ObjectMagic), make([]byte, n)...)
	trailer := eventlog.Trailer{LogID: logID, Epoch: seq.Epoch(), Writer: writer, FirstOrdinal: ordinal, LastOrdinal: ordinal,
		First: seq, Last: seq, PayloadBytes: n, PayloadSum: eventlog.Checksum(data), ClosedAt: entry.Event.Time}
	return eventlog.AppendMetadata(data, &trailer, []eventlog.Entry{entry}, nil, 0)
}

// shipEach archives each event that is not archived as an object of its own.
func (w *world) shipEach() {
	for _, entry := range w.history.Log.Entries()[w.entries:] {
		w.entries++
		next := w.lastOrdinal() + 1
		w.bucket.Set(archiver.Shipped(next).Key(), placed(next, entry))
		w.change(func() { w.objects, w.archived = int(next), entry.Event.Seq })
	}
}

// reindex writes the index object of the first run, and breaks it. gone is its
// key when it is deleted after it was listed.
func (w *world) reindex(rng *rand.Rand, how string) (gone string) {
	w.t.Helper()
	key := archiver.IndexInfo{Run: 1}.Key()
	whole := indexed(w.t, w.bucket.Clone(), key)
	switch how {
	case "whole":
		w.bucket.Set(key, whole)
	case "deleted": // before it is listed, or after that
		if rng.IntN(2) == 0 {
			w.bucket.Set(key, whole)
			gone = key
		}
	case "truncated":
		w.bucket.Set(key, whole[:rng.IntN(len(whole))])
	case "bit flipped":
		w.bucket.Set(key, whole)
		w.bucket.Flip(key, rng.IntN(8*len(whole)))
	case "stale": // of the objects as they were before one of them was another
		ordinal := 1 + rng.Uint64N(archiver.RunSize)
		was := w.history.Log.Entries()[ordinal-1]
		was.Placement = eventlog.Placement{}
		was.Event = eventlog.Event{Seq: was.Event.Seq, Time: was.Event.Time, Type: eventlog.AccountOpened, Name: strings.Repeat("another time", 20)}
		was.Raw = eventlog.AppendEvent(nil, &was.Event)
		before := w.bucket.Clone()
		before.Set(archiver.Shipped(ordinal).Key(), placed(ordinal, was))
		w.bucket.Set(key, indexed(w.t, before, key))
	default:
		w.t.Fatalf("an index object that is %s", how)
	}
	return gone
}

// indexed returns the index object that belongs to what bucket holds.
func indexed(t *testing.T, bucket *buckettest.Memory, key string) []byte {
	t.Helper()
	archive := archiver.At(bucket, logID)
	archive.SetLogger(quiet)
	must(t, archive.RebuildIndex(t.Context(), t.TempDir(), 1, func(r archiver.RunReport) error { return r.Err }))
	data, ok := bucket.Get(key)
	if !ok {
		t.Fatalf("there is no %s", key)
	}
	return data
}

// untilDone recovers, and goes on for as long as processes are killed, which at
// most three are.
func (w *world) untilDone(rng *rand.Rand, opts recovery.Options, kill, gone string) (result *recovery.Result, deaths []string) {
	w.t.Helper()
	for lives := 0; ; lives++ {
		p := &process{Engine: w.engine, kill: kill, left: deadline(rng, kill), done: rng.IntN(2) == 0}
		if kill == "engine step" && rng.IntN(2) == 0 { // those that many others hide
			p.only, p.left = []string{"ingest", "flush", "move", "remove"}[rng.IntN(4)], rng.IntN(2)
		}
		if lives == 3 || lives > 0 && rng.IntN(2) == 0 {
			p.kill = "none"
		}
		result, err := p.run(w, opts, gone)
		if !p.died {
			must(w.t, err)
			if later := len(deaths) > 0 && strings.HasPrefix(deaths[0], "begins: ") && deaths[0] != "begins: list"; later && !result.Resumed {
				w.t.Errorf("killed at %q, it does not say that it was resumed", deaths)
			}
			return result, deaths
		}
		if err == nil {
			w.t.Fatalf("killed at %q, it says %+v", p.at, result)
		}
		deaths = append(deaths, p.at)
	}
}

// deadline is how many of its calls a process may make.
func deadline(rng *rand.Rand, kill string) int {
	switch kill {
	case "phase boundary":
		return rng.IntN(4)
	case "bucket call":
		return rng.IntN([]int{8, 40, 250}[rng.IntN(3)])
	default:
		return rng.IntN(20)
	}
}

// compare compares what was recovered into dir with the live views, digests
// and rows, and with the model.
func (w *world) compare(dir string, result *recovery.Result) {
	w.t.Helper()
	machines, err := projector.OpenMachineView(w.engine, filepath.Join(dir, "machine"), projector.ReadOnly, quiet)
	must(w.t, err)
	blocks, err := projector.OpenBlockView(w.engine, filepath.Join(dir, "block"), projector.ReadOnly, quiet)
	must(w.t, err)
	defer func() { must(w.t, errors.Join(machines.Close(), blocks.Close())) }()
	for i, got := range []*projector.View{machines.View, blocks.View} {
		live := w.views()[i]
		seq, digest := live.Digest()
		if s, d := got.Digest(); s != seq || d != digest || result.Views[i].Digest != digest {
			w.t.Fatalf("the %s view is %s at %s, live %s at %s", live.Name(), d, s, digest, seq)
		}
		if want, got := rows(w.t, live), rows(w.t, got); got != want {
			w.t.Fatalf("the %s view has the rows\n%s\nlive\n%s", live.Name(), got, want)
		}
	}
	model := modeltest.NewModel()
	for _, entry := range w.history.Log.Entries() {
		model.Apply(&entry)
	}
	must(w.t, model.Check(w.t.Context(), machines, blocks))
}

func rows(t *testing.T, v *projector.View) string {
	var all strings.Builder
	for row, err := range v.Rows(t.Context()) {
		must(t, err)
		fmt.Fprintf(&all, "%s %x %s %s %x\n", row.Table.Name, row.Key, row.Seq, row.Deleted, row.Value)
	}
	return all.String()
}

var errKilled = errors.New("killed")

// process recovers, and dies at its last call of one kind: before what it
// asked for is done, or after it and before it hears of it. From then on
// nothing works. It is the engine, the way to the bucket and the progress of
// that recovery.
type process struct {
	projector.Engine
	kill string // the kind of calls that are counted
	only string // and their name; "": any
	done bool   // the last call is done

	mu   sync.Mutex
	left int                // calls until the last; owned by mu
	died bool               // owned by mu until run has returned
	at   string             // the last call; as died
	end  context.CancelFunc // of what still runs
}

// run runs a recovery in p. gone is a key that is listed and not there.
func (p *process) run(w *world, opts recovery.Options, gone string) (*recovery.Result, error) {
	ctx, end := context.WithCancel(w.t.Context())
	defer end()
	p.end = end
	bucket := buckettest.NewFaulty(w.bucket)
	bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
		return p.step("bucket call", "a bucket call", func() error {
			if op == buckettest.Get && key == gone {
				return archiver.ErrNotFound
			}
			return nil
		})
	}})
	archive := archiver.At(bucket, logID)
	archive.SetLogger(quiet)
	opts.Archive, opts.Engine = archive, p
	opts.Checkpoints = &Shelf{Archive: archive, Engine: p, Scratch: filepath.Join(opts.Scratch, "restore")}
	opts.Progress = progress.New(nil, slog.New(boundary{slog.DiscardHandler, p}))
	defer opts.Progress.Close()
	return recovery.Run(ctx, opts)
}

// step does what it is given, unless the process is dead.
func (p *process) step(kind, name string, do func() error) error {
	p.mu.Lock()
	dead := p.died
	if !dead && kind == p.kill && (p.only == "" || p.only == name) {
		p.left--
		p.died = p.left < 0
	}
	dies := p.died && !dead
	if dies {
		p.at = name
		p.end()
	}
	p.mu.Unlock()
	switch {
	case dies && p.done:
		return errors.Join(errKilled, do())
	case dies || dead:
		return errKilled
	default:
		return do()
	}
}

// boundary is where a process hears of its phases.
type boundary struct {
	slog.Handler
	process *process
}

func (b boundary) Enabled(context.Context, slog.Level) bool { return true }

func (b boundary) Handle(_ context.Context, r slog.Record) error {
	if !strings.HasPrefix(r.Message, "begins: ") {
		return nil
	}
	return b.process.step("phase boundary", r.Message, func() error { return nil })
}

func (p *process) Open(dir string, use projector.Use) (projector.Store, error) {
	var store projector.Store
	err := p.step("engine step", "open", func() (err error) {
		store, err = p.Engine.Open(dir, use)
		return err
	})
	if err != nil && store != nil {
		return nil, errors.Join(err, store.Close())
	}
	if err != nil {
		return nil, err
	}
	return &processStore{store, p}, nil
}

func (p *process) Exists(dir string) (there bool, err error) {
	err = p.step("engine step", "look", func() (err error) {
		there, err = p.Engine.Exists(dir)
		return err
	})
	return there, err
}

func (p *process) Move(from, to string) error {
	return p.step("engine step", "move", func() error { return p.Engine.Move(from, to) })
}

func (p *process) Remove(dir string) error {
	return p.step("engine step", "remove", func() error { return p.Engine.Remove(dir) })
}

type processStore struct {
	projector.Store
	process *process
}

func (s *processStore) Ingest(ctx context.Context, names []string) error {
	return s.process.step("engine step", "ingest", func() error { return s.Store.Ingest(ctx, names) })
}

func (s *processStore) Flush() error { return s.process.step("engine step", "flush", s.Store.Flush) }
