// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit"
)

// index writes the index objects of h's complete runs.
func (h *history) index(t testing.TB) *history {
	t.Helper()
	err := archiver.At(h, h.logID).RebuildIndex(t.Context(), t.TempDir(), 1, func(r archiver.RunReport) error {
		if !r.Written {
			return fmt.Errorf("ordinals %d to %d: %v, %w", r.First, r.Last, r.Was, r.Err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// fork is a copy of h whose bucket may be changed.
func (h *history) fork() *history {
	fork := *h
	fork.Memory = h.Clone()
	return &fork
}

// warnings collects what is logged.
type warnings struct {
	slog.Handler
	mu   sync.Mutex
	said []string
}

func (w *warnings) Enabled(context.Context, slog.Level) bool { return true }

func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	w.said = append(w.said, text)
	return nil
}

// hearing returns the archive of bucket, and what it warns of.
func hearing(t *testing.T, bucket archiver.Bucket) (*archiver.Archive, *warnings) {
	a, w := open(t, bucket), &warnings{Handler: slog.DiscardHandler}
	a.SetLogger(slog.New(w))
	return a, w
}

var (
	index1 = archiver.IndexInfo{Run: 1}.Key()
	index2 = archiver.IndexInfo{Run: 2}.Key()
)

const indexEntry, indexEnd = 160, 80

// relie changes an index object and makes its checksums right again.
func relie(h *history, key string, lie func(data, directory []byte)) {
	data, _ := h.Get(key)
	data = bytes.Clone(data)
	le := binary.LittleEndian
	directory, end := data[len(data)-indexEnd-256*indexEntry:len(data)-indexEnd], data[len(data)-indexEnd:]
	lie(data, directory)
	for i := 0; i < len(directory); i += indexEntry {
		trailer := directory[i+16:][:eventlog.TrailerSize]
		le.PutUint32(trailer[140:], eventlog.Checksum(trailer[:140]))
	}
	le.PutUint32(end[56:], eventlog.Checksum(directory))
	le.PutUint32(end[indexEnd-4:], eventlog.Checksum(end[:indexEnd-4]))
	h.Set(key, data)
}

func TestRunsAreReadOutOfTheirIndexObjects(t *testing.T) {
	h := newHistory(t, 600, 2).index(t)
	bucket := buckettest.NewFaulty(h)
	a, warned := hearing(t, bucket)
	before := bucket.Calls(buckettest.Get)
	entries, err := followPacked(t, a, eventlog.FirstSeq)
	if err != nil {
		t.Fatal(err)
	}
	expectEntries(t, entries, h.entries)
	if n := bucket.Calls(buckettest.Get) - before; n < 2+(600-512) || n > 2+(600-512)+8 {
		t.Errorf("%d reads, want one for each of two runs and each of the objects behind, and a few for footers that are longer than guessed", n)
	}
	if len(warned.said) > 0 {
		t.Errorf("it warned: %q", warned.said)
	}
	// From the middle of a run on, and from so near a run's end that it is not
	// worth it.
	for _, from := range []int{200, 2*252 + 1, 2 * 512, 1199} {
		entries, err := followPacked(t, open(t, h), h.entries[from].Event.Seq)
		if err != nil {
			t.Fatal(err)
		}
		expectEntries(t, entries, h.entries[from:])
	}
}

// Whatever is wrong with an index object, the same events come, and one
// warning names it.
func TestABadIndexObjectCostsNoEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole := newHistory(t, 600, 2).index(t)
		data, _ := whole.Get(index1)
		directory := len(data) - indexEnd - 256*indexEntry
		other := newHistory(t, 0, 0)
		other.logID = eventlog.ID{0xcc}
		for range 256 {
			other.ship(1, 2)
		}
		le := binary.LittleEndian
		breakages := map[string]func(h *history){
			"empty":          func(h *history) { h.Set(index1, nil) },
			"cut short":      func(h *history) { h.Set(index1, data[:len(data)-1]) },
			"cut at the end": func(h *history) { h.Set(index1, data[:len(data)-indexEnd]) },
			"longer":         func(h *history) { h.Set(index1, append(bytes.Clone(data), 0)) },
			"zeros":          func(h *history) { h.Set(index1, make([]byte, len(data))) },
			"of another run": func(h *history) { d, _ := h.Get(index2); h.Set(index1, d) },
			"of another log": func(h *history) { d, _ := other.index(t).Get(index1); h.Set(index1, d) },
			"that binds another size": func(h *history) {
				relie(h, index1, func(_, directory []byte) {
					le.PutUint64(directory, le.Uint64(directory)+4)               // object size
					le.PutUint64(directory[16+88:], le.Uint64(directory[104:])+4) // payload bytes
					le.PutUint64(directory[16+96:], le.Uint64(directory[112:])+4) // footer offset
				})
			},
			"that binds another revision": func(h *history) { relie(h, index1, func(_, d []byte) { d[8] = 1 }) },
			"that lies about a footer's length": func(h *history) {
				relie(h, index1, func(_, d []byte) { le.PutUint64(d[16+104:], le.Uint64(d[16+104:])+1) })
			},
			"that lies about a decompressed length": func(h *history) {
				relie(h, index1, func(_, d []byte) { le.PutUint64(d[16+112:], 1) })
			},
			"that claims the longest footer": func(h *history) {
				relie(h, index1, func(_, d []byte) { le.PutUint64(d[16+112:], eventlog.MaxFooter) })
			},
			"that says fewer events": func(h *history) { relie(h, index1, func(_, d []byte) { le.PutUint32(d[16+80:], 1) }) },
			"that ends at another seq": func(h *history) {
				relie(h, index1, func(_, d []byte) { le.PutUint64(d[255*indexEntry+16+72:], le.Uint64(d[255*indexEntry+16+72:])+1) })
			},
			"that begins at another seq": func(h *history) {
				relie(h, index2, func(_, d []byte) { le.PutUint64(d[16+64:], le.Uint64(d[16+64:])+1) })
			},
			"with a bomb for a footer": func(h *history) {
				relie(h, index1, func(data, d []byte) {
					size := le.Uint64(d[16+104:])
					bomb := eventlog.CompressFooter(make([]byte, 48<<20))
					if uint64(len(bomb)) < size {
						t.Fatalf("a bomb of %d bytes is too small for the place of %d", len(bomb), size)
					}
					copy(data[8:], bomb[:size])
					le.PutUint32(d[16+120:], eventlog.Checksum(bomb[:size]))
				})
			},
		}
		for i := 0; i < directory; i += max(1, directory/40) {
			breakages[fmt.Sprintf("with byte %d changed", i)] = func(h *history) { h.Flip(index1, i*8+i%8) }
		}
		for i := directory; i < len(data); i += 997 {
			breakages[fmt.Sprintf("with byte %d changed", i)] = func(h *history) { h.Flip(index1, i*8+i%8) }
		}
		for name, breakIt := range breakages {
			h := whole.fork()
			breakIt(h)
			a, warned := hearing(t, h)
			entries, err := followDecoded(t, a, eventlog.FirstSeq)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			expectEntries(t, entries, h.entries)
			// Who decodes late finds late that a run's last object ends elsewhere:
			// then the lie is named.
			entries, err = followPacked(t, open(t, h), eventlog.FirstSeq)
			if err == nil {
				expectEntries(t, entries, h.entries)
			} else if !errors.Is(err, eventlog.ErrObjectDamaged) || !strings.Contains(err.Error(), "index/0000000000000001") {
				t.Errorf("%s, packed: %v", name, err)
			}
			if len(warned.said) != 1 || !strings.Contains(warned.said[0], "index/000000000000000") {
				t.Errorf("%s: it warned %q", name, warned.said)
			}
		}
	})
}

// Every byte of a small index object, one after the other.
func TestEachByteOfASmallIndexObjectMayBeDamaged(t *testing.T) {
	testkit.NeedLong(t, "thousands of reads of an archive")
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 256, 1).index(t)
		data, _ := h.Get(index1)
		a := open(t, h)
		a.SetLogger(quiet())
		bits := map[int]bool{}
		for i := range data { // magic, the first footers, the first and the last entry, the end; the rest in steps
			if i < 200 || i%61 == 0 || i > len(data)-indexEnd-indexEntry {
				bits[i*8+i%8] = true
			}
		}
		for bit := range maps.Keys(bits) {
			h.Flip(index1, bit)
			entries, err := follow(t, a, eventlog.FirstSeq)
			if err != nil {
				t.Fatalf("bit %d: %v", bit, err)
			}
			if len(entries) != len(h.entries) || !bytes.Equal(entries[17].Raw, h.entries[17].Raw) {
				t.Fatalf("bit %d: %d entries", bit, len(entries))
			}
			h.Flip(index1, bit)
		}
	})
}

