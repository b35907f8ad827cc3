// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

// overtaken is a dead server with events that were not archived, in a world in
// which another one has archived others in their place, from the key first on.
func overtaken(w *world) (dead *server, first string) {
	dead = lostMachine(w)
	keys := len(w.bucket.Keys())
	s := w.recovered()
	s.mustStart(true)
	s.store("of the new server")
	s.wait()
	s.kill()
	if len(w.bucket.Keys()) < keys+2 {
		w.t.Fatalf("the new server archived nothing")
	}
	for _, key := range w.bucket.Keys() {
		if object, err := archiver.ParseLogKey(key); err == nil {
			if data, _ := w.bucket.Get(key); bytes.Contains(data, []byte("of the new server")) {
				return dead, archiver.Shipped(object.First - 1).Key()
			}
		}
	}
	w.t.Fatalf("the new server's object is not there")
	return nil, ""
}

func TestAListThatLagsAtItsEndOnceIsNoReasonToPutInItsPlace(t *testing.T) {
	inWorld(t, func(w *world) {
		dead, first := overtaken(w)
		lists := 0
		dead.bucket.Set(buckettest.Hooks{
			Before: func(_ context.Context, op buckettest.Op, key string) error {
				if op == buckettest.List && key == archiver.LogPrefix {
					lists++
				}
				return nil
			},
			Hide: func(key string) bool {
				return lists%2 == 1 && strings.HasPrefix(key, archiver.LogPrefix) && key >= first
			},
		})
		dead.mustStart(true)
		if ev := dead.epochStarted(); !ev.Lossy {
			t.Error("the start is not lossy")
		}
		dead.stop()
	})
}

func TestAListThatLagsAtItsEndForEverEndsTheStart(t *testing.T) {
	inWorld(t, func(w *world) {
		dead, first := overtaken(w)
		dead.bucket.Set(buckettest.Hooks{Hide: func(key string) bool {
			return strings.HasPrefix(key, archiver.LogPrefix) && key >= first
		}})
		began, claims := time.Now(), len(dead.state().Claims)
		err := dead.start(true)
		expectError(t, err, archiver.ErrOlderState)
		expectNone(t, err, archiver.ErrHole, eventlog.ErrDamaged)
		if took := time.Since(began); took > time.Minute || len(dead.state().Claims) != claims {
			t.Errorf("it took %v, and %d claims", took, len(dead.state().Claims)-claims)
		}
	})
}

// A store that says of an ordinal that it is taken, by other bytes, and when it
// is asked for the archive's end, that nothing is there.
func TestAPlaceThatIsTakenAndEmptyEndsTheStart(t *testing.T) {
	inWorld(t, func(w *world) {
		dead, first := overtaken(w)
		var mu sync.Mutex
		reading, puts := "", 0 // the key that a put is reading back
		dead.bucket.Set(buckettest.Hooks{
			Before: func(_ context.Context, op buckettest.Op, key string) error {
				mu.Lock()
				defer mu.Unlock()
				switch {
				case !strings.HasPrefix(key, archiver.LogPrefix) || key < first:
				case op == buckettest.Put:
					reading = key
					puts++
				case op == buckettest.Head && reading == key:
					reading = ""
				case op == buckettest.Head || op == buckettest.Get:
					return archiver.ErrNotFound
				}
				return nil
			},
			Hide: func(key string) bool { return strings.HasPrefix(key, archiver.LogPrefix) && key >= first },
		})
		err := dead.start(true)
		expectError(t, err, archiver.ErrOlderState)
		if !strings.Contains(err.Error(), "memory:") || !strings.Contains(err.Error(), "is taken") {
			t.Errorf("%v does not name the store and what it says", err)
		}
		if puts > 10 {
			t.Errorf("%d puts", puts)
		}
		before := w.bucket.Keys()
		dead.sameProcess = true // which remembers the ordinal
		expectError(t, dead.start(true), archiver.ErrOlderState)
		if now := w.bucket.Keys(); !slices.Equal(before, now) {
			t.Errorf("the second try put something: %q, before %q", now, before)
		}
	})
}

// wrong is a bucket that gives wrong answers to the first n reads of a key.
type wrong struct {
	archiver.Bucket
	key    string
	answer func(data []byte) ([]byte, error)
	mu     sync.Mutex
	n      int // owned by mu; negative: for ever
	asked  int // owned by mu
}

func (b *wrong) now(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if key != b.key {
		return false
	}
	b.asked++
	if b.n > 0 {
		b.n--
		return true
	}
	return b.n < 0
}

func (b *wrong) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	r, err := b.Bucket.GetRange(ctx, key, offset, length)
	if err != nil || !b.now(key) {
		return r, err
	}
	data, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	if data, err = b.answer(bytes.Clone(data)); err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func absent([]byte) ([]byte, error)        { return nil, archiver.ErrNotFound }
