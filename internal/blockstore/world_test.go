// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
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
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	quiet     = slog.New(slog.DiscardHandler)
	testLogID = eventlog.ID{0: 7, 15: 1}
	laptop    = Path{"alice", "laptop"}
)

// world is a server's inside without its doors: the real log on a scratch
// directory, the real views in memory, an archive in memory, and a Store. Its
// archive can be away and its views can stand still or stop.
type world struct {
	t      testing.TB
	dir    string
	engine *kv.Engine
	bucket *buckettest.Memory
	faults *buckettest.Faulty
	opts   Options // what a test wants; the rest is filled in
	every  uint64  // of the recorder
	hold   bool    // start without serving
	limits eventlog.Limits

	epoch uint32
	last  eventlog.Seq
	time  int64
	next  uint64
	local []*eventlog.Generation

	*Store
	events   *eventlog.Log
	machines *projector.MachineView
	blocks   *projector.BlockView
	runners  []*projector.Runner
	recorder *Recorder
	away     *gate // of the shipper
	still    *gate // of the views
	stopView context.CancelFunc
	stopAll  context.CancelFunc
	tasks    sync.WaitGroup
	shipped  atomic.Uint64 // ordinal
	hook     atomic.Pointer[hook]
	archived eventlog.Seq
}

// hook stands between the Store and the log.
type hook func(ev eventlog.Event, body *eventlog.Body, real func(eventlog.Event, *eventlog.Body) promise) promise

// intercept puts h between the Store and the log, nil takes it away.
func (w *world) intercept(h hook) {
	if h == nil {
		w.hook.Store(nil)
		return
	}
	w.hook.Store(&h)
}

// gate can be shut: then whoever comes to it waits.
type gate struct {
	mu   sync.Mutex
	open chan struct{}
}

func newGate() *gate {
	g := &gate{open: make(chan struct{})}
	close(g.open)
	return g
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(chan struct{})
}

func (g *gate) lift() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.open)
}

func (g *gate) isOpen() bool {
	select {
	case <-g.way():
		return true
	default:
		return false
	}
}

func (g *gate) way() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// newWorld starts a server whose machine alice/laptop is registered.
func newWorld(t testing.TB, opts Options) *world {
	t.Helper()
	w := emptyWorld(t, opts)
	w.start(nil)
	must(t, w.Register(t.Context(), "test", laptop))
	return w
}

func emptyWorld(t testing.TB, opts Options) *world {
	w := &world{t: t, dir: scratch(t), engine: kv.InMemory(quiet), bucket: buckettest.NewMemory(), opts: opts, next: 1}
	w.faults = buckettest.NewFaulty(w.bucket)
	must(t, os.MkdirAll(filepath.Join(w.dir, "wal"), 0o700))
	t.Cleanup(w.stop)
	return w
}

// scratch is a directory on a file system without a disk, where one is at hand.
func scratch(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "blockstore-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// start starts the next epoch; with barred machines it is a lossy start.
func (w *world) start(barred []eventlog.Seq) {
	w.t.Helper()
	w.openViews()
	roster, err := NewRoster(context.Background(), w.machines)
	must(w.t, err)
	w.epoch++
	w.events, err = eventlog.Open(eventlog.Options{
		Dir: filepath.Join(w.dir, "wal"), Spool: filepath.Join(w.dir, "spool"),
		Head: eventlog.Head{LogID: testLogID, Writer: eventlog.ID{1}, Epoch: w.epoch}, Last: w.last, LastTime: w.time,
		NextOrdinal: w.next, Local: w.local, Archived: w.archived, Rules: roster, MaxAge: time.Hour, Limits: w.limits,
	})
	must(w.t, err)
	w.run()
	_, err = w.events.Append(eventlog.Event{Type: eventlog.EpochStarted, Actor: "server", Previous: w.last, Lossy: barred != nil, Barred: barred}, nil).Wait()
	must(w.t, err)
	if w.epoch == 1 {
		_, err = w.events.Append(eventlog.Event{Type: eventlog.LogCreated, Actor: "server", LogID: testLogID, Format: 1}, nil).Wait()
		must(w.t, err)
	}
	w.settle()
	w.openStore()
}

func (w *world) openViews() {
	var err error
	w.machines, err = projector.OpenMachineView(w.engine, "machine", projector.Live, quiet)
	must(w.t, err)
	w.blocks, err = projector.OpenBlockView(w.engine, "block", projector.Live, quiet)
	must(w.t, err)
	w.runners = []*projector.Runner{projector.NewRunner(w.machines.View, quiet), projector.NewRunner(w.blocks.View, quiet)}
}

// run starts what runs on the log: views, and a shipper to the bucket.
func (w *world) run() {
	w.away, w.still = newGate(), newGate()
	viewCtx, stopView := context.WithCancel(context.Background())
	all, stopAll := context.WithCancel(context.Background())
	w.stopView, w.stopAll = stopView, stopAll
	for _, runner := range w.runners {
		w.tasks.Go(func() { _ = runner.Run(viewCtx, &gatedSource{w.events, w.still}) })
		w.tasks.Go(func() { w.wake(all, runner) })
	}
	w.tasks.Go(func() { w.ship(all) })
}

// gatedSource yields nothing new while its gate is shut.
type gatedSource struct {
	log  *eventlog.Log
	gate *gate
}

func (s *gatedSource) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	if !s.gate.isOpen() {
		return func(func(eventlog.Batch, error) bool) {}
	}
	return s.log.ReadTo(ctx, from)
}

