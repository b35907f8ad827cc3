// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit/hostile"
)

// Update says that golden files are to be written anew.
var Update = flag.Bool("update", false, "write the golden files anew")

var goldenLog = eventlog.ID{0xaa, 1}

// goldenIndex is an index object of the second run. Its footers are no real
// ones: what a compressor makes may change, what stands around it may not.
func goldenIndex(t testing.TB) (IndexInfo, []byte) {
	t.Helper()
	b, err := NewIndexBuilder(t.TempDir(), goldenLog, IndexInfo{Run: 2})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(RunSize) {
		footer := fmt.Appendf(nil, "footer %d", i)
		trailer := goldenTrailer(257+i, footer)
		object := Shipped(257 + i)
		object.Size = int64(trailer.FooterOffset+trailer.FooterSize) + eventlog.TrailerSize
		if err := b.Add(object, trailer, footer); err != nil {
			t.Fatal(err)
		}
	}
	bucket := &oneObject{}
	info, err := b.Put(t.Context(), bucket)
	if err := errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	return info, bucket.data
}

// oneObject is a bucket that takes one put.
type oneObject struct {
	Bucket
	data []byte
}

func (b *oneObject) String() string { return "one:" }

func goldenTrailer(ordinal uint64, footer []byte) *eventlog.Trailer {
	first := eventlog.MakeSeq(3, uint32(ordinal-256)*10)
	return &eventlog.Trailer{
		LogID: goldenLog, Epoch: 3, Writer: eventlog.ID{0xbb, 1}, FirstOrdinal: ordinal, LastOrdinal: ordinal,
		First: first, Last: first + 9, Events: 10, PayloadBytes: ordinal, FooterOffset: 8 + ordinal, PayloadSum: 7,
		FooterSize: uint64(len(footer)), FooterRawSize: 100, FooterSum: eventlog.Checksum(footer), ClosedAt: int64(ordinal) * 1e9,
	}
}

func TestGoldenIndexObject(t *testing.T) {
	info, data := goldenIndex(t)
	path := filepath.Join("testdata", "index.object")
	if *Update {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, want) {
		t.Errorf("%s changed; a format that is written stays readable for ever. If the change is meant: go test ./archiver -run Golden -update", path)
	}
	if info.Key() != "index/0000000000000002.0000" || info.Size != int64(len(want)) {
		t.Errorf("it is %s of %d bytes", info.Key(), info.Size)
	}
	entries, err := decodeIndexTail(goldenLog, info, want[len(want)-indexTailSize:])
	if err != nil {
		t.Fatal(err)
	}
	for i, entry := range entries {
		if got, want := string(want[entry.offset:][:entry.trailer.FooterSize]), fmt.Sprintf("footer %d", i); got != want || entry.object.First != 257+uint64(i) {
			t.Errorf("%v has the footer %q, want %q", entry.object, got, want)
		}
	}
}

func TestEachByteOfADirectoryAndItsEndCounts(t *testing.T) {
	info, data := goldenIndex(t)
	tail := data[len(data)-indexTailSize:]
	for i := range tail {
		tail[i] ^= 1 << (i % 8)
		if _, err := decodeIndexTail(goldenLog, info, tail); !errors.Is(err, ErrIndexUnusable) {
			t.Fatalf("with byte %d of the tail changed: %v", i, err)
		}
		tail[i] ^= 1 << (i % 8)
	}
}

// resum makes the checksums right again after a change.
func resum(tail []byte) {
	directory, end := tail[:len(tail)-indexEndSize], tail[len(tail)-indexEndSize:]
	for i := 0; i+indexEntrySize <= len(directory); i += indexEntrySize {
		trailer := directory[i+16:][:eventlog.TrailerSize]
		binary.LittleEndian.PutUint32(trailer[140:], eventlog.Checksum(trailer[:140]))
	}
	binary.LittleEndian.PutUint32(end[56:], eventlog.Checksum(directory))
	binary.LittleEndian.PutUint32(end[indexEndSize-4:], eventlog.Checksum(end[:indexEndSize-4]))
}

