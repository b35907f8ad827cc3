// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit/hostile"
)

// factsOf is what a client knows of a log that stands still.
func factsOf(t testing.TB, l *Log) hostile.Facts {
	t.Helper()
	last, _ := l.Committed()
	head := l.opts.Head
	f := hostile.Facts{
		LogID: head.LogID, Writer: head.Writer, Epoch: head.Epoch, Ordinal: l.opts.NextOrdinal,
		Next: uint64(MakeSeq(head.Epoch, 1)), Offset: uint64(len(ObjectMagic)), Sum: Checksum([]byte(ObjectMagic)), Now: time.Now().UnixNano(),
	}
	if last.Epoch() == head.Epoch {
		f.Next = uint64(last.Next())
	}
	local := l.Local()
	if len(local) == 0 {
		return f
	}
	g := local[len(local)-1]
	if f.Ordinal = max(f.Ordinal, g.Ordinal+1); g.closed() {
		return f
	}
	entries, err := g.Entries()
	must(t, err)
	f.Ordinal = g.Ordinal
	for _, e := range entries {
		p := e.Placement
		f.Entries = append(f.Entries, hostile.Entry{
			Seq: uint64(e.Event.Seq), Raw: e.Raw, Offset: footerOffset(&p), Length: p.Length, Sums: p.Sums,
		})
		f.Offset += p.Length
		f.Sum = appendedChecksum(f.Sum, JoinedChecksum(p.Sums, p.Length), p.Length)
	}
	return f
}

// victim is a log whose last block is a forgery, and what a kill leaves of it.
type victim struct {
	name    string
	block   []byte
	killed  *testState
	entries []Entry
	blocks  map[Seq][]byte
}

// eachVictim calls do with a log for each forgery, carried by its frame and not.
func eachVictim(t *testing.T, do func(v *victim)) {
	for _, pad := range []int{0, maxCarried + 1} {
		for kind := range hostile.Blocks(hostile.Facts{}, pad) {
			s := fastState(t)
			l := s.open(nil)
			committed(t, l.Append(noteEvent(1), nil))
			for i, size := range []int{900, maxCarried + 5000, 300} {
				committed(t, store(t, l, content(uint64(i), size)))
			}
			forged := hostile.Blocks(factsOf(t, l), pad)[kind]
			committed(t, store(t, l, forged.Bytes))
			v := &victim{name: forged.Name, block: forged.Bytes, killed: s.copyState(t), entries: collect(t, l, FirstSeq), blocks: map[Seq][]byte{}}
			for _, e := range v.entries {
				v.blocks[e.Event.Seq] = readBlock(t, l, e)
			}
			must(t, l.Close(false))
			do(v)
			must(t, os.RemoveAll(s.root))
		}
	}
}

func (v *victim) path(name string) string {
	return filepath.Join(v.killed.wal(), generationName(1, 0), name)
}

func (v *victim) read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(v.path(name))
	must(t, err)
	return data
}

func (v *victim) write(t *testing.T, name string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(v.path(name), data, 0o600))
}

// expect starts on what was left and wants the first n events, no more.
func (v *victim) expect(t *testing.T, n int, bounds Bounds, what string) {
	t.Helper()
	entries, blocks, err := start(t, v.killed, bounds)
	if err != nil {
		t.Errorf("%s, %s: the start was refused: %v", v.name, what, err)
		return
	}
	if len(entries) != n {
		t.Errorf("%s, %s: %d events came back, want %d", v.name, what, len(entries), n)
		return
	}
	for i, e := range entries {
		if !bytes.Equal(e.Raw, v.entries[i].Raw) || !bytes.Equal(blocks[e.Event.Seq], v.blocks[e.Event.Seq]) {
			t.Errorf("%s, %s: event %s came back changed", v.name, what, e.Event.Seq)
		}
	}
}

func TestABlockThatPosesAsWhatTheServerWritesIsABlock(t *testing.T) {
	eachVictim(t, func(v *victim) {
		v.expect(t, len(v.entries), Bounds{Durable: v.entries[len(v.entries)-1].Event.Seq}, "stored last before a kill")
	})
}