// wake wakes a view whenever it is behind, and again after 50 ms, as the feed
// does, until the view stops.
func (w *world) wake(ctx context.Context, runner *projector.Runner) {
	for w.events.WaitCommitted(ctx, runner.Position()) == nil {
		select {
		case <-w.still.way():
		case <-ctx.Done():
			return
		}
		runner.Wake()
		committed, _ := w.events.Committed()
		silence, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		err := runner.WaitApplied(silence, committed)
		cancel()
		if ctx.Err() != nil || err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return
		}
	}
}

// ship copies closed generations into the bucket while the archive is not
// away.
func (w *world) ship(ctx context.Context) {
	for {
		g, err := w.events.NextClosed(ctx, w.shipped.Load())
		if err != nil {
			return
		}
		select {
		case <-w.away.way():
		case <-ctx.Done():
			return
		}
		object, err := os.ReadFile(g.Path())
		if err != nil {
			panic(err)
		}
		w.bucket.Set(archiver.Shipped(g.Ordinal).Key(), object)
		w.shipped.Store(g.Ordinal) // before anybody hears of it
		w.events.MarkArchived(g, time.Millisecond)
	}
}

func (w *world) openStore() {
	opts := w.opts
	opts.Log, opts.Machines, opts.Blocks = w.events, w.machines, w.blocks
	opts.Views = nil
	var recorded []Recorded
	for _, runner := range w.runners {
		opts.Views = append(opts.Views, runner)
	}
	recorded = append(recorded, w.machines.View, w.blocks.View)
	if opts.Archive == nil {
		opts.Archive = archiver.At(w.faults, testLogID)
	}
	opts.Gone = func(err error) bool { return errors.Is(err, archiver.ErrNotFound) }
	if opts.Logger == nil {
		opts.Logger = quiet
	}
	w.Store = New(opts)
	appendEvent := w.append
	w.append = func(ev eventlog.Event, body *eventlog.Body) promise {
		if hook := w.hook.Load(); hook != nil {
			return (*hook)(ev, body, appendEvent)
		}
		return appendEvent(ev, body)
	}
	w.recorder = NewRecorder(w.events, recorded, opts.Views, w.every, quiet)
	if !w.hold {
		w.SetMode(Serving, "")
	}
}

// settle waits until the views have applied what is committed.
func (w *world) settle() {
	w.t.Helper()
	committed, _ := w.events.Committed()
	for _, runner := range w.runners {
		must(w.t, runner.WaitApplied(context.Background(), committed))
	}
}

