// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

func TestMain(m *testing.M) {
	if driven, err := drive(); driven {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// The coders of footers make their channels at their first use: that must
	// not be in a test's bubble.
	if err := roundTrip(); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// roundTrip encodes and decodes the metadata of an object.
func roundTrip() error {
	ev := eventlog.Event{Seq: eventlog.FirstSeq, Type: eventlog.LogCreated}
	trailer := eventlog.Trailer{
		LogID: archiver.NewID(), Writer: archiver.NewID(), Epoch: 1,
		FirstOrdinal: 1, LastOrdinal: 1, First: ev.Seq, Last: ev.Seq,
	}
	entries := []eventlog.Entry{{Event: ev, Raw: eventlog.AppendEvent(nil, &ev)}}
	metadata := eventlog.AppendMetadata(nil, &trailer, entries, nil, 0)
	_, err := eventlog.DecodeFooter(&trailer, metadata[:trailer.FooterSize])
	return err
}

// tester is what the harness needs of a test; a rapid run is one too.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// world is one bucket, the servers that use it, and all that anyone was ever
// told: what must never be taken back.
type world struct {
	t      tester
	root   string
	bucket *buckettest.Memory
	logID  eventlog.ID
	dirs   int
	places int64

	running map[*server]bool

	seen      map[eventlog.Seq]string // the bytes of every event that was ever seen anywhere
	committed map[eventlog.Seq]bool   // acknowledged as committed
	archived  map[eventlog.Seq]bool   // acknowledged as archived
	forgiven  map[eventlog.Seq]bool   // may vanish without a word: a copy of the disk cannot know of them
	copied    bool                    // there are copies of a disk, so that this holds for all
}

// inWorld runs a test in a bubble of its own time, with an empty bucket.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	root := fastDir(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, root)
		defer w.endAll()
		test(w)
	})
}

func newWorld(t tester, root string) *world {
	return &world{
		t: t, root: root, bucket: buckettest.NewMemory(), logID: archiver.NewID(), running: map[*server]bool{},
		seen: map[eventlog.Seq]string{}, committed: map[eventlog.Seq]bool{},
		archived: map[eventlog.Seq]bool{}, forgiven: map[eventlog.Seq]bool{},
	}
}

// fastDir is a temporary directory, in memory where that can be had: no test
// here needs a disk that survives.
func fastDir(t testing.TB) string {
	t.Helper()
	root, err := os.MkdirTemp("/dev/shm", "archiver-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	return root
}

// endAll ends what a test has left running, as one that fails does.
func (w *world) endAll() {
	for s := range w.running {
		s.end()
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%v", err)
	}
}

// newPath is a directory name that nobody has used.
func (w *world) newPath() string {
	w.dirs++
	return filepath.Join(w.root, fmt.Sprintf("dir-%d", w.dirs))
}

// fork is this world as it would be if it went on from here twice: another
// bucket with the same content, and the same memory of what was said.
func (w *world) fork(root string) *world {
	return &world{
		t: w.t, root: root, bucket: w.bucket.Clone(), logID: w.logID, running: map[*server]bool{},
		seen: maps.Clone(w.seen), committed: maps.Clone(w.committed),
		archived: maps.Clone(w.archived), forgiven: maps.Clone(w.forgiven),
	}
}

// archive reads the whole archive as a recovery does, and checks that nothing
// is missing, nothing was changed, and nothing is there twice.
func (w *world) archive() []eventlog.Entry {
	w.t.Helper()
	entries := w.collect(archiver.At(w.bucket, w.logID))
	w.chain("the archive", entries)
	there := map[eventlog.Seq]bool{}
	for _, e := range entries {
		there[e.Event.Seq] = true
	}
	for seq := range w.archived {
		if !there[seq] {
			w.t.Fatalf("seq %s was acknowledged as archived and is gone", seq)
		}
	}
	return entries
}

func (w *world) collect(log eventlog.History) []eventlog.Entry {
	w.t.Helper()
	var entries []eventlog.Entry
	for batch, err := range log.Follow(context.Background(), eventlog.FirstSeq) {
		w.must(err)
		entries = append(entries, batch.Entries...)
	}
	return entries
}

// chain checks that entries are a log: no gap, and no seq that anyone has seen
// as another event.
func (w *world) chain(what string, entries []eventlog.Entry) {
	w.t.Helper()
	last := eventlog.Seq(0)
	for _, e := range entries {
		seq := e.Event.Seq
		if !seq.Follows(last) {
			w.t.Fatalf("%s: seq %s stands after %s", what, seq, last)
		}
		if seen, known := w.seen[seq]; known && seen != string(e.Raw) {
			w.t.Fatalf("%s: seq %s was issued twice", what, seq)
		}
		if e.Event.Type == eventlog.EpochStarted && e.Event.Previous != last {
			w.t.Fatalf("%s: epoch_started %s says that it follows %s, it follows %s", what, seq, e.Event.Previous, last)
		}
		w.seen[seq], last = string(e.Raw), seq
	}
}
