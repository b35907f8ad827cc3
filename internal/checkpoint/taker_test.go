// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit"
	"github.com/strandline-project/strandline/projector"
)

func TestARecoveryBeginsFromACheckpointAndComesToTheSameRows(t *testing.T) {
	for seed := range uint64(rounds(8)) {
		w := newWorld(t, seed)
		w.steps(80)
		first := w.take()
		w.steps(40)
		second := w.take()
		w.steps(15)
		w.whole()
		result := w.recovered(w.options(w.bucket))
		if result.Checkpoint == nil || result.Checkpoint.Seq != second.Seq || len(result.Fallbacks) != 0 {
			t.Errorf("it began from %+v after %+v", result.Checkpoint, result.Fallbacks)
		}
		if tail := uint64(w.history.Log.Last() - second.Seq); second.Seq.Epoch() == w.history.Log.Last().Epoch() && result.Events != tail {
			t.Errorf("%d events were projected, %d came after the checkpoint", result.Events, tail)
		}
		full := w.options(w.bucket)
		full.Full = true
		if result := w.recovered(full); result.Checkpoint != nil || result.Events != uint64(len(w.history.Log.Entries())) {
			t.Errorf("a full one began from %+v and projected %d events", result.Checkpoint, result.Events)
		}
		then := w.options(w.bucket)
		then.Until = second.Seq - 1
		if second.Seq.Counter() > 1 {
			if result, err := runOnly(t, then); err != nil || result.Checkpoint == nil || result.Checkpoint.Seq != first.Seq {
				t.Errorf("as of right before the second: from %+v, %v", result, err)
			}
		}
	}
}

// The views of a running server stand at different events when they are
// copied.
func TestTheCopiesStandAtOneEvent(t *testing.T) {
	w := newWorld(t, 100)
	w.steps(60)
	for range 12 {
		w.history.Step()
	}
	must(t, projector.CatchUp(t.Context(), w.history.Log, w.runners[1]))
	if w.machines.Position() == w.blocks.Position() {
		t.Fatal("both views stand at one event before")
	}
	w.ship()
	m := w.take()
	for _, v := range m.Views {
		if v.Position != w.history.Log.Last() {
			t.Errorf("the %s view of the checkpoint stands at %s, want %s", v.Name, v.Position, w.history.Log.Last())
		}
	}
	if w.machines.Position() == w.blocks.Position() {
		t.Error("the live view was moved")
	}
	must(t, projector.CatchUp(t.Context(), w.history.Log, w.runners...))
	if result := w.recovered(w.options(w.bucket)); result.Checkpoint == nil || result.Events != 0 {
		t.Errorf("%+v", result)
	}
}

func TestACheckpointIsTakenWhileTheViewsMove(t *testing.T) {
	w := newWorld(t, 101)
	w.steps(50)
	taker := w.taker(w.bucket, Schedule{Keep: 1})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				w.steps(1)
			}
		}
	}()
	for range rounds(8) {
		taker.Epoch = eventlog.Seq(1<<63 - 1).Epoch() // of whatever epoch the history is in by then
		if err := taker.take(t.Context(), true); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	<-stopped
	if len(w.manifests()) < 2 {
		t.Errorf("%d checkpoints", len(w.manifests()))
	}
	for _, m := range w.manifests() {
		then := w.options(w.bucket)
		then.Full, then.Until = true, m.Seq
		result, err := runOnly(t, then)
		must(t, err)
		for _, v := range result.Views {
			for _, c := range m.Views {
				if c.Name == v.View && c.Digest != v.Digest {
					t.Errorf("the %s view of checkpoint %s has digest %s, projected %s", v.View, m.Seq, c.Digest, v.Digest)
				}
			}
		}
	}
	if result := w.recovered(w.options(w.bucket)); result.Checkpoint == nil || len(result.Fallbacks) != 0 {
		t.Errorf("from %+v after %+v", result.Checkpoint, result.Fallbacks)
	}
}

