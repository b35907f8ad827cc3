// SPDX-License-Identifier: Apache-2.0

package plainclient

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newClient(t *testing.T, url string) *Client {
	t.Helper()
	c, err := New(url, Options{User: userName, Password: password, Host: "laptop", GiveUp: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func initialised(t *testing.T) (*fakeServer, *Client) {
	t.Helper()
	s := newServer(t)
	c := newClient(t, s.url())
	if err := c.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, c
}

func writeFile(t *testing.T, path string, size int, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, size)
	rand.Read(body)
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// writeTree makes a directory with everything that a backup must bring back.
func writeTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range []struct {
		name string
		size int
		mode fs.FileMode
	}{
		{"empty", 0, 0o644},
		{"one byte", 1, 0o600},
		{"one piece", pieceSize, 0o640},
		{"one piece and a byte", pieceSize + 1, 0o644},
		{"large", 5*pieceSize + 12345, 0o444},
		{"run.sh", 300, 0o755},
		{"nobody reads this", 20, 0o400},
		{"umlaut/äöü/日本語 🗄.txt", 4000, 0o644},
		{"not \xff\xfe UTF-8", 77, 0o644},
		{"new\nline", 9, 0o644},
		{"-dash", 9, 0o644},
		{"setuid", 10, 0o755 | fs.ModeSetuid},
		{"dir/sticky/file", 11, 0o644},
	} {
		writeFile(t, filepath.Join(dir, f.name), f.size, f.mode)
	}
	for i := range 300 { // small files that share blocks
		writeFile(t, filepath.Join(dir, "many", string(rune('a'+i%26)), strings.Repeat("x", 1+i/26)), 20_000, 0o644)
	}
	for link, target := range map[string]string{"to file": "run.sh", "to dir": "umlaut", "dangling": "/nowhere/at all", "dir/up": "../large", "to bytes": "\xff"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	must(t, os.MkdirAll(filepath.Join(dir, "empty dir"), 0o755))
	must(t, os.Chmod(filepath.Join(dir, "dir/sticky"), 0o777|fs.ModeSticky))
	past := time.Date(2014, 8, 1, 12, 30, 15, 123456789, time.UTC)
	must(t, os.Chtimes(filepath.Join(dir, "run.sh"), past, past))
	must(t, os.Chtimes(filepath.Join(dir, "empty dir"), past, past))
	must(t, os.Chmod(filepath.Join(dir, "umlaut"), 0o555))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "umlaut"), 0o755) })
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// describe lists a directory: path, mode, time (not of links), content.
func describe(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String() + " "
		switch {
		case info.Mode().IsRegular():
			body, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += info.ModTime().UTC().String() + " " + hashName(body)
		case info.IsDir():
			text += info.ModTime().UTC().String()
		default:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += target
		}
		rel, err := filepath.Rel(dir, path)
		all[rel] = text
		return err
	}))
	return all
}

func sameTree(t *testing.T, want, got string) {
	t.Helper()
	a, b := describe(t, want), describe(t, got)
	for path, text := range a {
		if b[path] != text {
			t.Errorf("%q: restored %q, want %q", path, b[path], text)
		}
	}
	for path := range b {
		if _, ok := a[path]; !ok {
			t.Errorf("%q was restored, but never backed up", path)
		}
	}
}

func restored(t *testing.T, c *Client, snapshot string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "restored")
	if err := c.Restore(t.Context(), snapshot, dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "umlaut"), 0o755) })
	return dir
}

func TestWhatWasBackedUpComesBackByteForByte(t *testing.T) {
	s, c := initialised(t)
	dir := writeTree(t)
	sum, err := c.Backup(t.Context(), dir)
	must(t, err)
	sameTree(t, dir, restored(t, c, sum.Snapshot.ID))
	sameTree(t, dir, restored(t, c, "latest"))
	sameTree(t, dir, restored(t, c, sum.Snapshot.ID[:8]))
	report, err := c.Check(t.Context())
	must(t, err)
	if want := s.count("data") + s.count("index") + 1; report.Blocks != want || report.Snapshots != 1 {
		t.Errorf("Check looked at %d blocks and %d snapshots, want %d and 1", report.Blocks, report.Snapshots, want)
	}
	if s.count("locks") != 0 {
		t.Error("the backup left its lock")
	}
}

func TestABackupSpeaksInTheOrderOfRestic(t *testing.T) {
	s, c := initialised(t)
	_, err := c.Backup(t.Context(), writeTree(t))
	must(t, err)
	want := []string{
		"GET config", "POST ", "POST config",
		"GET config", "GET locks/", "POST locks/*", "GET locks/", "GET data/", "GET index/",
		"POST data/*", "POST index/*", "GET locks/", "POST snapshots/*", "DELETE locks/*", // restic trusts its clock for the lock
	}
	if got := s.requests(); !slices.Equal(got, want) {
		t.Errorf("requests:\n%q\nwant\n%q", got, want)
	}
}

