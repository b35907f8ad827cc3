// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/internal/testkit"
)

// takers are a server and its successor on one bucket: the old one removes what
// it keeps no more while the new one claims the log, takes a checkpoint that
// uses old files again, and removes, too.
type takers struct {
	w      *world
	start  *buckettest.Memory
	last   *Manifest // the old server's newest
	copies *Manifest // what the new server uploads; its copies are on the disk
	epoch  uint32    // of the old server
	hashes hashes    // of the copies
}

const never = math.MaxInt

func newTakers(t *testing.T) *takers {
	w := newWorld(t, 320)
	w.steps(30)
	w.take()
	w.steps(20)
	r := &takers{w: w, last: w.take(), hashes: hashes{}}
	w.steps(20)
	r.epoch = w.history.Log.Last().Epoch()
	for epoch := range r.epoch {
		must(t, claim(t.Context(), w.bucket, epoch+1))
	}
	successor := r.successor(w.bucket)
	copies, err := successor.copyViews(t.Context())
	must(t, err)
	r.copies = copies
	r.start = w.bucket.Clone()
	// Every second file of the new checkpoint lies in the bucket already, and
	// nobody names it: an earlier try left it there.
	must(t, (&upload{Taker: successor}).run(t.Context(), clone(t, copies)))
	left := false
	for _, key := range w.keys(filePrefix) {
		if _, there := r.start.Get(key); there {
			continue
		}
		if left = !left; left {
			data, _ := w.bucket.Get(key)
			r.start.Set(key, data)
		}
	}
	return r
}

// clone is m without what an upload fills in.
func clone(t *testing.T, m *Manifest) *Manifest {
	t.Helper()
	c := *m
	c.Views = slices.Clone(m.Views)
	return &c
}

func (r *takers) schedule() Schedule { return Schedule{Every: time.Hour, Keep: 1} }

func (r *takers) zombie(bucket archiver.Bucket) *Taker {
	t := r.w.taker(bucket, r.schedule())
	t.Epoch = r.epoch
	t.learn(r.last, 0)
	return t
}

func (r *takers) successor(bucket archiver.Bucket) *Taker {
	t := r.w.taker(bucket, r.schedule())
	t.Epoch = r.epoch + 1
	t.hashes = r.hashes
	return t
}

func claim(ctx context.Context, bucket archiver.Bucket, epoch uint32) error {
	text := fmt.Appendf(nil, `{"log_id":%q,"epoch":%d,"writer":%q}`, logID, epoch, writer)
	return archiver.PutEqual(ctx, bucket, archiver.EpochKey(epoch), archiver.BytesBody(text))
}

// racer is one of the two. It pauses before and after each call of its
// bucket once it has passed so many of these points as it may.
type racer struct {
	mu     sync.Mutex
	passed int           // owned by mu
	limit  int           // owned by mu
	gate   chan struct{} // owned by mu; closed when limit is raised
	done   chan struct{}
	err    error // once done is closed
}

func newRacer() *racer { return &racer{gate: make(chan struct{}), done: make(chan struct{})} }

func (p *racer) pass() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.passed >= p.limit {
		gate := p.gate
		p.mu.Unlock()
		<-gate
		p.mu.Lock()
	}
	p.passed++
}

// run lets the process go on to so many points, and returns when it stands.
func (p *racer) run(limit int) {
	p.mu.Lock()
	p.limit = limit
	close(p.gate)
	p.gate = make(chan struct{})
	p.mu.Unlock()
	synctest.Wait()
}

// aged lists what a bucket had at an earlier moment.
type aged struct {
	archiver.Bucket
	then *buckettest.Memory
}

func (a aged) List(ctx context.Context, prefix, after string) iter.Seq2[archiver.Info, error] {
	return a.then.List(ctx, prefix, after)
}

// race is one run of both.
type race struct {
	*takers
	bucket   *buckettest.Memory
	old, new *racer

	mu      sync.Mutex
	step    int            // counts what follows; owned by mu
	seen    map[string]int // files that the new server asked for and saw, after its manifest was put; owned by mu
	deleted map[string]int // what the old server deleted after the new one's claim; owned by mu
	removes int            // when the new server began to remove; owned by mu; 0: it did not
}