func TestOnlyWhatTheArchiveLacksIsUploaded(t *testing.T) {
	w := newWorld(t, 102)
	w.steps(100)
	faulty := buckettest.NewFaulty(w.bucket)
	taker := w.taker(faulty, Schedule{Every: time.Hour, Keep: 5})
	take := func() (puts int) {
		t.Helper()
		before := map[string]bool{}
		for _, key := range w.bucket.Keys() {
			before[key] = true
		}
		faulty.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
			if op == buckettest.Put {
				puts++
				if before[key] {
					t.Errorf("%s was there already", key)
				}
			}
			return nil
		}})
		if _, err := taker.round(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.clock.Advance(2 * time.Hour)
		return puts
	}
	first := take()
	if want := len(taker.last.contents()) + 1; first != want {
		t.Errorf("%d puts for the first checkpoint, want %d", first, want)
	}
	if puts := take(); puts != 0 || len(w.manifests()) != 1 {
		t.Errorf("nothing changed, and %d puts", puts)
	}
	tables := func(m *Manifest) map[Hash]bool {
		all := map[Hash]bool{}
		for _, v := range m.Views {
			for _, f := range v.Files {
				if strings.HasSuffix(f.Name, ".sst") {
					all[f.SHA256] = true
				}
			}
		}
		return all
	}
	before := tables(taker.last)
	w.steps(20)
	second, shared := take(), 0
	for sum := range tables(taker.last) {
		if before[sum] {
			shared++
		}
	}
	if shared == 0 || second > len(taker.last.contents())+1-shared {
		t.Errorf("%d puts for the second checkpoint, %d of its tables were there", second, shared)
	}
	if s := taker.Status(); s.Taken != 2 || s.Failures != 0 || s.Seq != taker.last.Seq || s.Uploaded == 0 || s.Bytes != taker.last.bytes() {
		t.Errorf("%+v", s)
	}
	if _, err := os.Stat(w.path("scratch")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the copies are still there: %v", err)
	}
	w.whole()
	// What somebody removed, or cut short, is put there anew.
	for i, key := range w.keys(filePrefix) {
		if i%2 == 0 {
			w.bucket.Remove(key)
		} else {
			data, _ := w.bucket.Get(key)
			w.bucket.Set(key, data[:len(data)-1])
		}
	}
	w.steps(5)
	taker = w.taker(w.bucket, Schedule{Every: time.Hour, Keep: 1})
	must(t, taker.take(t.Context(), true))
	must(t, taker.retain(t.Context()))
	w.whole()
	w.recovered(w.options(w.bucket))
}

// The manifest waits for the events, and a server that was overtaken puts none
// and removes nothing.
func TestACheckpointCountsOnlyWhenItsEventsAreArchivedAndTheLogIsStillOurs(t *testing.T) {
	w := newWorld(t, 103)
	w.steps(30)
	w.take()
	w.unarchived(10)
	faulty := buckettest.NewFaulty(w.bucket)
	reached := make(chan struct{})
	taker := w.taker(faulty, Schedule{Every: time.Hour})
	taker.Log = waiting{w, reached}
	ended := make(chan error, 1)
	go func() { ended <- taker.take(t.Context(), true) }()
	<-reached
	if n := len(w.manifests()); n != 1 {
		t.Errorf("%d manifests while events are not archived", n)
	}
	w.ship()
	must(t, <-ended)
	if n := len(w.manifests()); n != 2 {
		t.Errorf("%d manifests", n)
	}
	w.whole()

	w.steps(10)
	w.bucket.Set(archiver.EpochKey(taker.Epoch+1), fmt.Appendf(nil, `{"log_id":%q,"epoch":%d,"writer":%q}`, logID, taker.Epoch+1, writer))
	before := w.keys(Prefix)
	if err := taker.take(t.Context(), true); !errors.Is(err, archiver.ErrFenced) {
		t.Errorf("overtaken: %v", err)
	}
	if n := len(w.manifests()); n != 2 {
		t.Errorf("%d manifests after it was overtaken", n)
	}
	taker.Keep = 1
	if err := taker.retain(t.Context()); !errors.Is(err, archiver.ErrFenced) {
		t.Errorf("overtaken, removing: %v", err)
	}
	for _, key := range before {
		if _, ok := w.bucket.Get(key); !ok {
			t.Errorf("%s was removed by a server that was overtaken", key)
		}
	}
}

type waiting struct {
	*world
	reached chan struct{}
}

func (l waiting) WaitArchived(ctx context.Context, seq eventlog.Seq) error {
	select {
	case <-l.reached:
	default:
		close(l.reached)
	}
	return l.world.WaitArchived(ctx, seq)
}

