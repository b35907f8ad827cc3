// SPDX-License-Identifier: Apache-2.0

package buckettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/strandline-project/strandline/archiver"
)

// Run checks everything that archiver.Bucket promises. open returns a new,
// empty bucket; it is called once for each part.
func Run(t *testing.T, open func(t *testing.T) archiver.Bucket) {
	for _, part := range []struct {
		name string
		run  func(t *testing.T, b archiver.Bucket)
	}{
		{"an empty bucket has nothing", emptyBucket},
		{"what was put can be read, asked for and listed", putAndRead},
		{"a file is put and stays the caller's", putFile},
		{"a body that is not as described is not put", wrongBody},
		{"an object is never replaced", neverReplaced},
		{"one of 32 racing creates wins", racingCreates},
		{"ranges are those of HTTP", ranges},
		{"an empty object is an object", emptyObject},
		{"lists are in byte order, by prefix, after a key", lists},
		{"a list of more than a page is whole", longList},
		{"a list may be left early", leaveList},
		{"a deleted object is gone, and deleting it again is no error", deletes},
		{"a call whose context has ended says nothing for certain", endedContext},
		{"a lost response is found out by reading back", lostResponse},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, open(t)) })
	}
}

func emptyBucket(t *testing.T, b archiver.Bucket) {
	if keys := listKeys(t, b, "", ""); len(keys) > 0 {
		t.Errorf("an empty bucket lists %q", keys)
	}
	if _, err := b.Head(t.Context(), "log/absent"); !errors.Is(err, archiver.ErrNotFound) {
		t.Errorf("Head of an absent object gives %v, want ErrNotFound", err)
	}
	if _, err := b.GetRange(t.Context(), "log/absent", 0, -1); !errors.Is(err, archiver.ErrNotFound) {
		t.Errorf("GetRange of an absent object gives %v, want ErrNotFound", err)
	}
	if b.String() == "" {
		t.Error("the bucket has no name")
	}
}

func putAndRead(t *testing.T, b archiver.Bucket) {
	data := pattern(300_000)
	mustPut(t, b, "log/one", data)
	expectContent(t, b, "log/one", data)
	if keys := listKeys(t, b, "", ""); !slices.Equal(keys, []string{"log/one"}) {
		t.Errorf("the list is %q right after the put", keys)
	}
}

func putFile(t *testing.T, b archiver.Bucket) {
	data := pattern(100_000)
	path := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	body := archiver.BytesBody(data)
	body.Path, body.Bytes = path, nil
	if err := b.PutIfAbsent(t.Context(), "log/file", body); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the file is not what it was: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expectContent(t, b, "log/file", data)
}

func wrongBody(t *testing.T, b archiver.Bucket) {
	short := archiver.BytesBody(pattern(100))
	short.Size = 101
	sum := archiver.BytesBody(pattern(100))
	sum.Checksum ^= 1
	absent := archiver.Body{Path: filepath.Join(t.TempDir(), "absent"), Size: 1}
	for name, body := range map[string]archiver.Body{"size": short, "checksum": sum, "file": absent} {
		err := b.PutIfAbsent(t.Context(), "log/"+name, body)
		if err == nil || errors.Is(err, archiver.ErrExists) || errors.Is(err, archiver.ErrNotFound) {
			t.Errorf("a put with a wrong %s gives %v", name, err)
		}
	}
	if keys := listKeys(t, b, "", ""); len(keys) > 0 {
		t.Errorf("wrong bodies left %q", keys)
	}
}

func neverReplaced(t *testing.T, b archiver.Bucket) {
	first := pattern(1000)
	mustPut(t, b, "epoch/0000000001", first)
	for _, data := range [][]byte{first, pattern(999), nil} {
		if err := b.PutIfAbsent(t.Context(), "epoch/0000000001", archiver.BytesBody(data)); !errors.Is(err, archiver.ErrExists) {
			t.Errorf("a second put of %d bytes gives %v, want ErrExists", len(data), err)
		}
	}
	expectContent(t, b, "epoch/0000000001", first)
}

