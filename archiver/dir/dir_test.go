// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/archiver/dir"
	"github.com/strandline-project/strandline/internal/durable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func create(t *testing.T) (*dir.Bucket, string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "archive")
	b, err := dir.Create("dir:" + root)
	if err != nil {
		t.Fatal(err)
	}
	return b, root
}

func TestADirectoryIsABucket(t *testing.T) {
	buckettest.Run(t, func(t *testing.T) archiver.Bucket {
		b, _ := create(t)
		return b
	})
}

func TestADirectoryCanHoldAnArchive(t *testing.T) {
	b, root := create(t)
	report, err := archiver.Probe(t.Context(), b)
	if err != nil || !report.OK() || len(report.Left) > 0 {
		t.Errorf("%+v, %v", report, err)
	}
	for _, check := range report.Checks {
		if check.Err != nil {
			t.Errorf("%s: %v", check.Name, check.Err)
		}
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("the probe has left %v, %v", left, err)
	}
}

func TestADirectoryThatADeleteLeavesEmptyGoesAndComesBackWithTheNextPut(t *testing.T) {
	b, root := create(t)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 50 {
				key := fmt.Sprintf("probe/list/%d-%d", i, j)
				if err := b.PutIfAbsent(t.Context(), key, archiver.BytesBody(nil)); err != nil {
					t.Error(err)
				}
				if err := b.Delete(t.Context(), key); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	if err := b.PutIfAbsent(t.Context(), "log/1", archiver.BytesBody(nil)); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), "log/2"); err != nil {
		t.Error(err)
	}
	if _, err := b.Head(t.Context(), "log/1"); err != nil {
		t.Error(err)
	}
}

func TestADirectoryThatIsMissingIsNotMade(t *testing.T) {
	root := filepath.Join(t.TempDir(), "absent")
	if _, err := dir.Open("dir:" + root); !errors.Is(err, archiver.ErrNoArchive) {
		t.Errorf("Open gives %v, want ErrNoArchive", err)
	}
	if _, err := os.Stat(root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open made the directory: %v", err)
	}
}

func TestSpecificationsThatAreNotDirPathAreRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	mustWrite(t, file, nil)
	for _, spec := range []string{"", "dir:", "/var/lib/archive", "s3://bucket", "dir:" + file} {
		if _, err := dir.Open(spec); err == nil {
			t.Errorf("Open(%q) gives no error", spec)
		}
	}
}

func TestAFileOnTheSameDiskIsLinkedNotCopied(t *testing.T) {
	b, root := create(t)
	path := filepath.Join(filepath.Dir(root), "payload")
	mustWrite(t, path, []byte("payload"))
	body := archiver.BytesBody([]byte("payload"))
	body.Path, body.Bytes = path, nil
	if err := b.PutIfAbsent(t.Context(), "log/1", body); err != nil {
		t.Fatal(err)
	}
	mine, err1 := os.Stat(path)
	theirs, err2 := os.Stat(filepath.Join(root, "log", "1"))
	if err := errors.Join(err1, err2); err != nil || !os.SameFile(mine, theirs) {
		t.Errorf("the object is not the file: %v", err)
	}
}

func TestAFileOnAnotherDiskIsCopied(t *testing.T) {
	const other = "/dev/shm"
	b, root := create(t)
	if shared, err := b.SharesDisk(other); err != nil || shared {
		t.Skipf("no other file system at %s: %v", other, err)
	}
	far, err := os.MkdirTemp(other, "strandline-test-*")
	if err != nil {
		t.Skipf("cannot write to %s: %v", other, err)
	}
	t.Cleanup(func() { os.RemoveAll(far) })
	body := archiver.BytesBody([]byte("payload"))
	body.Path, body.Bytes = filepath.Join(far, "payload"), nil
	mustWrite(t, body.Path, []byte("payload"))
	if err := b.PutIfAbsent(t.Context(), "log/1", body); err != nil {
		t.Fatal(err)
	}
	if err := b.PutIfAbsent(t.Context(), "log/1", body); !errors.Is(err, archiver.ErrExists) {
		t.Errorf("the second put gives %v, want ErrExists", err)
	}
	if got, err := os.ReadFile(filepath.Join(root, "log", "1")); err != nil || string(got) != "payload" {
		t.Errorf("the object holds %q, %v", got, err)
	}
	expectNoTemporaryFiles(t, root)
}

func TestNothingIsReadableByOthers(t *testing.T) {
	b, root := create(t)
	if err := b.PutIfAbsent(t.Context(), "log/1", archiver.BytesBody([]byte("x"))); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	expectNoTemporaryFiles(t, root)
}

func TestKeysThatAreNoPlainPathsAreRefused(t *testing.T) {
	b, root := create(t)
	for _, key := range []string{"", ".", "..", "/etc/passwd", "../out", "log/../../out", "log//1", "log/", "a\\b", "a\x00b", "log/" + durable.TempPrefix + "1"} {
		err := b.PutIfAbsent(t.Context(), key, archiver.BytesBody(nil))
		if err == nil || errors.Is(err, archiver.ErrExists) {
			t.Errorf("a put of %q gives %v", key, err)
		}
		if _, err := b.Head(t.Context(), key); err == nil || errors.Is(err, archiver.ErrNotFound) {
			t.Errorf("Head of %q gives %v", key, err)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(root), "out")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key led out of the archive: %v", err)
	}
}

func TestTemporaryFilesOfACrashAreNotListed(t *testing.T) {
	b, root := create(t)
	mustWrite(t, filepath.Join(root, durable.TempPrefix+"123"), []byte("half"))
	for info, err := range b.List(t.Context(), "", "") {
		t.Errorf("listed %v, %v", info, err)
	}
}

func TestADirectoryThatWentAwayIsUnknownNeverEmpty(t *testing.T) {
	for name, replace := range map[string]func(root string) error{
		"missing":             func(string) error { return nil },
		"another one there":   func(root string) error { return os.Mkdir(root, 0o700) },
		"a file in its place": func(root string) error { return os.WriteFile(root, nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			b, root := create(t)
			if err := os.Rename(root, root+".away"); err != nil {
				t.Fatal(err)
			}
			if err := replace(root); err != nil {
				t.Fatal(err)
			}
			_, headErr := b.Head(t.Context(), "log/1")
			_, getErr := b.GetRange(t.Context(), "log/1", 0, -1)
			var listErr error
			for _, listErr = range b.List(t.Context(), "", "") {
			}
			for call, err := range map[string]error{
				"put": b.PutIfAbsent(t.Context(), "log/1", archiver.BytesBody(nil)), "head": headErr, "get": getErr,
				"list": listErr, "delete": b.Delete(t.Context(), "log/1"),
			} {
				if err == nil || errors.Is(err, archiver.ErrNotFound) || !strings.Contains(err.Error(), "mounted") {
					t.Errorf("%s gives %v, want one that asks for the disk", call, err)
				}
			}
		})
	}
}

func TestADiskSharedWithTheStateIsNoticed(t *testing.T) {
	b, root := create(t)
	if shared, err := b.SharesDisk(filepath.Dir(root)); err != nil || !shared {
		t.Errorf("SharesDisk gives %v, %v for the parent directory", shared, err)
	}
	if _, err := b.SharesDisk(filepath.Join(root, "absent")); err == nil {
		t.Error("SharesDisk of an absent path gives no error")
	}
}

func mustWrite(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func expectNoTemporaryFiles(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(entry.Name(), durable.TempPrefix) {
			t.Errorf("%s was left behind", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