// At every call of the bucket the process may die, the call done or not done:
// what is there is whole, and the next process ends what was begun.
func TestATakerThatIsKilledAnywhereLeavesWholeCheckpointsOnly(t *testing.T) {
	w := newWorld(t, 104)
	w.steps(40)
	w.take()
	w.steps(10)
	w.take()
	w.steps(10)
	start := w.bucket.Clone()
	others := w.others()
	step := int64(5)
	if testkit.Long() {
		step = 1
	}
	for _, done := range []bool{false, true} {
		for calls := int64(1); ; calls += step {
			w.bucket = start.Clone()
			ctx, kill := context.WithCancel(t.Context())
			faulty := buckettest.NewFaulty(w.bucket)
			var left atomic.Int64
			left.Store(calls)
			die := func(context.Context, buckettest.Op, string) error {
				if left.Add(-1) <= 0 {
					kill()
				}
				return ctx.Err()
			}
			if done {
				faulty.Set(buckettest.Hooks{After: die})
			} else {
				faulty.Set(buckettest.Hooks{Before: die})
			}
			schedule := Schedule{Every: time.Hour, Keep: 1}
			taker := w.taker(faulty, schedule)
			err := taker.take(ctx, true)
			if err == nil {
				err = taker.retain(ctx)
			}
			kill()
			w.whole()
			if calls/step%5 == 0 {
				w.recovered(w.options(w.bucket))
			}
			next := w.taker(w.bucket, schedule)
			must(t, next.load(t.Context()))
			if next.changed() {
				must(t, next.take(t.Context(), true))
			}
			must(t, next.retain(t.Context()))
			if spare := w.whole(); spare != 0 || len(w.manifests()) != 1 || w.others() != others {
				t.Fatalf("killed at call %d (done %v): %d spare files, %d checkpoints", calls, done, spare, len(w.manifests()))
			}
			if err == nil {
				w.recovered(w.options(w.bucket))
				break
			}
		}
	}
}

// A put whose answer is lost, and one that was not done, come to the same.
func TestPutsThatFailAreTriedAgain(t *testing.T) {
	for _, done := range []bool{false, true} {
		w := newWorld(t, 105)
		w.steps(40)
		faulty := buckettest.NewFaulty(w.bucket)
		seen := map[string]bool{}
		fail := func(_ context.Context, op buckettest.Op, key string) error {
			if op != buckettest.Put || seen[key] || len(seen) >= 3 && !strings.HasPrefix(key, manifestPrefix) {
				return nil
			}
			seen[key] = true
			return buckettest.ErrInjected
		}
		if done {
			faulty.Set(buckettest.Hooks{After: fail})
		} else {
			faulty.Set(buckettest.Hooks{Before: fail})
		}
		taker := w.taker(faulty, Schedule{Every: time.Hour})
		must(t, taker.take(t.Context(), false))
		if len(w.manifests()) != 1 || len(seen) < 4 {
			t.Errorf("done %v: %d checkpoints after %d failures", done, len(w.manifests()), len(seen))
		}
		w.whole()
		w.recovered(w.options(w.bucket))
	}
}

// The answer of a manifest's put is lost with the process; the next try, as of
// the same event, finds it there.
func TestACheckpointThatIsThereAlreadyIsAsGood(t *testing.T) {
	w := newWorld(t, 106)
	w.steps(40)
	first := w.take()
	w.clock.Advance(time.Second)
	taker := w.taker(w.bucket, Schedule{Every: time.Hour})
	must(t, taker.take(t.Context(), true))
	if taker.last.Seq != first.Seq || !taker.last.Time.Equal(first.Time) {
		t.Errorf("it took another one: %+v", taker.last)
	}
	other := w.taker(w.bucket, Schedule{Every: time.Hour})
	other.Writer = eventlog.ID{9}
	if err := other.take(t.Context(), true); !errors.Is(err, archiver.ErrDifferent) {
		t.Errorf("another server's: %v", err)
	}
}

func TestTheScheduleIsKept(t *testing.T) {
	w := newWorld(t, 107)
	w.steps(30)
	taker := w.taker(w.bucket, Schedule{Every: time.Hour, Keep: 9})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); taker.Run(ctx) }()
	idle := func() { t.Helper(); must(t, w.clock.BlockUntilContext(ctx, 1)) }
	taken := func(want uint64) {
		t.Helper()
		idle()
		if got := taker.Status().Taken; got != want {
			t.Fatalf("%d checkpoints at %v, want %d", got, w.clock.Now(), want)
		}
	}
	taken(0)
	w.clock.Advance(settling)
	awaitTaken(t, taker, 1)
	taken(1)
	w.clock.Advance(time.Hour) // nothing changed
	taken(1)
	w.steps(10)
	idle()
	w.clock.Advance(time.Hour)
	awaitTaken(t, taker, 2)
	taken(2)
	stop()
	<-ended

	// Another process goes on where this one ended, and takes one at its end.
	w.steps(10)
	w.clock.Advance(time.Minute)
	taker = w.taker(w.bucket, Schedule{Every: time.Hour, Keep: 9})
	if due, err := taker.round(t.Context()); err != nil || !due.Equal(taker.last.Time.Add(time.Hour)) || taker.Status().Taken != 0 {
		t.Errorf("a minute after one was taken: due %v, %v", due, err)
	}
	taker.Final(t.Context())
	if s := taker.Status(); s.Taken != 1 || s.Seq != w.history.Log.Last() || s.Err != "" {
		t.Errorf("%+v", s)
	}
	off := w.taker(w.bucket, Schedule{})
	w.steps(3)
	off.Run(t.Context())
	off.Final(t.Context())
	if s := off.Status(); s.Taken != 0 {
		t.Errorf("switched off: %+v", s)
	}
}

