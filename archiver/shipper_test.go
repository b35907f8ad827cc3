// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

func TestTheShipperTriesAgainWhileTheBucketIsAway(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.wait()
		s.bucket.Away()
		left := time.Now()
		for range 60 {
			s.store("committed while the bucket is away")
			time.Sleep(time.Minute)
		}
		if err := s.log.Err(); err != nil {
			t.Fatalf("the log stopped: %v", err)
		}
		err, since := s.shipper.Away()
		if _, last := s.shipper.Last(); !errors.Is(err, buckettest.ErrInjected) || since.Sub(left) > time.Minute || last.After(left) {
			t.Errorf("the bucket is said to be away with %v since %v, the last object archived at %v; it left at %v", err, since, last, left)
		}
		s.bucket.Set(noFaults)
		s.wait()
		if err, _ := s.shipper.Away(); err != nil {
			t.Errorf("the bucket is back and said to be away: %v", err)
		}
		if ordinal, at := s.shipper.Last(); ordinal == 0 || time.Since(at) > time.Minute {
			t.Errorf("the last object archived is said to be %d at %v", ordinal, at)
		}
		s.stop()
	})
}

func TestEveryCallMayFailOnceDoneOrNot(t *testing.T) {
	for _, done := range []bool{false, true} {
		for n, more := 0, true; more && !t.Failed(); n++ {
			inWorld(t, func(w *world) {
				w.t = annotated{w.t, fmt.Sprintf("call %d fails, done %t", n, done)}
				s := killed(w)
				calls := 0
				fail := func(_ context.Context, op buckettest.Op, key string) error {
					if calls++; calls == n+1 {
						return fmt.Errorf("%s %s: %w", op, key, buckettest.ErrInjected)
					}
					return nil
				}
				if done {
					s.bucket.Set(buckettest.Hooks{After: fail})
				} else {
					s.bucket.Set(buckettest.Hooks{Before: fail})
				}
				s.mustStart(false)
				s.store("a block")
				s.wait()
				more = calls > n
				s.stop()
			})
		}
	}
}

func TestOtherBytesAtOurPlaceFenceUs(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.wait()
		archived := s.log.Archived()
		local := s.log.Local()
		key := archiver.Shipped(local[len(local)-1].Ordinal + 1).Key()
		w.bucket.Set(key, []byte("of somebody else"))
		s.store("a block")
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		expectError(t, s.waitWithin(ctx), archiver.ErrFenced)
		if now := s.log.Archived(); now != archived {
			t.Errorf("the archived watermark moved from %s to %s", archived, now)
		}
		w.bucket.Remove(key)
		s.kill()
	})
}

func TestAClaimCheckWithoutAnAnswerIsNoAbsence(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.wait()
		archived := s.log.Archived()
		s.bucket.Set(failing(buckettest.Head, archiver.EpochPrefix))
		s.store("a block")
		time.Sleep(time.Hour)
		synctest.Wait()
		if now := s.log.Archived(); now != archived {
			t.Errorf("the archived watermark moved to %s; nobody knows whose archive it is", now)
		}
		s.bucket.Set(noFaults)
		s.wait()
		s.stop()
	})
}

func TestTheShipperEndsWithItsContext(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.bucket.Away()
		s.store("a block")
		synctest.Wait()
		s.cancel()
		<-s.ended
		expectError(t, s.shipErr, context.Canceled)
		expectNone(t, s.shipErr, archiver.ErrFenced)
		if err := s.log.Err(); err != nil {
			t.Errorf("the log stopped: %v", err)
		}
	})
}

