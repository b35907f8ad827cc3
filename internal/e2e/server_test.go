// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/strandline-project/strandline/internal/httpapi"
)

// server is `strandline serve` on one state directory and two ports, in one
// process after the other.
type server struct {
	*world
	name          string // of the state directory
	listen, admin string
	flags         []string // besides those of every server
	wrap          []string // a command that runs the program it is given
	logPath       string   // what its processes printed

	mu  sync.Mutex
	now *process // owned by mu; nil: none runs
}

// process is one run of a server.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has been waited for
}

// newServer prepares a server for the state directory called name. It does
// not run yet; it is killed when the test ends.
func (w *world) newServer(name string, flags ...string) *server {
	w.t.Helper()
	s := &server{world: w, name: name, listen: freeAddress(w.t), admin: freeAddress(w.t), flags: flags}
	log, err := os.CreateTemp(w.dir, "log-"+name+"-")
	must(w.t, err)
	must(w.t, log.Close())
	s.logPath = log.Name()
	w.t.Cleanup(func() {
		s.kill()
		if w.t.Failed() {
			w.t.Logf("the server of %s printed:\n%s", name, tail(s.printed(), 200))
		}
	})
	return s
}

// serve starts a server and waits until it is ready.
func (w *world) serve(name string, flags ...string) *server {
	w.t.Helper()
	s := w.newServer(name, flags...)
	s.start()
	return s
}

// start starts the process and waits until it answers clients.
func (s *server) start() {
	s.t.Helper()
	began := time.Now()
	must(s.t, s.launch())
	s.awaitReady()
	s.t.Logf("%s was ready after %v", s.name, time.Since(began).Round(time.Millisecond))
}

// launch starts the process.
func (s *server) launch() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	log, err := os.OpenFile(s.logPath, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"serve", "--data", s.path(s.name), "--listen", s.listen, "--admin", s.admin}
	if !slices.Contains(s.flags, "--htpasswd-file") {
		args = append(args, "--no-auth")
	}
	args = slices.Concat(s.wrap, []string{program}, args, s.flags)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.environ(), log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // its code is in the ProcessState
	}()
	s.now = p
	return nil
}

// current returns the process that runs.
func (s *server) current() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// awaitReady waits until /readyz is green.
func (s *server) awaitReady() {
	s.t.Helper()
	p := s.current()
	eventually(s.t, "the server of "+s.name+" is ready", func() error {
		select {
		case <-p.ended:
			s.t.Fatalf("the server of %s ended with code %d:\n%s", s.name, p.cmd.ProcessState.ExitCode(), tail(s.printed(), 30))
		default:
		}
		return s.ready()
	})
}

// ready returns why the server is not ready, nil when it is.
func (s *server) ready() error {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + s.admin + "/readyz")
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return err
}

// kill ends the process with SIGKILL and waits for it. None running is fine.
func (s *server) kill() {
	s.mu.Lock()
	p := s.now
	s.now = nil
	s.mu.Unlock()
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.ended
}

// signal sends a signal to the process.
func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	must(s.t, s.current().cmd.Process.Signal(sig))
}

// stop sends SIGTERM and returns the exit code.
func (s *server) stop() int {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	return s.exit()
}

// exit waits for the process to end and returns its exit code.
func (s *server) exit() int {
	s.t.Helper()
	p := s.current()
	select {
	case <-p.ended:
	case <-time.After(patience):
		s.t.Fatalf("the server of %s has not ended after %v", s.name, patience)
	}
	s.mu.Lock()
	s.now = nil
	s.mu.Unlock()
	return p.cmd.ProcessState.ExitCode()
}

// endsCleanly stops the server, which must end with code 0.
func (s *server) endsCleanly() {
	s.t.Helper()
	if code := s.stop(); code != 0 {
		s.t.Errorf("the server of %s ended with code %d", s.name, code)
	}
}

// refusesToStart starts the server, which must end by itself with the exit
// code and a line that says each of the texts.
func (s *server) refusesToStart(code int, texts ...string) {
	s.t.Helper()
	must(s.t, s.launch())
	got := s.exit()
	checkRefusal(s.t, "serve", got, code, tail(s.printed(), 1), texts)
}

// printed is all that the server's processes printed.
func (s *server) printed() string {
	text, err := os.ReadFile(s.logPath)
	must(s.t, err)
	return string(text)
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// status asks the admin listener.
func (s *server) status() *httpapi.Status {
	s.t.Helper()
	status, err := (&httpapi.Client{Addr: s.admin}).Status(s.t.Context())
	must(s.t, err)
	return status
}

// awaitArchived waits until everything committed is archived.
func (s *server) awaitArchived() {
	s.t.Helper()
	eventually(s.t, "all is archived", func() error {
		status := s.status()
		if status.Committed == nil || status.Archived == nil || status.Archived.Seq < status.Committed.Seq {
			return fmt.Errorf("archived %v of %v", status.Archived, status.Committed)
		}
		return nil
	})
}

// url is where clients find a machine.
func (s *server) url(account, machine string) string {
	return "http://" + s.listen + "/" + account + "/" + machine + "/"
}

// events returns every event of the server from a seq on, committed ones too.
func (s *server) events() []httpapi.EventLine {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	var all []httpapi.EventLine
	for line, err := range (&httpapi.Client{Addr: s.admin}).Events(ctx, httpapi.EventQuery{From: 1<<32 + 1, Committed: true}) {
		must(s.t, err)
		all = append(all, line)
	}
	return all
}