// begin starts both; neither passes a point before it is run.
func (r *takers) begin(ctx context.Context, lag bool) *race {
	c := &race{takers: r, bucket: r.start.Clone(), old: newRacer(), new: newRacer(), seen: map[string]int{}, deleted: map[string]int{}}
	way := func(p *racer, note func(op buckettest.Op, key string)) archiver.Bucket {
		var bucket archiver.Bucket = c.bucket
		if lag {
			bucket = aged{bucket, r.start}
		}
		f := buckettest.NewFaulty(bucket)
		f.Set(buckettest.Hooks{
			Before: func(context.Context, buckettest.Op, string) error { p.pass(); return nil },
			After:  func(_ context.Context, op buckettest.Op, key string) error { note(op, key); p.pass(); return nil },
		})
		return f
	}
	older, newer := way(c.old, c.oldCalled), way(c.new, c.newCalled)
	go func() {
		defer close(c.old.done)
		c.old.err = r.zombie(older).retain(ctx)
	}()
	go func() {
		defer close(c.new.done)
		c.new.err = c.takeOver(ctx, newer)
	}()
	synctest.Wait()
	return c
}

func (c *race) takeOver(ctx context.Context, bucket archiver.Bucket) error {
	if err := claim(ctx, bucket, c.epoch+1); err != nil {
		return err
	}
	t := c.successor(bucket)
	m := clone(c.w.t, c.copies)
	if err := (&upload{Taker: t}).run(ctx, m); err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	t.learn(m, 0)
	c.mu.Lock()
	c.step++
	c.removes = c.step
	c.mu.Unlock()
	if err := t.retain(ctx); err != nil {
		return fmt.Errorf("retain: %w", err)
	}
	return nil
}

