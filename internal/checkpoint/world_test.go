// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"go.uber.org/goleak"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/internal/testkit"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	logID  = eventlog.ID{1, 2, 3}
	writer = eventlog.ID{4}
)

// world is a server with live views on disk and an archive in memory.
type world struct {
	t        *testing.T
	dir      string
	bucket   *buckettest.Memory
	history  *modeltest.History
	engine   *kv.Engine
	machines *projector.MachineView
	blocks   *projector.BlockView
	runners  []*projector.Runner
	clock    *clockwork.FakeClock
	entries  int // archived

	mu       sync.Mutex
	objects  int           // owned by mu; archived
	archived eventlog.Seq  // owned by mu
	changed  chan struct{} // owned by mu; closed at each change of log or archive
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	return newWorldOn(t, seed, kv.OnDisk(quiet))
}

// newWorldOn has its views in engine. Only those on disk can be copied.
func newWorldOn(t *testing.T, seed uint64, engine *kv.Engine) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), bucket: buckettest.NewMemory(), engine: engine, changed: make(chan struct{}),
		clock: clockwork.NewFakeClockAt(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))}
	var err error
	w.machines, err = projector.OpenMachineView(w.engine, w.path("views", "machine"), projector.Live, quiet)
	must(t, err)
	w.blocks, err = projector.OpenBlockView(w.engine, w.path("views", "block"), projector.Live, quiet)
	must(t, err)
	t.Cleanup(func() { must(t, errors.Join(w.machines.Close(), w.blocks.Close())) })
	w.runners = []*projector.Runner{projector.NewRunner(w.machines.View, quiet), projector.NewRunner(w.blocks.View, quiet)}
	w.history = modeltest.NewHistory(seed, w.states)
	must(t, archiver.Init(t.Context(), w.bucket, logID, time.Unix(1, 0)))
	return w
}

func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}

func (w *world) states() []eventlog.ViewState {
	var all []eventlog.ViewState
	for _, v := range w.views() {
		seq, digest := v.Kept()
		if seq == 0 {
			seq, digest = v.Digest()
		}
		all = append(all, eventlog.ViewState{Name: v.Name(), Version: v.Version(), Digest: digest, AsOf: seq})
	}
	return all
}

func (w *world) views() []*projector.View { return []*projector.View{w.machines.View, w.blocks.View} }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// steps plays events that the views apply and the archive gets.
func (w *world) steps(n int) {
	w.t.Helper()
	w.unarchived(n)
	w.ship()
}

func (w *world) unarchived(n int) {
	w.t.Helper()
	for range n {
		w.history.Step()
		must(w.t, projector.CatchUp(w.t.Context(), w.history.Log, w.runners...))
	}
	w.change(func() {})
}

func (w *world) change(how func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	how()
	close(w.changed)
	w.changed = make(chan struct{})
}

// ship archives all events that are not archived, as one object.
func (w *world) ship() {
	entries := w.history.Log.Entries()[w.entries:]
	if len(entries) == 0 {
		return
	}
	w.entries += len(entries)
	next := w.lastOrdinal() + 1
	w.bucket.Set(archiver.Shipped(next).Key(), object(next, entries))
	w.change(func() { w.objects, w.archived = int(next), entries[len(entries)-1].Event.Seq })
}

func (w *world) lastOrdinal() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return uint64(w.objects)
}

// object is an object without payloads: whoever reads one finds none.
func object(ordinal uint64, entries []eventlog.Entry) []byte {
	part := make([]eventlog.Entry, len(entries))
	for i, e := range entries {
		part[i] = eventlog.Entry{Event: e.Event, Raw: e.Raw}
	}
	last := entries[len(entries)-1].Event
	trailer := eventlog.Trailer{LogID: logID, Epoch: last.Seq.Epoch(), Writer: writer, FirstOrdinal: ordinal, LastOrdinal: ordinal,
		First: entries[0].Event.Seq, Last: last.Seq, PayloadSum: eventlog.Checksum([]byte(eventlog.ObjectMagic)), ClosedAt: last.Time}
	return eventlog.AppendMetadata([]byte(eventlog.ObjectMagic), &trailer, part, nil, 0)
}

// ReadTo, Committed, WaitCommitted and WaitArchived make a world a Log.
func (w *world) ReadTo(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return w.history.Log.Follow(ctx, from)
}

func (w *world) Committed() (eventlog.Seq, int64) { return w.history.Log.Last(), 0 }

