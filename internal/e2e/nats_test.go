// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

func TestEachEventOfAnEpochIsPublishedTheFirstOneToo(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.newServer("a")
	for range 5 { // what is written right at the start must not be missed now and then
		s.start()
		s.door("alice", "laptop").wants(200, "POST", "?create=true", nil)
		eventually(t, "all is published", func() error {
			status := s.status()
			if events := status.Committed.Seq.Counter(); status.Feed.Published != uint64(events) {
				return fmt.Errorf("%d of the epoch's %d events were published", status.Feed.Published, events)
			}
			return nil
		})
		s.endsCleanly()
	}
}

// buildNATS builds the NATS server, of the version that the feed embeds, once.
var buildNATS = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(program), "nats-server")
	out, err := exec.Command("go", "build", "-o", path, "github.com/nats-io/nats-server/v2").CombinedOutput()
	if err != nil {
		err = &buildError{err, string(out)}
	}
	return path, err
})

type buildError struct {
	err error
	out string
}

func (e *buildError) Error() string { return "build the NATS server: " + e.err.Error() + "\n" + e.out }

// natsServer is a NATS server in a process of its own.
type natsServer struct {
	t       *testing.T
	program string
	address string
	cmd     *exec.Cmd // nil: stopped
}

// newNATS starts a NATS server; it is killed when the test ends.
func newNATS(t *testing.T) *natsServer {
	t.Helper()
	path, err := buildNATS()
	must(t, err)
	n := &natsServer{t: t, program: path, address: freeAddress(t)}
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *natsServer) url() string { return "nats://" + n.address }

func (n *natsServer) start() {
	n.t.Helper()
	host, port, err := net.SplitHostPort(n.address)
	must(n.t, err)
	log, err := os.Create(filepath.Join(n.t.TempDir(), "nats.log"))
	must(n.t, err)
	defer log.Close()
	n.cmd = exec.Command(n.program, "--addr", host, "--port", port)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	must(n.t, n.cmd.Start())
	eventually(n.t, "NATS listens", func() error {
		conn, err := net.Dial("tcp", n.address)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
}

// stop kills the server. Stopping it twice is fine.
func (n *natsServer) stop() {
	if n.cmd == nil {
		return
	}
	if err := n.cmd.Process.Kill(); err != nil {
		n.t.Errorf("stop NATS: %v", err)
	}
	_ = n.cmd.Wait() // killed
	n.cmd = nil
}
