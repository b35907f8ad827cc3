// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

var (
	testLogID  = ID{0: 0x10, 15: 1}
	testWriter = ID{0: 0x20, 15: 2}
)

// testState is a state directory with a WAL, through several lives of a log.
type testState struct {
	t       testing.TB
	root    string
	epoch   uint32
	last    Seq
	time    int64
	next    uint64 // ordinal
	history *fakeHistory
}

func newState(t testing.TB) *testState {
	t.Helper()
	return stateAt(t, t.TempDir())
}

// fastState is a state directory on a file system without a disk, where one is
// at hand: for tests that make thousands of them and need no real sync.
func fastState(t testing.TB) *testState {
	t.Helper()
	if root, err := os.MkdirTemp("/dev/shm", "eventlog-*"); err == nil {
		t.Cleanup(func() { os.RemoveAll(root) })
		return stateAt(t, root)
	}
	return newState(t)
}

func stateAt(t testing.TB, root string) *testState {
	t.Helper()
	s := &testState{t: t, root: root, next: 1}
	must(t, os.MkdirAll(s.wal(), 0o700))
	return s
}

func (s *testState) wal() string   { return filepath.Join(s.root, "wal") }
func (s *testState) aside() string { return filepath.Join(s.root, "aside") }

// options are those of the next life of the log: a new epoch, after what read
// has found.
func (s *testState) options() Options {
	s.epoch++
	opts := Options{
		Dir: s.wal(), Spool: filepath.Join(s.root, "spool"),
		Head: Head{LogID: testLogID, Writer: testWriter, Epoch: s.epoch},
		Last: s.last, LastTime: s.time, NextOrdinal: s.next, MaxAge: time.Hour,
	}
	if s.history != nil {
		opts.History = s.history
	}
	return opts
}

// open starts the next life on what the last one left, as a server's start
// does: the tail is closed first.
func (s *testState) open(change func(*Options)) *Log {
	s.t.Helper()
	w := s.read(Bounds{})
	must(s.t, w.CloseTail(time.Unix(1, 0)))
	opts := s.options()
	opts.Local = w.Generations()
	if change != nil {
		change(&opts)
	}
	l, err := Open(opts)
	must(s.t, err)
	s.t.Cleanup(func() { l.Close(false) }) // a test that cares closes it itself
	return l
}

// read reads the WAL, which must not be damaged, and notes where it ends.
func (s *testState) read(bounds Bounds) *WAL {
	s.t.Helper()
	w, err := ReadWAL(s.wal(), s.aside(), testLogID, bounds)
	must(s.t, err)
	if d := w.Damage(); d != nil {
		s.t.Fatalf("the WAL is damaged: %v", d)
	}
	s.last, s.epoch, s.next = 0, 0, 1 // the first of an empty log is 1.1
	if s.history != nil {
		var last Event
		last, s.next = s.history.end()
		s.last, s.time, s.epoch = last.Seq, last.Time, last.Seq.Epoch()
	}
	if gens := w.Generations(); len(gens) > 0 {
		s.last, s.time, err = w.Last()
		must(s.t, err)
		s.next = gens[len(gens)-1].Ordinal + 1
		s.epoch = s.last.Epoch()
	}
	return w
}

// walEntries are all entries of a WAL, in order.
func walEntries(t testing.TB, w *WAL) []Entry {
	t.Helper()
	var all []Entry
	for _, g := range w.Generations() {
		entries, err := g.Entries()
		must(t, err)
		all = append(all, entries...)
	}
	return all
}

// storeEvent is the store of a block with that content.
func storeEvent(content []byte) Event {
	name := sha256.Sum256(content)
	return Event{
		Type: BlockStored, Account: MakeSeq(1, 1), Machine: MakeSeq(1, 2), Actor: "user:alice",
		Kind: KindData, Block: name[:], Length: uint64(len(content)), Checksum: Checksum(content),
	}
}

func noteEvent(n int) Event {
	return Event{Type: AccountOpened, Actor: "operator", Name: "account-" + string(rune('a'+n%26))}
}

// store appends a block and returns its promise.
func store(t testing.TB, l *Log, content []byte) *Pending {
	t.Helper()
	body, err := l.Receive(context.Background(), bytes.NewReader(content), int64(len(content)), 1<<30)
	must(t, err)
	return l.Append(storeEvent(content), body)
}

func committed(t testing.TB, p *Pending) Seq {
	t.Helper()
	seq, err := p.Wait()
	must(t, err)
	return seq
}

// content is n bytes that look like nothing else.
func content(seed uint64, n int) []byte {
	random := rand.New(rand.NewPCG(seed, 7))
	b := make([]byte, (n+7)/8*8)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], random.Uint64())
	}
	return b[:n]
}

// collect reads everything committed so far from seq from on.
func collect(t testing.TB, l *Log, from Seq) []Entry {
	t.Helper()
	var all []Entry
	for batch, err := range l.ReadTo(context.Background(), from) {
		must(t, err)
		all = append(all, batch.Entries...)
	}
	return all
}

// expectContiguous checks that entries are consecutive events, beginning at
// first.
func expectContiguous(t testing.TB, entries []Entry, first Seq) {
	t.Helper()
	for i, e := range entries {
		if i == 0 && e.Event.Seq != first {
			t.Fatalf("the first event is %s, want %s", e.Event.Seq, first)
		}
		if i > 0 && !e.Event.Seq.Follows(entries[i-1].Event.Seq) {
			t.Fatalf("event %s stands after %s", e.Event.Seq, entries[i-1].Event.Seq)
		}
	}
}

// readBlock reads the payload of e out of the log, checked.
func readBlock(t testing.TB, l *Log, e Entry) []byte {
	t.Helper()
	if e.Placement.Length == 0 {
		return nil
	}
	r, release, ok, err := l.OpenPayload(e.Placement.Ordinal)
	must(t, err)
	if !ok {
		t.Fatalf("the payload of %s is not at hand", e.Event.Seq)
	}
	defer release()
	var all []byte
	must(t, readPlaced(r, e.Placement, func(chunk []byte) error { all = append(all, chunk...); return nil }))
	return all
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within waits for f to end.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(testkit.Patience):
		t.Fatalf("%s does not end", what)
	}
}

// copyState is the state directory as it is now, as a killed process would
// leave it.
func (s *testState) copyState(t testing.TB) *testState {
	t.Helper()
	c := *s
	c.t, c.root = t, t.TempDir()
	must(t, os.CopyFS(c.root, os.DirFS(s.root)))
	c.last, c.time, c.next, c.epoch = 0, 0, 1, 0
	return &c
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testkit.Patience); !met(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never comes about that %s", what)
		}
	}
}

// golden compares got with a file of testdata, or writes it with -update (a
// flag that the external tests of this package declare).
func golden(t testing.TB, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if f := flag.Lookup("update"); f != nil && f.Value.String() == "true" {
		must(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%s changed; a format that is written stays readable for ever. If the change is meant: go test ./eventlog -run Golden -update", path)
	}
}
