// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"container/list"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
)

// A connection takes a descriptor, and so does everything that the server
// opens. Go has raised the limit of descriptors to the hard one before main
// runs, and gives children the one that this process was started with.
const (
	// descriptorReserve is what connections of clients must leave for the log,
	// the views, the archive, the admin listener and spooled bodies.
	descriptorReserve = 256
	// smallDescriptors is a limit under which each of those cannot have all that
	// it may ask for: 2,048 connections of clients, 1,000 files of two views each
	// and 512 connections to the archive, some of them at different times.
	smallDescriptors = 4096
	// mostConnections is the default where descriptors are plenty: each
	// connection takes memory, too.
	mostConnections = 4096
	// adminConnections is as many as the admin listener holds.
	adminConnections = 64
)

// descriptors is how many files this process may have open; 0 when that cannot
// be asked.
func descriptors() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return limit.Cur
}

// defaultConnections is --max-connections where nothing is said: half of the
// descriptors, or what the reserve leaves. 0 when it leaves nothing.
func defaultConnections(limit uint64) uint64 {
	return min(mostConnections, limit/2, limit-min(limit, descriptorReserve))
}

// checkConnections looks at the limit of connections.
func (c *Config) checkConnections() error { return connectionsFit(c.MaxConnections, descriptors()) }

func connectionsFit(connections, limit uint64) error {
	switch {
	case limit <= descriptorReserve:
		return fmt.Errorf("this process may have %d files open, and %d of them are reserved for the log, the views and the archive: raise the limit, `ulimit -n 65536` or LimitNOFILE=65536 in the unit", limit, descriptorReserve)
	case connections == 0:
		return errors.New("--max-connections 0: nobody could be served; write a number from 1 on, or leave it out")
	case connections > limit-descriptorReserve:
		return fmt.Errorf("--max-connections %d: this process may have %d files open, of which %d are reserved for the log, the views and the archive: write at most %d, or raise the limit with `ulimit -n` or LimitNOFILE=", connections, limit, descriptorReserve, limit-descriptorReserve)
	}
	return nil
}

// descriptorWarnings is what should be known of the limit of descriptors.
func descriptorWarnings(limit, connections uint64) []string {
	if limit >= smallDescriptors {
		return nil
	}
	return []string{fmt.Sprintf("this process may have only %d files open (%d connections of clients among them): when that is too few, requests fail for a moment. Raise the limit to %d or more: LimitNOFILE=65536 in the unit, or `ulimit -n 65536`", limit, connections, smallDescriptors)}
}

// connectionLimit bounds the connections of a server. The one that comes when
// all are taken is let in, and the one that has waited longest for a request is
// closed: to open connections and say nothing, or to keep them after an answer,
// locks nobody out. A client whose connection was kept for its next request
// connects again. Only when requests are under way on all of them, the one that
// comes is closed; its client tries again.
//
// A listener that waits until one goes would let as many silent connections
// keep everybody out until they have been idle for too long, and then again.
type connectionLimit struct {
	max uint64
	log *slog.Logger

	mu      sync.Mutex
	all     map[net.Conn]*list.Element // guarded by mu; nil: a request is under way
	waiting list.List                  // guarded by mu; of net.Conn, that which waits longest first
	full    bool                       // guarded by mu; said, and not yet half empty
}

// limitConnections makes server hold at most so many connections at once.
func limitConnections(server *http.Server, most uint64, log *slog.Logger) {
	l := &connectionLimit{max: most, log: log, all: map[net.Conn]*list.Element{}}
	server.ConnState = l.heed
}

// heed is http.Server's ConnState.
func (l *connectionLimit) heed(conn net.Conn, state http.ConnState) {
	if surplus := l.follow(conn, state); surplus != nil {
		hangUp(surplus)
	}
}

// follow keeps the books and returns a connection to close, if one is to be.
func (l *connectionLimit) follow(conn net.Conn, state http.ConnState) (surplus net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if state == http.StateNew {
		if uint64(len(l.all)) >= l.max {
			if surplus = l.surplusLocked(conn); surplus == conn {
				return conn
			}
		}
		l.all[conn] = l.waiting.PushBack(conn)
		return surplus
	}
	place, known := l.all[conn]
	if !known { // it was closed, and may not have noticed yet
		return nil
	}
	if place != nil {
		l.waiting.Remove(place)
	}
	l.all[conn] = nil
	switch state {
	case http.StateIdle:
		l.all[conn] = l.waiting.PushBack(conn)
	case http.StateClosed, http.StateHijacked:
		delete(l.all, conn)
		l.full = l.full && uint64(len(l.all)) > l.max/2
	}
	return nil
}

// surplusLocked takes the connection that has waited longest out of the books;
// when none waits, it is the one that comes.
func (l *connectionLimit) surplusLocked(comes net.Conn) net.Conn {
	if !l.full {
		l.full = true
		l.log.Warn("all connections are taken: those that wait longest for a request are closed for new ones", "most", l.max, "waiting", l.waiting.Len())
	}
	longest := l.waiting.Front()
	if longest == nil {
		return comes
	}
	conn := l.waiting.Remove(longest).(net.Conn)
	delete(l.all, conn)
	return conn
}

// hangUp closes a connection without the farewell of TLS, for which a peer could
// keep the listener waiting. What closing it fails with is of no use: it is gone.
func hangUp(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	_ = conn.Close()
}
