// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

// image is the disk at some moment: what was synced stands, what was written
// since then is at the mercy of the damage.
type image struct {
	synced  map[string][]byte
	pending map[string][]byte // written behind synced, not synced
	acked   Seq
	known   Seq // the highest durable_seq in synced frames and trailers
}

// at returns the disk after the first n operations.
func (j *journal) at(n int) *image {
	im := &image{synced: map[string][]byte{}, pending: map[string][]byte{}}
	for _, op := range j.ops[:n] {
		switch op.kind {
		case "create":
			im.synced[filepath.Join(op.file, segmentName)] = []byte{}
			im.synced[filepath.Join(op.file, payloadName)] = []byte(ObjectMagic)
			im.synced[filepath.Join(op.file, closedName)] = []byte{}
		case "write":
			im.pending[op.file] = append(im.pending[op.file], op.data...)
		case "sync":
			im.synced[op.file] = append(slices.Clip(im.synced[op.file]), im.pending[op.file]...)
			delete(im.pending, op.file)
		case "ack":
			im.acked = max(im.acked, op.seq)
		}
	}
	im.learn()
	return im
}

// learn notes what a reader of the synced bytes can know to be durable.
func (im *image) learn() {
	for file, data := range im.synced {
		if strings.HasSuffix(file, segmentName) {
			s := readSegment(data)
			for i := range s.frames {
				im.known = max(im.known, s.frames[i].durable)
			}
		} else if strings.HasSuffix(file, closedName) {
			if t, err := DecodeTrailer(data); err == nil {
				im.known = max(im.known, t.Last)
			}
		}
	}
}

func (im *image) write(t *testing.T, dir string) {
	t.Helper()
	for file, data := range im.synced {
		must(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, file), data, 0o600))
	}
}

// damages are what a power loss does to bytes that were not synced: each
// returns what stands behind the synced bytes of a file afterwards.
var damages = []struct {
	name string
	do   func(random *rand.Rand, pending []byte) []byte
}{
	{"untouched", func(_ *rand.Rand, p []byte) []byte { return p }},
	{"gone", func(*rand.Rand, []byte) []byte { return nil }},
	{"torn", func(random *rand.Rand, p []byte) []byte { return p[:random.IntN(len(p)+1)] }},
	{"zeroed", func(random *rand.Rand, p []byte) []byte {
		p = bytes.Clone(p)
		clear(p[random.IntN(len(p)+1):])
		return append(p, make([]byte, random.IntN(5000))...)
	}},
	{"garbage", func(random *rand.Rand, p []byte) []byte {
		p = bytes.Clone(p)
		for i := random.IntN(len(p) + 1); i < len(p); i++ {
			p[i] = byte(random.Uint32())
		}
		return p
	}},
	{"full of holes", func(random *rand.Rand, p []byte) []byte {
		p = bytes.Clone(p)
		for i := 0; i < len(p); i += 512 {
			if random.IntN(2) == 0 {
				clear(p[i:min(i+512, len(p))])
			}
		}
		return p
	}},
}

// crash damages what was not synced.
func (im *image) crash(random *rand.Rand) (what string) {
	damage := damages[random.IntN(len(damages))]
	for _, file := range slices.Sorted(maps.Keys(im.pending)) {
		im.synced[file] = append(slices.Clip(im.synced[file]), damage.do(random, im.pending[file])...)
	}
	return damage.name
}

// loseNewest removes the newest generation when nothing in it was ever synced:
// the directory entry is what the power loss took.
func (im *image) loseNewest() {
	newest := slices.Max(slices.Collect(maps.Keys(im.synced)))
	dir := filepath.Dir(newest)
	if len(im.synced[filepath.Join(dir, segmentName)]) > 0 || len(im.synced[filepath.Join(dir, payloadName)]) > len(ObjectMagic) {
		return
	}
	delete(im.synced, filepath.Join(dir, segmentName))
	delete(im.synced, filepath.Join(dir, payloadName))
	delete(im.synced, filepath.Join(dir, closedName))
	delete(im.pending, filepath.Join(dir, segmentName))
	delete(im.pending, filepath.Join(dir, payloadName))
}

