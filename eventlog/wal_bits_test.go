// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

// smallLog is a WAL of one generation with three events, two of which have a
// payload, and its files' bytes: each event in a batch of its own, a seal
// behind the last if sealed.
type smallLog struct {
	*testState
	dir      string // of the generation
	segment  []byte
	payload  []byte
	closed   []byte // the file of that name
	entries  []Entry
	contents [][]byte
}

// newSmallLog has blocks of 0, size and twice size bytes.
func newSmallLog(t *testing.T, size int, closed bool) *smallLog {
	t.Helper()
	s := fastState(t)
	l := s.open(nil)
	small := &smallLog{testState: s, dir: filepath.Join(s.wal(), generationName(1, 0))}
	for i := range 3 {
		c := content(uint64(i), i*size)
		small.contents = append(small.contents, c)
		committed(t, store(t, l, c))
	}
	small.entries = collect(t, l, FirstSeq)
	if closed {
		must(t, l.Close(false))
	} else {
		eventually(t, "the log is idle and sealed", func() bool {
			s := readSegment(small.file(segmentName))
			return len(s.frames) == 5 && s.frames[4].flags == frameSeal
		})
	}
	small.segment, small.payload, small.closed = small.file(segmentName), small.file(payloadName), small.file(closedName)
	must(t, l.Close(false))
	return small
}

func (s *smallLog) file(name string) []byte {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, name))
	must(s.t, err)
	return data
}

// expect starts on the given files and wants the first events back, at least
// min of them, or a refusal if that is allowed.
func (s *smallLog) expect(segment, payload []byte, bounds Bounds, min int, orRefused bool) (refused bool) {
	t := s.t
	t.Helper()
	for _, dir := range []string{s.wal(), s.aside()} {
		must(t, os.RemoveAll(dir))
	}
	must(t, os.MkdirAll(s.dir, 0o700))
	must(t, os.WriteFile(filepath.Join(s.dir, segmentName), segment, 0o600))
	must(t, os.WriteFile(filepath.Join(s.dir, payloadName), payload, 0o600))
	must(t, os.WriteFile(filepath.Join(s.dir, closedName), s.closed, 0o600))
	w, err := ReadWAL(s.wal(), s.aside(), testLogID, bounds)
	must(t, err)
	if d := w.Damage(); d != nil {
		if !orRefused || d.After >= d.Durable {
			t.Fatalf("refused: %v", d)
		}
		return true
	}
	err = s.closeAndSum(w)
	if errors.Is(err, ErrDamaged) && orRefused {
		return true
	}
	must(t, err)
	entries := walEntries(t, w)
	if len(entries) < min {
		t.Fatalf("%d events came back, want at least %d", len(entries), min)
	}
	for i, e := range entries {
		if !bytes.Equal(e.Raw, s.entries[i].Raw) || !bytes.Equal(s.block(w, e), s.contents[i]) {
			t.Fatalf("event %s came back changed", e.Event.Seq)
		}
	}
	return false
}

func (s *smallLog) closeAndSum(w *WAL) error {
	if err := w.CloseTail(time.Unix(1, 0)); err != nil {
		return err
	}
	for _, g := range w.Generations() {
		if _, err := g.Checksum(); err != nil {
			return err
		}
	}
	return nil
}

func (s *smallLog) block(w *WAL, e Entry) []byte {
	if e.Placement.Length == 0 {
		return nil
	}
	f, err := os.Open(w.Generations()[0].Path())
	must(s.t, err)
	defer f.Close()
	var all []byte
	must(s.t, readPlaced(f, e.Placement, func(chunk []byte) error { all = append(all, chunk...); return nil }))
	return all
}

// eachBit flips every bit of data, one at a time; in a short run every 13th.
func eachBit(data []byte, do func(bit int, flipped []byte)) {
	step := 1
	if !testkit.Long() {
		step = 13
	}
	for bit := 0; bit < len(data)*8; bit += step {
		flipped := bytes.Clone(data)
		flipped[bit/8] ^= 1 << (bit % 8)
		do(bit, flipped)
	}
}

func TestEveryFlippedBitOfASealedLogIsRefusedOrHarmless(t *testing.T) {
	s := newSmallLog(t, 40, false)
	seal := len(s.segment) - 61 // its length, then the frame
	eachBit(s.segment, func(bit int, flipped []byte) {
		refused := s.expect(flipped, s.payload, Bounds{}, 3, true)
		if want := bit/8 < seal; refused != want {
			t.Fatalf("bit %d of the frames: refused is %v, want %v", bit, refused, want)
		}
	})
	eachBit(s.payload, func(_ int, flipped []byte) { // the frames carry what stands there
		s.expect(s.segment, flipped, Bounds{}, 3, false)
	})
}

func TestEveryFlippedBitOfAPayloadThatNoFrameCarriesIsRefused(t *testing.T) {
	s := newSmallLog(t, maxCarried+1, false)
	const stride = 1009 // a start each
	for bit := 0; bit < 8*len(s.payload); bit += stride {
		flipped := bytes.Clone(s.payload)
		flipped[bit/8] ^= 1 << (bit % 8)
		refused := s.expect(s.segment, flipped, Bounds{}, 3, true)
		if want := bit/8 >= len(ObjectMagic); refused != want {
			t.Fatalf("bit %d of the payloads: refused is %v, want %v", bit, refused, want)
		}
		if cut := bit / 8; !s.expect(s.segment, s.payload[:cut], Bounds{}, 3, true) {
			t.Fatalf("payloads cut at byte %d pass", cut)
		}
	}
}

func TestEveryFlippedBitOfAClosedGenerationIsRefusedOrHarmless(t *testing.T) {
	s := newSmallLog(t, 40, true)
	eachBit(s.segment, func(_ int, flipped []byte) { // nobody reads it any more
		s.expect(flipped, s.payload, Bounds{}, 3, false)
	})
	closed := s.closed
	eachBit(closed, func(_ int, flipped []byte) { // the frames say the same
		s.closed = flipped
		s.expect(s.segment, s.payload, Bounds{}, 3, false)
	})
	s.closed = closed
	footer := len(ObjectMagic) + 120
	eachBit(s.payload, func(bit int, flipped []byte) {
		refused := s.expect(s.segment, flipped, Bounds{}, 3, true)
		if want := bit/8 < footer; refused != want { // metadata comes back from the frames
			t.Fatalf("bit %d of the object: refused is %v, want %v", bit, refused, want)
		}
	})
}

func TestALogCutAtAnyByteKeepsItsWholeFrames(t *testing.T) {
	s := newSmallLog(t, 40, false)
	ends := frameEnds(s.segment)
	for cut := range len(s.segment) + 1 {
		whole := 0
		for _, end := range ends[1:4] { // the head is no event
			if cut >= end {
				whole++
			}
		}
		s.expect(s.segment[:cut], s.payload, Bounds{}, whole, false)
		refused := s.expect(s.segment[:cut], s.payload, Bounds{Durable: MakeSeq(1, 3)}, whole, true)
		if refused != (whole < 3) {
			t.Fatalf("cut at byte %d, and a view has applied 1.3: refused is %v", cut, refused)
		}
	}
	for cut := range len(s.payload) {
		s.expect(s.segment, s.payload[:cut], Bounds{}, 3, false) // the frames carry it
	}
}

// frameEnds returns where each entry of a segment file ends.
func frameEnds(data []byte) []int {
	var ends []int
	for pos := 0; pos < len(data); {
		_, size, err := nextFrame(data[pos:])
		if err != nil {
			break
		}
		pos += size
		ends = append(ends, pos)
	}
	return ends
}
