// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// gen is what a generation's directory holds.
type gen struct {
	name    string // "1.0": ordinal and attempt
	segment []byte
	payload []byte
	closed  []byte // the payload of one that states that it is closed
}

// files builds WAL folders by hand, out of true frames.
func (s *testState) lay(gens ...gen) {
	s.t.Helper()
	for _, g := range gens {
		ordinal, attempt, _ := strings.Cut(g.name, ".")
		dir := filepath.Join(s.wal(), generationName(uint64(ordinal[0]-'0'), uint(attempt[0]-'0')))
		must(s.t, os.MkdirAll(dir, 0o700))
		must(s.t, os.WriteFile(filepath.Join(dir, segmentName), g.segment, 0o600))
		if g.closed != nil {
			g.payload = g.closed
			must(s.t, os.WriteFile(filepath.Join(dir, closedName), g.closed[len(g.closed)-TrailerSize:], 0o600))
		}
		if g.payload == nil {
			g.payload = []byte(ObjectMagic)
		}
		must(s.t, os.WriteFile(filepath.Join(dir, payloadName), g.payload, 0o600))
	}
}

// segmentOf is the segment file of a generation that holds events first to
// last, each knowing durable the one before it.
func segmentOf(ordinal uint64, first, last Seq) []byte {
	head := Head{LogID: testLogID, Writer: testWriter, Epoch: first.Epoch(), Ordinal: ordinal}
	b := appendEntryOf(nil, &frame{flags: frameHead, secret: testSecret, seq: first, body: appendHead(nil, &head)})
	for seq := first; seq <= last; seq++ {
		ev := Event{Seq: seq, Type: AccountOpened, Account: seq, Name: "a"}
		durable := seq - 1
		if seq == first {
			durable = 0
		}
		b = appendEntryOf(b, &frame{flags: frameEvent, secret: testSecret, seq: seq, durable: durable, body: AppendEvent(nil, &ev)})
	}
	return b
}

func sealOf(seq Seq) []byte { return secretSealOf(testSecret, seq) }

func secretSealOf(secret uint64, seq Seq) []byte {
	return appendEntryOf(nil, &frame{flags: frameSeal, secret: secret, seq: seq, durable: seq})
}

// testSecret is that of every generation laid by hand.
const testSecret = 0x5EC12E7

// appendEntryOf appends f as tidwall/wal lays an entry down.
func appendEntryOf(b []byte, f *frame) []byte {
	raw := appendFrame(nil, f)
	for n := uint64(len(raw)); ; n >>= 7 {
		if n < 0x80 {
			b = append(b, byte(n))
			break
		}
		b = append(b, byte(n)|0x80)
	}
	return append(b, raw...)
}

// closedOf is the payload file of a closed generation without payloads.
func closedOf(t *testing.T, ordinal uint64, first, last Seq) []byte {
	t.Helper()
	return closedBy(t, testWriter, "a", ordinal, first, last)
}

// closedBy is closedOf of another writer, or with accounts of another name.
func closedBy(t *testing.T, writer ID, name string, ordinal uint64, first, last Seq) []byte {
	t.Helper()
	s := newState(t)
	w := &WAL{create: createFiles, dir: s.wal(), logID: testLogID}
	var events []Event
	for seq := first; seq <= last; seq++ {
		events = append(events, Event{Seq: seq, Type: AccountOpened, Account: seq, Name: name})
	}
	g, err := w.WriteAlone(Head{LogID: testLogID, Writer: writer, Epoch: first.Epoch(), Ordinal: ordinal}, events, time.Unix(0, 9))
	must(t, err)
	data, err := os.ReadFile(g.Path())
	must(t, err)
	return data
}

func join(parts ...[]byte) []byte { return slices.Concat(parts...) }

