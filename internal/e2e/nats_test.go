// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strandline-project/strandline/eventlog"
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

// What the server itself does not read, a program elsewhere must be able to: every
// event, in order, as it was committed, and before it that it is committed.
func TestAProgramElsewhereHearsOfEveryEvent(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	nats := newNATS(t)
	heard := nats.subscribe("strandline.>", "strandline-committed.>")
	s := w.serve("a", "--nats", nats.url())
	d := s.door("alice", "laptop")
	d.create()
	for i := range 50 {
		d.store("locks", fmt.Append(nil, i))
	}
	end := s.status().Committed.Seq
	var told, last eventlog.Seq
	for last < end {
		subject, header, body := heard.next()
		words := strings.Split(subject, ".")
		if words[0] == "strandline-committed" {
			n, err := strconv.ParseUint(string(body), 10, 64)
			must(t, err)
			told = eventlog.Seq(n)
			continue
		}
		var event eventlog.Event
		must(t, eventlog.DecodeEvent(body, &event))
		if want := fmt.Sprintf("strandline.%s.%s.%d", words[1], event.Type, event.Machine); subject != want || event.Seq > told {
			t.Errorf("event %s on subject %s, want %s; told until then: %s", event.Seq, subject, want, told)
		}
		if event.Seq != last+1 && (last != 0 || event.Seq.Counter() != 1) {
			t.Errorf("event %s follows %s", event.Seq, last)
		}
		last = event.Seq
		seq, sum := strconv.FormatUint(uint64(last), 10), fmt.Sprintf("%08x", eventlog.Checksum(body))
		if header.Get("Strandline-Seq") != seq || header.Get("Strandline-Type") != event.Type.String() || header.Get("Strandline-Crc32c") != sum {
			t.Errorf("event %s has the headers %v", last, header)
		}
	}
	s.endsCleanly()
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

// subscription reads messages as NATS writes them, without a library.
type subscription struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// subscribe returns when the server knows of it.
func (n *natsServer) subscribe(subjects ...string) *subscription {
	n.t.Helper()
	conn, err := net.Dial("tcp", n.address)
	must(n.t, err)
	n.t.Cleanup(func() { _ = conn.Close() })
	must(n.t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, "CONNECT {\"verbose\":false,\"headers\":true}\r\n")
	for i, subject := range subjects {
		_, failed := fmt.Fprintf(conn, "SUB %s %d\r\n", subject, i+1)
		err = errors.Join(err, failed)
	}
	_, failed := io.WriteString(conn, "PING\r\n")
	must(n.t, errors.Join(err, failed))
	s := &subscription{n.t, conn, bufio.NewReader(conn)}
	for s.line()[0] != "PONG" {
	}
	return s
}

// line returns the words of the next line.
func (s *subscription) line() []string {
	s.t.Helper()
	text, err := s.in.ReadString('\n')
	must(s.t, err)
	return append(strings.Fields(text), "")
}

// next returns the next message.
func (s *subscription) next() (subject string, header textproto.MIMEHeader, body []byte) {
	s.t.Helper()
	for {
		words := s.line()
		switch words[0] {
		case "PING":
			_, err := io.WriteString(s.conn, "PONG\r\n")
			must(s.t, err)
		case "MSG": // subject, subscription, bytes
			return words[1], nil, s.read(words[3])
		case "HMSG": // subject, subscription, bytes of the header, bytes of all
			n, err := strconv.Atoi(words[3])
			must(s.t, err)
			all := s.read(words[4])
			head := textproto.NewReader(bufio.NewReader(bytes.NewReader(all[:n])))
			version, err := head.ReadLine()
			if err != nil || version != "NATS/1.0" {
				s.t.Fatalf("a header of version %q (%v)", version, err)
			}
			header, err := head.ReadMIMEHeader()
			must(s.t, err)
			return words[1], header, all[n:]
		case "-ERR":
			s.t.Fatalf("NATS says %q", words)
		}
	}
}

func (s *subscription) read(length string) []byte {
	s.t.Helper()
	n, err := strconv.Atoi(length)
	must(s.t, err)
	body := make([]byte, n+2) // and the line's end
	_, err = io.ReadFull(s.in, body)
	must(s.t, err)
	return body[:n]
}