func awaitTaken(t *testing.T, taker *Taker, want uint64) {
	t.Helper()
	for deadline := time.Now().Add(testkit.Patience); taker.Status().Taken < want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v, want %d", taker.Status(), want)
		}
	}
}

func TestAfterSoManyEventsACheckpointIsTaken(t *testing.T) {
	w := newWorld(t, 108)
	w.steps(30)
	taker := w.taker(w.bucket, Schedule{Events: 20, Keep: 9})
	taker.Epoch = w.history.Log.Last().Epoch() + 1
	w.history.Start(false)
	for w.history.Log.Last().Epoch() != taker.Epoch {
		taker.Epoch++
	}
	w.steps(1)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); taker.Run(ctx) }()
	must(t, w.clock.BlockUntilContext(ctx, 1))
	w.clock.Advance(settling)
	for w.history.Log.Last() < eventlog.MakeSeq(taker.Epoch, 30) && w.history.Log.Last().Epoch() == taker.Epoch {
		w.steps(1)
	}
	awaitTaken(t, taker, 1)
	stop()
	<-ended
	if s := taker.Status(); s.Seq < eventlog.MakeSeq(taker.Epoch, 20) || s.Failures != 0 {
		t.Errorf("%+v", s)
	}
}

// A bucket that fails is told of, and tried again.
func TestAFailureIsToldAndTriedAgain(t *testing.T) {
	w := newWorld(t, 109)
	w.steps(30)
	faulty := buckettest.NewFaulty(w.bucket)
	refused := errors.New("refused")
	faulty.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, _ string) error {
		if op == buckettest.Put {
			return fmt.Errorf("%w: %w", refused, archiver.ErrNotFound) // for certain: it is not tried again at once
		}
		return nil
	}})
	taker := w.taker(faulty, Schedule{Every: time.Hour})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); taker.Run(ctx) }()
	must(t, w.clock.BlockUntilContext(ctx, 1))
	w.clock.Advance(settling)
	for taker.Status().Failures == 0 {
		time.Sleep(time.Millisecond)
	}
	if s := taker.Status(); !strings.Contains(s.Err, "refused") || s.Seq != 0 {
		t.Errorf("%+v", s)
	}
	faulty.Set(buckettest.Hooks{})
	must(t, w.clock.BlockUntilContext(ctx, 1))
	w.clock.Advance(tryAgain)
	awaitTaken(t, taker, 1)
	stop()
	<-ended
	if s := taker.Status(); s.Err != "" {
		t.Errorf("%+v", s)
	}
}

// A stop waits for no checkpoint.
func TestACheckpointAtTheEndIsGivenUpWhenTimeIsOver(t *testing.T) {
	w := newWorld(t, 110)
	w.steps(30)
	faulty := buckettest.NewFaulty(w.bucket)
	ctx, over := context.WithCancel(t.Context())
	puts := 0
	faulty.Set(buckettest.Hooks{Before: func(ctx context.Context, op buckettest.Op, _ string) error {
		if op != buckettest.Put {
			return nil
		}
		if puts++; puts == 3 {
			over()
		}
		return ctx.Err()
	}})
	taker := w.taker(faulty, Schedule{Every: time.Hour})
	taker.Final(ctx)
	if s := taker.Status(); s.Taken != 0 || s.Failures != 1 || len(w.manifests()) != 0 || puts != 3 {
		t.Errorf("%+v, %d manifests after %d puts", s, len(w.manifests()), puts)
	}
	if _, err := os.Stat(w.path("scratch")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the copies are still there: %v", err)
	}
	// What was put by then is not put again.
	puts = 0
	taker = w.taker(faulty, Schedule{Every: time.Hour})
	taker.Final(t.Context())
	if s := taker.Status(); s.Taken != 1 || puts > len(taker.last.contents()) { // the manifest is one more
		t.Errorf("%+v after %d puts for %d files", s, puts, len(taker.last.contents()))
	}
}
