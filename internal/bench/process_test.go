// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

// TestServerProcess is no test: it is the server that other tests start from
// this same program.
func TestServerProcess(t *testing.T) {
	switch os.Getenv("BENCH_SERVER") {
	case "":
		t.Skip("the server of other tests")
	case "broken":
		os.Stderr.WriteString("cannot open the pod bay doors\n")
		os.Exit(3)
	}
	listener, err := net.Listen("tcp", os.Getenv("BENCH_ADDR"))
	if err != nil {
		t.Fatal(err)
	}
	s := &memoryServer{blocks: map[string][]byte{}, counts: map[string]int{}}
	_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.SetBasicAuth("alice", "secret")
		s.ServeHTTP(w, r)
	})) // until it is stopped
}

// self is this test program as a server.
func self(mode string, before []string) Command {
	c := Command{
		Name: "self",
		Args: func(_, addr string) []string {
			return []string{"/usr/bin/env", "BENCH_ADDR=" + addr, os.Args[0], "-test.run=^TestServerProcess$"}
		},
		Env:  []string{"BENCH_SERVER=" + mode},
		Path: "alice/laptop/",
	}
	if before != nil {
		c.Before = func(string) []string { return before }
	}
	return c
}

func TestAServerProcessIsStartedMeasuredAndStopped(t *testing.T) {
	report, err := Run(t.Context(), Plan{Peers: []Peer{self("memory", []string{"true"}).Peer()}, Loads: []Load{small(OpGet)}, Rounds: 2, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Rows[0].Results[0]; r.Ops != 80 || r.Errors != 0 || r.PeakRSS < 1<<20 {
		t.Errorf("%+v", r)
	}
}

func TestAServerThatDoesNotStartSaysWhy(t *testing.T) {
	for name, c := range map[string]struct {
		command Command
		want    string
	}{
		"it ends":              {self("broken", nil), "pod bay doors"},
		"what comes before it": {self("memory", []string{"sh", "-c", "echo no space; exit 1"}), "no space"},
		"it is not there":      {Command{Name: "x", Args: func(_, _ string) []string { return []string{"/nowhere/server"} }}, "/nowhere/server"},
	} {
		_, err := Run(t.Context(), Plan{Peers: []Peer{c.command.Peer()}, Loads: []Load{small(OpPut)}, Dir: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRcloneIsAPeer(t *testing.T) {
	path := testkit.Need(t, "rclone")
	loads := []Load{small(OpPut), small(OpGet), small(OpList), small(OpDelete)}
	for i := range loads {
		loads[i].Duration = 10 * time.Second
	}
	report, err := Run(t.Context(), Plan{Peers: []Peer{Rclone(path).Peer()}, Loads: loads, Dir: t.TempDir()})
	if err != nil || report.Failed() {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestTheLargestMemoryCanBeForgotten(t *testing.T) {
	const large = 128 << 20
	use(large)
	before, err := PeakRSS(os.Getpid())
	if err != nil || before < large {
		t.Fatalf("%d bytes, %v", before, err)
	}
	debug.FreeOSMemory()
	if err := ForgetPeakRSS(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	peak, err := PeakRSS(os.Getpid())
	if err != nil || peak > before-large/2 {
		t.Errorf("%d bytes, %d before, %v", peak, before, err)
	}
	if now, err := RSS(os.Getpid()); err != nil || now < 1<<20 || now > before-large/2 {
		t.Errorf("%d bytes now, %v", now, err)
	}
}

// use needs so many bytes of memory until it returns.
func use(bytes int) {
	memory := make([]byte, bytes)
	for i := range memory {
		memory[i] = 1
	}
	runtime.KeepAlive(memory)
}