func TestASecondBackupSendsOnlyWhatChanged(t *testing.T) {
	_, c := initialised(t)
	dir := writeTree(t)
	_, err := c.Backup(t.Context(), dir)
	must(t, err)
	again, err := c.Backup(t.Context(), dir)
	must(t, err)
	if again.StoredBlocks != 0 {
		t.Errorf("an unchanged directory sent %d blocks", again.StoredBlocks)
	}
	writeFile(t, filepath.Join(dir, "changed"), 500, 0o644)
	third, err := c.Backup(t.Context(), dir)
	must(t, err)
	if third.StoredBlocks != 1 || third.StoredBytes != 500 {
		t.Errorf("a new file of 500 bytes sent %d blocks of %d bytes", third.StoredBlocks, third.StoredBytes)
	}
	all, err := c.Snapshots(t.Context())
	must(t, err)
	if len(all) != 3 || all[2].ID != third.Snapshot.ID || all[2].Host != "laptop" || all[2].Files == 0 {
		t.Errorf("snapshots: %+v", all)
	}
	sameTree(t, dir, restored(t, c, "latest"))
}

func TestInitIsRepeatableAndRespectsOthers(t *testing.T) {
	s, c := initialised(t)
	before := string(s.blocks["config"])
	must(t, c.Init(t.Context()))
	if string(s.blocks["config"]) != before {
		t.Error("a second Init changed the config")
	}
	s.blocks["config"] = []byte("encrypted by restic")
	for verb, call := range map[string]func() error{
		"Init":      func() error { return c.Init(t.Context()) },
		"Backup":    func() error { _, err := c.Backup(t.Context(), t.TempDir()); return err },
		"Snapshots": func() error { _, err := c.Snapshots(t.Context()); return err },
		"Check":     func() error { _, err := c.Check(t.Context()); return err },
	} {
		if err := call(); !errors.Is(err, ErrForeign) {
			t.Errorf("%s on another program's path: %v", verb, err)
		}
	}
}

func TestAPathThatWasNeverInitialisedIsRefused(t *testing.T) {
	c := newClient(t, newServer(t).url())
	if _, err := c.Backup(t.Context(), t.TempDir()); !errors.Is(err, ErrNotInitialised) {
		t.Errorf("Backup: %v", err)
	}
}

// once makes a fault that hits the first request that matches.
func once(match string, answer func(http.ResponseWriter) bool) func(http.ResponseWriter, *http.Request) bool {
	var used atomic.Bool
	return func(w http.ResponseWriter, r *http.Request) bool {
		hit := strings.Contains(r.Method+" "+r.URL.Path, match) && used.CompareAndSwap(false, true)
		return hit && answer(w)
	}
}

func unavailable(w http.ResponseWriter) bool {
	w.Header().Set("Retry-After", "1")
	http.Error(w, "backlog", http.StatusServiceUnavailable)
	return true
}

func TestEveryRequestSurvivesOneFailure(t *testing.T) {
	for _, request := range []string{"GET /alice/laptop/config", "POST /alice/laptop/", "POST /alice/laptop/config", "laptop/locks/", "POST /alice/laptop/locks", "data/",
		"POST /alice/laptop/data", "index/", "POST /alice/laptop/index", "snapshots/", "DELETE"} {
		for name, answer := range map[string]func(http.ResponseWriter) bool{"a broken connection": breakOff, "a 503": unavailable} {
			for _, done := range []bool{false, true} {
				t.Run(request+" failed with "+name+map[bool]string{false: ", not done", true: ", but done"}[done], func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { surviveFault(t, once(request, answer), done) })
				})
			}
		}
	}
}

func surviveFault(t *testing.T, fault func(http.ResponseWriter, *http.Request) bool, done bool) {
	s, c := inBubble(t)
	if done {
		s.set(nil, fault)
	} else {
		s.set(fault, nil)
	}
	must(t, c.Init(t.Context()))
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "file"), pieceSize+5, 0o644)
	_, err := c.Backup(t.Context(), dir)
	must(t, err)
	sameTree(t, dir, restored(t, c, "latest"))
	if s.count("locks") != 0 || s.count("snapshots") != 1 {
		t.Errorf("%d locks and %d snapshots are left", s.count("locks"), s.count("snapshots"))
	}
}

func TestARefusalIsFinal(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 413, 416, 507} {
		s, c := initialised(t)
		s.set(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPost {
				return false
			}
			http.Error(w, "no, because\nsecond line", status)
			return true
		}, nil)
		_, err := c.Backup(t.Context(), t.TempDir())
		var got *StatusError
		if !errors.As(err, &got) || got.Status != status || got.Reason != "no, because" {
			t.Errorf("status %d: %v", status, err)
		}
		if n := len(slices.DeleteFunc(s.requests(), func(r string) bool { return r != "POST locks/*" })); n != 1 {
			t.Errorf("status %d: the lock was sent %d times", status, n)
		}
	}
}