func TestAnIndexObjectThatLiesWithRightChecksumsIsRefused(t *testing.T) {
	le := binary.LittleEndian
	info, data := goldenIndex(t)
	end := indexTailSize - indexEndSize
	for name, lie := range map[string]func(tail []byte){
		"version 2":                  func(tail []byte) { le.PutUint16(tail[end+8:], 2) },
		"reserved bytes are used":    func(tail []byte) { tail[end+60] = 1 },
		"of 255 objects":             func(tail []byte) { le.PutUint32(tail[end+12:], 255) },
		"of another log":             func(tail []byte) { tail[end+16] = 9 },
		"of ordinals 1 to":           func(tail []byte) { le.PutUint64(tail[end+32:], 1) },
		"its directory is to":        func(tail []byte) { le.PutUint64(tail[end+48:], 8) },
		"it is 1099511627776 bytes":  func(tail []byte) { le.PutUint64(tail, 1<<40) },
		"entry 0: unusable":          func(tail []byte) { le.PutUint64(tail, 1<<63) },
		"version 9, this build":      func(tail []byte) { le.PutUint16(tail[indexEntrySize+16+8:], 9) },
		"of log":                     func(tail []byte) { tail[16+16] = 9 },
		"entry 0 is of":              func(tail []byte) { le.PutUint64(tail[16+48:], 258); le.PutUint64(tail[16+56:], 258) },
		"the one before it ends":     func(tail []byte) { le.PutUint64(tail[16+72:], uint64(eventlog.MakeSeq(3, 18))) },
		"footers of":                 func(tail []byte) { grow(tail, 16+104, 1); grow(tail, 0, 1) },
		"a footer of 67108865 bytes": func(tail []byte) { le.PutUint64(tail[16+104:], eventlog.MaxFooter+1) },
	} {
		tail := bytes.Clone(data[len(data)-indexTailSize:])
		lie(tail)
		resum(tail)
		if _, err := decodeIndexTail(goldenLog, info, tail); !errors.Is(err, ErrIndexUnusable) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := decodeIndexTail(goldenLog, IndexInfo{Run: 2, Size: int64(indexTailSize)}, make([]byte, indexTailSize)); !errors.Is(err, ErrIndexUnusable) {
		t.Errorf("zero bytes: %v", err)
	}
}

func grow(b []byte, offset int, by uint64) {
	binary.LittleEndian.PutUint64(b[offset:], binary.LittleEndian.Uint64(b[offset:])+by)
}

func FuzzDecodeIndexTail(f *testing.F) {
	info, data := goldenIndex(f)
	tail := data[len(data)-indexTailSize:]
	f.Add(0, []byte{0}, info.Size)
	f.Add(indexTailSize-indexEndSize, []byte(indexEndMagic), info.Size)
	for _, b := range hostile.Blocks(hostile.Facts{LogID: goldenLog, Epoch: 1, Ordinal: 257, Next: 1<<32 + 1, Offset: 8}, 0) {
		f.Add(indexTailSize-indexEndSize, b.Bytes, info.Size)
	}
	f.Add(16+104, []byte{255, 255, 255, 255, 255, 255, 255, 255}, info.Size+1)
	f.Fuzz(func(t *testing.T, at int, change []byte, size int64) {
		raw := bytes.Clone(tail)
		if at >= 0 && at < len(raw) {
			copy(raw[at:], change)
		}
		resum(raw)
		info := IndexInfo{Run: 2, Size: size}
		entries, err := decodeIndexTail(goldenLog, info, raw)
		if err != nil {
			if !errors.Is(err, ErrIndexUnusable) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		var again []byte
		for _, entry := range entries {
			again = appendIndexEntry(again, entry.object, entry.trailer)
			if entry.offset < 8 || entry.offset+int64(entry.trailer.FooterSize) > size-indexTailSize {
				t.Errorf("a footer outside of %d bytes: %+v", size, entry)
			}
		}
		again = appendIndexEnd(again, goldenLog, 2, size-indexTailSize, again)
		if !bytes.Equal(again, raw) {
			t.Error("it is written otherwise than it was read")
		}
	})
}

// PutIfAbsent implements Bucket.
func (b *oneObject) PutIfAbsent(_ context.Context, _ string, body Body) error {
	r, err := body.Open()
	if err != nil {
		return err
	}
	b.data, err = io.ReadAll(r)
	if eventlog.Checksum(b.data) != body.Checksum {
		err = errors.New("the body's checksum is not the one that it states")
	}
	return errors.Join(err, r.Close())
}
