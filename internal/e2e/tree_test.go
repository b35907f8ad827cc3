// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// tree is a directory of files that are backed up, and change.
type tree struct {
	t      *testing.T
	dir    string
	random *rand.Rand
	files  []string
}

// newTree makes n files: most small, some of a megabyte and more, some empty.
func newTree(t *testing.T, random *rand.Rand, n int) *tree {
	t.Helper()
	tr := &tree{t: t, dir: filepath.Join(t.TempDir(), "tree"), random: random}
	for i := range n {
		name := filepath.Join(tr.dir, fmt.Sprintf("folder %02d", i%40), fmt.Sprintf("file %04d", i))
		tr.files = append(tr.files, name)
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		tr.write(name, tr.size())
	}
	must(t, os.Symlink("../folder 00/file 0000", filepath.Join(tr.dir, "folder 01", "link")))
	return tr
}

// copyTree makes a tree of the files below from, without the folders named.
func copyTree(t *testing.T, random *rand.Rand, from string, without ...string) *tree {
	t.Helper()
	tr := &tree{t: t, dir: filepath.Join(t.TempDir(), "tree"), random: random}
	must(t, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		to := filepath.Join(tr.dir, rel)
		switch {
		case d.IsDir() && slices.Contains(without, rel):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(to, 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		tr.files = append(tr.files, to)
		return os.WriteFile(to, body, 0o644)
	}))
	return tr
}

func (tr *tree) size() int {
	switch n := tr.random.IntN(1000); {
	case n < 5:
		return 1<<20 + tr.random.IntN(2<<20)
	case n < 20:
		return 0
	}
	return tr.random.IntN(12 << 10)
}

func (tr *tree) write(name string, size int) {
	tr.t.Helper()
	body := make([]byte, size)
	for i := 0; i+8 <= size; i += 8 {
		v := tr.random.Uint64()
		for j := range 8 {
			body[i+j] = byte(v >> (8 * j))
		}
	}
	must(tr.t, os.WriteFile(name, body, 0o644))
}

// change writes n files anew, removes one and adds one.
func (tr *tree) change(n int) {
	tr.t.Helper()
	for range n {
		tr.write(tr.files[tr.random.IntN(len(tr.files))], tr.size())
	}
	tr.write(tr.files[tr.random.IntN(len(tr.files))], 3<<20) // so that every backup sends several blocks
	i := tr.random.IntN(len(tr.files))
	must(tr.t, os.Remove(tr.files[i]))
	tr.files[i] = filepath.Join(tr.dir, fmt.Sprintf("new %016x", tr.random.Uint64()))
	tr.write(tr.files[i], 5000)
}

// describe maps each path below dir to its mode, time and content; the times
// of folders and links are left out.
func describe(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			body, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d %x", info.ModTime().UnixNano(), sha256.Sum256(body))
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " " + target
		}
		rel, err := filepath.Rel(dir, path)
		all[rel] = text
		return err
	}))
	return all
}

// sameFiles compares what came back with what was there.
func sameFiles(t *testing.T, what string, want, got map[string]string) {
	t.Helper()
	if maps.Equal(want, got) {
		return
	}
	shown := 0
	for path := range want {
		if want[path] != got[path] && shown < 10 {
			t.Errorf("%s: %s was %q, came back as %q", what, path, want[path], got[path])
			shown++
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok && shown < 10 {
			t.Errorf("%s: %s came back, but was never there", what, path)
			shown++
		}
	}
}
