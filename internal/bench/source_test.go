// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"compress/flate"
	"os"
	"path/filepath"
	"testing"
)

// someFiles are made in a moment.
var someFiles = Source{SmallFiles: 301, SmallBytes: 1_000_003, LargeBytes: 2_000_005, Seed: 7}

func TestFilesToBackUpAreAsManyAsWantedAndAlwaysTheSame(t *testing.T) {
	made, err := someFiles.make(filepath.Join(t.TempDir(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	if s := made.small; s.files != 301 || s.bytes != 1_000_003 {
		t.Errorf("small: %v", s)
	}
	if s := made.large; s.files != largeFiles || s.bytes != 2_000_005 {
		t.Errorf("large: %v", s)
	}
	again, err := someFiles.make(filepath.Join(t.TempDir(), "b"))
	if err != nil || again.small != made.small || again.large != made.large {
		t.Errorf("the same seed made %v and %v, %v and %v (%v)", made.small, again.small, made.large, again.large, err)
	}
	other := someFiles
	other.Seed++
	others, err := other.make(filepath.Join(t.TempDir(), "c"))
	if err != nil || others.small.hash == made.small.hash || others.large.hash == made.large.hash {
		t.Errorf("another seed made the same (%v)", err)
	}
}

func TestSmallFilesCompressAndLargeOnesDoNot(t *testing.T) {
	made, err := someFiles.make(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if part := compressed(t, made.smallDir); part > 0.5 {
		t.Errorf("small files compress to %.2f", part)
	}
	if part := compressed(t, made.largeDir); part < 0.99 {
		t.Errorf("large files compress to %.2f", part)
	}
}

// compressed is what remains of the files below dir, as a part of them.
func compressed(t *testing.T, dir string) float64 {
	t.Helper()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	paths, err := filepath.Glob(filepath.Join(dir, "*.img"))
	more, globErr := filepath.Glob(filepath.Join(dir, "*", "*", "*.txt"))
	if err != nil || globErr != nil {
		t.Fatal(err, globErr)
	}
	for _, path := range append(paths, more...) {
		n, err := readInto(w, path)
		if err != nil {
			t.Fatal(err)
		}
		size += n
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return float64(out.Len()) / float64(size)
}

func TestAThirdOfTheFilesChangesAndChangesBack(t *testing.T) {
	made, err := someFiles.make(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	before := readAll(t, made.smallDir)
	if err := made.change(1); err != nil {
		t.Fatal(err)
	}
	changed := 0
	for path, text := range readAll(t, made.smallDir) {
		if text != before[path] {
			changed++
		}
	}
	if sum, err := sumTree(made.smallDir); changed < 90 || changed > 101 || sum.files != 301 || sum.bytes != 1_000_003 || sum == made.small || err != nil {
		t.Errorf("%d files changed: %v, before: %v (%v)", changed, sum, made.small, err)
	}
	if err := made.change(0); err != nil {
		t.Fatal(err)
	}
	if sum, err := sumTree(made.smallDir); sum != made.small || err != nil {
		t.Errorf("changed back: %v, before: %v (%v)", sum, made.small, err)
	}
}

func readAll(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	paths, err := filepath.Glob(filepath.Join(dir, "*", "*", "*.txt"))
	if err != nil || len(paths) != 301 {
		t.Fatal(len(paths), err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[path] = string(text)
	}
	return all
}

func TestTreesThatDifferHaveDifferentSums(t *testing.T) {
	sum := func(files ...string) treeSum {
		dir := t.TempDir()
		for i := 0; i < len(files); i += 2 {
			if err := os.WriteFile(filepath.Join(dir, files[i]), []byte(files[i+1]), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		sum, err := sumTree(dir)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	first := sum("a", "one", "b", "two")
	if again := sum("b", "two", "a", "one"); again != first {
		t.Errorf("%v, %v", first, again)
	}
	for name, other := range map[string]treeSum{
		"a byte": sum("a", "one", "b", "twp"), "a name": sum("a", "one", "c", "two"),
		"a file less": sum("a", "one"), "contents that moved": sum("a", "two", "b", "one"),
	} {
		if other.hash == first.hash {
			t.Errorf("%s makes no difference", name)
		}
	}
	if _, err := sumTree(filepath.Join(t.TempDir(), "nothing")); err == nil {
		t.Error("nothing has a sum")
	}
}
