// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/strandline-project/strandline/internal/testkit"
)

// restic runs the restic of the distribution against one repository.
type restic struct {
	t       *testing.T
	program string
	env     []string
}

// newRestic returns a restic with a cache of its own for the repository at the
// given address.
func newRestic(t *testing.T, url string, env []string) *restic {
	t.Helper()
	env = append(env[:len(env):len(env)], "RESTIC_REPOSITORY=rest:"+url, "RESTIC_PASSWORD=secret", "RESTIC_CACHE_DIR="+t.TempDir(), "RESTIC_PROGRESS_FPS=0.01")
	return &restic{t: t, program: testkit.Need(t, "restic"), env: env}
}

// session is one run of restic.
type session struct {
	*restic
	dir         string
	args        []string
	cmd         *exec.Cmd
	ended       chan struct{} // closed when it has been waited for
	out, stderr output
}

// output can be looked at while it is written.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// begin starts restic in the directory dir, "" for any. It is killed when the
// test ends.
func (r *restic) begin(dir string, args ...string) *session {
	r.t.Helper()
	s := &session{restic: r, dir: dir, args: args, ended: make(chan struct{})}
	s.cmd = exec.CommandContext(context.Background(), r.program, args...)
	s.cmd.Dir, s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = dir, r.env, &s.out, &s.stderr
	must(r.t, s.cmd.Start())
	go func() {
		defer close(s.ended)
		_ = s.cmd.Wait() // its code is in the ProcessState
	}()
	r.t.Cleanup(s.kill)
	return s
}

// kill ends restic without a chance to clean up.
func (s *session) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.ended
}

// runs reports whether restic has not ended yet.
func (s *session) runs() bool {
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// cutOff is what restic says of a server that goes away, and of one that is
// not back yet.
var cutOff = regexp.MustCompile("connection refused|connection reset by peer|EOF|503 Service Unavailable")

// opened returns s, or, when the server was away just as restic opened its
// repository, which is what it tries only once, the same run begun anew.
func (s *session) opened() *session {
	s.t.Helper()
	said := s.stderr.String()
	if s.runs() || s.cmd.ProcessState.Success() || !strings.Contains(said, "unable to open config file") || !cutOff.MatchString(said) {
		return s
	}
	return s.begin(s.dir, s.args...)
}

// succeeds waits for restic, which must end with code 0, and returns what it
// printed.
func (s *session) succeeds() string {
	s.t.Helper()
	<-s.ended
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		s.t.Fatalf("restic %s: exit code %d\n%s\n%s", strings.Join(s.args, " "), code, tail(s.out.String(), 20), tail(s.stderr.String(), 40))
	}
	return s.out.String()
}

// ok runs restic to its end.
func (r *restic) ok(args ...string) string {
	r.t.Helper()
	return r.begin("", args...).succeeds()
}

// snapshotOf returns the ID that `backup --json` reported as saved.
func snapshotOf(t *testing.T, out string) string {
	t.Helper()
	for line := range strings.Lines(out) {
		var message struct {
			Type     string `json:"message_type"`
			Snapshot string `json:"snapshot_id"`
		}
		if json.Unmarshal([]byte(line), &message) == nil && message.Type == "summary" {
			return message.Snapshot
		}
	}
	t.Fatalf("restic reported no snapshot:\n%s", tail(out, 5))
	return ""
}

// snapshots returns the IDs of all snapshots.
func (r *restic) snapshots(flags ...string) []string {
	r.t.Helper()
	var all []struct {
		ID string `json:"id"`
	}
	must(r.t, json.Unmarshal([]byte(r.ok(append([]string{"snapshots", "--json"}, flags...)...)), &all))
	var ids []string
	for _, s := range all {
		ids = append(ids, s.ID)
	}
	return ids
}

// restored returns what a snapshot has in it.
func (r *restic) restored(id string, flags ...string) map[string]string {
	r.t.Helper()
	dir := filepath.Join(r.t.TempDir(), "restored")
	r.ok(append([]string{"restore", id, "--target", dir}, flags...)...)
	all := describe(r.t, dir)
	must(r.t, os.RemoveAll(dir))
	return all
}

// locksAndData counts what is listed of two kinds.
func locksAndData(d *door) (locks, data int, err error) {
	for kind, n := range map[string]*int{"locks/": &locks, "data/": &data} {
		a, err := d.try(context.Background(), "GET", kind, nil)
		if err != nil {
			return 0, 0, err
		}
		var names []string
		if a.status != 200 {
			return 0, 0, fmt.Errorf("list %s: %d", kind, a.status)
		}
		if err := json.Unmarshal([]byte(a.body), &names); err != nil {
			return 0, 0, err
		}
		*n = len(names)
	}
	return locks, data, nil
}