func TestAMissingIndexObjectCostsNoEvent(t *testing.T) {
	for _, key := range []string{index1, index2} {
		h := newHistory(t, 600, 1).index(t)
		h.Remove(key)
		a, warned := hearing(t, h)
		entries, err := follow(t, a, eventlog.FirstSeq)
		if err != nil {
			t.Fatal(err)
		}
		expectEntries(t, entries, h.entries)
		if len(warned.said) > 0 {
			t.Errorf("it warned: %q", warned.said)
		}
	}
}

func TestTheHighestWholeRevisionCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 256, 1).index(t)
		data, _ := h.Get(index1)
		damaged := bytes.Clone(data)
		damaged[len(damaged)-1] ^= 1
		for name, revisions := range map[string][][]byte{
			"a damaged one above":         {data, damaged},
			"a whole one above a damaged": {damaged, data},
			"damaged ones around it":      {damaged, data, damaged},
		} {
			h := h.fork()
			for i, data := range revisions {
				h.Set(archiver.IndexInfo{Run: 1, Revision: uint16(i)}.Key(), data)
			}
			bucket := buckettest.NewFaulty(h)
			a, _ := hearing(t, bucket)
			entries, err := followPacked(t, a, eventlog.FirstSeq)
			if err != nil {
				t.Fatal(err)
			}
			expectEntries(t, entries, h.entries)
			if n := bucket.Calls(buckettest.Get); n > 1+2*3 { // each damaged one is read three times at most
				t.Errorf("%s: %d reads", name, n)
			}
		}
	})
}

