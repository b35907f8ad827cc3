// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
)

// A block rots after it was committed and before it was archived. No start goes
// past it unasked. The waiver that the refusal names loses that block and nothing
// else, and every check after it lists the block without failing.
func TestABlockThatRottedBeforeItWasArchivedIsGivenUpAlone(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.serve("a")
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	s.awaitArchived()
	must(t, os.Rename(w.archivePath(), w.path("away")))
	bodies := [][]byte{pattern("first", 20000), pattern("second", 20000), pattern("third", 20000)}
	seqs := map[string]string{}
	for _, body := range bodies {
		d.store("data", body)
	}
	for _, line := range s.events() {
		seqs["data/"+hex.EncodeToString(line.Event.Block)] = line.Event.Seq.String()
	}
	path, offset := where(t, w.path("a", "wal"), bodies[1][:64])
	eventually(t, "closing the generation", func() error {
		if text, err := os.ReadFile(filepath.Join(filepath.Dir(path), "closed")); err != nil || len(text) == 0 {
			return errors.Join(errors.New("it does not state that it is closed"), err)
		}
		return nil
	})
	s.kill()
	must(t, os.Rename(w.path("away"), w.archivePath()))
	flip(t, path, offset+10)
	rotten, whole := "rotten-payload@"+seqs[named("data", bodies[1])], "rotten-payload@"+seqs[named("data", bodies[0])]

	before := describe(t, w.archivePath())
	w.newServer("a").refusesToStart(5, "--waive "+rotten)
	w.newServer("a", "--waive", whole).refusesToStart(5, "--waive "+rotten) // it is not that one
	sameFiles(t, "the archive", before, describe(t, w.archivePath()))
	w.newServer("a", "--waive", "delete-names-store@7.1").refusesToStart(2, "rotten-payload")

	s = w.serve("a", "--waive", rotten)
	s.awaitArchived()
	s.checkAllBut(bodies, 1)
	w.listsTheLost(named("data", bodies[1]), "drill", "--admin", s.admin, "--json")
	s.endsCleanly()

	s = w.serve("a") // the log knows now
	s.checkAllBut(bodies, 1)
	s.endsCleanly()
	w.listsTheLost(named("data", bodies[1]), "drill", "--archive", w.archive, "--full", "--json", "--scratch", t.TempDir())
	w.recover("b", 1)
	w.compare("equal", w.path("a"), w.path("b"))
	s = w.serve("b")
	s.checkAllBut(bodies, 1)
	var waived []string
	for _, line := range s.events() {
		if line.Event.Type == eventlog.WaiverGranted {
			waived = append(waived, line.Event.Name+"@"+line.Event.From.String())
		}
	}
	if !slices.Equal(waived, []string{rotten}) {
		t.Errorf("the log says that %q was waived, want %q", waived, rotten)
	}
	s.endsCleanly()
}

// checkAllBut reads the blocks: all are whole but the one that is lost, which is
// never answered with anything that looks good.
func (s *server) checkAllBut(bodies [][]byte, lost int) {
	s.t.Helper()
	d := s.door("alice", "laptop")
	for i, body := range bodies {
		path := named("data", body)
		if i == lost {
			d.wants(500, "GET", path, nil)
		} else if got := d.wants(200, "GET", path, nil); !bytes.Equal([]byte(got.body), body) {
			s.t.Errorf("%s is not what was stored", path)
		}
	}
}

// listsTheLost runs a drill that must pass, and list one block as damaged.
func (w *world) listsTheLost(path string, args ...string) {
	w.t.Helper()
	var result struct {
		Drill   eventlog.Drill `json:"drill"`
		Damaged []string       `json:"damaged"`
	}
	out := w.ok(args...)
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	_, name, _ := strings.Cut(path, "/")
	if result.Drill.Verdict != eventlog.DrillPassed || len(result.Damaged) != 1 || !strings.Contains(result.Damaged[0], name) {
		w.t.Errorf("verdict %q, damaged %q, want one of %s", result.Drill.Verdict, result.Damaged, name)
	}
}
