// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/strandline-project/strandline/archiver"
)

func TestAfterASyncThatFailedNoPutSucceedsBeforeTheNextOpen(t *testing.T) {
	for _, linked := range []bool{false, true} { // failed when put, failed when found
		spec := Scheme + filepath.Join(t.TempDir(), "archive")
		b, err := Create(spec)
		if err != nil {
			t.Fatal(err)
		}
		body := archiver.BytesBody([]byte("payload"))
		if linked {
			if err := b.PutIfAbsent(t.Context(), "log/1", body); err != nil {
				t.Fatal(err)
			}
		}
		b.syncName = func(string) error { return syscall.EIO }
		if err := b.PutIfAbsent(t.Context(), "log/1", body); !errors.Is(err, syscall.EIO) {
			t.Errorf("a put that does not sync gives %v", err)
		}
		b.syncName = syncName
		for _, key := range []string{"log/1", "log/2"} {
			err := b.PutIfAbsent(t.Context(), key, body)
			if err == nil || errors.Is(err, archiver.ErrExists) || !strings.Contains(err.Error(), "restart") {
				t.Errorf("the next put of %s gives %v", key, err)
			}
		}
		if _, err := b.Head(t.Context(), "log/1"); err != nil {
			t.Errorf("reading goes on, but Head gives %v", err)
		}

		again, err := Open(spec)
		if err != nil {
			t.Fatal(err)
		}
		if err := archiver.PutEqual(t.Context(), again, "log/1", body); err != nil {
			t.Errorf("opened again, the put gives %v", err)
		}
	}
}

func TestASyncThatFailedIsNotTakenForACertainAnswer(t *testing.T) {
	b, err := Create(Scheme + filepath.Join(t.TempDir(), "archive"))
	if err != nil {
		t.Fatal(err)
	}
	body := archiver.BytesBody([]byte("payload"))
	if err := b.PutIfAbsent(t.Context(), "log/1", body); err != nil {
		t.Fatal(err)
	}
	b.syncName = func(string) error { return syscall.EIO }
	if err := b.PutIfAbsent(t.Context(), "log/1", body); errors.Is(err, archiver.ErrExists) {
		t.Errorf("an object that does not sync is said to exist: %v", err)
	}
	if _, err := os.Stat(filepath.Join(b.root, "log", "1")); err != nil {
		t.Error(err)
	}
}

// linkFails is link(2) in an archive whose file system has no hard links (any
// more), or from a disk beside it.
func linkFails(number syscall.Errno, fails func(source string) bool) func(source, path string) error {
	return func(source, path string) error {
		if fails(source) {
			return &os.LinkError{Op: "link", Old: source, New: path, Err: number}
		}
		return os.Link(source, path)
	}
}

func TestALinkThatFailsInTheArchiveItselfIsSaidOnceAndLeavesNothing(t *testing.T) {
	for _, number := range []syscall.Errno{syscall.EPERM, syscall.EXDEV, syscall.EMLINK} {
		b, err := Create(Scheme + filepath.Join(t.TempDir(), "archive"))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "payload")
		if err := os.WriteFile(file, []byte("payload"), 0o600); err != nil {
			t.Fatal(err)
		}
		inMemory := archiver.BytesBody([]byte("payload"))
		inFile := archiver.Body{Path: file, Size: inMemory.Size, Checksum: inMemory.Checksum}
		for name, body := range map[string]archiver.Body{"in memory": inMemory, "in a file": inFile} {
			links := 0
			b.link = linkFails(number, func(string) bool { links++; return true })
			err := b.PutIfAbsent(t.Context(), "log/1", body)
			if !errors.Is(err, number) || strings.Count(err.Error(), number.Error()) != 1 || !strings.Contains(err.Error(), "hard links") {
				t.Errorf("%v, a body %s: %v", number, name, err)
			}
			if links > 2 {
				t.Errorf("%v, a body %s: %d links were tried", number, name, links)
			}
			if left, err := os.ReadDir(filepath.Join(b.root, "log")); err != nil || len(left) > 0 {
				t.Errorf("%v, a body %s: %v is left, %v", number, name, left, err)
			}
			b.link = os.Link
			if err := b.PutIfAbsent(t.Context(), "log/1", body); err != nil {
				t.Errorf("%v is over, and a body %s gives %v", number, name, err)
			}
			if err := b.Delete(t.Context(), "log/1"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestAFileThatCannotBeSharedIsCopied(t *testing.T) {
	for _, number := range []syscall.Errno{syscall.EPERM, syscall.EXDEV, syscall.EMLINK} {
		b, err := Create(Scheme + filepath.Join(t.TempDir(), "archive"))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "payload")
		if err := os.WriteFile(file, []byte("payload"), 0o600); err != nil {
			t.Fatal(err)
		}
		body := archiver.BytesBody([]byte("payload"))
		body.Path, body.Bytes = file, nil
		b.link = linkFails(number, func(source string) bool { return source == file })
		for _, want := range []error{nil, archiver.ErrExists} {
			if err := b.PutIfAbsent(t.Context(), "log/1", body); !errors.Is(err, want) {
				t.Errorf("%v: %v, want %v", number, err, want)
			}
		}
		left, err := os.ReadDir(filepath.Join(b.root, "log"))
		if err != nil || len(left) != 1 {
			t.Errorf("%v: %v, %v", number, left, err)
		}
	}
}

func TestASyncThatFailedAfterALinkIsNoReasonToCopy(t *testing.T) {
	b, err := Create(Scheme + filepath.Join(t.TempDir(), "archive"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(file, []byte("payload"), 0o600); err != nil {
		t.Fatal(err)
	}
	body := archiver.BytesBody([]byte("payload"))
	body.Path, body.Bytes = file, nil
	syncs := 0
	b.syncName = func(string) error { syncs++; return syscall.EPERM }
	if err := b.PutIfAbsent(t.Context(), "log/1", body); !errors.Is(err, syscall.EPERM) || syncs != 1 {
		t.Errorf("%v after %d syncs", err, syncs)
	}
}
