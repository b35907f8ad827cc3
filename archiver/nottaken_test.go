// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
)

func TestAStartAtABucketThatIsReadAndTakesNothingGivesUpSoAndClaimsNothing(t *testing.T) {
	for name, prefix := range map[string]string{"nothing at all": "", "no claim": archiver.EpochPrefix} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				s := w.first()
				s.mustStart(false)
				s.store("a block")
				s.wait()
				s.kill()
				claims := len(w.bucket.Keys())
				s.bucket.Set(failing(buckettest.Put, prefix))
				for range 3 {
					began := time.Now()
					if err := s.start(false); !errors.Is(err, archiver.ErrNotTaken) || !errors.Is(err, buckettest.ErrInjected) {
						t.Fatalf("%v, want ErrNotTaken and its cause", err)
					}
					if took := time.Since(began); took < 10*time.Second || took > time.Minute {
						t.Errorf("it gave up after %v", took)
					}
				}
				if now := len(w.bucket.Keys()); now != claims {
					t.Errorf("%d objects were put", now-claims)
				}
				s.bucket.Set(buckettest.Hooks{})
				s.mustStart(false)
				s.check()
				s.stop()
			})
		})
	}
}

func TestATakeOverThatCannotShipGivesUpAndIsRunAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		lostMachine(w)
		b := w.recovered()
		b.bucket.Set(failing(buckettest.Put, archiver.LogPrefix))
		if err := b.start(true); !errors.Is(err, archiver.ErrNotTaken) {
			t.Fatalf("%v, want ErrNotTaken", err)
		}
		b.bucket.Set(buckettest.Hooks{})
		b.mustStart(true)
		if ev := b.epochStarted(); !ev.Lossy {
			t.Error("the second try is not lossy any more")
		}
		b.stop()
	})
}

func TestAClaimThatFailedButWasDoneIsFoundToBeItsOwn(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.kill()
		s.bucket.Set(buckettest.Hooks{After: failing(buckettest.Put, archiver.EpochPrefix).Before, Before: failing(buckettest.Get, archiver.EpochPrefix+"0000000003").Before})
		if err := s.start(false); err == nil {
			t.Fatal("it started although the claim was never answered")
		}
		s.bucket.Set(buckettest.Hooks{})
		s.mustStart(false)
		if ev := s.epochStarted(); ev.Lossy {
			t.Error("a claim of its own made it lossy")
		}
		s.check()
		s.stop()
	})
}

func TestWritableTellsABucketThatTakesObjectsAndLeavesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := buckettest.NewMemory()
		bucket := buckettest.NewFaulty(memory)
		archive := archiver.At(bucket, archiver.NewID())
		if err := archive.Writable(t.Context()); err == nil {
			t.Error("a bucket without an archive is said to take its objects")
		}
		if err := archiver.Init(t.Context(), bucket, archive.LogID(), time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := archive.Writable(t.Context()); err != nil {
			t.Error(err)
		}
		bucket.Set(failing(buckettest.Put, ""))
		if err := archive.Writable(t.Context()); !errors.Is(err, buckettest.ErrInjected) {
			t.Errorf("%v, want why nothing can be put", err)
		}
		if keys := memory.Keys(); len(keys) != 1 {
			t.Errorf("the bucket holds %q", keys)
		}
	})
}