func racingCreates(t *testing.T, b archiver.Bucket) {
	const writers = 32
	for round := range 4 {
		key := fmt.Sprintf("epoch/%010d", round)
		results := race(t.Context(), writers, func(ctx context.Context, i int) error {
			return b.PutIfAbsent(ctx, key, archiver.BytesBody(fmt.Appendf(nil, "writer %2d %s", i, pattern(20_000))))
		})
		winner := -1
		for i, err := range results {
			switch {
			case err == nil && winner >= 0:
				t.Errorf("%s: writers %d and %d both won", key, winner, i)
			case err == nil:
				winner = i
			case !errors.Is(err, archiver.ErrExists):
				t.Logf("%s: writer %d: %v", key, i, err) // not known, as a store may say
			}
		}
		if winner < 0 {
			t.Fatalf("%s: nobody won", key)
		}
		expectContent(t, b, key, fmt.Appendf(nil, "writer %2d %s", winner, pattern(20_000)))
	}
}

// race calls write n times at once and returns what each call returned.
func race(ctx context.Context, n int, write func(ctx context.Context, i int) error) []error {
	results := make([]error, n)
	barrier := make(chan struct{})
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() {
			<-barrier
			results[i] = write(ctx, i)
		})
	}
	close(barrier)
	running.Wait()
	return results
}

func ranges(t *testing.T, b archiver.Bucket) {
	data := pattern(10_000)
	mustPut(t, b, "log/ranges", data)
	for _, tc := range []struct {
		offset, length int64
		want           []byte
	}{
		{0, -1, data}, {0, 10_000, data}, {0, 20_000, data}, {0, 1, data[:1]},
		{5, 10, data[5:15]}, {9_999, 1, data[9_999:]}, {9_990, 100, data[9_990:]}, {1, -1, data[1:]},
		{-1, -1, data[9_999:]}, {-144, -1, data[9_856:]}, {-10_000, -1, data}, {-10_001, -1, data}, {-1 << 20, -1, data},
		{-100, 10, data[9_900:9_910]}, {-100, 100, data[9_900:]}, {-100, 1000, data[9_900:]},
		{3, 0, nil},
	} {
		got, err := read(t.Context(), b, "log/ranges", tc.offset, tc.length)
		if err != nil || !bytes.Equal(got, tc.want) {
			t.Errorf("%d bytes from %d: %d bytes, %v; want %d bytes", tc.length, tc.offset, len(got), err, len(tc.want))
		}
	}
	if _, err := read(t.Context(), b, "log/ranges", 10_000, 1); err == nil || errors.Is(err, archiver.ErrNotFound) {
		t.Errorf("a range behind the end gives %v, want an error that is not ErrNotFound", err)
	}
}

func emptyObject(t *testing.T, b archiver.Bucket) {
	mustPut(t, b, "log/empty", nil)
	expectContent(t, b, "log/empty", nil)
	if got, err := read(t.Context(), b, "log/empty", -100, -1); err != nil || len(got) > 0 {
		t.Errorf("the last 100 bytes of an empty object: %d bytes, %v", len(got), err)
	}
}

func lists(t *testing.T, b archiver.Bucket) {
	keys := []string{"a-b/c", "a/b", "a/b.c", "a/b/c", "a/bc", "epoch/0000000001", "log/1", "log/2", "log/3", "log0", "z"}
	for _, key := range slices.Backward(keys) {
		if key == "a/b" || key == "log0" { // beside a directory of that name no file can be
			continue
		}
		mustPut(t, b, key, []byte(key))
	}
	for _, tc := range []struct {
		prefix, after string
		want          []string
	}{
		{"", "", []string{"a-b/c", "a/b.c", "a/b/c", "a/bc", "epoch/0000000001", "log/1", "log/2", "log/3", "z"}},
		{"log/", "", []string{"log/1", "log/2", "log/3"}},
		{"log/", "log/1", []string{"log/2", "log/3"}},
		{"log/", "log/15", []string{"log/2", "log/3"}},
		{"log/", "log/3", nil},
		{"log/", "a", []string{"log/1", "log/2", "log/3"}},
		{"log/", "m", nil},
		{"log/2", "", []string{"log/2"}},
		{"a/b", "", []string{"a/b.c", "a/b/c", "a/bc"}},
		{"a", "a/b.c", []string{"a/b/c", "a/bc"}},
		{"nothing", "", nil},
	} {
		if got := listKeys(t, b, tc.prefix, tc.after); !slices.Equal(got, tc.want) {
			t.Errorf("prefix %q after %q lists %q, want %q", tc.prefix, tc.after, got, tc.want)
		}
	}
}

