// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// flip changes a bit of the file at offset. The file is replaced: another
// name of it, which a directory archive makes, keeps the good bytes.
func flip(t *testing.T, path string, offset int) {
	t.Helper()
	body, err := os.ReadFile(path)
	must(t, err)
	if offset < 0 {
		offset += len(body)
	}
	body[offset] ^= 0x10
	replace(t, path, body)
}

func replace(t *testing.T, path string, body []byte) {
	t.Helper()
	must(t, os.WriteFile(path+".new", body, 0o600))
	must(t, os.Rename(path+".new", path))
}

// where finds the file below dir, and the offset in it, at which the bytes
// stand.
func where(t *testing.T, dir string, wanted []byte) (path string, offset int) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		body, err := os.ReadFile(p)
		if i := bytes.Index(body, wanted); i >= 0 && path == "" {
			path, offset = p, i
		}
		return err
	}))
	if path == "" {
		t.Fatalf("no file below %s holds %.20x", dir, wanted)
	}
	return path, offset
}

// pattern is a body without repetition.
func pattern(name string, size int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "%s %d\n", name, i)
	}
	return b.Bytes()[:size]
}

// hash is the name of a block in raw bytes.
func hash(t *testing.T, path string) []byte {
	t.Helper()
	sum, err := hex.DecodeString(path[strings.Index(path, "/")+1:])
	must(t, err)
	return sum
}

// killedWithATail leaves the state directory a of a server that was killed
// with three blocks that were acknowledged and not archived, and returns
// their paths and the seq before the first.
func killedWithATail(t *testing.T) (w *world, blocks []string, before string) {
	t.Helper()
	w = initialised(t)
	s := w.serve("a")
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	s.awaitArchived()
	must(t, os.Rename(w.archivePath(), w.path("away")))
	for i := range 3 {
		blocks = append(blocks, d.store("data", pattern(fmt.Sprint("tail ", i), 1000)))
	}
	for _, line := range s.events() {
		if bytes.Equal(line.Event.Block[:], hash(t, blocks[0])) {
			before = (line.Event.Seq - 1).String()
		}
	}
	s.kill()
	must(t, os.Rename(w.path("away"), w.archivePath()))
	return w, blocks, before
}

func TestADamagedFrameThatWasDurableIsRefusedAndNamed(t *testing.T) {
	w, blocks, seq := killedWithATail(t)
	path, offset := where(t, w.path("a", "wal"), hash(t, blocks[0]))
	flip(t, path, offset)
	before := describe(t, w.archivePath())
	s := w.newServer("a")
	s.refusesToStart(5, "damaged behind seq "+seq, "recover")
	s.refusesToStart(5, "damaged behind seq "+seq, "recover") // it does not heal by itself
	sameFiles(t, "the archive", before, describe(t, w.archivePath()))
	w.refused(5, []string{"damaged behind seq " + seq}, "inspect", "wal", "--data", w.path("a"))

	w.recover("b", 1)
	b := w.serve("b", "--take-over")
	d := b.door("alice", "laptop")
	if status := b.status(); !status.Lossy || len(status.Barred) != 1 {
		t.Errorf("lossy %v, barred %v", status.Lossy, status.Barred)
	}
	d.wants(404, "GET", blocks[0], nil) // lost, and said so
	d.refusedWith(403, "unlock", "data")
	b.endsCleanly()
}

func TestATornTailIsCutAndLosesNothingAcknowledged(t *testing.T) {
	w, blocks, _ := killedWithATail(t)
	path, _ := where(t, w.path("a", "wal"), hash(t, blocks[2]))
	body, err := os.ReadFile(path)
	must(t, err)
	replace(t, path, append(body, bytes.Repeat([]byte{0xa5}, 100)...))
	s := w.serve("a")
	if !strings.Contains(s.printed(), "nothing says that they were committed") {
		t.Error("the server does not mention the torn tail")
	}
	for _, block := range blocks {
		s.door("alice", "laptop").wants(200, "GET", block, nil)
	}
	if s.status().Lossy {
		t.Error("a torn tail made the start lossy")
	}
	s.endsCleanly()
}

