// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bytes"
	"log/slog"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// silent is a connection that only knows whether it was closed.
type silent struct {
	net.Conn
	closed bool
}

func (s *silent) Close() error { s.closed = true; return nil }

func TestTheConnectionThatWaitsLongestForARequestIsClosedForANewOne(t *testing.T) {
	var logged bytes.Buffer
	server := &http.Server{}
	limitConnections(server, 3, slog.New(slog.NewTextHandler(&logged, nil)))
	conns := make([]*silent, 8)
	for i := range conns {
		conns[i] = &silent{}
	}
	for step, c := range []struct {
		conn   int
		state  http.ConnState
		closed []int // after the step
	}{
		{0, http.StateNew, nil},
		{0, http.StateActive, nil},
		{1, http.StateNew, nil},
		{2, http.StateNew, nil},
		{0, http.StateIdle, nil},           // it waits, but for less long than 1 and 2
		{3, http.StateNew, []int{1}},       // never said anything
		{1, http.StateActive, []int{1}},    // its request was on its way: it counts no more
		{1, http.StateClosed, []int{1}},    // and is not counted out twice
		{4, http.StateNew, []int{1, 2}},    //
		{4, http.StateActive, []int{1, 2}}, //
		{3, http.StateActive, []int{1, 2}}, //
		{5, http.StateNew, []int{0, 1, 2}}, // one that was answered is closed, too
		{5, http.StateActive, []int{0, 1, 2}},
		{6, http.StateNew, []int{0, 1, 2, 6}}, // requests are under way on all
		{6, http.StateClosed, []int{0, 1, 2, 6}},
		{5, http.StateClosed, []int{0, 1, 2, 6}},
		{7, http.StateNew, []int{0, 1, 2, 6}}, // there is room again
	} {
		server.ConnState(conns[c.conn], c.state)
		var closed []int
		for i, conn := range conns {
			if conn.closed {
				closed = append(closed, i)
			}
		}
		if !slices.Equal(closed, c.closed) {
			t.Fatalf("step %d, %d becomes %v: %v are closed, want %v", step, c.conn, c.state, closed, c.closed)
		}
	}
	if n := strings.Count(logged.String(), "all connections are taken"); n != 1 {
		t.Errorf("said %d times that all connections are taken:\n%s", n, &logged)
	}
}

func TestConnectionsLeaveAReserveOfTheDescriptors(t *testing.T) {
	for limit, want := range map[uint64]uint64{0: 0, 256: 0, 300: 44, 512: 256, 1024: 512, 4096: 2048, 8192: 4096, math.MaxUint64: 4096} {
		got := defaultConnections(limit)
		if got != want {
			t.Errorf("of %d descriptors %d are for connections, want %d", limit, got, want)
		}
		if err := connectionsFit(got, limit); (err == nil) != (want > 0) {
			t.Errorf("the default with %d descriptors: %v", limit, err)
		}
	}
	for _, c := range []struct {
		connections, limit uint64
		says               []string // nil: it fits
	}{
		{1, 257, nil},
		{768, 1024, nil},
		{769, 1024, []string{"--max-connections 769", "1024 files", "256 are reserved", "write at most 768"}},
		{math.MaxUint64, 1024, []string{"write at most 768"}},
		{0, 1024, []string{"--max-connections 0", "write a number from 1 on"}},
		{10, 256, []string{"256 files", "256 of them are reserved", "raise the limit"}},
	} {
		err := connectionsFit(c.connections, c.limit)
		if c.says == nil {
			if err != nil {
				t.Errorf("%d of %d: %v", c.connections, c.limit, err)
			}
			continue
		}
		checkLine(t, "connections", withUsage(err), c.says)
	}
}

func withUsage(err error) error {
	if err == nil {
		return nil
	}
	return withCode(exitUsage, err)
}

func TestASmallLimitOfDescriptorsIsWarnedOf(t *testing.T) {
	got := descriptorWarnings(1024, 512)
	if len(got) != 1 || !strings.Contains(got[0], "only 1024 files") || !strings.Contains(got[0], "512 connections") || !strings.Contains(got[0], "LimitNOFILE=65536") {
		t.Errorf("with 1024: %q", got)
	}
	if got := descriptorWarnings(smallDescriptors, 2048); got != nil {
		t.Errorf("with %d: %q", smallDescriptors, got)
	}
}

func TestTheMostConnectionsAreASettingLikeTheOthers(t *testing.T) {
	if got, err := loaded(t, "--config", writeConfig(t, "max-connections: 20\n")); err != nil || got.MaxConnections != 20 {
		t.Errorf("from the file: %d, %v", got.MaxConnections, err)
	}
	t.Setenv("STRANDLINE_MAX_CONNECTIONS", "30")
	if got, err := loaded(t); err != nil || got.MaxConnections != 30 {
		t.Errorf("from the environment: %d, %v", got.MaxConnections, err)
	}
	if got, err := loaded(t, "--max-connections", "40"); err != nil || got.MaxConnections != 40 {
		t.Errorf("from the flag: %d, %v", got.MaxConnections, err)
	}
}