// oldCalled notes what the old server did when it owned the log no more.
func (c *race) oldCalled(op buckettest.Op, key string) {
	_, fenced := c.bucket.Get(archiver.EpochKey(c.epoch + 1))
	if op != buckettest.Delete || !fenced {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.step++
	c.deleted[key] = c.step
}

func (c *race) newCalled(op buckettest.Op, key string) {
	_, put := c.bucket.Get(manifestKey(c.copies.Seq))
	_, there := c.bucket.Get(key)
	if op != buckettest.Head || !put || !there {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.step++
	c.seen[key] = c.step
}

// lacks are the files that the manifest names and the bucket has not.
func lacks(bucket *buckettest.Memory, m *Manifest) (keys []string) {
	for sum, size := range m.contents() {
		if data, ok := bucket.Get(fileKey(sum)); !ok || int64(len(data)) != size {
			keys = append(keys, fileKey(sum))
		}
	}
	return keys
}

// ended checks what holds once both have ended.
func (c *race) ended() error {
	<-c.old.done
	<-c.new.done
	if err := c.old.err; err != nil && !errors.Is(err, archiver.ErrFenced) && !errors.Is(err, errLost) {
		return fmt.Errorf("the old server: %w", err)
	}
	if err := c.new.err; err != nil && (len(c.deleted) == 0 || !strings.HasPrefix(err.Error(), "retain: ")) {
		return fmt.Errorf("the new server: %w", err)
	}
	if len(c.deleted) > 1 {
		return fmt.Errorf("the old server deleted %d objects after the new one's claim", len(c.deleted))
	}
	text, ok := c.bucket.Get(manifestKey(c.copies.Seq))
	if !ok {
		return errors.New("the new checkpoint has no manifest")
	}
	newest, err := decode(text)
	if err != nil {
		return err
	}
	lost := lacks(c.bucket, newest)
	for _, key := range lost {
		if c.seen[key] == 0 || c.deleted[key] < c.seen[key] {
			return fmt.Errorf("the new checkpoint lacks %s, which it did not see after its manifest was put", key)
		}
	}
	if len(lost) == 0 || c.removes == 0 || c.deleted[lost[0]] > c.removes {
		return nil
	}
	if before, ok := c.bucket.Get(manifestKey(c.last.Seq)); ok {
		if older, err := decode(before); err == nil && len(lacks(c.bucket, older)) == 0 {
			return nil
		}
	}
	return errors.New("the new server removed the older checkpoint after the new one had lost a file")
}

// healed lets another process of the new server go on: what it ends with is
// whole.
func (c *race) healed(ctx context.Context) error {
	t := c.successor(c.bucket)
	if err := t.load(ctx); err != nil {
		return err
	}
	if t.last == nil || t.last.Seq != c.copies.Seq {
		m := clone(c.w.t, c.copies)
		m.Time = m.Time.Add(time.Second)
		if err := (&upload{Taker: t}).run(ctx, m); err != nil {
			return err
		}
		t.learn(m, 0)
	}
	if err := t.retain(ctx); err != nil {
		return err
	}
	before := c.w.bucket
	c.w.bucket = c.bucket
	defer func() { c.w.bucket = before }()
	if spare, all := c.w.whole(), c.w.manifests(); spare != 0 || len(all) != 1 || all[c.copies.Seq] == nil {
		return fmt.Errorf("%d spare files, %d checkpoints", spare, len(all))
	}
	return nil
}

// A server that was overtaken removes files while its successor uses them
// again; both remove old checkpoints at once. Each pauses once, before or after
// any call of the bucket, in every combination, with lists that show what is
// there and with lists that show what was there at the beginning. In the end a
// recovery comes to the right rows, from a checkpoint or from the first event.
func TestTwoServersThatRemoveCheckpointsCostACheckpointAtMost(t *testing.T) {
	r := newTakers(t)
	outcomes := map[string]*buckettest.Memory{}
	for _, lag := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) { r.everySchedule(t, lag, outcomes) })
	}
	if len(outcomes) < 3 {
		t.Errorf("%d outcomes", len(outcomes))
	}
	for _, bucket := range outcomes {
		r.w.bucket = bucket
		result := r.w.recovered(r.w.options(bucket))
		manifests := r.w.manifests()
		newest := manifests[r.copies.Seq]
		if broken := len(lacks(bucket, newest)) > 0; broken != (len(result.Fallbacks) > 0) || !broken && (result.Checkpoint == nil || result.Checkpoint.Seq != newest.Seq) {
			t.Errorf("the new checkpoint lacks %v; the recovery began from %+v after %+v", lacks(bucket, newest), result.Checkpoint, result.Fallbacks)
		}
	}
	t.Logf("%d outcomes", len(outcomes))
}

func (r *takers) everySchedule(t *testing.T, lag bool, outcomes map[string]*buckettest.Memory) {
	alone := r.begin(t.Context(), lag)
	alone.old.run(never)
	alone.new.run(never)
	must(t, alone.ended())
	ran := 0
	stride := 37 // a prime: each pause of either comes up
	if testkit.All() && !testing.Short() {
		stride = 1
	}
	for i := range alone.old.passed + 1 {
		for j := range alone.new.passed + 1 {
			if (i+3*j)%stride != 0 {
				continue
			}
			for _, oldFirst := range []bool{true, false} {
				c := r.begin(t.Context(), lag)
				first, second, one, two := c.old, c.new, i, j
				if !oldFirst {
					first, second, one, two = c.new, c.old, j, i
				}
				first.run(one)
				second.run(two)
				first.run(never)
				second.run(never)
				ran++
				err := c.ended()
				state := fmt.Sprint(c.bucket.Keys())
				if _, known := outcomes[state]; !known {
					outcomes[state] = c.bucket.Clone()
				}
				if err == nil {
					err = c.healed(t.Context())
				}
				if err != nil {
					t.Fatalf("lists that lag %v, old server first %v, pauses at %d and %d: %v", lag, oldFirst, i, j, err)
				}
			}
		}
	}
	t.Logf("lists that lag %v: %d runs; points: %d and %d", lag, ran, alone.old.passed, alone.new.passed)
}

