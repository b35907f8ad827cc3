// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

var (
	testLog    = eventlog.ID{0xaa, 1}
	testWriter = eventlog.ID{0xbb, 1}
	testTime   = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

// history is an archive in memory that a test fills.
type history struct {
	*buckettest.Memory
	logID   eventlog.ID
	ordinal uint64
	last    eventlog.Seq
	horizon eventlog.Seq
	entries []eventlog.Entry // of all objects
}

// newHistory returns an archive of objects objects with perObject stores each,
// all of epoch 1.
func newHistory(t *testing.T, objects, perObject int) *history {
	t.Helper()
	h := &history{Memory: buckettest.NewMemory(), logID: testLog}
	if err := archiver.Init(t.Context(), h, h.logID, testTime); err != nil {
		t.Fatal(err)
	}
	for range objects {
		h.ship(1, perObject)
	}
	return h
}

// ship appends an object of n events of epoch, each with a small payload.
func (h *history) ship(epoch uint32, n int) {
	object, entries := h.build(epoch, n)
	h.Set(archiver.Shipped(h.ordinal).Key(), object)
	h.entries = append(h.entries, entries...)
}

func (h *history) build(epoch uint32, n int) ([]byte, []eventlog.Entry) {
	h.ordinal++
	trailer := eventlog.Trailer{LogID: h.logID, Epoch: epoch, Writer: testWriter, FirstOrdinal: h.ordinal, LastOrdinal: h.ordinal}
	object := []byte(eventlog.ObjectMagic)
	var entries []eventlog.Entry
	for range n {
		next := h.last.Next()
		if h.last.Epoch() != epoch {
			next = eventlog.MakeSeq(epoch, 1)
		}
		payload := bytes.Repeat([]byte{byte(next)}, int(next%5)*10+1)
		event := eventlog.Event{Seq: next, Type: eventlog.BlockStored, Actor: "a", Kind: eventlog.KindData, Block: blockName(next), Length: uint64(len(payload)), Checksum: eventlog.Checksum(payload)}
		entries = append(entries, eventlog.Entry{
			Event: event, Raw: eventlog.AppendEvent(nil, &event),
			Placement: eventlog.Placement{
				Ordinal: h.ordinal, Offset: uint64(len(object)), Length: uint64(len(payload)),
				Sums: binary.LittleEndian.AppendUint32(nil, eventlog.Checksum(payload)),
			},
		})
		object = append(object, payload...)
		h.last = next
	}
	trailer.First, trailer.Last = entries[0].Event.Seq, h.last
	trailer.PayloadBytes = uint64(len(object) - len(eventlog.ObjectMagic))
	trailer.PayloadSum = eventlog.Checksum(object)
	return eventlog.AppendMetadata(object, &trailer, entries, nil, h.horizon), entries
}

// blockName returns 32 bytes that do not compress.
func blockName(seq eventlog.Seq) []byte {
	sum := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, uint64(seq)))
	return sum[:]
}