// The block is in the payload file, its frame is not on the disk: payloads are
// written before frames.
func TestABlockWithoutItsFrameIsCutWhateverItPosesAs(t *testing.T) {
	eachVictim(t, func(v *victim) {
		segment := v.read(t, segmentName)
		ends := frameEnds(segment)
		v.write(t, segmentName, segment[:ends[len(v.entries)-1]])
		w, err := ReadWAL(v.killed.wal(), v.killed.aside(), testLogID, Bounds{})
		must(t, err)
		if g := w.Generations()[0]; !g.closed() && len(w.Cuts()) != 1 {
			t.Errorf("%s: it is cut without a word", v.name)
		}
		v.expect(t, len(v.entries)-1, Bounds{Durable: v.entries[len(v.entries)-2].Event.Seq}, "its frame lost")
	})
}

// After a power cut the payload file lacks what its frames carry, and a block
// that says truly what they say stands behind that.
func TestABlockThatTellsTheTruthDoesNotHideWhatAPowerCutTook(t *testing.T) {
	eachVictim(t, func(v *victim) {
		segment, payload := v.read(t, segmentName), v.read(t, payloadName)
		v.write(t, segmentName, segment[:frameEnds(segment)[len(v.entries)-1]])
		for _, e := range v.entries[:len(v.entries)-1] {
			if p := e.Placement; p.Length <= maxCarried {
				clear(payload[p.Offset:][:p.Length])
			}
		}
		v.write(t, payloadName, payload)
		v.expect(t, len(v.entries)-1, Bounds{}, "after a power cut")
	})
}

// A copy of an unclosed generation is under way: it has all payloads, the last of
// them the forgery, and of its frames the power cut left those that the forgery
// speaks of. The generation itself is still there.
func TestACopyThatEndsWithAForgeryDoesNotCountBeforeItIsClosed(t *testing.T) {
	eachVictim(t, func(v *victim) {
		copied := filepath.Join(v.killed.wal(), generationName(1, 1))
		must(t, os.CopyFS(copied, os.DirFS(filepath.Dir(v.path(payloadName)))))
		segment := v.read(t, segmentName)
		must(t, os.WriteFile(filepath.Join(copied, segmentName), segment[:frameEnds(segment)[len(v.entries)-1]], 0o600))
		v.expect(t, len(v.entries), Bounds{}, "copied halfway")
	})
}

// A frame that is torn anywhere is a torn tail, whatever the block in it holds.
func TestATornFrameIsATornTailWhateverItCarries(t *testing.T) {
	eachVictim(t, func(v *victim) {
		segment := v.read(t, segmentName)
		ends := frameEnds(segment)
		begin, end := ends[len(v.entries)-1], ends[len(v.entries)]
		if end-begin <= len(v.block) {
			return // it is not carried
		}
		for _, what := range []string{"its end lost", "its beginning lost", "its length lost", "a hole in it"} {
			torn := slices.Clone(segment[:end])
			switch what {
			case "its end lost":
				torn = torn[:end-5]
			case "its beginning lost":
				clear(torn[begin : begin+40])
			case "its length lost":
				clear(torn[begin : begin+2])
			case "a hole in it":
				torn[begin+frameHeader+10] ^= 0xFF
			}
			v.write(t, segmentName, torn)
			w, err := ReadWAL(v.killed.wal(), v.killed.aside(), testLogID, Bounds{})
			if err != nil || w.Damage() != nil {
				t.Errorf("%s, %s: %v, %v", v.name, what, err, w.Damage())
				continue
			}
			if last, _, err := w.Last(); err != nil || last != v.entries[len(v.entries)-2].Event.Seq {
				t.Errorf("%s, %s: the WAL ends with %s, %v", v.name, what, last, err)
			}
		}
	})
}