// rot flips one bit of what was synced.
func (im *image) rot(random *rand.Rand) (what string) {
	files := slices.DeleteFunc(slices.Sorted(maps.Keys(im.synced)), func(f string) bool { return len(im.synced[f]) == 0 })
	file := files[random.IntN(len(files))]
	data := bytes.Clone(im.synced[file])
	i := random.IntN(len(data))
	data[i] ^= 1 << random.IntN(8)
	im.synced[file] = data
	return fmt.Sprintf("a bit of %s, byte %d of %d", file, i, len(data))
}

// start does with an image what a server's start does. It returns what came
// back, or the refusal.
func start(t *testing.T, s *testState, bounds Bounds) (entries []Entry, blocks map[Seq][]byte, err error) {
	t.Helper()
	w, err := ReadWAL(s.wal(), s.aside(), testLogID, bounds)
	if err != nil {
		return nil, nil, err
	}
	if d := w.Damage(); d != nil {
		return nil, nil, d
	}
	if err := w.CloseTail(time.Unix(1, 0)); err != nil {
		return nil, nil, err
	}
	for _, g := range w.Generations() {
		if _, err := g.Checksum(); err != nil { // as shipping it does
			return nil, nil, err
		}
	}
	l := s.open(nil)
	next := committed(t, l.Append(noteEvent(1), nil))
	entries = collect(t, l, FirstSeq)
	if last := entries[len(entries)-1].Event.Seq; last != next {
		t.Fatalf("the event appended after the crash is %s, the log ends with %s", next, last)
	}
	entries = entries[:len(entries)-1]
	blocks = map[Seq][]byte{}
	for _, e := range entries {
		blocks[e.Event.Seq] = readBlock(t, l, e)
	}
	must(t, l.Close(false))
	return entries, blocks, nil
}

// expectHistory checks that entries are the true events from 1.1 on, at least
// up to atLeast, with their payloads.
func (j *journal) expectHistory(t *testing.T, entries []Entry, blocks map[Seq][]byte, atLeast Seq) {
	t.Helper()
	expectContiguous(t, entries, FirstSeq)
	var last Seq
	for _, e := range entries {
		last = e.Event.Seq
		if want, ok := j.events[last]; !ok || !bytes.Equal(e.Raw, want.Raw) {
			t.Errorf("%s is an invented event", last)
		}
		if !bytes.Equal(blocks[last], j.blocks[last]) {
			t.Errorf("the payload of %s is not what was stored", last)
		}
	}
	if last < atLeast {
		t.Errorf("the log ends with %s, but %s was committed", last, atLeast)
	}
}

// recordings is how many lives of a log the crash images are made of.
const recordings = 24

var recorded []*journal

func recordAll(t *testing.T) []*journal {
	t.Helper()
	for len(recorded) < recordings {
		recorded = append(recorded, record(t, uint64(len(recorded))))
	}
	return recorded
}

// seeds is n, or a few of them in a short run.
func seeds(n uint64) uint64 {
	if !testkit.Long() {
		return n / 20
	}
	return n
}

func TestAPowerLossLosesNoCommittedEventAndInventsNone(t *testing.T) {
	journals := recordAll(t)
	kinds := map[string]int{}
	for seed := range seeds(3000) {
		random := rand.New(rand.NewPCG(seed, 2))
		j := journals[random.IntN(len(journals))]
		im := j.at(random.IntN(len(j.ops) + 1))
		if random.IntN(8) == 0 && len(im.synced) > 0 {
			im.loseNewest()
		}
		what := im.crash(random)
		kinds[what]++
		s := fastState(t)
		im.write(t, s.wal())
		bounds := Bounds{}
		if random.IntN(2) == 0 {
			bounds.Durable = im.acked
		}
		entries, blocks, err := start(t, s, bounds)
		if err != nil {
			t.Fatalf("seed %d, the rest %s: the start was refused: %v", seed, what, err)
		}
		j.expectHistory(t, entries, blocks, im.acked)
		if t.Failed() {
			t.Fatalf("seed %d, the rest %s", seed, what)
		}
		must(t, os.RemoveAll(s.root))
	}
	t.Logf("images: %v", kinds)
}