// open returns the archive of bucket.
func open(t *testing.T, bucket archiver.Bucket) *archiver.Archive {
	t.Helper()
	a, err := archiver.Open(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestInitMakesAnArchiveOnceAndMayBeRepeated(t *testing.T) {
	bucket := buckettest.NewMemory()
	for i := range 3 {
		if err := archiver.Init(t.Context(), bucket, testLog, testTime.Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if keys := bucket.Keys(); len(keys) != 1 || keys[0] != archiver.ManifestKey {
		t.Errorf("the bucket holds %q", keys)
	}
	text, _ := bucket.Get(archiver.ManifestKey)
	const want = `{
  "log_id": "aa010000-0000-0000-0000-000000000000",
  "format": 1,
  "created": "2026-11-23T12:00:00Z",
  "crc32c": "087baefd"
}
`
	if string(text) != want {
		t.Errorf("strandline.json is\n%s\nwant\n%s", text, want)
	}
	if a := open(t, bucket); a.LogID() != testLog || a.Bucket() != archiver.Bucket(bucket) {
		t.Errorf("opened the archive of %v in %v", a.LogID(), a.Bucket())
	}
}

func TestInitLeavesAnotherLogsArchiveAlone(t *testing.T) {
	bucket := buckettest.NewMemory()
	if err := archiver.Init(t.Context(), bucket, testLog, testTime); err != nil {
		t.Fatal(err)
	}
	before, _ := bucket.Get(archiver.ManifestKey)
	err := archiver.Init(t.Context(), bucket, eventlog.ID{7}, testTime)
	if !errors.Is(err, archiver.ErrOtherLog) || !strings.Contains(err.Error(), testLog.String()) {
		t.Errorf("Init gives %v, want ErrOtherLog that names it", err)
	}
	if after, _ := bucket.Get(archiver.ManifestKey); !bytes.Equal(before, after) {
		t.Error("Init changed it")
	}
}

func TestInitSurvivesAPutThatFailed(t *testing.T) {
	for _, done := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			bucket := buckettest.NewFaulty(buckettest.NewMemory())
			bucket.FailNext(buckettest.Put, 3, done)
			if err := archiver.Init(t.Context(), bucket, testLog, testTime); err != nil {
				t.Errorf("done=%v: %v", done, err)
			}
			open(t, bucket)
		})
	}
}

func TestABucketThatIsNoArchiveIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, tc := range map[string]struct {
			manifest string
			want     error // nil: any
		}{
			"empty":               {"", archiver.ErrNoArchive},
			"a later format":      {`{"log_id":"aa010000-0000-0000-0000-000000000000","format":2}`, archiver.ErrFormat},
			"no format":           {`{"log_id":"aa010000-0000-0000-0000-000000000000"}`, archiver.ErrFormat},
			"no log":              {`{"format":1}`, nil},
			"a log that is wrong": {`{"log_id":"x","format":1}`, nil},
			"rubble":              {"\x00\x01", nil},
			"cut short":           {`{"log_id":"aa010000-0000-0000`, nil},
		} {
			bucket := buckettest.NewMemory()
			if tc.manifest != "" {
				bucket.Set(archiver.ManifestKey, []byte(tc.manifest))
			}
			a, err := archiver.Open(t.Context(), bucket)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("%s: %v, %v; want %v", name, a, err, tc.want)
			}
		}
	})
}

func TestOpeningWaitsForABucketThatIsAwayShortly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := buckettest.NewFaulty(newHistory(t, 1, 1))
		bucket.FailNext(buckettest.Get, 4, false)
		open(t, bucket)
	})
}

func TestOpeningGivesUpOnABucketThatStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := buckettest.NewFaulty(newHistory(t, 1, 1))
		bucket.Away()
		started := time.Now()
		_, err := archiver.Open(t.Context(), bucket)
		if !errors.Is(err, buckettest.ErrInjected) || errors.Is(err, archiver.ErrNoArchive) || time.Since(started) > time.Minute {
			t.Errorf("after %v: %v", time.Since(started), err)
		}
	})
}

func TestARangeOfAnObjectIsReadAsItIs(t *testing.T) {
	h := newHistory(t, 2, 3)
	a := open(t, h)
	entry := h.entries[4]
	r, err := a.OpenRange(t.Context(), entry.Placement.Ordinal, entry.Placement.Offset, entry.Placement.Length)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, entry.Placement.Length+1)
	n, _ := r.Read(data)
	if err := r.Close(); err != nil || eventlog.Checksum(data[:n]) != binary.LittleEndian.Uint32(entry.Placement.Sums) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if _, err := a.OpenRange(t.Context(), 9, 8, 1); !errors.Is(err, archiver.ErrNotFound) || !strings.Contains(err.Error(), "ordinal 9") {
		t.Errorf("an absent object gives %v", err)
	}
}