func (w *world) WaitCommitted(ctx context.Context, seq eventlog.Seq) error {
	return w.wait(ctx, func() bool { return w.history.Log.Last() > seq })
}

func (w *world) WaitArchived(ctx context.Context, seq eventlog.Seq) error {
	return w.wait(ctx, func() bool { return w.archived >= seq })
}

func (w *world) wait(ctx context.Context, met func() bool) error {
	for {
		w.mu.Lock()
		ok, changed := met(), w.changed
		w.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// taker is a process that takes checkpoints through bucket.
func (w *world) taker(bucket archiver.Bucket, s Schedule) *Taker {
	return New(Options{Archive: archiver.At(bucket, logID), Epoch: w.history.Log.Last().Epoch(), Writer: writer, Log: w, Engine: w.engine,
		Views: w.views(), Dir: w.path("scratch"), Schedule: s, LastOrdinal: w.lastOrdinal, Clock: w.clock, Logger: quiet})
}

// take takes a checkpoint.
func (w *world) take() *Manifest {
	w.t.Helper()
	t := w.taker(w.bucket, Schedule{Keep: 1})
	must(w.t, t.take(w.t.Context(), true))
	return t.last
}

// recover rebuilds the views from the bucket, at most up to until.
func (w *world) options(bucket archiver.Bucket) recovery.Options {
	dir := w.t.TempDir()
	archive := archiver.At(bucket, logID)
	return recovery.Options{Archive: archive, Engine: w.engine, Dir: filepath.Join(dir, "views"), Scratch: filepath.Join(dir, "scratch"), Log: quiet,
		Checkpoints: &Shelf{Archive: archive, Engine: w.engine, Scratch: filepath.Join(dir, "scratch", "restore")}}
}

// recovered runs a recovery and compares its digests, recomputed from the rows,
// with the live views'.
func (w *world) recovered(opts recovery.Options) *recovery.Result {
	w.t.Helper()
	result, err := recovery.Run(w.t.Context(), opts)
	must(w.t, err)
	w.check(opts.Dir)
	return result
}

func (w *world) check(dir string) {
	w.t.Helper()
	for _, live := range w.views() {
		v, err := projector.Open(w.engine, filepath.Join(dir, live.Name()), live.Projector(), projector.ReadOnly, quiet)
		must(w.t, err)
		position, digest, err := v.Recompute(w.t.Context())
		must(w.t, errors.Join(err, v.Close()))
		if seq, want := live.Digest(); position != seq || digest != want {
			w.t.Fatalf("the %s view is %s at %s, live %s at %s", live.Name(), digest, position, want, seq)
		}
	}
}

// manifests are those in the bucket that can be read, by seq.
func (w *world) manifests() map[eventlog.Seq]*Manifest {
	w.t.Helper()
	all := map[eventlog.Seq]*Manifest{}
	for _, key := range w.keys(manifestPrefix) {
		text, _ := w.bucket.Get(key)
		m, err := decode(text)
		must(w.t, err)
		all[m.Seq] = m
	}
	return all
}

func (w *world) keys(prefix string) []string {
	return slices.DeleteFunc(w.bucket.Keys(), func(key string) bool { return !strings.HasPrefix(key, prefix) })
}

// whole checks what always holds: each manifest stands for a whole checkpoint
// whose events are archived. It returns files that no manifest names.
func (w *world) whole() (spare int) {
	w.t.Helper()
	named := map[string]bool{}
	for seq, m := range w.manifests() {
		if seq > w.archived {
			w.t.Errorf("a checkpoint as of %s, archived is %s", seq, w.archived)
		}
		for sum, size := range m.contents() {
			data, ok := w.bucket.Get(fileKey(sum))
			if !ok || int64(len(data)) != size || sha256.Sum256(data) != sum {
				w.t.Fatalf("checkpoint %s names %s of %d bytes, the bucket has %d bytes", seq, sum, size, len(data))
			}
			named[fileKey(sum)] = true
		}
	}
	for _, key := range w.keys(filePrefix) {
		if !named[key] {
			spare++
		}
	}
	return spare
}

// others are all keys that are not of checkpoints, with their content.
func (w *world) others() string {
	var all bytes.Buffer
	for _, key := range w.bucket.Keys() {
		if !strings.HasPrefix(key, Prefix) {
			data, _ := w.bucket.Get(key)
			fmt.Fprintf(&all, "%s %x\n", key, sha256.Sum256(data))
		}
	}
	return all.String()
}

func rounds(n int) int {
	if !testkit.Long() {
		return max(1, n/4)
	}
	return n
}