func half(data []byte) ([]byte, error)     { return data[:len(data)/2], nil }
func nothing([]byte) ([]byte, error)       { return nil, nil }
func without1(data []byte) ([]byte, error) { return data[:len(data)-1], nil }
func flippedAt(i int) func([]byte) ([]byte, error) {
	return func(data []byte) ([]byte, error) {
		data[(i+len(data))%len(data)] ^= 4
		return data, nil
	}
}

var wrongAnswers = map[string]func([]byte) ([]byte, error){
	"absent": absent, "cut in half": half, "empty": nothing, "cut by a byte": without1,
	"with its first byte flipped": flippedAt(0), "with a byte flipped": flippedAt(77), "with its last byte flipped": flippedAt(-1),
}

// withClaims is an archive with an index object and two claims.
func withClaims(t *testing.T, encode func(*archiver.Claim) ([]byte, error)) *history {
	t.Helper()
	h := newHistory(t, 256, 2).index(t)
	for epoch := uint32(1); epoch <= 2; epoch++ {
		text, err := encode(&archiver.Claim{LogID: h.logID, Epoch: epoch, Host: "a host", Cause: "start"})
		if err != nil {
			t.Fatal(err)
		}
		h.Set(archiver.EpochKey(epoch), text)
	}
	return h
}

// reads are those of which one answer decides.
var reads = map[string]struct {
	key  string
	read func(ctx context.Context, bucket archiver.Bucket) error
}{
	"strandline.json": {archiver.ManifestKey, func(ctx context.Context, b archiver.Bucket) error {
		_, err := archiver.Open(ctx, b)
		return err
	}},
	"a claim": {archiver.EpochKey(2), func(ctx context.Context, b archiver.Bucket) error {
		claim, err := archiver.At(b, testLog).HighestClaim(ctx)
		if err == nil && (claim.Epoch != 2 || claim.Host != "a host") {
			err = fmt.Errorf("it is %v", claim)
		}
		return err
	}},
	"a trailer": {archiver.Shipped(7).Key(), func(ctx context.Context, b archiver.Bucket) error {
		object, err := sized(ctx, b, 7)
		if err == nil {
			_, err = archiver.At(b, testLog).Trailer(ctx, object)
		}
		return err
	}},
	"a footer": {archiver.Shipped(7).Key(), func(ctx context.Context, b archiver.Bucket) error {
		object, err := sized(ctx, b, 7)
		if err == nil {
			_, _, err = archiver.At(b, testLog).Metadata(ctx, object)
		}
		return err
	}},
	"an object that is checked": {archiver.Shipped(7).Key(), func(ctx context.Context, b archiver.Bucket) error {
		object, err := sized(ctx, b, 7)
		if err == nil {
			_, err = archiver.At(b, testLog).CheckObject(ctx, object)
		}
		return err
	}},
	"an index object": {index1, func(ctx context.Context, b archiver.Bucket) error {
		return archiver.At(b, testLog).VerifyIndex(ctx, 1, func(r archiver.RunReport) error {
			if r.Was != archiver.RunWhole {
				return fmt.Errorf("%s: %w", r.Was, r.Why)
			}
			return nil
		})
	}},
}

func sized(ctx context.Context, b archiver.Bucket, ordinal uint64) (archiver.ObjectInfo, error) {
	object := archiver.Shipped(ordinal)
	info, err := b.Head(ctx, object.Key())
	object.Size = info.Size
	return object, err
}

func TestOneWrongAnswerIsNotBelieved(t *testing.T) {
	for name, r := range reads {
		for how, answer := range wrongAnswers {
			for _, old := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %s, old %v", name, how, old), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						h := withClaims(t, archiver.EncodeClaim)
						if old {
							h.unseal()
						}
						bucket := &wrong{Bucket: h, key: r.key, answer: answer, n: 1}
						if err := r.read(t.Context(), bucket); err != nil || bucket.n > 0 {
							t.Errorf("asked %d times: %v", bucket.asked, err)
						}
					})
				})
			}
		}
	}
}

// unseal makes strandline.json and the claims what builds before wrote.
func (h *history) unseal() {
	for _, key := range h.Keys() {
		data, _ := h.Get(key)
		if before, _, sealed := bytes.Cut(data, []byte(",\n  \"crc32c\"")); sealed {
			h.Set(key, append(bytes.Clone(before), "\n}\n"...))
		}
	}
}