// The kill left a closed generation, which rots. No start claims an epoch then.
func TestRotInAClosedGenerationIsFoundBeforeAnythingIsClaimed(t *testing.T) {
	inWorld(t, func(w *world) {
		s := killed(w)
		gens := s.generations()
		rotten := gens[len(gens)-3] + "/payload"
		w.flip(rotten, len(eventlog.ObjectMagic)+1)
		before := w.bucket.Keys()
		for range 3 {
			err := s.start(false)
			expectError(t, err, eventlog.ErrDamaged)
			if !strings.Contains(err.Error(), "the payload of seq 2.4") {
				t.Errorf("the error does not say which seq: %v", err)
			}
		}
		if !slices.Equal(before, w.bucket.Keys()) {
			t.Errorf("the bucket holds %q, before %q", w.bucket.Keys(), before)
		}
		w.flip(rotten, len(eventlog.ObjectMagic)+1) // whatever it was, it reads as it was written again
		s.mustStart(false)
		s.wait()
		if mark := s.dir.State().Rotten; mark != nil {
			t.Errorf("it is still remembered: %+v", mark)
		}
		s.stop()
	})
}

// What this process wrote itself rots before it is shipped: what stands before it
// is archived, nothing of it or behind it is. That survives the process, and a
// clean end of it as well.
func TestAGenerationThatRottedIsNotShippedAndRemembered(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.wait()
		s.bucket.Away()
		for range 3 {
			s.store("closed")
			time.Sleep(6 * time.Second)
		}
		synctest.Wait()
		gens := s.generations()
		rotten := gens[len(gens)-3] // a prepared one stands behind the three
		w.flip(rotten+"/payload", len(eventlog.ObjectMagic)+1)
		s.bucket.Set(noFaults)
		<-s.ended
		expectError(t, s.shipErr, eventlog.ErrDamaged)
		for _, key := range w.bucket.Keys() {
			o, err := archiver.ParseLogKey(key)
			if err == nil && strings.Compare(fmt.Sprintf("%016d", o.First), filepath.Base(rotten)) >= 0 {
				t.Errorf("%s was put though %s has rotted", key, rotten)
			}
		}
		mark := s.dir.State().Rotten
		if mark == nil || !strings.HasPrefix(filepath.Base(rotten), fmt.Sprintf("%016d", mark.Ordinal)) || !strings.Contains(s.shipErr.Error(), mark.Seq.String()) {
			t.Fatalf("remembered is %+v, shipping ended with %v", mark, s.shipErr)
		}
		w.must(s.dir.Update(func(state *archiver.State) { state.Clean = true }))
		before := w.bucket.Keys()
		s.kill()
		expectError(t, s.start(false), eventlog.ErrDamaged)
		if !slices.Equal(before, w.bucket.Keys()) {
			t.Errorf("the refused start put something: %q, before %q", w.bucket.Keys(), before)
		}
		w.archive()
	})
}

// What has rotted is let go by name, and nothing else with it. A start that
// waives another event is refused as one that waives none. The object is the file
// as it is, and the waiver is in force until the log has it.
func TestARottenPayloadThatIsWaivedIsShippedAsItIs(t *testing.T) {
	inWorld(t, func(w *world) {
		s := killed(w)
		gens := s.generations()
		path := gens[len(gens)-3] + "/payload"
		w.flip(path, len(eventlog.ObjectMagic)+1)
		expectError(t, s.start(false), eventlog.ErrDamaged)
		seq := s.dir.State().Rotten.Seq
		waive := func(seq eventlog.Seq) []archiver.Waiver {
			return []archiver.Waiver{{Rule: archiver.RottenPayload, Scope: eventlog.Range{First: seq, Last: seq}}}
		}
		s.waivers = waive(seq + 1)
		expectError(t, s.start(false), eventlog.ErrDamaged)
		s.waivers = waive(seq)
		s.mustStart(false)
		s.waivers = nil
		s.wait()
		if state := s.dir.State(); state.Rotten != nil || !slices.Equal(state.Waivers, waive(seq)) {
			t.Errorf("remembered are %+v, waived %+v", state.Rotten, state.Waivers)
		}
		want, err := os.ReadFile(path)
		w.must(err)
		ordinal, err := strconv.ParseUint(filepath.Base(gens[len(gens)-3])[:16], 10, 64)
		w.must(err)
		got, err := archiver.At(w.bucket, w.logID).Read(t.Context(), archiver.Shipped(ordinal).Key(), 1<<20)
		w.must(err)
		if !bytes.Equal(got, want) {
			t.Error("the object is not the file")
		}
		s.kill()
		s.mustStart(false) // and it is not asked for again
		s.stop()
	})
}