// One row for each thing that an earlier process, a power loss or an operator
// can leave behind.
func TestReadingAWAL(t *testing.T) {
	e := func(counter uint32) Seq { return MakeSeq(1, counter) }
	one := segmentOf(1, e(1), e(3))
	two := segmentOf(2, e(4), e(5))
	torn := func(b []byte) []byte { return b[:len(b)-5] }
	tests := []struct {
		name   string
		gens   []gen
		bounds Bounds
		want   Seq    // the last event; 0: none
		cuts   int    //
		damage string // what it names, "" for none
		lacks  uint64 // ordinal of the damage
	}{
		{name: "nothing"},
		{name: "a directory prepared ahead", gens: []gen{{name: "1.0"}}},
		{name: "a directory that was not prepared to its end", gens: []gen{{name: "1.0", payload: []byte("SLOB")}}},
		{name: "no frames beside payloads", gens: []gen{{name: "1.0", segment: one}, {name: "2.0", payload: make([]byte, 1<<20)}}, want: e(3), cuts: 1},
		{name: "no frames beside payloads, and a view knows more",
			gens: []gen{{name: "1.0", segment: one}, {name: "2.0", payload: make([]byte, 1<<20)}}, bounds: Bounds{Durable: e(4)},
			want: e(3), damage: "1.3", lacks: 1},
		{name: "payloads behind those of the frames", gens: []gen{{name: "1.0", segment: one, payload: make([]byte, 9)}}, want: e(3), cuts: 1},
		{name: "one open generation", gens: []gen{{name: "1.0", segment: one}}, want: e(3)},
		{name: "one closed generation", gens: []gen{{name: "1.0", closed: closedOf(t, 1, e(1), e(3))}}, want: e(3)},
		{name: "two open generations, because closing the first was slow",
			gens: []gen{{name: "1.0", segment: one}, {name: "2.0", segment: two}}, want: e(5)},
		{name: "a closed, an open and a prepared one",
			gens: []gen{{name: "1.0", closed: closedOf(t, 1, e(1), e(3))}, {name: "2.0", segment: two}, {name: "3.0"}}, want: e(5)},
		{name: "an unclosed one and its closed copy: the copy counts",
			gens: []gen{{name: "1.0", segment: torn(one)}, {name: "1.1", closed: closedOf(t, 1, e(1), e(2))}}, want: e(2)},
		{name: "an unclosed one and an unfinished copy: the first counts",
			gens: []gen{{name: "1.0", segment: one}, {name: "1.1", segment: segmentOf(1, e(1), e(1))}}, want: e(3)},
		{name: "a torn tail", gens: []gen{{name: "1.0", segment: torn(one)}}, want: e(2), cuts: 1},
		{name: "a torn first batch", gens: []gen{{name: "1.0", segment: torn(segmentOf(1, e(1), e(1)))}}, cuts: 1},
		{name: "a torn first batch of the second",
			gens: []gen{{name: "1.0", segment: one}, {name: "2.0", segment: torn(segmentOf(2, e(4), e(4)))}}, want: e(3), cuts: 1},
		{name: "a torn seal", gens: []gen{{name: "1.0", segment: torn(join(one, sealOf(e(3))))}}, want: e(3), cuts: 1},
		{name: "zeros behind", gens: []gen{{name: "1.0", segment: join(one, make([]byte, 4096))}}, want: e(3), cuts: 1},
		{name: "a whole later frame of the same torn batch is no proof",
			gens: []gen{{name: "1.0", segment: tornInside(segmentOf(1, e(1), e(3)))}}, want: e(1), cuts: 1},

		{name: "a torn tail that a view has applied", gens: []gen{{name: "1.0", segment: torn(one)}},
			bounds: Bounds{Durable: e(3)}, want: e(2), damage: "1.2", lacks: 1},
		{name: "a bad frame before another generation's seal", gens: []gen{{name: "1.0", segment: join(torn(one), secretSealOf(testSecret+1, e(3)))}},
			want: e(2), cuts: 1},
		{name: "a bad frame before a seal of an earlier build, which a client may have stored",
			gens: []gen{{name: "1.0", segment: join(torn(one), secretSealOf(0, e(3)))}}, want: e(2), cuts: 1},
		{name: "a bad head before a seal", gens: []gen{{name: "1.0", segment: join([]byte{one[0] ^ 1}, one[1:], sealOf(e(3)))}},
			damage: "1.3", lacks: 1},
		{name: "a bad secret before a seal", gens: []gen{{name: "1.0", segment: join(one[:50], []byte{one[50] ^ 1}, one[51:], sealOf(e(3)))}},
			damage: "1.3", lacks: 1},
		{name: "a bad frame before a seal", gens: []gen{{name: "1.0", segment: join(torn(one), sealOf(e(3)))}},
			want: e(2), damage: "1.2", lacks: 1},
		{name: "a bad frame in a generation that is not the last",
			gens: []gen{{name: "1.0", segment: torn(one)}, {name: "2.0", segment: two}}, want: e(5), damage: "1.2", lacks: 1},
		{name: "a generation goes on too late",
			gens: []gen{{name: "1.0", segment: one}, {name: "2.0", segment: segmentOf(2, e(5), e(6))}}, want: e(6), damage: "1.3", lacks: 2},
		{name: "the last closed generation is gone",
			gens: []gen{{name: "1.0", closed: closedOf(t, 1, e(1), e(3))}}, bounds: Bounds{Durable: e(5)}, want: e(3), damage: "1.3", lacks: 2},
		{name: "everything is gone", bounds: Bounds{Durable: e(5)}, damage: "1.5", lacks: 1},
		{name: "more bytes are bad than a batch can have",
			gens: []gen{{name: "1.0", segment: join(one, make([]byte, maxTorn+1))}}, want: e(3), damage: "1.3", lacks: 1},
		{name: "everything is in the archive", bounds: Bounds{Archived: 2, Base: e(5), Durable: e(5)}},
		{name: "the copy of an archived generation is damaged: no loss",
			gens:   []gen{{name: "1.0", segment: join(torn(one), sealOf(e(3)))}, {name: "2.0", segment: two}},
			bounds: Bounds{Archived: 1, Base: e(3), Durable: e(5)}, want: e(5), cuts: 1},
		{name: "the only copy of an archived generation is damaged: no loss", gens: []gen{{name: "1.0", segment: torn(one)}},
			bounds: Bounds{Archived: 1, Base: e(3), Durable: e(3)}, cuts: 1},
		{name: "a damaged copy excuses nothing behind it",
			gens:   []gen{{name: "1.0", segment: torn(one)}, {name: "2.0", segment: join(torn(two), sealOf(e(5)))}},
			bounds: Bounds{Archived: 1, Base: e(3)}, want: e(4), damage: "1.4", lacks: 2},
		{name: "the generation behind the archived ones is gone", bounds: Bounds{Archived: 1, Base: e(3), Durable: e(5)}, damage: "1.3", lacks: 2},
		{name: "an ordinal is missing: the archive must have it",
			gens: []gen{{name: "1.0", segment: one}, {name: "3.0", segment: segmentOf(3, e(6), e(7))}}, want: e(7)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := fastState(t)
			s.lay(tt.gens...)
			w, err := ReadWAL(s.wal(), s.aside(), testLogID, tt.bounds)
			must(t, err)
			last, _, err := w.Last()
			must(t, err)
			if last != tt.want || len(w.Cuts()) != tt.cuts && tt.damage == "" {
				t.Errorf("it ends with %s, cut %v; want %s and %d cuts", last, w.Cuts(), tt.want, tt.cuts)
			}
			checkDamage(t, w, tt.damage, tt.lacks)
		})
	}
}

