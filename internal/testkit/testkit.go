// SPDX-License-Identifier: Apache-2.0

// Package testkit gives tests the programs that they need from outside: S3
// servers, restic, rclone, strace. It is for tests only; product code does not
// import it.
//
// Tests that need one run only with STRANDLINE_TESTS=all in the environment,
// and then a missing program is a failure. Otherwise they skip and name the
// command that runs all, so that a plain go test needs Go alone and is quick.
//
// What takes long is long with the same switch only; see Long.
package testkit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Command is what runs every test, those that need other programs included.
const Command = "go run ./internal/testkit/servers && STRANDLINE_TESTS=all go test -timeout 40m ./..."

// Patience is how long a test waits for what must come about, before it calls it
// missing. It measures nothing: a machine may be as busy as it likes.
const Patience = 5 * time.Minute

// All reports whether the tests that need other programs run.
func All() bool { return os.Getenv("STRANDLINE_TESTS") == "all" }

// Long reports whether tests run at their full length: every seed, every byte,
// every place at which a process may be killed. Otherwise each does a part of
// that, so that a plain go test takes some minutes on a small machine. It is so
// with STRANDLINE_TESTS=all, unless -short is given: then all tests run that
// need other programs, and each does its part.
func Long() bool { return All() && !testing.Short() }

// NeedLong ends a test that has no shorter form, unless tests run at their
// full length.
func NeedLong(t testing.TB, why string) {
	t.Helper()
	if !Long() {
		t.Skipf("%s; all tests are run by: %s", why, Command)
	}
}

// Need returns the path of a program, such as "restic", or ends the test.
func Need(t testing.TB, program string) string {
	t.Helper()
	onlyWithAll(t, program)
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%s is not installed: %v; install it, then run: %s", program, err, Command)
	}
	return path
}

// Lacks ends a test that cannot run here, for the reason that err says: it
// skips, but where all tests are to run it fails.
func Lacks(t testing.TB, what string, err error) {
	t.Helper()
	if All() {
		t.Fatalf("needs %s, and all tests are to run: %v", what, err)
	}
	t.Skipf("needs %s: %v", what, err)
}

// onlyWithAll skips the test unless all tests are to run.
func onlyWithAll(t testing.TB, program string) {
	t.Helper()
	if !All() {
		t.Skipf("needs %s; all tests are run by: %s", program, Command)
	}
}

// Server is an S3 server for tests, built from the module that pins it.
type Server struct {
	Name    string // and the folder below tools/ of the module that pins it
	Package string // the main package to build
	Module  string
}

// The pinned servers.
var (
	minioServer     = Server{Name: "minio", Package: "github.com/minio/minio", Module: "github.com/minio/minio"}
	versitygwServer = Server{Name: "versitygw", Package: "github.com/versity/versitygw/cmd/versitygw", Module: "github.com/versity/versitygw"}
)

// Servers lists the pinned servers.
func Servers() []Server { return []Server{minioServer, versitygwServer} }

// PathOf returns the path of a pinned server's program by its name.
func PathOf(name string) (string, error) {
	for _, server := range Servers() {
		if server.Name == name {
			return server.Path()
		}
	}
	return "", fmt.Errorf("%s: there is no server of that name", name)
}

// Folder returns the folder of the module that pins s.
func (s Server) Folder() (string, error) {
	root, err := repositoryRoot()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, "tools", s.Name), nil
}

// Path returns where the built server belongs: in the user's cache directory,
// under its version.
func (s Server) Path() (string, error) {
	version, err := s.version()
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory: %w", err)
	}
	return filepath.Join(cache, "strandline", "servers", s.Name+"-"+version), nil
}

// version reads the pinned version out of the module's go.mod.
func (s Server) version() (string, error) {
	folder, err := s.Folder()
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(folder, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("find the version of %s: %w", s.Name, err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) >= 2 && fields[0] == s.Module {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("%s/go.mod requires no %s", folder, s.Module)
}

// repositoryRoot finds the repository around the working directory, which in
// a test is the package's own.
func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "tools", minioServer.Name, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find the repository: run this within it")
		}
	}
}