func TestIndexObjectsThatCannotBeReadCostNoEvent(t *testing.T) {
	for name, hooks := range map[string]buckettest.Hooks{
		"refused": failing(buckettest.Get, archiver.IndexPrefix),
		"gone meanwhile": {Before: func(_ context.Context, op buckettest.Op, key string) error {
			if op == buckettest.Get && strings.HasPrefix(key, archiver.IndexPrefix) {
				return archiver.ErrNotFound
			}
			return nil
		}},
		"always cut off": {Cut: func(key string) int64 {
			if strings.HasPrefix(key, archiver.IndexPrefix) {
				return 1000
			}
			return -1
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHistory(t, 600, 1).index(t)
				bucket := buckettest.NewFaulty(h)
				a, warned := hearing(t, bucket)
				bucket.Set(hooks)
				entries, err := follow(t, a, eventlog.FirstSeq)
				if err != nil {
					t.Fatal(err)
				}
				expectEntries(t, entries, h.entries)
				if len(warned.said) != 2 {
					t.Errorf("it warned %q", warned.said)
				}
			})
		})
	}
}

// large is an archive whose index object is read in two pieces.
var large = sync.OnceValue(func() *history {
	h := &history{Memory: buckettest.NewMemory(), logID: testLog}
	if err := archiver.Init(context.Background(), h, h.logID, testTime); err != nil {
		panic(err)
	}
	for range 270 {
		h.ship(1, 1600)
	}
	return h
})

func TestALargeIndexObjectIsReadInPieces(t *testing.T) {
	t.Cleanup(archiver.SetPieceSize(16 << 20))
	h := large().fork().index(t)
	data, _ := h.Get(index1)
	if len(data) < 17_500_000 {
		t.Fatalf("the index object has %d bytes only", len(data))
	}
	for name, arrange := range map[string]func(h *history, bucket *buckettest.Faulty) (reads int){
		"whole": func(*history, *buckettest.Faulty) int { return 3 },
		"each transfer breaks": func(_ *history, bucket *buckettest.Faulty) int {
			var broken atomic.Int64
			bucket.Set(buckettest.Hooks{Cut: func(key string) int64 {
				if strings.HasPrefix(key, archiver.IndexPrefix) && broken.Add(1) <= 12 {
					return 5 << 20
				}
				return -1
			}})
			return 20
		},
		"a footer in the second piece is damaged": func(h *history, _ *buckettest.Faulty) int {
			h.Flip(index1, 17_000_000*8)
			return 3 + 1 + 1
		},
		"the first byte, which nobody needs, is damaged": func(h *history, _ *buckettest.Faulty) int {
			h.Flip(index1, 0)
			return 3
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := h.fork()
			bucket := buckettest.NewFaulty(h)
			a, _ := hearing(t, bucket)
			before := bucket.Calls(buckettest.Get)
			reads := arrange(h, bucket)
			n := 0
			for batch, err := range a.Follow(t.Context(), eventlog.FirstSeq) {
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				for i := range batch.Entries {
					if !bytes.Equal(batch.Entries[i].Raw, h.entries[n].Raw) {
						t.Fatalf("%s: entry %d is another", name, n)
					}
					n++
				}
			}
			if n != len(h.entries) {
				t.Errorf("%s: %d entries of %d", name, n, len(h.entries))
			}
			if got := bucket.Calls(buckettest.Get) - before; got > reads+14+2 { // 14 objects behind the run
				t.Errorf("%s: %d reads, want at most %d and the 14 objects behind the run", name, got, reads)
			}
		})
	}
}