func TestRotInWhatIsCommittedIsRefusedOrHarmlessButNeverSilent(t *testing.T) {
	journals := recordAll(t)
	refused, images := 0, seeds(1500)
	for seed := range images {
		random := rand.New(rand.NewPCG(seed, 3))
		j := journals[random.IntN(len(journals))]
		im := j.at(random.IntN(len(j.ops)-1) + 1)
		if len(im.synced) == 0 {
			continue
		}
		bounds, atLeast := Bounds{}, im.known
		if random.IntN(2) == 0 { // a view knows more
			bounds.Durable, atLeast = im.acked, max(im.acked, im.known)
		}
		what := im.rot(random)
		s := fastState(t)
		im.write(t, s.wal())
		entries, blocks, err := start(t, s, bounds)
		switch {
		case errors.Is(err, ErrDamaged):
			refused++
			if !strings.Contains(err.Error(), "seq ") && !strings.Contains(err.Error(), "first 8 bytes") {
				t.Errorf("the refusal names no seq: %v", err)
			}
		case err != nil:
			t.Errorf("the refusal is no ErrDamaged: %v", err)
		default:
			j.expectHistory(t, entries, blocks, atLeast)
		}
		if t.Failed() {
			t.Fatalf("seed %d, %s", seed, what)
		}
		must(t, os.RemoveAll(s.root))
	}
	t.Logf("%d of %d refused", refused, images)
	if refused < int(images)/4 {
		t.Errorf("only %d of %d images were refused: the test shows nothing", refused, images)
	}
}

// A tail is written anew before what it was written from goes: a power loss in
// the middle of that, too, loses nothing and makes nothing count that is not
// whole.
func TestAPowerLossWhileATailIsWrittenAnewLosesNothing(t *testing.T) {
	rewritten := 0
	lives := seeds(60)
	for seed := range lives {
		random := rand.New(rand.NewPCG(seed, 5))
		s := fastState(t)
		l := s.open(nil)
		j := newJournal(s.root, false)
		for range 1 + random.IntN(12) {
			committed(t, j.append(t, l, random))
		}
		killed := s.copyState(t)
		j.learn(t, l)
		must(t, l.Close(false))
		j.found(t, killed)
		before := len(j.ops)
		w := killed.read(Bounds{})
		w.create = j.files
		must(t, w.CloseTail(time.Unix(1, 0)))
		rewritten += len(j.ops) - before
		for n := before; n <= len(j.ops); n++ {
			im := j.at(n)
			what := im.crash(random)
			c := fastState(t)
			im.write(t, c.wal())
			entries, blocks, err := start(t, c, Bounds{Durable: im.acked})
			if err != nil {
				t.Fatalf("seed %d, after %d of %d operations, the rest %s: %v", seed, n-before, len(j.ops)-before, what, err)
			}
			j.expectHistory(t, entries, blocks, im.acked)
			if t.Failed() {
				t.Fatalf("seed %d, after %d of %d operations, the rest %s", seed, n-before, len(j.ops)-before, what)
			}
			must(t, os.RemoveAll(c.root))
		}
		must(t, os.RemoveAll(s.root))
	}
	if rewritten < 5*int(lives) {
		t.Errorf("%d operations in %d lives: the test shows nothing", rewritten, lives)
	}
}

// found makes what a killed process left, all of it synced, the journal's
// beginning.
func (j *journal) found(t *testing.T, s *testState) {
	t.Helper()
	name := generationName(1, 0)
	j.ops = []diskOp{{kind: "create", file: name}}
	for _, file := range []string{segmentName, payloadName} {
		data, err := os.ReadFile(filepath.Join(s.wal(), name, file))
		must(t, err)
		if file == payloadName {
			data = data[len(ObjectMagic):]
		}
		if len(data) > 0 {
			j.add(diskOp{kind: "write", file: filepath.Join(name, file), data: data})
			j.add(diskOp{kind: "sync", file: filepath.Join(name, file)})
		}
	}
	j.add(diskOp{kind: "ack", seq: slices.Max(slices.Collect(maps.Keys(j.events)))})
}