// What an earlier build closed does not state it. It is closed all the same, and
// not written again; a start makes it state it. Rot in its frames then is rot that
// nothing makes good, unless the archive has it.
func TestAGenerationThatDoesNotStateThatItIsClosedIsReadByItsFrames(t *testing.T) {
	s := fastState(t)
	l := s.open(func(o *Options) { o.MaxEvents = 3 })
	for i, size := range []int{900, maxCarried + 5000, 0, 300, 20} {
		committed(t, store(t, l, content(uint64(i), size)))
	}
	must(t, l.Close(true))
	want := collect(t, l, FirstSeq)
	stated := func(ordinal uint64) string {
		return filepath.Join(s.wal(), generationName(ordinal, 0), closedName)
	}
	for ordinal := range uint64(2) {
		must(t, os.Remove(stated(ordinal+1)))
	}
	old := s.copyState(t)
	w := s.read(Bounds{Durable: want[len(want)-1].Event.Seq})
	gens := w.Generations()
	if len(gens) != 2 || !gens[0].closed() || !gens[1].closed() || !gens[1].Trailer.CleanEnd() || len(w.Cuts()) != 0 {
		t.Fatalf("the generations are %v, cut %v; want two closed ones", gens, w.Cuts())
	}
	must(t, w.CloseTail(time.Now()))
	if names := names(t, s.wal()); len(names) != 2 || !bytes.HasSuffix([]byte(names[0]), []byte(".0000")) {
		t.Errorf("the WAL holds %v: they were written again", names)
	}
	for ordinal := range uint64(2) {
		if trailer, err := readClosed(filepath.Dir(stated(ordinal + 1))); err != nil || trailer == nil || *trailer != *gens[ordinal].Trailer {
			t.Errorf("generation %d states %+v, %v", ordinal+1, trailer, err)
		}
	}
	segment := filepath.Join(old.wal(), generationName(1, 0), segmentName)
	data, err := os.ReadFile(segment)
	must(t, err)
	data[len(data)-1] ^= 1
	must(t, os.WriteFile(segment, data, 0o600))
	rotten, err := ReadWAL(old.wal(), old.aside(), testLogID, Bounds{})
	must(t, err)
	if d := rotten.Damage(); d == nil || d.Ordinal != 1 || !errors.Is(d, ErrDamaged) {
		t.Errorf("the rot is told as %v", d)
	}
	copies, err := ReadWAL(old.wal(), old.aside(), testLogID, Bounds{Archived: 1, Base: gens[0].Trailer.Last})
	must(t, err)
	if d := copies.Damage(); d != nil || len(copies.Generations()) != 1 {
		t.Errorf("archived, it is told as %v, and the WAL has %v", d, copies.Generations())
	}
}

// A later build closed it: that stands where no client's byte does.
func TestALaterBuildsClosedGenerationIsRefusedWithTheAdviceThatHelps(t *testing.T) {
	s := newState(t)
	object := closedOf(t, 1, FirstSeq, FirstSeq)
	trailer := object[len(object)-TrailerSize:]
	trailer[8] = ObjectVersion + 1
	sum := Checksum(trailer[:TrailerSize-4])
	copy(trailer[TrailerSize-4:], []byte{byte(sum), byte(sum >> 8), byte(sum >> 16), byte(sum >> 24)})
	s.lay(gen{name: "1.0", closed: object})
	if _, err := ReadWAL(s.wal(), s.aside(), testLogID, Bounds{}); !errors.Is(err, ErrObjectVersion) {
		t.Errorf("it is read with %v", err)
	}
}

// forgeries are the seeds of fuzz tests: what a client stores at the beginning of
// a log.
func forgeries() (all [][]byte) {
	facts := hostile.Facts{
		LogID: testLogID, Writer: testWriter, Epoch: 1, Ordinal: 1, Next: uint64(FirstSeq),
		Offset: uint64(len(ObjectMagic)), Sum: Checksum([]byte(ObjectMagic)), Now: 1,
	}
	for _, b := range hostile.Blocks(facts, 0) {
		all = append(all, b.Bytes)
	}
	return all
}