// tornInside damages the second of three frames of one batch.
func tornInside(segment []byte) []byte {
	ends := frameEnds(segment)
	b := slices.Clone(segment[:ends[1]])
	third := slices.Clone(segment[ends[2]:])
	// In one batch every frame states what was durable before it: nothing.
	f, _, err := nextFrame(third)
	if err != nil {
		panic(err)
	}
	f.durable = 0
	return join(b, make([]byte, ends[2]-ends[1]), appendEntryOf(nil, &f))
}

// checkDamage wants the damage, or that the tail can be closed and read again.
func checkDamage(t *testing.T, w *WAL, names string, ordinal uint64) {
	t.Helper()
	d := w.Damage()
	switch {
	case names == "" && d != nil:
		t.Errorf("damaged: %v", d)
	case names != "" && d == nil:
		t.Error("the damage is not found")
	case names != "":
		if d.Ordinal != ordinal || !strings.Contains(d.Error(), names) || !errors.Is(d, ErrDamaged) {
			t.Errorf("the damage is %+v: %v; want ordinal %d and %s", *d, d, ordinal, names)
		}
		if err := w.CloseTail(time.Now()); !errors.Is(err, ErrDamaged) {
			t.Errorf("a damaged tail is closed: %v", err)
		}
		must(t, w.SetAside(d.Ordinal))
		for w.Damage() != nil {
			must(t, w.SetAside(w.Damage().Ordinal))
		}
		fallthrough
	default:
		before, _, err := w.Last()
		must(t, err)
		must(t, w.CloseTail(time.Now()))
		must(t, w.CloseTail(time.Now()))
		again, err := ReadWAL(w.dir, w.aside, testLogID, Bounds{Base: before})
		must(t, err)
		after, _, err := again.Last()
		must(t, err)
		if before != after || again.Damage() != nil || len(again.tails) > 0 || len(again.Cuts()) > 0 {
			t.Errorf("after closing the tail it ends with %s (%v, cut %v), before with %s", after, again.Damage(), again.Cuts(), before)
		}
	}
}

