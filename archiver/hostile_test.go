// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit/hostile"
)

// A forgery is the last block before a kill, while the bucket is away; its frame
// is on the disk, or is not. The next start takes it for a block or leaves it out,
// archives what was acknowledged, and is not lossy.
func TestAStartAfterAKillGoesOnWhateverTheLastBlockPosesAs(t *testing.T) {
	const apart = 16<<10 + 1 // more than a frame carries
	for _, framed := range []bool{true, false} {
		for _, pad := range []int{0, apart} {
			for kind := range hostile.Blocks(hostile.Facts{}, pad) {
				inWorld(t, func(w *world) { startOnForgery(w, kind, pad, framed) })
			}
		}
	}
}

func startOnForgery(w *world, kind, pad int, framed bool) {
	s := w.first()
	s.mustStart(false)
	s.lock(machine)
	s.wait()
	s.bucket.Away()
	s.store("acknowledged")
	kept := s.frames()
	forged := hostile.Blocks(s.facts(), pad)[kind]
	w.t = annotated{w.t, fmt.Sprintf("%s, its frame there: %t", forged.Name, framed)}
	seq := s.store(string(forged.Bytes))
	s.kill()
	if !framed { // payloads are written before frames: it was not acknowledged
		for name, data := range kept {
			w.must(os.WriteFile(filepath.Join(s.path, "wal", name), data, 0o600))
		}
		delete(w.committed, seq)
		s.views = openViews(w.newPath(), s.stepped) // that have not heard of it
	}
	s.mustStart(false)
	if s.started.Lossy != "" {
		w.t.Fatalf("the start is lossy: %s", s.started.Lossy)
	}
	s.wait()
	last := eventlog.Seq(0)
	for _, e := range s.entries() {
		if e.Event.Actor == "operator" || e.Event.Name == "mallory" {
			w.t.Fatalf("seq %s was invented", e.Event.Seq)
		}
		if e.Event.Seq.Epoch() == seq.Epoch() {
			last = e.Event.Seq
		}
	}
	if want := seq.Counter(); framed && last.Counter() != want || !framed && last.Counter() != want-1 {
		w.t.Fatalf("epoch %d ends with %s, the forgery was stored as %s", seq.Epoch(), last, seq)
	}
	s.store("after it")
	s.wait()
	w.archive()
	s.stop()
}

// frames are the segment files of the server's generations as they are now.
func (s *server) frames() map[string][]byte {
	s.w.t.Helper()
	paths, err := filepath.Glob(filepath.Join(s.path, "wal", "*", "00000000000000000001"))
	s.w.must(err)
	files := map[string][]byte{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		s.w.must(err)
		files[filepath.Join(filepath.Base(filepath.Dir(path)), filepath.Base(path))] = data
	}
	return files
}