func longList(t *testing.T, b archiver.Bucket) {
	const objects = 1100 // a page is 1,000
	want := make([]string, objects)
	results := race(t.Context(), objects, func(ctx context.Context, i int) error {
		want[i] = fmt.Sprintf("log/%016d", i+1)
		return archiver.PutEqual(ctx, b, want[i], archiver.BytesBody([]byte(want[i])))
	})
	if err := errors.Join(results...); err != nil {
		t.Fatal(err)
	}
	if got := listKeys(t, b, "log/", ""); !slices.Equal(got, want) {
		t.Errorf("listed %d objects, want %d", len(got), objects)
	}
	if got := listKeys(t, b, "log/", want[1049]); !slices.Equal(got, want[1050:]) {
		t.Errorf("listed %d objects after the 1,050th, want %d", len(got), objects-1050)
	}
}

func leaveList(t *testing.T, b archiver.Bucket) {
	for i := range 3 {
		mustPut(t, b, fmt.Sprintf("log/%d", i), nil)
	}
	for range b.List(t.Context(), "log/", "") {
		break
	}
	if keys := listKeys(t, b, "log/", ""); len(keys) != 3 {
		t.Errorf("the next list is %q", keys)
	}
}

func deletes(t *testing.T, b archiver.Bucket) {
	mustPut(t, b, "log/one", []byte("1"))
	mustPut(t, b, "log/two", []byte("2"))
	for range 2 {
		if err := b.Delete(t.Context(), "log/one"); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if _, err := b.Head(t.Context(), "log/one"); !errors.Is(err, archiver.ErrNotFound) {
		t.Errorf("Head of a deleted object gives %v, want ErrNotFound", err)
	}
	if keys := listKeys(t, b, "", ""); !slices.Equal(keys, []string{"log/two"}) {
		t.Errorf("after deleting one of two the list is %q", keys)
	}
}

func endedContext(t *testing.T, b archiver.Bucket) {
	mustPut(t, b, "log/one", []byte("1"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, headErr := b.Head(ctx, "log/two")
	_, getErr := read(ctx, b, "log/two", 0, -1)
	var listErr error
	for _, listErr = range b.List(ctx, "", "") {
	}
	for name, err := range map[string]error{
		"put": b.PutIfAbsent(ctx, "log/one", archiver.BytesBody(nil)), "head": headErr, "get": getErr,
		"list": listErr, "delete": b.Delete(ctx, "log/one"),
	} {
		if !errors.Is(err, context.Canceled) || errors.Is(err, archiver.ErrExists) || errors.Is(err, archiver.ErrNotFound) {
			t.Errorf("%s gives %v, want context.Canceled", name, err)
		}
	}
	expectContent(t, b, "log/one", []byte("1"))
}

func lostResponse(t *testing.T, b archiver.Bucket) {
	faulty := NewFaulty(b)
	data := pattern(5000)
	for _, done := range []bool{false, true} {
		key := fmt.Sprintf("log/done-%v", done)
		faulty.FailNext(Put, 1, done)
		if err := archiver.PutEqual(t.Context(), faulty, key, archiver.BytesBody(data)); err != nil {
			t.Errorf("a put that failed and was done=%v: %v", done, err)
		}
		expectContent(t, b, key, data)
		if err := archiver.PutEqual(t.Context(), b, key, archiver.BytesBody(pattern(4999))); !errors.Is(err, archiver.ErrDifferent) {
			t.Errorf("putting other bytes gives %v, want ErrDifferent", err)
		}
	}
}

func mustPut(t *testing.T, b archiver.Bucket, key string, data []byte) {
	t.Helper()
	if err := b.PutIfAbsent(t.Context(), key, archiver.BytesBody(data)); err != nil {
		t.Fatal(err)
	}
}

func expectContent(t *testing.T, b archiver.Bucket, key string, want []byte) {
	t.Helper()
	got, err := read(t.Context(), b, key, 0, -1)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s holds %d bytes, %v; want %d", key, len(got), err, len(want))
	}
	info, err := b.Head(t.Context(), key)
	if want := (archiver.Info{Key: key, Size: int64(len(want))}); err != nil || info != want {
		t.Errorf("Head gives %+v, %v; want %+v", info, err, want)
	}
}

func read(ctx context.Context, b archiver.Bucket, key string, offset, length int64) ([]byte, error) {
	r, err := b.GetRange(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

func listKeys(t *testing.T, b archiver.Bucket, prefix, after string) []string {
	t.Helper()
	var keys []string
	for info, err := range b.List(t.Context(), prefix, after) {
		if err != nil {
			t.Fatalf("list %q after %q: %v", prefix, after, err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

// pattern returns n bytes that differ from place to place.
func pattern(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i*7 + i>>8)
	}
	return data
}
