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
