// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

// lostMachine is a world whose only server was lost with events that were
// committed and not archived, and while a machine held a lock.
func lostMachine(w *world) (dead *server) {
	dead = w.first()
	dead.mustStart(false)
	dead.lock(machine)
	dead.store("archived")
	dead.wait()
	dead.bucket.Away()
	dead.store("committed only")
	dead.kill()
	return dead
}

func TestALostMachineIsTakenOverAndItsSessionsAreBarred(t *testing.T) {
	inWorld(t, func(w *world) {
		lostMachine(w)
		s := w.recovered()
		expectError(t, s.start(false), archiver.ErrTakeOver)
		s.mustStart(true)
		ev := s.epochStarted()
		if !ev.Lossy || !slices.Equal(ev.Barred, []eventlog.Seq{machine}) || ev.Cause != "take-over" || s.started.Lossy == "" {
			t.Errorf("epoch_started is %+v; want lossy, with machine %s barred", ev, machine)
		}
		if s.started.Archived != s.started.Last {
			t.Errorf("the server serves with %s archived, before its epoch_started %s is", s.started.Archived, s.started.Last)
		}
		s.kill()
		s.mustStart(false)
		if ev := s.epochStarted(); ev.Lossy {
			t.Error("a restart after a lossy start that was archived is lossy again")
		}
		s.stop()
	})
}

func TestADeadServerThatComesBackMustNotTakeOverByItself(t *testing.T) {
	inWorld(t, func(w *world) {
		dead := lostMachine(w)
		s := w.recovered()
		s.mustStart(true)
		s.store("of the new server")
		s.wait()
		s.kill()

		expectError(t, dead.start(false), archiver.ErrTakeOver)
		if aside := dead.aside(); len(aside) != 0 {
			t.Errorf("a refused start has set %q aside", aside)
		}
		dead.mustStart(true)
		if ev := dead.epochStarted(); !ev.Lossy {
			t.Error("a dead server's events were set aside, and its epoch_started is not lossy")
		}
		if len(dead.aside()) == 0 {
			t.Error("nothing was set aside for salvage")
		}
		if dead.views.discards != 1 {
			t.Errorf("the views were thrown away %d times, want once: they had applied an event that is not history", dead.views.discards)
		}
		dead.stop()
	})
}

func TestAHandOverToAnotherDirectoryIsNotLossy(t *testing.T) {
	inWorld(t, func(w *world) {
		old := w.first()
		old.mustStart(false)
		old.lock(machine)
		old.stop()
		s := w.recovered()
		s.mustStart(false)
		if ev := s.epochStarted(); ev.Lossy || len(ev.Barred) != 0 || ev.Cause != "take-over" {
			t.Errorf("epoch_started is %+v; want a take-over that is not lossy", ev)
		}
		s.store("a block")
		s.stop()
		old.mustStart(false)
		if ev := old.epochStarted(); ev.Lossy {
			t.Errorf("handing back is lossy: %s", old.started.Lossy)
		}
		old.stop()
	})
}

func TestACleanEndOfAnOlderEpochIsNoHandOver(t *testing.T) {
	inWorld(t, func(w *world) {
		old := w.first()
		old.mustStart(false)
		old.stop()
		old.bucket.Set(failing(buckettest.Put, archiver.LogPrefix))
		old.mustStart(false)
		old.store("served again, and not archived")
		old.kill()
		s := w.recovered()
		expectError(t, s.start(false), archiver.ErrTakeOver)
		s.mustStart(true)
		if !s.epochStarted().Lossy {
			t.Error("the take-over is not lossy")
		}
		s.stop()
	})
}

func TestACloneOfAWholeMachineStartsOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.store("a block")
		s.wait()
		s.kill()
		clone := s.twin()
		clone.mustStart(false)
		clone.store("of the clone")
		clone.wait()
		expectError(t, s.start(false), archiver.ErrTakeOver)
		clone.kill()
		s.mustStart(true)
		if !s.epochStarted().Lossy {
			t.Error("the original goes on after its clone served, and says that nothing was lost")
		}
		s.stop()
	})
}

func TestADiskRolledBackIsFoundStale(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.lock(machine)
		s.wait()
		old := s.twin() // a snapshot of the disk
		s.store("archived after the snapshot")
		s.wait()
		s.store("committed after the snapshot")
		s.kill()
		old.mustStart(false)
		if ev := old.epochStarted(); !ev.Lossy || len(ev.Barred) != 1 {
			t.Errorf("epoch_started is %+v; want lossy with one machine barred", ev)
		}
		if old.started.Archived != old.started.Last {
			t.Errorf("the server serves with %s archived, before its lossy epoch_started %s is", old.started.Archived, old.started.Last)
		}
		old.stop()
	})
	inWorld(t, func(w *world) { // to before the last start
		s := w.first()
		s.mustStart(false)
		s.wait()
		old := s.twin()
		s.kill()
		s.mustStart(false)
		s.store("a block")
		s.wait()
		s.kill()
		expectError(t, old.start(false), archiver.ErrTakeOver)
		old.mustStart(true)
		old.stop()
	})
}

