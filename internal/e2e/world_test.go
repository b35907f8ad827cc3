// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

// patience is how long anything may take before the test gives it up. It is
// no measure of speed: the machine may be busy.
const patience = testkit.Patience

// world is one log: its archive and the folder in which its servers live.
type world struct {
	t       *testing.T
	dir     string
	archive string   // as --archive takes it
	env     []string // credentials of the archive
}

// newWorld makes a folder with a directory archive that is not initialised.
func newWorld(t *testing.T) *world {
	t.Helper()
	unlessQuick(t)
	dir := t.TempDir()
	return &world{t: t, dir: dir, archive: "dir:" + filepath.Join(dir, "archive")}
}

// initialised is newWorld after `strandline init` of the state directory a.
func initialised(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.init()
	return w
}

func (w *world) init() {
	w.t.Helper()
	w.ok("init", "--data", w.path("a"), "--archive", w.archive)
}

// path names a file of the world's folder.
func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}

// archivePath names a file of the directory archive.
func (w *world) archivePath(elem ...string) string {
	return w.path(append([]string{"archive"}, elem...)...)
}

// result is what a command ended with.
type result struct {
	code        int
	out, stderr string
}

// run runs the program to its end.
func (w *world) run(args ...string) result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	return w.runContext(ctx, args...)
}

func (w *world) runContext(ctx context.Context, args ...string) result {
	w.t.Helper()
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = w.environ(), &out, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.Is(err, context.DeadlineExceeded) && cmd.ProcessState == nil {
		return result{-1, "", "it was too late before it began"}
	}
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, context.DeadlineExceeded) {
		w.t.Fatalf("strandline %s: %v", strings.Join(args, " "), err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), stderr.String()}
}

// ok runs the program and fails the test unless it ends with code 0.
func (w *world) ok(args ...string) string {
	w.t.Helper()
	r := w.run(args...)
	if r.code != 0 {
		w.t.Fatalf("strandline %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.stderr)
	}
	return r.out
}

// refused runs the program, which must end with the exit code and a last line
// that says each of the texts.
func (w *world) refused(code int, texts []string, args ...string) {
	w.t.Helper()
	r := w.run(args...)
	lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
	checkRefusal(w.t, strings.Join(args, " "), r.code, code, lines[len(lines)-1], texts)
}

func checkRefusal(t *testing.T, what string, got, want int, line string, texts []string) {
	t.Helper()
	if got != want {
		t.Errorf("strandline %s: exit code %d, want %d: %s", what, got, want, line)
	}
	for _, text := range texts {
		if !strings.Contains(line, text) {
			t.Errorf("strandline %s: %q does not say %q", what, line, text)
		}
	}
}

// environ is the environment of every program: ours without what would change
// it.
func (w *world) environ() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "STRANDLINE_") || strings.HasPrefix(v, "AWS_") || strings.HasPrefix(v, "RESTIC_")
	})
	return append(env, w.env...)
}

// recovery is what `recover --json` prints, as far as tests look at it.
type recovery struct {
	Objects int    `json:"objects"`
	Last    uint64 `json:"last_seq"`
	Clean   bool   `json:"clean_end"`
	Events  uint64 `json:"events"`
	Peak    int64  `json:"peak_memory_bytes"`
	// Checkpoint and Fallbacks are how it began.
	Checkpoint *struct {
		Name string `json:"name"`
		Seq  uint64 `json:"seq"`
	} `json:"checkpoint"`
	Fallbacks []struct {
		Checkpoint string `json:"checkpoint"`
		Reason     string `json:"reason"`
	} `json:"fallbacks"`
	Views []struct {
		Name     string `json:"name"`
		Position uint64 `json:"position"`
		Digest   string `json:"digest"`
		Compared uint64 `json:"digests_compared"`
		Skipped  uint64 `json:"digests_skipped"`
	} `json:"views"`
}

// recover rebuilds the state directory called name from the archive, and
// makes sure that at least so many recorded digests were compared in each view.
func (w *world) recover(name string, compared uint64, flags ...string) recovery {
	w.t.Helper()
	var r recovery
	began := time.Now()
	args := append([]string{"recover", "--data", w.path(name), "--archive", w.archive, "--json"}, flags...)
	must(w.t, json.Unmarshal([]byte(w.ok(args...)), &r))
	w.t.Logf("recovered %d objects in %v", r.Objects, time.Since(began).Round(time.Millisecond))
	for _, view := range r.Views {
		if view.Compared < compared || view.Position != r.Last {
			w.t.Errorf("%s view: %d digests compared, want %d; at %d, the log ends at %d", view.Name, view.Compared, compared, view.Position, r.Last)
		}
	}
	if len(r.Views) != 2 {
		w.t.Errorf("%d views were recovered", len(r.Views))
	}
	return r
}

// freeAddress returns a loopback address that nobody listens on now. Its port
// is none that the system gives to outgoing connections, so it is still free
// when a server that was killed comes back to it.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(20000))
		ln, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		must(t, ln.Close())
		return address
	}
	t.Fatal("no port is free")
	return ""
}

// eventually calls probe until it returns nil.
func eventually(t testing.TB, what string, probe func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := probe()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %v: %v", what, patience, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// copyDir copies a directory as it is.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	must(t, os.CopyFS(to, os.DirFS(from)))
}