// stop ends the server in order; it is idempotent.
func (w *world) stop() {
	if w.events == nil {
		return
	}
	if w.Store != nil {
		ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
		if err := w.Close(ctx); err != nil {
			w.t.Error(err)
		}
		cancel()
	}
	_ = w.events.Close(true) // a poisoned log says so again
	w.stopView()
	w.stopAll()
	w.tasks.Wait()
	w.last, w.time = w.events.Committed()
	w.archived, w.local = w.events.Archived(), w.events.Local()
	for _, g := range w.local {
		w.next = g.Ordinal + 1
	}
	must(w.t, w.machines.Close())
	must(w.t, w.blocks.Close())
	w.events, w.Store = nil, nil
}

// restart is stop and start.
func (w *world) restart(barred ...eventlog.Seq) {
	w.t.Helper()
	w.stop()
	w.start(barred)
}

// id is the machine's id.
func (w *world) id(p Path) eventlog.Seq {
	w.t.Helper()
	m, err := w.find(p)
	must(w.t, err)
	return m.id
}

// log is every committed event.
func (w *world) history() []eventlog.Event {
	w.t.Helper()
	var all []eventlog.Event
	for batch, err := range w.events.ReadTo(context.Background(), eventlog.FirstSeq) {
		must(w.t, err)
		for _, entry := range batch.Entries {
			all = append(all, entry.Event)
		}
	}
	return all
}

// count counts the events of a type.
func (w *world) count(kind eventlog.Type) int {
	n := 0
	for _, ev := range w.history() {
		if ev.Type == kind {
			n++
		}
	}
	return n
}

// ref names content as a block of a kind.
func ref(kind eventlog.Kind, content []byte) Ref {
	if kind == eventlog.KindConfig {
		return Ref{Kind: kind}
	}
	return Ref{Kind: kind, Name: sha256.Sum256(content)}
}

// put stores content under its own name on alice/laptop.
func (w *world) put(kind eventlog.Kind, content []byte) error {
	return w.Put(context.Background(), "user:alice", laptop, ref(kind, content), bytes.NewReader(content), int64(len(content)))
}

func (w *world) remove(kind eventlog.Kind, content []byte) error {
	return w.Delete(context.Background(), "user:alice", laptop, ref(kind, content))
}

// get reads a block of alice/laptop whole.
func (w *world) get(r Ref) ([]byte, error) {
	return w.read(laptop, r, 0, -1)
}

// bytesFrom is a Part whatever the block's size is.
func bytesFrom(offset, length int64) Part {
	return func(int64) (int64, int64, error) { return offset, length, nil }
}

func (w *world) read(p Path, r Ref, offset, length int64) ([]byte, error) {
	body, err := w.Open(context.Background(), p, r, bytesFrom(offset, length))
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(body)
	return content, errors.Join(err, body.Close())
}

// names lists a kind of alice/laptop.
func (w *world) names(kind eventlog.Kind) (map[[32]byte]uint64, error) {
	rows, err := w.List(context.Background(), laptop, kind)
	if err != nil {
		return nil, err
	}
	all := map[[32]byte]uint64{}
	for row, err := range rows {
		if err != nil {
			return nil, err
		}
		if _, twice := all[row.Name]; twice {
			return nil, fmt.Errorf("%x is listed twice", row.Name)
		}
		all[row.Name] = row.Length
	}
	return all, nil
}

// later runs do and returns its result to come.
func later[T any](do func() T) <-chan T {
	result := make(chan T, 1)
	go func() { result <- do() }()
	return result
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wants checks that err is the sentinel.
func wants(t testing.TB, err, sentinel error) {
	t.Helper()
	if !errors.Is(err, sentinel) {
		t.Fatalf("got %v, want %v", err, sentinel)
	}
}

// wantsUnavailable checks that err is an Unavailable with a time to retry.
func wantsUnavailable(t testing.TB, err error) *Unavailable {
	t.Helper()
	var u *Unavailable
	if !errors.As(err, &u) || u.RetryAfter <= 0 || u.Reason == "" {
		t.Fatalf("got %v, want an Unavailable with reason and time", err)
	}
	return u
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, met func() bool) {
	t.Helper()
	for end := time.Now().Add(testkit.Patience); !met(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// bytesOf makes n bytes that differ by seed.
func bytesOf(seed, n int) []byte {
	content := make([]byte, n)
	for i := range content {
		content[i] = byte(i*7 + i>>8 + seed*131 + seed>>8)
	}
	return content
}
