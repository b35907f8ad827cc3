// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/strandline-project/strandline/internal/testkit"
)

func TestAppendOnlyRefusesDeletesButThoseOfLocks(t *testing.T) {
	w := initialised(t)
	s := w.serve("a", "--append-only", "--access-log", w.path("access.log"))
	d := s.door("alice", "laptop")
	d.create()
	lock := d.store("locks", []byte("a lock"))
	block := d.store("data", []byte("kept"))
	d.wants(403, "DELETE", block, nil)
	d.wants(403, "DELETE", "config", nil)
	d.wants(403, "POST", "config", []byte("another"))
	d.wants(200, "DELETE", lock, nil)
	d.wants(200, "GET", block, nil)
	s.signal(syscall.SIGHUP) // without an htpasswd file there is nothing to read again
	d.wants(200, "GET", block, nil)
	s.endsCleanly()
	log, err := os.ReadFile(w.path("access.log"))
	must(t, err)
	for _, wanted := range []string{"GET /alice/laptop/" + block, " 403 ", " 200 "} {
		if !strings.Contains(string(log), wanted) {
			t.Errorf("the access log does not hold %q:\n%s", wanted, log)
		}
	}
}

func TestTheAdminListenerTellsHealthAndMetrics(t *testing.T) {
	w := initialised(t)
	s := w.serve("a")
	d := s.door("alice", "laptop")
	d.create()
	s.awaitArchived()
	get := func(path string) string {
		resp, err := http.Get("http://" + s.admin + path)
		must(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		must(t, err)
		if resp.StatusCode != 200 {
			t.Errorf("%s: %s", path, resp.Status)
		}
		return string(text)
	}
	get("/healthz")
	get("/readyz")
	metrics := get("/metrics")
	for _, word := range []string{"committed", "archived", "applied", "lag", "fsync", "backlog", "requests"} {
		if !strings.Contains(metrics, word) {
			t.Errorf("no metric speaks of %s", word)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	s.endsCleanly()
}

// TestEveryResticCommandWorks goes through what people do with a repository.
func TestEveryResticCommandWorks(t *testing.T) {
	testkit.Need(t, "restic")
	t.Parallel()
	w := initialised(t)
	tr := newTree(t, newRandom(t), 200)
	s := w.serve("a")
	r := newRestic(t, s.url("alice", "laptop"), w.environ())
	r.ok("init", "--repository-version", "1")
	first := snapshotOf(t, r.begin(tr.dir, "backup", "--json", "--tag", "old", ".").succeeds())
	r.ok("check")
	r.ok("migrate", "upgrade_repo_v2")
	r.ok("tag", "--set", "new", first)
	if ids := r.snapshots("--tag", "new"); len(ids) != 1 {
		t.Errorf("%d snapshots have the new tag", len(ids))
	}
	password := filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(password, []byte("another secret"), 0o600))
	r.ok("key", "add", "--new-password-file", password)
	r.ok("snapshots", "--password-file", password)
	tr.change(50)
	second := snapshotOf(t, r.begin(tr.dir, "backup", "--json", ".").succeeds())
	for _, args := range [][]string{
		{"list", "blobs"}, {"list", "packs"}, {"ls", second}, {"find", "file 00*"}, {"stats", "--mode", "raw-data"}, {"diff", first, second},
		{"cat", "config"}, {"cache"}, {"rebuild-index"}, {"prune", "--max-unused", "0"}, {"check", "--read-data"}, {"unlock", "--remove-all"},
	} {
		if args[0] == "diff" {
			args[1] = r.snapshots("--tag", "new")[0] // tag has given it another name
		}
		r.ok(args...)
	}

	other := newRestic(t, s.url("alice", "copy"), w.environ())
	other.ok("init")
	copied := other.begin("", "copy", "--from-repo", "rest:"+s.url("alice", "laptop"), "--from-password-file", passwordFile(t, "secret"))
	copied.succeeds()
	if got := len(other.snapshots()); got != 2 {
		t.Errorf("%d snapshots were copied", got)
	}
	other.ok("check", "--read-data")
	sameFiles(t, "the copy", describe(t, tr.dir), other.restored("latest"))
	r.ok("forget", "--keep-last", "1", "--prune")
	sameFiles(t, "what is left", describe(t, tr.dir), r.restored("latest"))
	s.endsCleanly()
	if out := w.ok("inspect", "view", "machine", "--data", w.path("a")); !strings.Contains(out, "locks: 0 live rows") {
		t.Errorf("locks are left: %s", out)
	}
	w.recover("b", 1)
	if out := w.ok("compare", w.path("a"), w.path("b")); strings.Count(out, "equal at seq") != 2 {
		t.Error(out)
	}
}

func passwordFile(t *testing.T, password string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(path, fmt.Append(nil, password), 0o600))
	return path
}
