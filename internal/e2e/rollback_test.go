// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
)

// sameAsRecovered makes sure that what the server on the state directory
// holds is what the archive alone brings back.
func (w *world) sameAsRecovered(name string) {
	w.t.Helper()
	w.recover("check", 1)
	if out := w.ok("compare", w.path(name), w.path("check")); strings.Count(out, "equal at seq") != 2 {
		w.t.Errorf("%s differs from what the archive brings back: %s", name, out)
	}
}

func TestViewsThatAreGoneOrDamagedAreProjectedAnew(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(t *testing.T, views string){
		"all views gone":      func(t *testing.T, views string) { must(t, os.RemoveAll(views)) },
		"the block view gone": func(t *testing.T, views string) { must(t, os.RemoveAll(filepath.Join(views, "block"))) },
		"garbage in every file": func(t *testing.T, views string) {
			eachFile(t, views, func(path string, body []byte) {
				must(t, os.WriteFile(path, bytes.Repeat([]byte{0xa5}, len(body)), 0o600))
			})
		},
		"every file cut in half": func(t *testing.T, views string) {
			eachFile(t, views, func(path string, body []byte) { must(t, os.Truncate(path, int64(len(body)/2))) })
		},
		"the manifest missing": func(t *testing.T, views string) {
			path := ""
			eachFile(t, filepath.Join(views, "machine"), func(p string, body []byte) {
				if strings.HasPrefix(filepath.Base(p), "MANIFEST") {
					path = p
				}
			})
			must(t, os.Remove(path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := initialised(t)
			s := w.serve("a")
			d := s.door("alice", "laptop")
			d.create()
			lock := d.store("locks", []byte("a lock"))
			block := d.store("data", []byte("kept"))
			gone := d.store("data", []byte("deleted"))
			d.wants(200, "DELETE", gone, nil)
			s.kill()
			harm(t, w.path("a", "views"))
			s.start()
			d.wants(200, "GET", block, nil)
			d.wants(404, "GET", gone, nil)
			d.wants(200, "GET", lock, nil)
			d.store("data", []byte("goes on"))
			if s.status().Lossy {
				t.Error("the start was lossy: a view is never the truth")
			}
			s.endsCleanly()
			w.sameAsRecovered("a")
		})
	}
}

// eachFile calls do with every file below dir.
func eachFile(t *testing.T, dir string, do func(path string, body []byte)) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		body, err := os.ReadFile(path)
		if err == nil {
			do(path, body)
		}
		return err
	}))
}

func TestADiskThatWasRolledBackIsFoundAndIssuesNoSeqTwice(t *testing.T) {
	t.Parallel()
	for name, parts := range map[string][]string{
		"the whole state directory": {"."},
		"all but the views":         {"wal", "state.json"},
		"the WAL alone":             {"wal"},
		"the state file and views":  {"state.json", "views"},
	} {
		t.Run(name, func(t *testing.T) {
			w := initialised(t)
			s := w.serve("a")
			d := s.door("alice", "laptop")
			d.create()
			before := d.store("data", []byte("before"))
			s.kill()
			copyDir(t, w.path("a"), w.path("old"))
			s.start()
			d.store("locks", []byte("a session"))
			archived := d.store("data", []byte("archived after"))
			d.store("index", []byte("an index")) // makes sure of it
			s.awaitArchived()
			issued := s.events()
			s.kill()
			for _, part := range parts {
				must(t, os.RemoveAll(w.path("a", part)))
				if part == "." {
					copyDir(t, w.path("old"), w.path("a"))
				} else if info, err := os.Stat(w.path("old", part)); err == nil && info.IsDir() {
					copyDir(t, w.path("old", part), w.path("a", part))
				} else {
					body, err := os.ReadFile(w.path("old", part))
					must(t, err)
					must(t, os.WriteFile(w.path("a", part), body, 0o600))
				}
			}
			s.flags = []string{"--take-over"} // an old state file does not know the newest claim
			s.start()
			for _, block := range []string{before, archived} {
				d.wants(200, "GET", block, nil)
			}
			seen := map[eventlog.Seq]string{}
			for _, line := range issued {
				seen[line.Event.Seq] = string(line.Raw)
			}
			for _, line := range s.events() {
				if was, ok := seen[line.Event.Seq]; ok && was != string(line.Raw) {
					t.Errorf("seq %s was issued twice", line.Event.Seq)
				}
				delete(seen, line.Event.Seq)
			}
			if len(seen) > 0 {
				t.Errorf("%d archived events are gone", len(seen))
			}
			s.endsCleanly()
			w.sameAsRecovered("a")
		})
	}
}

func TestOfAStateDirectoryAndItsCopyOnlyOneServes(t *testing.T) {
	w := initialised(t)
	s := w.serve("a")
	s.door("alice", "laptop").create()
	if notes := strings.Join(s.status().Notes, "; "); strings.Contains(notes, "cannot be told") {
		t.Skipf("this directory's file system tells no copy: %s", notes)
	}
	copyDir(t, w.path("a"), w.path("copy")) // while it runs
	w.refused(8, []string{"copy", "--take-over"}, "serve", "--data", w.path("copy"), "--no-auth", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")

	copied := w.newServer("copy")
	copied.flags = []string{"--take-over"}
	must(t, copied.launch())
	copied.awaitReady()
	if status := copied.status(); !status.Lossy || !strings.Contains(status.LossyReason, "copy") {
		t.Errorf("the copy's start: lossy %v, %q", status.Lossy, status.LossyReason)
	}
	body := []byte("to the first one")
	if a := s.door("alice", "laptop").do("POST", named("snapshots", body), body); a.status == 200 {
		t.Error("both acknowledge")
	}
	if code := s.stop(); code != 3 {
		t.Errorf("the first server ended with code %d, want 3", code)
	}
	copied.endsCleanly()
	w.sameAsRecovered("copy")
}

func TestAWALThatIsGoneAfterAKillIsALossThatIsSaid(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.serve("a")
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a session"))
	d.store("data", []byte("archived"))
	s.awaitArchived()
	s.kill()
	must(t, os.RemoveAll(w.path("a", "wal")))
	must(t, os.RemoveAll(w.path("a", "views"))) // else they may know of more, and the start refuses
	s.start()
	status := s.status()
	if !status.Lossy || !strings.Contains(status.LossyReason, "lost or empty") || len(status.Barred) != 1 {
		t.Errorf("lossy %v, because %q, barred %v", status.Lossy, status.LossyReason, status.Barred)
	}
	s.endsCleanly()
	w.sameAsRecovered("a")
}