func TestAFolderThatIsNoWALOfThisLogIsRefusedAndNotTouched(t *testing.T) {
	good := segmentOf(1, MakeSeq(1, 1), MakeSeq(1, 2))
	newer := newerFrame(good)
	tests := []struct {
		name string
		make func(s *testState)
		want string
	}{
		{"another log's frames", func(s *testState) {
			head := Head{LogID: ID{9}, Writer: testWriter, Epoch: 1, Ordinal: 1}
			s.lay(gen{name: "1.0", segment: appendEntryOf(nil, &frame{flags: frameHead, seq: FirstSeq, body: appendHead(nil, &head)})})
		}, "belongs to log"},
		{"another log's object", func(s *testState) {
			object := closedOf(t, 1, FirstSeq, FirstSeq)
			trailer, err := DecodeTrailer(object[len(object)-TrailerSize:])
			must(t, err)
			trailer.LogID = ID{9}
			s.lay(gen{name: "1.0", closed: AppendTrailer(object[:len(object)-TrailerSize], trailer)})
		}, "belongs to log"},
		{"another ordinal's frames", func(s *testState) { s.lay(gen{name: "2.0", segment: good}) }, "holds the frames of ordinal 1"},
		{"another ordinal's object", func(s *testState) { s.lay(gen{name: "2.0", closed: closedOf(t, 1, FirstSeq, FirstSeq)}) },
			"holds the object of ordinal 1"},
		{"a newer build's frames", func(s *testState) { s.lay(gen{name: "1.0", segment: newer}) }, "use a newer strandline"},
		{"a file of another name", func(s *testState) {
			must(t, os.WriteFile(filepath.Join(s.wal(), "notes.txt"), nil, 0o600))
		}, "notes.txt is no generation"},
		{"a file where a generation should be", func(s *testState) {
			must(t, os.WriteFile(filepath.Join(s.wal(), generationName(1, 0)), nil, 0o600))
		}, "is no generation"},
		{"a generation of ordinal 0", func(s *testState) {
			must(t, os.Mkdir(filepath.Join(s.wal(), generationName(0, 0)), 0o700))
		}, "is no generation"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newState(t)
			tt.make(s)
			_, err := ReadWAL(s.wal(), s.aside(), testLogID, Bounds{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("reading gives %v, want %q", err, tt.want)
			}
			if left, err := os.ReadDir(s.wal()); err != nil || len(left) != 1 {
				t.Errorf("the folder holds %v now, %v", left, err)
			}
		})
	}
}