func TestAnObjectThatStaysAwayIsAnOlderState(t *testing.T) {
	for name, r := range reads {
		if name == "an index object" { // it costs time
			continue
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bucket := &wrong{Bucket: withClaims(t, archiver.EncodeClaim), key: r.key, answer: absent, n: -1}
				began := time.Now()
				err := r.read(t.Context(), bucket)
				expectError(t, err, archiver.ErrOlderState)
				expectNone(t, err, archiver.ErrNoArchive, eventlog.ErrDamaged, eventlog.ErrObjectDamaged)
				if took := time.Since(began); bucket.asked < 4 || bucket.asked > 10 || took < time.Second {
					t.Errorf("asked %d times within %v", bucket.asked, took)
				}
			})
		})
	}
}

// A claim is sealed: whatever byte is another, and stays so, is found.
func TestEveryByteOfASealedClaimThatChangesIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withClaims(t, archiver.EncodeClaim)
		text, _ := h.Get(archiver.EpochKey(2))
		name := bytes.Index(text, []byte("crc32c"))
		for bit := range 8 * len(text) {
			h.Flip(archiver.EpochKey(2), bit)
			claim, err := archiver.At(h, testLog).HighestClaim(t.Context())
			switch inName := bit/8 >= name && bit/8 < name+len("crc32c"); {
			case inName && err == nil:
				// A field that is not known: nothing says that it was a checksum, and
				// what it was of is right.
				if claim.Host != "a host" {
					t.Errorf("bit %d: %v", bit, claim)
				}
			case !errors.Is(err, eventlog.ErrDamaged):
				t.Errorf("bit %d: %v, %v", bit, claim, err)
			}
			h.Flip(archiver.EpochKey(2), bit)
		}
	})
}

// A claim without a checksum is believed when it reads the same twice.
func TestAnOldClaimWhoseReadingsDifferIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withClaims(t, archiver.EncodeClaim)
		h.unseal()
		reading := byte('0')
		bucket := &wrong{Bucket: h, key: archiver.EpochKey(2), n: -1, answer: func(data []byte) ([]byte, error) {
			reading++ // another host each time
			return bytes.Replace(data, []byte("a host"), append([]byte("host "), reading), 1), nil
		}}
		claim, err := archiver.At(bucket, testLog).HighestClaim(t.Context())
		if !errors.Is(err, archiver.ErrOlderState) {
			t.Errorf("%v, %v", claim, err)
		}
	})
}

// A claim between others is there: that it is called absent once is not
// believed.
func TestAClaimThatIsCalledAbsentOnceIsNotGone(t *testing.T) {
	for _, op := range []buckettest.Op{buckettest.Head, buckettest.Get} {
		synctest.Test(t, func(t *testing.T) {
			h := withClaims(t, archiver.EncodeClaim)
			bucket := buckettest.NewFaulty(h)
			absences := 1
			bucket.Set(buckettest.Hooks{
				Hide: func(key string) bool { return key == archiver.EpochKey(1) },
				Before: func(_ context.Context, called buckettest.Op, key string) error {
					if called == op && (key == archiver.EpochKey(1) || op == buckettest.Get) && absences > 0 {
						absences--
						return archiver.ErrNotFound
					}
					return nil
				},
			})
			if claim, err := archiver.At(bucket, testLog).HighestClaim(t.Context()); err != nil || claim.Epoch != 2 || absences > 0 {
				t.Errorf("%s: %v, %v", op, claim, err)
			}
		})
	}
}

// What a start reads may be wrong once, whatever it is.
func TestAStartOutlastsOneWrongAnswer(t *testing.T) {
	for name, answer := range map[string]func([]byte) ([]byte, error){"absent": absent, "cut": half, "flipped": flippedAt(77)} {
		for _, prefix := range []string{archiver.EpochPrefix, archiver.LogPrefix} {
			t.Run(name+" "+prefix, func(t *testing.T) {
				inWorld(t, func(w *world) {
					s := w.first()
					s.mustStart(false)
					s.store("a block")
					s.wait()
					s.kill()
					for _, key := range w.bucket.Keys() {
						if !strings.HasPrefix(key, prefix) {
							continue
						}
						bucket := &wrong{Bucket: w.bucket, key: key, answer: answer, n: 1}
						s.bucket = buckettest.NewFaulty(bucket)
						s.mustStart(false)
						s.kill()
					}
				})
			})
		}
	}
}

// There is nothing behind the last claim and the last object: that is asked
// once, and no start waits for it.
func TestWhatWasNeverThereIsAskedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withClaims(t, archiver.EncodeClaim)
		bucket := buckettest.NewFaulty(h)
		asked := map[string]int{}
		bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
			if _, there := h.Get(key); op == buckettest.Head && !there {
				asked[key]++
			}
			return nil
		}})
		began := time.Now()
		a := open(t, bucket)
		if _, err := a.HighestClaim(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Objects(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if len(asked) != 2 || asked[archiver.EpochKey(3)] != 1 || asked[archiver.Shipped(257).Key()] != 1 || time.Since(began) > 0 {
			t.Errorf("within %v: %v", time.Since(began), asked)
		}
	})
}
