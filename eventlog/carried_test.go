// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What frames carry is read before and after the next start has written it
// anew, whatever the power cut left of the payload file.
func TestWhatFramesCarryIsReadFromThem(t *testing.T) {
	s := newState(t)
	l := s.open(nil)
	sizes := []int{1, 1000, maxCarried, maxCarried + 1, 0, 3 * ChunkSize, 7}
	for i, size := range sizes {
		declared := int64(size)
		if size == 1000 {
			declared = -1
		}
		body, err := l.Receive(t.Context(), bytes.NewReader(content(uint64(i), size)), declared, 1<<20)
		must(t, err)
		if carried := body.carried() != nil; carried != (size <= maxCarried) {
			t.Errorf("a body of %d bytes is carried: %v", size, carried)
		}
		committed(t, l.Append(storeEvent(content(uint64(i), size)), body))
	}
	c := s.copyState(t)
	must(t, l.Close(false))
	path := filepath.Join(c.wal(), generationName(1, 0), payloadName)
	damaged, err := os.ReadFile(path)
	must(t, err)
	for _, e := range collect(t, l, FirstSeq) {
		if e.Placement.Length <= maxCarried {
			clear(damaged[e.Placement.Offset:][:e.Placement.Length])
		}
	}
	must(t, os.WriteFile(path, damaged[:len(damaged)-7], 0o600))
	expect := func(l *Log, what string) {
		t.Helper()
		for i, e := range collect(t, l, FirstSeq) {
			if !bytes.Equal(readBlock(t, l, e), content(uint64(i), sizes[i])) {
				t.Errorf("%s, a block of %d bytes is not what was stored", what, sizes[i])
			}
		}
	}
	w := c.read(Bounds{Durable: MakeSeq(1, uint32(len(sizes)))})
	must(t, w.CheckTail(0))
	before, err := w.Reader(nil, 0, ErrClosed)
	must(t, err)
	expect(before, "before the start")
	must(t, w.CloseTail(time.Unix(1, 0)))
	after, err := w.Reader(nil, 0, ErrClosed)
	must(t, err)
	expect(after, "after the start")
}

func TestPartsOfWhatFramesCarryAreRead(t *testing.T) {
	c := &carriedPayloads{bytes.NewReader([]byte("0123456789")), carried{{2, []byte("abc")}, {7, []byte("d")}}}
	for _, test := range []struct {
		offset int64
		n      int
		want   string
		err    error
	}{
		{0, 2, "01", nil}, {2, 3, "abc", nil}, {3, 1, "b", nil}, {3, 2, "bc", nil}, {3, 3, "bc", io.EOF},
		{5, 2, "56", nil}, {7, 1, "d", nil}, {8, 2, "89", nil}, {9, 2, "9", io.EOF},
	} {
		p := make([]byte, test.n)
		if n, err := c.ReadAt(p, test.offset); string(p[:n]) != test.want || err != test.err {
			t.Errorf("%d bytes at %d: %q, %v; want %q, %v", test.n, test.offset, p[:n], err, test.want, test.err)
		}
	}
}

// tidwall/wal keeps the frames of an open generation in memory: no part begins in
// one that has maxFrames of them.
func TestTheFramesOfAGenerationAreBounded(t *testing.T) {
	s := newState(t)
	l := s.open(func(o *Options) { o.MaxAge = time.Hour })
	const events = maxFrames / maxCarried * 5 / 3 // more than one may have, less than two have at least
	var waiting []*Pending
	for i := range events {
		waiting = append(waiting, store(t, l, content(uint64(i), maxCarried)))
	}
	for _, p := range waiting {
		committed(t, p)
	}
	must(t, l.Close(false))
	gens := s.read(Bounds{}).Generations()
	if len(gens) != 2 {
		t.Fatalf("%d generations of %d events whose frames have %d bytes", len(gens), events, events*maxCarried)
	}
	for _, g := range gens {
		info, err := os.Stat(filepath.Join(g.dir, segmentName))
		must(t, err)
		if most := int64(maxFrames + partFrames + maxCarried + 1<<20); info.Size() > most {
			t.Errorf("%s has %d bytes of frames, at most %d", g, info.Size(), most)
		}
	}
}