// What is not a payload is never let go: without its footer an object is none.
func TestARottenFooterCannotBeWaived(t *testing.T) {
	inWorld(t, func(w *world) {
		s := killed(w)
		gens := s.generations()
		path := gens[len(gens)-3] + "/payload"
		w.flip(path, len(eventlog.ObjectMagic)+1)
		expectError(t, s.start(false), eventlog.ErrDamaged)
		w.flip(path, 0)
		s.waivers = []archiver.Waiver{{Rule: archiver.RottenPayload, Scope: eventlog.Range{First: 1, Last: eventlog.MakeSeq(99, 1)}}}
		err := s.start(false)
		expectError(t, err, eventlog.ErrDamaged)
		if strings.Contains(err.Error(), "--waive") {
			t.Errorf("a way on is named that there is not: %v", err)
		}
	})
}

// notToBeOpened puts a file that even root cannot open in the place of a payload,
// until the function returned is called.
func (w *world) notToBeOpened(path string) (restore func()) {
	w.must(os.Rename(path, path+".away"))
	w.must(os.Symlink(path, path))
	return func() {
		w.must(os.Remove(path))
		w.must(os.Rename(path+".away", path))
	}
}

// A file that cannot be opened for a while is shipped after it.
func TestAPayloadThatCannotBeOpenedForAWhileIsShippedLater(t *testing.T) {
	t.Run("written by this process", func(t *testing.T) {
		inWorld(t, func(w *world) {
			s := w.first()
			s.mustStart(false)
			s.wait()
			s.bucket.Away()
			s.store("a block")
			time.Sleep(time.Minute)
			gens := s.log.Local()
			s.shippedOnceOpened(gens[len(gens)-1].Path())
		})
	})
	t.Run("written by an earlier one, and not summed yet", func(t *testing.T) {
		inWorld(t, func(w *world) {
			s := killed(w)
			gens := s.generations()
			s.bucket.Set(failing(buckettest.Put, archiver.LogPrefix))
			s.mustStart(false)
			s.shippedOnceOpened(gens[len(gens)-3] + "/payload")
		})
	})
}

// shippedOnceOpened lets the bucket answer while the file, which waits to be
// shipped, cannot be opened.
func (s *server) shippedOnceOpened(path string) {
	s.w.t.Helper()
	restore := s.w.notToBeOpened(path)
	s.bucket.Set(noFaults)
	time.Sleep(10 * time.Minute)
	if err := s.log.Err(); err != nil {
		s.w.t.Fatalf("the log stopped: %v", err)
	}
	if err, _ := s.shipper.Away(); !errors.Is(err, syscall.ELOOP) {
		s.w.t.Fatalf("why nothing is shipped is said to be %v", err)
	}
	restore()
	s.wait()
	if err, _ := s.shipper.Away(); err != nil {
		s.w.t.Fatalf("the file is back, and nothing is shipped because of %v", err)
	}
	s.stop()
}

// What is gone does not come back: shipping ends, and says what is missing.
func TestAPayloadThatIsGoneEndsTheShipping(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.wait()
		s.bucket.Away()
		s.store("a block")
		time.Sleep(time.Minute)
		gens := s.log.Local()
		w.must(os.Remove(gens[len(gens)-1].Path()))
		s.bucket.Set(noFaults)
		<-s.ended
		expectError(t, s.shipErr, fs.ErrNotExist)
	})
}
