// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
)

const key = "log/0000000000000001-0000000000000001.0000"

func TestPutEqualTriesUntilItKnows(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 40_000) // more than one step of a comparison
	for _, tc := range []struct {
		name   string
		faults func(f *buckettest.Faulty)
	}{
		{"nothing fails", func(*buckettest.Faulty) {}},
		{"the put fails ten times and was not done", func(f *buckettest.Faulty) { f.FailNext(buckettest.Put, 10, false) }},
		{"the put fails ten times and was done", func(f *buckettest.Faulty) { f.FailNext(buckettest.Put, 10, true) }},
		{"the put was done and the asking fails", func(f *buckettest.Faulty) {
			f.Set(buckettest.Hooks{After: failFirst(map[buckettest.Op]int{buckettest.Put: 1, buckettest.Head: 3})})
		}},
		{"the put was done and the reading back fails", func(f *buckettest.Faulty) {
			f.Set(buckettest.Hooks{After: failFirst(map[buckettest.Op]int{buckettest.Put: 1, buckettest.Get: 3})})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory := buckettest.NewMemory()
				bucket := buckettest.NewFaulty(memory)
				tc.faults(bucket)
				if err := archiver.PutEqual(t.Context(), bucket, key, archiver.BytesBody(big)); err != nil {
					t.Error(err)
				}
				if got, _ := memory.Get(key); !bytes.Equal(got, big) {
					t.Errorf("the bucket holds %d bytes", len(got))
				}
			})
		})
	}
}

// failFirst lets the first so many calls of each kind fail.
func failFirst(left map[buckettest.Op]int) func(context.Context, buckettest.Op, string) error {
	return func(_ context.Context, op buckettest.Op, _ string) error {
		if left[op]--; left[op] >= 0 {
			return buckettest.ErrInjected
		}
		return nil
	}
}

func TestABrokenTransferIsNoDifference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := buckettest.NewMemory()
		memory.Set(key, []byte("0123456789"))
		bucket := buckettest.NewFaulty(memory)
		reads := 0
		bucket.Set(buckettest.Hooks{Cut: func(string) int64 {
			if reads++; reads <= 3 {
				return int64(reads)
			}
			return -1
		}})
		if err := archiver.PutEqual(t.Context(), bucket, key, archiver.BytesBody([]byte("0123456789"))); err != nil || reads != 4 {
			t.Errorf("%v after %d reads", err, reads)
		}
	})
}

func TestOtherBytesAreDifferentAndStay(t *testing.T) {
	for _, other := range []string{"", "mine", "longer than mine", "mine and more", "mind"} {
		bucket := buckettest.NewMemory()
		bucket.Set(key, []byte(other))
		err := archiver.PutEqual(t.Context(), bucket, key, archiver.BytesBody([]byte("mine")))
		if errors.Is(err, archiver.ErrDifferent) != (other != "mine") || (err == nil) != (other == "mine") {
			t.Errorf("%q is there: %v", other, err)
		}
		if got, _ := bucket.Get(key); string(got) != other {
			t.Errorf("%q became %q", other, got)
		}
	}
}

func TestAPutThatLandsLateChangesNothing(t *testing.T) {
	memory := buckettest.NewMemory()
	late, other := buckettest.NewFaulty(memory), buckettest.NewFaulty(memory)
	late.Late(key)
	if err := late.PutIfAbsent(t.Context(), key, archiver.BytesBody([]byte("late"))); err == nil || len(memory.Keys()) > 0 {
		t.Fatalf("%v, the bucket holds %q", err, memory.Keys())
	}
	if err := archiver.PutEqual(t.Context(), other, key, archiver.BytesBody([]byte("in time"))); err != nil {
		t.Fatal(err)
	}
	if results := late.Land(t.Context(), key); len(results) != 1 || !errors.Is(results[0], archiver.ErrExists) {
		t.Errorf("the late put: %v", results)
	}
	if got, _ := memory.Get(key); string(got) != "in time" {
		t.Errorf("the bucket holds %q", got)
	}
}

// A store that says that an object exists, and then that it does not, has not
// made up its mind.
func TestAnObjectThatIsThereAndThenIsNotIsAskedForAgain(t *testing.T) {
	for op, name := range map[buckettest.Op]string{buckettest.Head: "asked for", buckettest.Get: "read"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory := buckettest.NewMemory()
				memory.Set(key, []byte("ours"))
				bucket := buckettest.NewFaulty(memory)
				absent := 2
				bucket.Set(buckettest.Hooks{Before: func(_ context.Context, did buckettest.Op, _ string) error {
					if did != op || absent == 0 {
						return nil
					}
					absent--
					return archiver.ErrNotFound
				}})
				if err := archiver.PutEqual(t.Context(), bucket, key, archiver.BytesBody([]byte("ours"))); err != nil || absent != 0 {
					t.Errorf("%v, %d answers left", err, absent)
				}
			})
		})
	}
}

func TestPutEqualEndsWithItsContextAndSaysWhatFailedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := buckettest.NewFaulty(buckettest.NewMemory())
		bucket.Away()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		err := archiver.PutEqual(ctx, bucket, key, archiver.BytesBody(nil))
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, buckettest.ErrInjected) {
			t.Errorf("%v, want the context's end and the last failure", err)
		}
		if n := bucket.Calls(buckettest.Put); n < 200 || n > 800 {
			t.Errorf("%d tries in an hour", n)
		}
	})
}

func TestABodyThatIsNotThereIsNotTriedForEver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "payload")
	bucket := buckettest.NewFaulty(buckettest.NewMemory())
	absent := archiver.Body{Path: path, Size: 4}
	if err := archiver.PutEqual(t.Context(), bucket, key, absent); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an absent file: %v", err)
	}
	if err := os.WriteFile(path, []byte("longer"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := archiver.PutEqual(t.Context(), bucket, key, absent); err == nil {
		t.Error("a file of another size is put")
	}
	if n := bucket.Calls(buckettest.Put); n != 0 {
		t.Errorf("the bucket was asked %d times", n)
	}
}
