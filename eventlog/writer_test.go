// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// writes keeps what was written, and where each write ended.
type writes struct {
	bytes.Buffer
	start uint64
	ends  []uint64
	err   error // of the next write
}

func (w *writes) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.Buffer.Write(p)
	w.ends = append(w.ends, w.start+uint64(w.Len()))
	return n, err
}

// Whatever comes, in whatever pieces, stands in the file as it came, in as few
// writes as a buffer allows.
func TestPayloadsAreGatheredIntoWholeWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Uint64Range(0, 3*payloadBuffer).Draw(t, "start")
		sizes := rapid.SliceOfN(rapid.IntRange(0, payloadBuffer*5/2), 1, 6).Draw(t, "sizes")
		file := &writes{start: start}
		w := &payloadWriter{file: file, buf: make([]byte, payloadBuffer), from: start, at: start}
		var want []byte
		rng := rand.New(rand.NewPCG(1, start))
		for _, size := range sizes {
			piece := make([]byte, size)
			for i := range piece {
				piece[i] = byte(rng.Uint32())
			}
			want = append(want, piece...)
			if n, err := w.Write(piece); n != size || err != nil {
				t.Fatalf("%d of %d bytes: %v", n, size, err)
			}
		}
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(file.Bytes(), want) {
			t.Fatalf("%d bytes in the file are not the %d that came", file.Len(), len(want))
		}
		for i, end := range file.ends {
			if i < len(file.ends)-1 && end%payloadBuffer != 0 {
				t.Errorf("write %d of %d ends at %d", i, len(file.ends), end)
			}
		}
	})
}

func TestAPayloadWriteThatFailsIsNotForgotten(t *testing.T) {
	full := errors.New("no room")
	for _, size := range []int{1, payloadBuffer, payloadBuffer + 1} {
		file := &writes{err: full}
		w := &payloadWriter{file: file, buf: make([]byte, payloadBuffer)}
		_, err := w.Write(make([]byte, size))
		if err := errors.Join(err, w.flush()); !errors.Is(err, full) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}
