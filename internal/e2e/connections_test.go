// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
)

// withDescriptors is a command that runs the program it is given with so many
// descriptors: soft to begin with, and hard at most.
func withDescriptors(soft, hard int) []string {
	return []string{"sh", "-c", fmt.Sprintf(`ulimit -Sn %d && ulimit -Hn %d && exec "$@"`, soft, hard), "sh"}
}

// silentConnections opens so many connections and says nothing on them; first
// goes ahead on each.
func silentConnections(t *testing.T, address string, n int, first string) (closeAll func()) {
	t.Helper()
	var conns []net.Conn
	closeAll = func() {
		for _, conn := range conns {
			_ = conn.Close() // the server may have closed it
		}
	}
	t.Cleanup(closeAll)
	for range n {
		conn, err := net.DialTimeout("tcp", address, patience)
		must(t, err)
		conns = append(conns, conn)
		if first != "" {
			_, _ = conn.Write([]byte(first)) // the same
		}
	}
	return closeAll
}

// healthy makes sure that the server's health is asked for and good.
func (s *server) healthy() {
	s.t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + s.admin + "/healthz")
	must(s.t, err)
	must(s.t, resp.Body.Close())
	if resp.StatusCode != http.StatusOK {
		s.t.Errorf("/healthz: %s", resp.Status)
	}
}

// More connections than there are descriptors, and nobody logged in: whoever
// has something to store or to read is served, and the log takes no harm.
func TestSilentConnectionsLockNobodyOut(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.newServer("a")
	s.wrap = withDescriptors(256, 1024) // Go raises the first to the second, or one less
	s.start()
	known := s.door("alice", "laptop")
	known.create()
	before := known.store("data", []byte("stored before"))
	for _, first := range []string{"", "GET ", "GET /alice/laptop/config HTTP/1.1\r\nHost: x\r\n\r\n"} {
		silence := silentConnections(t, s.listen, 1200, first)
		adminSilence := silentConnections(t, s.admin, 200, first)
		stranger := s.door("alice", "laptop") // with no connection yet
		if got := stranger.wants(200, "GET", before, nil); got.body != "stored before" {
			t.Errorf("the block is %q", got.body)
		}
		path := stranger.store("data", []byte("stored beside silence after "+first))
		stranger.wants(200, "GET", path, nil)
		s.healthy()
		status := s.status()
		if status.Mode != "serving" || status.Stopped != "" {
			t.Errorf("the server is %s: %s", status.Mode, status.Stopped)
		}
		if warned := strings.Join(status.Warnings, "\n"); !strings.Contains(warned, "only 102") {
			t.Errorf("it warns of %q, not of 1024 descriptors", warned)
		}
		silence()
		adminSilence()
		after := stranger.store("data", []byte("stored when they have gone after "+first))
		stranger.wants(200, "GET", after, nil)
	}
	s.awaitArchived()
	s.endsCleanly()
	if printed := s.printed(); !strings.Contains(printed, "only 102") || strings.Contains(printed, `"level":"ERROR"`) {
		t.Error("it did not warn of 1024 descriptors, or met with an error")
	}
}

func TestMoreConnectionsThanDescriptorsAreRefused(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.newServer("a", "--max-connections", "1000")
	s.wrap = withDescriptors(1024, 1024)
	s.refusesToStart(2, "--max-connections 1000", "1024 files", "256 are reserved", "write at most 768")
	s.flags = nil
	s.wrap = withDescriptors(200, 200)
	s.refusesToStart(2, "200 files", "256 of them are reserved", "raise the limit")
}