// smallLog is the archive of a server that stopped cleanly; it holds a block
// of several chunks.
func smallLog(t *testing.T) (w *world, block string, body []byte) {
	t.Helper()
	w = initialised(t)
	s := w.serve("a")
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	body = pattern("a large block", 300<<10)
	block = d.store("data", body)
	d.store("snapshots", []byte("a snapshot"))
	s.endsCleanly()
	return w, block, body
}

func TestRecoveryRefusesAnArchiveThatIsDamagedOrHasAHole(t *testing.T) {
	t.Parallel()
	w, _, _ := smallLog(t)
	object := func(ordinal int) string {
		return w.archivePath("log", fmt.Sprintf("%016d-%016d.0000", ordinal, ordinal))
	}
	objects, err := os.ReadDir(w.archivePath("log"))
	must(t, err)
	end := len(objects)
	whole := w.path("whole")
	copyDir(t, w.archivePath(), whole)
	for name, c := range map[string]struct {
		harm func()
		code int
		says []string
	}{
		"a flipped bit in a trailer":     {func() { flip(t, object(3), -20) }, 5, []string{"ordinal 3 "}},
		"a flipped bit in a footer":      {func() { flip(t, object(4), -200) }, 5, []string{"ordinal 4 "}},
		"an object cut short":            {func() { must(t, os.Truncate(object(3), 100)) }, 5, []string{"ordinal 3 "}},
		"an empty object":                {func() { must(t, os.Truncate(object(3), 0)) }, 5, []string{"ordinal 3 "}},
		"a missing object":               {func() { must(t, os.Remove(object(3))) }, 5, []string{"ordinals 3 to 3, "}},
		"two missing objects":            {func() { must(t, os.Remove(object(3))); must(t, os.Remove(object(4))) }, 5, []string{"ordinals 3 to 4, "}},
		"the first object missing":       {func() { must(t, os.Remove(object(1))) }, 5, []string{"ordinals 1 to 1, "}},
		"an object under another's name": {func() { must(t, os.Rename(object(4), object(3))) }, 5, []string{"ordinals 4 to 4, "}},
		"no object at all":               {func() { must(t, os.RemoveAll(filepath.Dir(object(1)))) }, 5, []string{"ordinal"}},
		"a format of the future": {func() {
			text, err := os.ReadFile(w.archivePath("strandline.json"))
			must(t, err)
			var manifest map[string]any
			must(t, json.Unmarshal(text, &manifest))
			manifest["format"] = 99
			delete(manifest, "crc32c") // a build of the future may have another one
			text, err = json.Marshal(manifest)
			must(t, err)
			replace(t, w.archivePath("strandline.json"), text)
		}, 2, []string{"99", "this build reads 1"}},
		"a flipped bit in strandline.json":    {func() { flip(t, w.archivePath("strandline.json"), 20) }, 5, []string{"strandline.json"}},
		"no strandline.json above the claims": {func() { must(t, os.Remove(w.archivePath("strandline.json"))) }, 7, []string{"older state"}},
		"no archive at all": {func() {
			must(t, os.RemoveAll(w.archivePath()))
			must(t, os.Mkdir(w.archivePath(), 0o700))
		}, 2, []string{"no archive here"}},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.RemoveAll(w.archivePath()))
			copyDir(t, whole, w.archivePath())
			c.harm()
			before := describe(t, w.archivePath())
			sub := *w
			sub.t = t
			args := []string{"recover", "--data", filepath.Join(t.TempDir(), "new"), "--archive", w.archive}
			sub.refused(c.code, c.says, append(args, "--full")...)
			if !strings.Contains(name, "flipped") && !strings.Contains(name, "cut short") && !strings.Contains(name, "empty") {
				args[2] = filepath.Join(t.TempDir(), "new") // from a checkpoint, too, which does not read what it has
				sub.refused(c.code, c.says, args...)
			}
			sameFiles(t, "the archive", before, describe(t, w.archivePath()))
		})
	}
	t.Logf("the archive has %d objects", end)
}

