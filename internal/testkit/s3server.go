// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The credentials of every server that this package starts.
const (
	AccessKey = "strandline-test"
	SecretKey = "strandline-test-secret"
)

// startTimeout is how long a server may take until it answers.
const startTimeout = 60 * time.Second

// S3 is a running S3 server with its data in a directory of the test.
type S3 struct {
	Endpoint string // http://127.0.0.1:PORT

	t       testing.TB
	kind    kind
	program string
	home    string
	address string
	running *process
	buckets atomic.Int32
}

// kind is what differs between servers.
type kind struct {
	args   func(address, data string) []string
	asked  string // a path that a request without a key is made to ...
	answer int    // ... and the status that only a ready server gives
}

// process is one run of a server.
type process struct {
	command *exec.Cmd
	ended   chan struct{} // closed when it has been waited for
}

// MinIO starts MinIO on a free loopback port; it is stopped when the test ends.
func MinIO(t testing.TB) *S3 {
	t.Helper()
	args := func(address, data string) []string {
		return []string{"server", "--quiet", "--address", address, data}
	}
	// Its own health checks are content before its accounts are loaded.
	return start(t, minioServer, kind{args: args, asked: "/bucket/?list-type=2", answer: http.StatusForbidden})
}

// VersityGW starts versitygw on a free loopback port; it is stopped when the
// test ends.
func VersityGW(t testing.TB) *S3 {
	t.Helper()
	args := func(address, data string) []string {
		return []string{"--access", AccessKey, "--secret", SecretKey, "--health", "/health", "--port", address, "posix", data}
	}
	return start(t, versitygwServer, kind{args: args, asked: "/health", answer: http.StatusOK})
}

func start(t testing.TB, server Server, kind kind) *S3 {
	t.Helper()
	onlyWithAll(t, server.Name)
	program, err := server.Path()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%s is not built; run: %s", server.Name, Command)
	}
	s := &S3{t: t, kind: kind, program: program, home: t.TempDir()}
	if err := os.Mkdir(s.data(), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	// A port that was free may be taken before the server has it.
	for attempt := 0; ; attempt++ {
		s.address = freeAddress(t)
		s.Endpoint = "http://" + s.address
		err := s.start()
		if err == nil {
			return s
		}
		if attempt == 2 {
			t.Fatal(err)
		}
	}
}

func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func (s *S3) data() string { return filepath.Join(s.home, "data") }

// Start starts the server again, on the same port with the same data, after
// Stop. It returns when the server answers.
func (s *S3) Start() {
	s.t.Helper()
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *S3) start() error {
	// Not the test's own output: go test would wait for whoever holds it.
	output, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	command := exec.Command(s.program, s.kind.args(s.address, s.data())...)
	command.Dir = s.home
	command.Env = []string{
		"HOME=" + s.home, "PATH=" + os.Getenv("PATH"),
		"MINIO_ROOT_USER=" + AccessKey, "MINIO_ROOT_PASSWORD=" + SecretKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off",
	}
	command.Stdout, command.Stderr = output, output
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		return err
	}
	run := &process{command: command, ended: make(chan struct{})}
	go func() {
		defer close(run.ended)
		_ = command.Wait() // killed, as a rule; its log tells the rest
	}()
	s.running = run
	return s.await(run)
}

// await polls until the server answers.
func (s *S3) await(run *process) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !s.answers(ctx) {
		select {
		case <-run.ended:
			return fmt.Errorf("%s ended at once: %s", s.program, s.tail())
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s does not answer after %v: %s", s.program, startTimeout, s.tail()), s.kill())
		case <-tick.C:
		}
	}
	return nil
}

// answers reports whether the server is ready.
func (s *S3) answers(ctx context.Context) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+s.kind.asked, nil)
	if err != nil {
		return false
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	_, readErr := io.Copy(io.Discard, response.Body)
	return errors.Join(readErr, response.Body.Close()) == nil && response.StatusCode == s.kind.answer
}

func (s *S3) log() string { return filepath.Join(s.home, "log") }

// tail returns the end of the server's log.
func (s *S3) tail() string {
	text, err := os.ReadFile(s.log())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// Stop kills the server; its data stays for Start. Stopping it twice is fine.
func (s *S3) Stop() {
	s.t.Helper()
	if err := s.kill(); err != nil {
		s.t.Errorf("stop %s: %v", s.program, err)
	}
}

func (s *S3) kill() error {
	if s.running == nil {
		return nil
	}
	run := s.running
	s.running = nil
	err := syscall.Kill(-run.command.Process.Pid, syscall.SIGKILL) // its whole process group
	<-run.ended
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// NewBucket makes a bucket and returns its name. Both servers take a directory
// of their data for a bucket.
func (s *S3) NewBucket() string {
	s.t.Helper()
	name := fmt.Sprintf("bucket-%d", s.buckets.Add(1))
	if err := os.Mkdir(filepath.Join(s.data(), name), 0o700); err != nil {
		s.t.Fatal(err)
	}
	return name
}

// Spec returns what --archive takes for a new bucket of the server.
func (s *S3) Spec() string { return "s3://" + s.NewBucket() + "/archive?endpoint=" + s.Endpoint }

// Environ returns the environment variables with which a program finds the
// server's credentials.
func (s *S3) Environ() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + AccessKey, "AWS_SECRET_ACCESS_KEY=" + SecretKey}
}