// A list that lags lacks an older checkpoint that is kept: what it names stays.
func TestAListThatLagsCostsNoCheckpoint(t *testing.T) {
	w := newWorld(t, 321)
	w.steps(30)
	faulty := buckettest.NewFaulty(w.bucket)
	taker := w.taker(faulty, Schedule{Every: time.Hour, Keep: 5})
	must(t, taker.take(t.Context(), true))
	first := taker.last
	w.steps(20)
	must(t, taker.take(t.Context(), true))
	faulty.Set(buckettest.Hooks{Hide: func(key string) bool { return strings.HasPrefix(key, manifestPrefix) }})
	must(t, taker.retain(t.Context()))
	if lost := lacks(w.bucket, first); len(lost) != 0 || len(w.manifests()) != 2 {
		t.Errorf("%d checkpoints; the older one lacks %v", len(w.manifests()), lost)
	}
}

// A checkpoint that lacks a file is none, whoever took it: others are not
// removed because it is there, and the next process takes another.
func TestACheckpointThatLacksAFileDoesNotCount(t *testing.T) {
	w, older, newer, own := twoCheckpoints(t, 322)
	w.bucket.Remove(own[0])
	taker := w.taker(w.bucket, Schedule{Every: time.Hour, Keep: 2})
	must(t, taker.load(t.Context()))
	if taker.last.Seq != older.Seq || taker.Status().Seq != older.Seq {
		t.Errorf("the newest is said to be as of %s, whole is %s", taker.last.Seq, older.Seq)
	}
	w.clock.Advance(2 * time.Hour)
	w.steps(10)
	_, err := taker.round(t.Context())
	must(t, err)
	w.whole()
	all := w.manifests()
	if all[older.Seq] == nil || all[taker.last.Seq] == nil || all[newer.Seq] != nil || len(all) != 2 {
		t.Errorf("kept are %v", all)
	}
	// Nothing changes any more, and a file goes.
	for _, gone := range []string{w.ownFile(taker.last), manifestKey(taker.last.Seq)} {
		w.bucket.Remove(gone)
		w.clock.Advance(2 * time.Hour)
		_, err := taker.round(t.Context())
		must(t, err)
		w.whole()
		if result := w.recovered(w.options(w.bucket)); len(result.Fallbacks) != 0 || result.Checkpoint == nil || result.Checkpoint.Seq != taker.last.Seq {
			t.Errorf("without %s: from %+v after %+v", gone, result.Checkpoint, result.Fallbacks)
		}
	}
}

// ownFile is the key of a file of m.
func (w *world) ownFile(m *Manifest) string {
	return fileKey(m.Views[0].Files[0].SHA256)
}

// A removal under way goes on after the newest checkpoint has lost a file: it
// removes nothing, and another one is taken soon.
func TestNothingIsRemovedForACheckpointThatLostAFile(t *testing.T) {
	w := newWorld(t, 323)
	w.steps(30)
	w.take()
	w.steps(20)
	taker := w.taker(w.bucket, Schedule{Every: time.Hour, Keep: 1})
	must(t, taker.take(t.Context(), true))
	w.bucket.Remove(w.ownFile(taker.last))
	before := w.bucket.Keys()
	if err := taker.retain(t.Context()); !errors.Is(err, errLost) {
		t.Errorf("%v, want %v", err, errLost)
	}
	if !slices.Equal(before, w.bucket.Keys()) {
		t.Error("something was removed")
	}
}

// One wrong answer costs no checkpoint.
func TestAFileThatIsSaidToBeAbsentOnceIsAskedForAgain(t *testing.T) {
	w, _, newer, own := twoCheckpoints(t, 324)
	faulty := buckettest.NewFaulty(w.bucket)
	var once sync.Once
	faulty.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) (err error) {
		if op == buckettest.Get && key == own[0] {
			once.Do(func() { err = archiver.ErrNotFound })
		}
		return err
	}})
	opts := w.options(faulty)
	if result := w.recovered(opts); result.Checkpoint == nil || result.Checkpoint.Seq != newer.Seq || len(result.Fallbacks) != 0 {
		t.Errorf("from %+v after %+v", result.Checkpoint, result.Fallbacks)
	}
}