// newerFrame is a segment whose second frame has the next version, and is
// whole.
func newerFrame(segment []byte) []byte {
	ends := frameEnds(segment)
	f, _, err := nextFrame(segment[ends[0]:])
	if err != nil {
		panic(err)
	}
	raw := appendFrame(nil, &f)
	raw[4] = frameCarries + frameSecret + 1
	sum := Checksum(raw[:len(raw)-frameTrailer])
	raw[len(raw)-4], raw[len(raw)-3], raw[len(raw)-2], raw[len(raw)-1] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
	return join(segment[:ends[0]], []byte{byte(len(raw))}, raw)
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestClosingTheTailKeepsTornFilesAsEvidenceAndRemovesWhatNobodyNeeds(t *testing.T) {
	s := newState(t)
	torn := segmentOf(1, MakeSeq(1, 1), MakeSeq(1, 3))
	s.lay(gen{name: "1.0", segment: torn[:len(torn)-1]}, gen{name: "1.1"}, gen{name: "2.0", segment: []byte("SLf")}, gen{name: "3.0"})
	must(t, s.read(Bounds{}).CloseTail(time.Now()))
	if got := names(t, s.wal()); !slices.Equal(got, []string{"0000000000000001.0002"}) {
		t.Errorf("the WAL holds %v", got)
	}
	if got := names(t, s.aside()); !slices.Equal(got, []string{"0000000000000001.0000-cut-0", "0000000000000002.0000-cut-0"}) {
		t.Errorf("aside holds %v", got)
	}
}

// The frames' file came back with no bytes, the payloads did not: 13 events that
// were acknowledged may be gone.
func TestPayloadsWithoutFramesAreSaidAndKept(t *testing.T) {
	s := fastState(t)
	l := s.open(nil)
	for i := range 13 {
		committed(t, store(t, l, content(uint64(i), 80_000)))
	}
	c := s.copyState(t)
	must(t, l.Close(false))
	dir := filepath.Join(c.wal(), generationName(1, 0))
	payload, err := os.ReadFile(filepath.Join(dir, payloadName))
	must(t, err)
	for _, gone := range []bool{false, true} {
		must(t, os.Truncate(filepath.Join(dir, segmentName), 0))
		if gone {
			must(t, os.Remove(filepath.Join(dir, segmentName)))
		}
		w := c.read(Bounds{})
		if cuts := w.Cuts(); len(cuts) != 1 || !strings.Contains(cuts[0], "nothing says that they were committed") ||
			!strings.Contains(cuts[0], "1040000 bytes") {
			t.Errorf("it is told as %q", cuts)
		}
		must(t, w.CloseTail(time.Now()))
		kept := filepath.Join(c.aside(), generationName(1, 0)+"-cut-0")
		if got, err := os.ReadFile(filepath.Join(kept, payloadName)); err != nil || !slices.Equal(got, payload) {
			t.Errorf("%d of %d bytes are kept, %v", len(got), len(payload), err)
		}
		must(t, os.MkdirAll(dir, 0o700))
		must(t, os.CopyFS(dir, os.DirFS(kept)))
		must(t, os.RemoveAll(c.aside()))
	}
}

func TestWhatWasCutIsKeptWithinItsBounds(t *testing.T) {
	s := newState(t)
	put := func(name string, age time.Duration, size int64) {
		dir := filepath.Join(s.aside(), name)
		must(t, os.MkdirAll(dir, 0o700))
		must(t, os.WriteFile(filepath.Join(dir, payloadName), nil, 0o600))
		must(t, os.Truncate(filepath.Join(dir, payloadName), size))
		must(t, os.Chtimes(dir, time.Time{}, time.Now().Add(-age)))
	}
	set := generationName(1, 0) + "-0" // by a lossy start: the oldest, and large
	put(set, 100*time.Hour, 2*cutBytes)
	name := func(n int) string { return fmt.Sprintf("%s-cut-0", generationName(uint64(100-n), 0)) }
	for n := range maxCuts + 3 {
		put(name(n), time.Duration(n)*time.Hour, 10)
	}
	must(t, boundCuts(s.aside()))
	left := names(t, s.aside())
	if len(left) != maxCuts+1 || !slices.Contains(left, set) || !slices.Contains(left, name(0)) || slices.Contains(left, name(maxCuts)) {
		t.Errorf("kept are %q", left)
	}
	put(name(1), time.Hour, cutBytes)
	put(name(0), 0, 2*cutBytes)
	must(t, boundCuts(s.aside()))
	if left := names(t, s.aside()); !slices.Equal(left, []string{set, name(0)}) {
		t.Errorf("kept are %q, want the newest and what was set aside", left)
	}
}

func TestSettingAsideTakesEveryAttemptAndLeavesAContiguousRest(t *testing.T) {
	s := newState(t)
	s.lay(gen{name: "1.0", segment: segmentOf(1, MakeSeq(1, 1), MakeSeq(1, 2))},
		gen{name: "2.0", segment: segmentOf(2, MakeSeq(1, 3), MakeSeq(1, 4))},
		gen{name: "2.1", closed: closedOf(t, 2, MakeSeq(1, 3), MakeSeq(1, 4))},
		gen{name: "3.0", segment: segmentOf(3, MakeSeq(1, 5), MakeSeq(1, 6))})
	w := s.read(Bounds{})
	must(t, w.SetAside(9))
	must(t, w.SetAside(2))
	if last, _, err := w.Last(); err != nil || last != MakeSeq(1, 2) {
		t.Errorf("the WAL ends with %s, %v; want 1.2", last, err)
	}
	must(t, w.CloseTail(time.Now()))
	if got := names(t, s.aside()); len(got) != 3 {
		t.Errorf("aside holds %v", got)
	}
	if got := names(t, s.wal()); !slices.Equal(got, []string{"0000000000000001.0001"}) {
		t.Errorf("the WAL holds %v", got)
	}
}

func TestADamagedGenerationOfWhichTheArchiveHasACopyIsTakenOutAlone(t *testing.T) {
	s := newState(t)
	bad := segmentOf(1, MakeSeq(1, 1), MakeSeq(1, 3))
	s.lay(gen{name: "1.0", segment: bad[:len(bad)-3]}, gen{name: "2.0", segment: segmentOf(2, MakeSeq(1, 4), MakeSeq(1, 5))})
	w, err := ReadWAL(s.wal(), s.aside(), testLogID, Bounds{})
	must(t, err)
	if w.Damage() == nil {
		t.Fatal("the damage is not found")
	}
	must(t, w.Quarantine(w.Generations()[0]))
	if w.Damage() != nil {
		t.Fatalf("still damaged: %v", w.Damage())
	}
	must(t, w.CloseTail(time.Now()))
	if gens := w.Generations(); len(gens) != 1 || gens[0].Ordinal != 2 {
		t.Errorf("the WAL holds %v", gens)
	}
}

func TestAnEpochsFirstGenerationIsWrittenAloneAndCanBeTakenBack(t *testing.T) {
	s := newState(t)
	w := s.read(Bounds{})
	head := Head{LogID: testLogID, Writer: testWriter, Epoch: 1, Ordinal: 1}
	ev := Event{Seq: FirstSeq, Type: EpochStarted, Writer: testWriter, Host: "h", Cause: "init"}
	g, err := w.WriteAlone(head, []Event{ev}, time.Now())
	must(t, err)
	if _, err := w.WriteAlone(head, []Event{ev}, time.Now()); err == nil {
		t.Error("a generation of the same ordinal is written over")
	}
	// Rot in its trailer: the frames have the event too.
	object, err := os.ReadFile(g.Path())
	must(t, err)
	object[len(object)-1] ^= 1
	must(t, os.WriteFile(g.Path(), object, 0o600))
	if last, _, err := s.read(Bounds{Durable: FirstSeq}).Last(); err != nil || last != FirstSeq {
		t.Errorf("after rot the WAL ends with %s, %v", last, err)
	}
	must(t, w.Discard(g))
	if got := names(t, s.wal()); len(got) != 0 || len(w.Generations()) != 0 {
		t.Errorf("after it was taken back the WAL holds %v", got)
	}
}