func TestReadsOfDamagedBytesAre500AndNeverWrong(t *testing.T) {
	w, block, body := smallLog(t)
	w.recover("b", 1)
	path, offset := where(t, w.archivePath("log"), body)
	good, err := os.ReadFile(path)
	must(t, err)
	read := func(name string, harm func(), rest string) {
		t.Run(name, func(t *testing.T) {
			replace(t, path, good)
			must(t, os.RemoveAll(w.path("c")))
			copyDir(t, w.path("b"), w.path("c"))
			harm()
			sub := *w
			sub.t = t
			s := sub.serve("c", "--hold") // each time without anything in memory
			d := s.door("alice", "laptop")
			d.wants(200, "HEAD", block, nil)
			a, err := d.try(t.Context(), "GET", block, nil)
			switch {
			case err == nil && a.status == 200:
				t.Errorf("it was answered with %d bytes, equal: %v", len(a.body), a.body == string(body))
			case err == nil && a.status != 500:
				t.Errorf("status %d", a.status)
			case err != nil && rest == "500":
				t.Errorf("the connection broke: %v", err)
			}
			if list := d.wants(200, "GET", "data/", nil); !strings.Contains(list.body, block[len("data/"):]) {
				t.Error("the list does not show the block any more")
			}
			s.endsCleanly()
		})
	}
	read("the first chunk damaged", func() { flip(t, path, offset+100) }, "500")
	read("a later chunk damaged", func() { flip(t, path, offset+200<<10) }, "broken off")
	read("the object missing", func() { must(t, os.Remove(path)) }, "500")
	read("the object cut short", func() { must(t, os.Truncate(path, int64(offset+1000))) }, "500")
}

func TestAnArchiveThatIsNotOursIsRefusedAndNotTouched(t *testing.T) {
	w, other := initialised(t), initialised(t)
	must(t, os.Rename(w.archivePath(), w.path("own")))
	copyDir(t, other.archivePath(), w.archivePath())
	archive, state := describe(t, w.archivePath()), describe(t, w.path("a", "wal"))
	s := w.newServer("a")
	s.refusesToStart(2, "another log")
	sameFiles(t, "the archive", archive, describe(t, w.archivePath()))
	sameFiles(t, "the WAL", state, describe(t, w.path("a", "wal")))

	must(t, os.RemoveAll(w.archivePath()))
	must(t, os.Rename(w.path("own"), w.archivePath()))
	s.start()
	s.endsCleanly()
}

func TestInitAtTheArchiveOfAnotherLogTouchesNothing(t *testing.T) {
	other := initialised(t)
	tree := func() (all []string) {
		must(t, filepath.WalkDir(other.archivePath(), func(path string, _ fs.DirEntry, err error) error {
			all = append(all, path)
			return err
		}))
		return all
	}
	for name, lost := range map[string][]string{
		"whole": nil, "without its name": {"strandline.json"}, "without its name and its claims": {"strandline.json", "epoch"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, file := range lost {
				must(t, os.RemoveAll(other.archivePath(file)))
			}
			before, files := tree(), describe(t, other.archivePath())
			w := newWorld(t)
			for _, more := range [][]string{nil, {"--single-writer"}} {
				w.refused(2, []string{"another log"}, append([]string{"init", "--data", w.path("a"), "--archive", other.archive}, more...)...)
			}
			sameFiles(t, "the other archive", files, describe(t, other.archivePath()))
			if now := tree(); !slices.Equal(before, now) {
				t.Errorf("the other archive held %q, and now %q", before, now)
			}
			if _, err := os.Stat(w.path("a")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a state directory was made: %v", err)
			}
			w.init() // with the right one
		})
	}
}

func TestAStateDirectoryInUseNamesThePid(t *testing.T) {
	w := initialised(t)
	s := w.serve("a")
	pid := fmt.Sprintf("in use by pid %d", s.current().cmd.Process.Pid)
	w.newServer("a").refusesToStart(4, pid)
	w.refused(4, []string{pid}, "rebuild", "--data", w.path("a"), "--view", "block")
	w.refused(4, []string{pid}, "inspect", "wal", "--data", w.path("a"))
	w.refused(4, []string{pid}, "init", "--data", w.path("a"), "--archive", w.archive)
	must(t, s.ready())
	s.endsCleanly()
}