func TestAWALThatDiffersFromTheArchiveIsSetAside(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.wait()
		s.bucket.Set(failing(buckettest.Put, archiver.LogPrefix))
		s.store("first")
		clone := s.twin()                    // with that event in its open generation
		w.forgiven[s.store("second")] = true // the clone cannot know of it
		s.kill()
		clone.mustStart(false) // it has the same claims
		clone.wait()
		clone.kill()
		s.mustStart(true) // the same ordinal, with one event more
		if ev := s.epochStarted(); !ev.Lossy || s.views.discards != 1 || len(s.aside()) == 0 {
			t.Errorf("epoch_started is %+v, views discarded %d times, aside %q", ev, s.views.discards, s.aside())
		}
		s.stop()
	})
}

// lastWord is a dead server whose put of its next object is still on its way.
func lastWord(w *world) *lateWord {
	old := w.first()
	old.mustStart(false)
	old.wait()
	old.lock(machine)
	local := old.log.Local()
	key := archiver.Shipped(local[len(local)-1].Ordinal).Key()
	old.bucket.Late(key)
	time.Sleep(5*time.Second + time.Millisecond) // the generation is closed, its put is lost
	synctest.Wait()
	word := &lateWord{key: key, bucket: old.bucket}
	old.store("committed, and never put")
	old.kill()
	return word
}

// lateWord is a put that has left its server and not arrived.
type lateWord struct {
	key    string
	bucket *buckettest.Faulty
}

// land lets it arrive; the errors are what the bucket said to it.
func (l *lateWord) land() []error { return l.bucket.Land(context.Background(), l.key) }

func TestTheOldServersLastWordIsTakenIn(t *testing.T) {
	inWorld(t, func(w *world) {
		word := lastWord(w)
		s := w.recovered()
		s.bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, called string) error {
			if op == buckettest.Put && called == word.key {
				word.land() // just before the new server's epoch_started
			}
			return nil
		}})
		s.mustStart(true)
		ev := s.epochStarted()
		if !ev.Lossy || !slices.Equal(ev.Barred, []eventlog.Seq{machine}) || ev.Previous.Epoch() != 2 {
			t.Errorf("epoch_started is %+v; want a cut in epoch 2 and the machine of the last word's lock barred", ev)
		}
		if got := s.started.NextOrdinal; archiver.Shipped(got-2).Key() != word.key {
			t.Errorf("epoch_started has ordinal %d; want the one after %s", got-1, word.key)
		}
		s.stop()
	})
}

func TestTheOldServersLastWordComesTooLate(t *testing.T) {
	inWorld(t, func(w *world) {
		word := lastWord(w)
		s := w.recovered()
		s.mustStart(true)
		if errs := word.land(); len(errs) != 1 || !errors.Is(errs[0], archiver.ErrExists) {
			t.Errorf("the late put ended with %v, want that its place is taken", errs)
		}
		s.store("a block")
		s.stop()
	})
}

func TestAnObjectOfAHigherEpochMeansThatThisClaimerHasLost(t *testing.T) {
	inWorld(t, func(w *world) {
		lostMachine(w)
		slow, quick := w.recovered(), w.recovered()
		slow.bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
			if op == buckettest.Put && strings.HasPrefix(key, archiver.LogPrefix) {
				quick.mustStart(true) // claims the epoch after, and puts first
			}
			return nil
		}})
		expectError(t, slow.start(true), archiver.ErrFenced)
		quick.store("a block")
		quick.stop()
		slow.bucket.Set(noFaults)
		slow.mustStart(false) // handed over
		slow.stop()
	})
}

func TestAClaimAfterOursButBeforeOurEpochStartedFencesUs(t *testing.T) {
	inWorld(t, func(w *world) {
		lostMachine(w)
		slow, quick := w.recovered(), w.recovered()
		quick.bucket.Set(buckettest.Hooks{Before: func(ctx context.Context, op buckettest.Op, key string) error {
			if op == buckettest.Put && strings.HasPrefix(key, archiver.LogPrefix) {
				return errors.New("never put")
			}
			return nil
		}})
		slow.bucket.Set(buckettest.Hooks{After: func(_ context.Context, op buckettest.Op, key string) error {
			if op == buckettest.Put && strings.HasPrefix(key, archiver.LogPrefix) {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				if err := quick.startWithin(ctx, true); err == nil {
					t.Error("a server has started that can put nothing")
				}
			}
			return nil
		}})
		expectError(t, slow.start(true), archiver.ErrFenced)
		quick.bucket.Set(noFaults)
		quick.mustStart(false) // the highest claim is its own
		if !quick.epochStarted().Lossy {
			t.Error("the take-over was interrupted after its claim, and the next try forgot that it is lossy")
		}
		quick.stop()
	})
}

