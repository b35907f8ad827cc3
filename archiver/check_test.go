// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

func TestAWholeObjectChecksOut(t *testing.T) {
	h := newHistory(t, 2, 5)
	a := open(t, h)
	objects, err := a.Objects(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		check, err := a.CheckObject(t.Context(), object)
		if err != nil || len(check.Damaged) > 0 || len(check.Footer.Entries) != 5 {
			t.Errorf("%v: %+v, %v", object, check, err)
		}
	}
}

func TestEveryFlippedBitOfAnObjectIsFoundAndItsPayloadNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 1, 3)
		a := open(t, h)
		objects, err := a.Objects(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		for bit := range int(objects[0].Size) * 8 {
			h.Flip(objects[0].Key(), bit)
			check, err := a.CheckObject(t.Context(), objects[0])
			if !errors.Is(err, eventlog.ErrObjectDamaged) {
				t.Fatalf("bit %d: %v", bit, err)
			}
			for _, entry := range h.entries {
				p := entry.Placement
				if at := uint64(bit / 8); at >= p.Offset && at < p.Offset+p.Length {
					if len(check.Damaged) != 1 || check.Damaged[0].Seq != entry.Event.Seq || check.Damaged[0].Chunk != 0 {
						t.Fatalf("bit %d lies in %v: %+v", bit, entry.Event.Seq, check.Damaged)
					}
				}
			}
			h.Flip(objects[0].Key(), bit)
		}
	})
}

func TestABrokenTransferIsNotDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := buckettest.NewFaulty(newHistory(t, 1, 3))
		a := open(t, bucket)
		objects, err := a.Objects(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		reads := 0
		bucket.Set(buckettest.Hooks{Cut: func(string) int64 {
			if reads++; reads == 2 { // the first reads the metadata
				return 20
			}
			return -1
		}})
		if check, err := a.CheckObject(t.Context(), objects[0]); err != nil || len(check.Damaged) > 0 || reads != 3 {
			t.Errorf("%+v, %v", check, err)
		}
	})
}

func TestABucketThatCanHoldAnArchivePassesTheProbe(t *testing.T) {
	memory := buckettest.NewMemory()
	memory.Set("log/theirs", []byte("x"))
	report, err := archiver.Probe(t.Context(), memory)
	if err != nil || !report.OK() || len(report.Left) > 0 {
		t.Errorf("%+v, %v", report, err)
	}
	for _, check := range report.Checks {
		if check.Err != nil {
			t.Errorf("%s: %v", check.Name, check.Err)
		}
	}
	if keys := memory.Keys(); len(keys) != 1 {
		t.Errorf("the probe left %q", keys)
	}
}

func TestTheProbeFindsOutWhatABucketCannotDo(t *testing.T) {
	for name, tc := range map[string]struct {
		bucket archiver.Bucket
		failed string // a part of the check's name
		ok     bool
	}{
		"puts replace":           {overwriting{buckettest.NewMemory()}, "never replaces", false},
		"several writers win":    {racy{buckettest.NewMemory()}, "exactly one wins", false},
		"lists lag":              {lagging(t), "listed at once", false},
		"refusals hide absence":  {refusing(t), "called absent", false},
		"checksums are ignored":  {trusting{buckettest.NewMemory()}, "wrong checksum", true},
		"deleting is forbidden":  {keeping(t), "deleted", true},
		"ranges are whole files": {whole{buckettest.NewMemory()}, "any range", false},
	} {
		t.Run(name, func(t *testing.T) {
			report, err := archiver.Probe(t.Context(), tc.bucket)
			if err != nil || report.OK() != tc.ok {
				t.Errorf("%+v, %v", report, err)
			}
			found := false
			for _, check := range report.Checks {
				found = found || check.Err != nil && strings.Contains(check.Name, tc.failed)
			}
			if !found {
				t.Errorf("nothing says %q: %+v", tc.failed, report.Checks)
			}
		})
	}
}

func TestABucketThatIsAwayCannotBeProbed(t *testing.T) {
	bucket := buckettest.NewFaulty(buckettest.NewMemory())
	bucket.Away()
	if report, err := archiver.Probe(t.Context(), bucket); !errors.Is(err, buckettest.ErrInjected) {
		t.Errorf("%+v, %v", report, err)
	}
}