// An object whose own metadata has rotted is read out of the index object
// (F11), and nothing else is.
func TestDamagedMetadataIsServedFromTheIndexObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain := newHistory(t, 300, 2)
		for _, at := range []int{1, 60, eventlog.TrailerSize + 1} { // from the object's end: trailer, trailer, footer
			for _, ordinal := range []uint64{1, 100, 256} {
				damage := func(h *history) archiver.ObjectInfo {
					object := archiver.Shipped(ordinal)
					data, _ := h.Get(object.Key())
					object.Size = int64(len(data))
					h.Flip(object.Key(), (len(data)-at)*8)
					return object
				}
				h := plain.fork().index(t)
				object := damage(h)
				a, warned := hearing(t, h)
				entries, err := follow(t, a, eventlog.FirstSeq)
				if err != nil || len(warned.said) > 0 {
					t.Errorf("ordinal %d: %v, %q", ordinal, err, warned.said)
				}
				expectEntries(t, entries, h.entries)
				trailer, footer, err := a.Metadata(t.Context(), object)
				if err != nil || trailer.FirstOrdinal != ordinal || len(footer.Entries) != 2 {
					t.Errorf("ordinal %d: %v", ordinal, err)
				}
				if _, err := a.Trailer(t.Context(), object); err != nil {
					t.Errorf("ordinal %d: %v", ordinal, err)
				}
				if len(warned.said) != 1 || !strings.Contains(warned.said[0], object.Key()) {
					t.Errorf("it warned %q", warned.said)
				}
				if _, err := a.CheckObject(t.Context(), object); !errors.Is(err, eventlog.ErrObjectDamaged) {
					t.Errorf("a check of ordinal %d says %v", ordinal, err)
				}
				without := plain.fork()
				damage(without)
				_, err = follow(t, open(t, without), eventlog.FirstSeq)
				expectError(t, err, eventlog.ErrObjectDamaged)
				h.Flip(index1, 9*8) // the first footer's: the other objects keep their copies
				a, _ = hearing(t, h)
				if _, _, err = a.Metadata(t.Context(), object); (err == nil) != (ordinal != 1) {
					t.Errorf("ordinal %d, of which the copy is damaged if it is 1: %v", ordinal, err)
				}
			}
		}
	})
}

// metered counts what is read, and how much of it lies in payloads.
type metered struct {
	archiver.Bucket
	h *history

	mu              sync.Mutex
	requests        int
	bytes, payloads int64
}

func (m *metered) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	r, err := m.Bucket.GetRange(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests++
	m.bytes += int64(len(data))
	if strings.HasPrefix(key, archiver.LogPrefix) {
		object, _ := m.h.Get(key)
		trailer, err := eventlog.DecodeTrailer(object[len(object)-eventlog.TrailerSize:])
		if err != nil {
			return nil, err
		}
		m.payloads += max(0, int64(trailer.FooterOffset)-offset)
	}
	return io.NopCloser(bytes.NewReader(data)), err
}

func TestWhatARecoveryReadsFollowsTheMetadata(t *testing.T) {
	for _, objects := range []int{1024, 1000} {
		h := newHistory(t, objects, 25).index(t)
		metadata := int64(0)
		for ordinal := range uint64(objects) { // poison every payload
			data, _ := h.Get(archiver.Shipped(ordinal + 1).Key())
			data = bytes.Clone(data)
			trailer, err := eventlog.DecodeTrailer(data[len(data)-eventlog.TrailerSize:])
			if err != nil {
				t.Fatal(err)
			}
			for i := range data[:trailer.FooterOffset] {
				data[i] ^= 0xff
			}
			h.Set(archiver.Shipped(ordinal+1).Key(), data)
			metadata += int64(trailer.FooterSize) + eventlog.TrailerSize
		}
		bucket := &metered{Bucket: h, h: h}
		a := open(t, bucket)
		*bucket = metered{Bucket: h, h: h}
		entries, err := followPacked(t, a, eventlog.FirstSeq)
		if err != nil {
			t.Fatal(err)
		}
		expectEntries(t, entries, h.entries)
		if most := objects/100 + 300; bucket.requests > most {
			t.Errorf("%d objects: %d reads, want at most %d", objects, bucket.requests, most)
		}
		if bucket.bytes > metadata*11/10 {
			t.Errorf("%d objects: %d bytes read of %d of metadata", objects, bucket.bytes, metadata)
		}
		tail := int64(objects % 256)
		if tail == 0 && bucket.payloads > 0 || bucket.payloads > metadata/100 {
			t.Errorf("%d objects, %d of them without an index object: %d bytes of payloads came along", objects, tail, bucket.payloads)
		}
	}
}