func TestAClaimOfOursThatLandsLateIsPassedOver(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		key := archiver.EpochKey(2)
		before, tries := s.bucket, 0
		before.Late(key) // the first try arrives much later
		before.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, called string) error {
			if called != key || op != buckettest.Put {
				return nil
			}
			if tries++; tries > 1 {
				return fmt.Errorf("put %s: %w", key, buckettest.ErrInjected)
			}
			return nil
		}})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := s.startWithin(ctx, false); err == nil {
			t.Fatal("a server has started without its claim")
		}
		s.bucket = buckettest.NewFaulty(w.bucket)
		s.bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, called string) error {
			if op == buckettest.Put && called == key {
				before.Land(context.Background(), key)
			}
			return nil
		}})
		s.mustStart(false)
		if epoch := s.started.Head.Epoch; epoch != 3 {
			t.Errorf("the server has epoch %d; want 3, behind its own late claim of 2", epoch)
		}
		s.stop()
	})
}

func TestOneOfTwoClaimersWins(t *testing.T) {
	inWorld(t, func(w *world) {
		lostMachine(w)
		claimers := []*server{w.recovered(), w.recovered()}
		both := make(chan struct{})
		arrived := make(chan struct{}, 2)
		errs := make(chan error, 2)
		for _, s := range claimers {
			s.bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
				if op == buckettest.Put && strings.HasPrefix(key, archiver.EpochPrefix) {
					arrived <- struct{}{}
					<-both
				}
				return nil
			}})
			go func() { errs <- s.start(true) }()
		}
		<-arrived
		<-arrived
		close(both)
		first, second := <-errs, <-errs
		if (first == nil) == (second == nil) || !errors.Is(errors.Join(first, second), archiver.ErrFenced) {
			t.Fatalf("the claimers ended with %v and %v; want one nil and one ErrFenced", first, second)
		}
		for _, s := range claimers {
			if s.log != nil {
				s.check()
				s.stop()
			}
		}
	})
}

// Whoever claims an epoch first has it. That somebody did between our look and our
// claim is the end of this start, not a reason to claim the next epoch.
func TestAClaimThatCameFirstIsNotPassedOver(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.stop()
		const epoch = 3
		var once sync.Once
		s.bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
			if op == buckettest.Put && key == archiver.EpochKey(epoch) {
				once.Do(func() {
					text, err := archiver.EncodeClaim(&archiver.Claim{LogID: w.logID, Epoch: epoch, Writer: archiver.NewID(), Directory: archiver.NewID(), Cause: "take-over"})
					w.must(err)
					w.bucket.Set(key, text)
				})
			}
			return nil
		}})
		if err := s.start(false); !errors.Is(err, archiver.ErrFenced) {
			t.Errorf("the start ended with %v, want ErrFenced", err)
		}
		if _, there := w.bucket.Get(archiver.EpochKey(epoch + 1)); there {
			t.Errorf("it claimed epoch %d", epoch+1)
		}
	})
}

func TestAZombieIsFenced(t *testing.T) {
	inWorld(t, func(w *world) {
		zombie := w.first()
		zombie.mustStart(false)
		zombie.wait()
		archived := zombie.log.Archived()
		claimed := false
		zombie.bucket.Set(buckettest.Hooks{After: func(_ context.Context, op buckettest.Op, key string) error {
			if op == buckettest.Put && strings.HasPrefix(key, archiver.LogPrefix) && !claimed {
				claimed = true
				s := w.recovered() // its put is done, and it sleeps before the claim check
				s.mustStart(true)
				s.wait()
				s.kill()
			}
			return nil
		}})
		seq := zombie.store("a block")
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		expectError(t, zombie.waitWithin(ctx), archiver.ErrFenced)
		if now := zombie.log.Archived(); now != archived {
			t.Errorf("the archived watermark of a fenced server moved from %s to %s", archived, now)
		}
		if _, err := zombie.append(eventlog.Event{Type: eventlog.AccountOpened}, ""); !errors.Is(err, archiver.ErrFenced) {
			t.Errorf("a fenced server takes events: %v", err)
		}
		<-zombie.ended
		expectError(t, zombie.shipErr, archiver.ErrFenced)
		if entries := w.archive(); !slices.ContainsFunc(entries, func(e eventlog.Entry) bool { return e.Event.Seq == seq }) {
			t.Error("the object was visible before the claim, and the successor has not taken it in")
		}
		zombie.end()
	})
}

func TestAnIdleZombieFindsTheClaim(t *testing.T) {
	inWorld(t, func(w *world) {
		zombie := w.first()
		zombie.mustStart(false)
		zombie.wait()
		s := w.recovered()
		s.mustStart(true)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		expectError(t, zombie.log.Err(), archiver.ErrFenced)
		zombie.end()
		s.stop()
	})
}