func TestACancelledBackupLeavesNoLockAndNoSnapshot(t *testing.T) {
	s, c := initialised(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.set(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/data/") && r.Method == http.MethodPost {
			cancel()
			return unavailable(w)
		}
		return false
	}, nil)
	if _, err := c.Backup(ctx, writeTree(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("Backup: %v", err)
	}
	if s.count("locks") != 0 || s.count("snapshots") != 0 {
		t.Errorf("%d locks and %d snapshots are left", s.count("locks"), s.count("snapshots"))
	}
}

func TestASessionWhoseLockIsGoneStoresNoSnapshot(t *testing.T) {
	s, c := initialised(t)
	s.set(nil, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/index/") { // it slept here, for longer than a bar
			s.mu.Lock()
			defer s.mu.Unlock()
			maps.DeleteFunc(s.blocks, func(key string, _ []byte) bool { return strings.HasPrefix(key, "locks/") })
		}
		return false
	})
	_, err := c.Backup(t.Context(), writeTree(t))
	if err == nil || !strings.Contains(err.Error(), "lock is gone") || !strings.Contains(err.Error(), "begin again") {
		t.Errorf("it says %v", err)
	}
	if s.count("snapshots") != 0 {
		t.Error("it stored a snapshot all the same")
	}
}

func TestBlocksOfABackupThatWasCutOffAreUsedByTheNext(t *testing.T) {
	s, c := initialised(t)
	dir := writeTree(t)
	s.set(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/index/") && r.Method == http.MethodPost {
			http.Error(w, "barred", http.StatusForbidden)
			return true
		}
		return false
	}, nil)
	if _, err := c.Backup(t.Context(), dir); err == nil {
		t.Fatal("a backup without an index succeeded")
	}
	s.set(nil, nil)
	sum, err := c.Backup(t.Context(), dir)
	must(t, err)
	if sum.StoredBlocks != 0 {
		t.Errorf("%d blocks were sent again", sum.StoredBlocks)
	}
	sameTree(t, dir, restored(t, c, "latest"))
}

func TestUnlockRemovesEveryLock(t *testing.T) {
	s, c := initialised(t)
	for range 3 {
		_, err := c.storeLock(t.Context())
		must(t, err)
	}
	n, err := c.Unlock(t.Context())
	if err != nil || n != 3 || s.count("locks") != 0 {
		t.Errorf("Unlock removed %d, left %d: %v", n, s.count("locks"), err)
	}
}

func TestDamageIsFoundAndNeverRestored(t *testing.T) {
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	cut := func(b []byte) []byte { return b[:len(b)-1] }
	for _, kind := range []string{"data", "index", "snapshots"} {
		for name, change := range map[string]func([]byte) []byte{"a flipped bit": flip, "a missing byte": cut} {
			t.Run(name+" in "+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { findDamage(t, kind, change) })
			})
		}
	}
}

func findDamage(t *testing.T, kind string, change func([]byte) []byte) {
	s, c := inBubble(t)
	must(t, c.Init(t.Context()))
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "file"), 5000, 0o644)
	sum, err := c.Backup(t.Context(), dir)
	must(t, err)
	s.tamper(kind, change)
	if _, err := c.Check(t.Context()); !errors.Is(err, errDamaged) {
		t.Errorf("Check: %v", err)
	}
	if err := c.Restore(t.Context(), sum.Snapshot.ID, filepath.Join(t.TempDir(), "r")); !errors.Is(err, errDamaged) {
		t.Errorf("Restore: %v", err)
	}
}

func TestCheckFindsAMissingBlock(t *testing.T) {
	for _, kind := range []string{"data", "index"} {
		s, c := initialised(t)
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "file"), 5000, 0o644)
		_, err := c.Backup(t.Context(), dir)
		must(t, err)
		for key := range s.blocks {
			if strings.HasPrefix(key, kind+"/") {
				delete(s.blocks, key)
			}
		}
		if _, err := c.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "missing") {
			t.Errorf("without its %s block, Check says %v", kind, err)
		}
	}
}

func TestRestoreWantsAnEmptyDirectory(t *testing.T) {
	_, c := initialised(t)
	_, err := c.Backup(t.Context(), t.TempDir())
	must(t, err)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "mine"), 1, 0o644)
	if err := c.Restore(t.Context(), "latest", dir); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("Restore: %v", err)
	}
	if err := c.Restore(t.Context(), "0123", t.TempDir()); err == nil || !strings.Contains(err.Error(), "no snapshot") {
		t.Errorf("Restore of nothing: %v", err)
	}
}
