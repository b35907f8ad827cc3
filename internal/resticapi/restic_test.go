// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/internal/testkit"
)

// restic is the real client, at work on one repository.
type restic struct {
	t       testing.TB
	program string
	url     string // of the repository, as restic wants it
	env     []string
	args    []string // of every command
}

// newRestic returns a client for the repository at url.
func newRestic(t testing.TB, url string, args ...string) *restic {
	t.Helper()
	home := t.TempDir()
	env := []string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + home, "RESTIC_CACHE_DIR=" + filepath.Join(home, "cache"),
		"RESTIC_REPOSITORY=rest:" + url, "RESTIC_PASSWORD=repository password",
	}
	return &restic{t: t, program: testkit.Need(t, "restic"), url: "rest:" + url, env: env, args: args}
}

// run runs a command that must succeed and returns what it printed.
func (r *restic) run(args ...string) string {
	r.t.Helper()
	out, err := r.try(args...)
	if err != nil {
		r.t.Fatalf("restic %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (r *restic) try(args ...string) (string, error) {
	cmd := exec.CommandContext(r.t.Context(), r.program, append(slices.Clone(r.args), args...)...)
	cmd.Env = r.env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// snapshots returns the ids of the repository's snapshots.
func (r *restic) snapshots() []string {
	r.t.Helper()
	var rows []struct{ ID string }
	if err := json.Unmarshal([]byte(r.run("snapshots", "--json")), &rows); err != nil {
		r.t.Fatal(err)
	}
	ids := []string{}
	for _, row := range rows {
		ids = append(ids, row.ID)
	}
	return ids
}

// writeTree makes files of many sizes, some of them alike.
func writeTree(t testing.TB, dir string, seed byte) {
	t.Helper()
	for i, size := range []int{0, 1, 100, 4096, 65_536, 65_537, 700_000, 3_000_000, 100, 9_000_000} {
		sub := filepath.Join(dir, fmt.Sprintf("d%d", i%3))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%d", i)), random(size, seed+byte(i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// readTree returns the content of every file by its path below dir.
func readTree(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir)] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// checkRestore restores a snapshot and compares it with what was backed up.
func (r *restic) checkRestore(snapshot, source string, want map[string]string) {
	r.t.Helper()
	target := r.t.TempDir()
	r.run("restore", snapshot, "--target", target)
	got := readTree(r.t, filepath.Join(target, source))
	for path, content := range want {
		if got[path] != content {
			r.t.Errorf("%s of snapshot %s was not restored as it was", path, snapshot)
		}
	}
	if len(got) != len(want) {
		r.t.Errorf("snapshot %s: %d files were restored, want %d", snapshot, len(got), len(want))
	}
}

// story is a repository's life, from init to a copy.
func story(t *testing.T, r, second *restic) {
	source := t.TempDir()
	writeTree(t, source, 0)
	first := readTree(t, source)

	r.run("init", "--repository-version", "1")
	if out, err := r.try("init"); err == nil {
		t.Errorf("a second init succeeded: %s", out)
	}
	r.run("backup", source)
	writeTree(t, filepath.Join(source, "more"), 50)
	if err := os.Remove(filepath.Join(source, "d0", "f9")); err != nil {
		t.Fatal(err)
	}
	r.run("backup", source)
	ids := r.snapshots()
	if len(ids) != 2 {
		t.Fatalf("snapshots: %v", ids)
	}
	r.run("check", "--read-data")
	r.checkRestore(ids[0], source, first)

	r.run("tag", "--add", "kept", "latest")
	r.run("key", "add", "--new-password-file", passwordFile(t, "another password"))
	r.run("migrate", "upgrade_repo_v2")
	r.run("forget", "--prune", "--keep-last", "1")
	r.run("check", "--read-data")
	if ids = r.snapshots(); len(ids) != 1 {
		t.Fatalf("snapshots after forget: %v", ids)
	}
	r.checkRestore(ids[0], source, readTree(t, source))
	copyStory(t, r, second, source)
	if out := r.run("list", "locks"); strings.TrimSpace(out) != "" {
		t.Errorf("locks are left: %s", out)
	}
}

func passwordFile(t *testing.T, password string) string {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// copyStory copies everything into a second repository and restores from it.
func copyStory(t *testing.T, r, second *restic, source string) {
	password := passwordFile(t, "repository password")
	second.run("init", "--from-repo", r.url, "--from-password-file", password, "--copy-chunker-params")
	second.run("copy", "--from-repo", r.url, "--from-password-file", password)
	second.run("check", "--read-data")
	second.checkRestore("latest", source, readTree(t, source))
}

func TestResticLivesAWholeLifeOverHTTP(t *testing.T) {
	d := openDoor(t)
	story(t, newRestic(t, d.url+"/alice/laptop/"), newRestic(t, d.url+"/alice/"))
}

func TestResticLivesAWholeLifeOverHTTP2WithAPassword(t *testing.T) {
	testkit.Need(t, "restic")
	dir := t.TempDir()
	certFile, keyFile := writeCertificate(t, dir, "x")
	auth, _ := withAuth(t, bcryptLine(t, "alice", "secret"))
	protocols := &protocolObserver{seen: map[string]bool{}}
	c := Config{Store: newFakeStore()}
	auth(&c)
	addr, _ := serve(t, ServerConfig{Handler: protocols.wrap(NewHandler(c)), CertFile: certFile, KeyFile: keyFile})
	at := "https://alice:secret@" + addr
	story(t, newRestic(t, at+"/alice/pc/", "--cacert", certFile), newRestic(t, at+"/alice/second/", "--cacert", certFile))
	if !protocols.seen["HTTP/2.0"] || len(protocols.seen) != 1 {
		t.Errorf("spoken: %v", protocols.seen)
	}
}

func TestResticInAppendOnlyModeBacksUpButDoesNotForget(t *testing.T) {
	d := openDoor(t)
	d.store.appendOnly = true
	r := newRestic(t, d.url+"/alice/laptop/")
	source := t.TempDir()
	writeTree(t, source, 0)
	r.run("init")
	r.run("backup", source)
	r.run("check", "--read-data")
	r.checkRestore("latest", source, readTree(t, source))
	// A refused DELETE is tried again for about a minute by restic before 0.17,
	// so that it is refused is tested without it.
	snapshot := r.snapshots()[0]
	d.want(403, "DELETE", repo+"snapshots/"+snapshot, "")
	if out := r.run("list", "locks"); strings.TrimSpace(out) != "" {
		t.Errorf("locks are left: %s", out)
	}
}

func TestResticSurvivesTroubleThatPasses(t *testing.T) {
	d := openDoor(t)
	r := newRestic(t, d.url+"/alice/laptop/")
	source := t.TempDir()
	writeTree(t, source, 0)
	r.run("init")
	d.store.troubleOnce()
	r.run("backup", source)
	r.run("check", "--read-data")
	r.checkRestore("latest", source, readTree(t, source))
}
