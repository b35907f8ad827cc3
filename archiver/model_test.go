// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit/hostile"
)

// TestNothingArchivedIsEverLost plays random histories with several state
// directories of one log: servers that are killed, stopped, copied, rolled
// back and taken over, with copies that start beside a living original, clients that store forgeries, a bucket that
// goes away, loses responses and lists what was long ago, and a process that runs out of descriptors. After
// every step the archive is whole and holds what was acknowledged as archived,
// no seq was issued twice, and every log that is served tells what was lost.
func TestNothingArchivedIsEverLost(t *testing.T) {
	seeds(t, "100", "3000")
	root := fastDir(t)
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		// Without the type of t: a bubble has no deadline to ask for.
		rapid.Check(struct{ testing.TB }{t}, func(t *rapid.T) {
			runs++
			playRandomly(t, newWorld(t, fmt.Sprintf("%s/run-%d", root, runs)))
		})
	})
}

func playRandomly(t *rapid.T, w *world) {
	defer w.endAll()
	m := &model{w: w, servers: []*server{w.first()}}
	actions := map[string]func(*rapid.T){
		"append": m.append, "append more": m.append, "wait": m.wait, "sleep": m.sleep,
		"start": m.start, "start again": m.start, "kill": m.kill, "stop": m.stop,
		"recover": m.recover, "lose": m.lose, "outage": m.outage, "": m.check,
	}
	switch rapid.SampledFrom([]string{"none", "copies", "snapshots"}).Draw(t, "of directories") {
	case "copies":
		actions["copy"], actions["put back"], actions["lose the WAL"] = m.copy, m.putBack, m.loseWAL
	case "snapshots": // such histories are held to less
		actions["snapshot"], actions["roll back"] = m.snapshot, m.rollBack
	}
	if rapid.Bool().Draw(t, "descriptors run out") {
		actions["start short"], actions["append short"] = m.startShort, m.appendShort
	}
	t.Repeat(actions)
}

// model is the servers that there are, running or not.
type model struct {
	w       *world
	servers []*server
	short   bool // descriptors have run out before
}

const maxServers = 4

func (m *model) pick(t *rapid.T, running bool) *server {
	var fit []*server
	for _, s := range m.servers {
		if m.w.running[s] == running {
			fit = append(fit, s)
		}
	}
	if len(fit) == 0 {
		t.Skip("no server fits")
	}
	return rapid.SampledFrom(fit).Draw(t, "server")
}

func (m *model) append(t *rapid.T) {
	s := m.pick(t, true)
	ev := someBlock
	content := "a block"
	if seed := rapid.Uint64Range(0, 1000).Draw(t, "harm"); seed%2 == 1 { // a client that means it
		content = string(hostile.Any(rand.New(rand.NewPCG(seed, 1)), s.facts()).Bytes)
	}
	_, err := s.append(ev, content)
	if err != nil && s.log.Err() == nil && !m.broken(s, err) {
		t.Fatalf("append: %v", err)
	}
}

func (m *model) wait(t *rapid.T) {
	s := m.pick(t, true)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := s.waitWithin(ctx)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, archiver.ErrFenced) && !m.broken(s, err) {
		t.Fatalf("wait: %v", err)
	}
}

func (m *model) sleep(*rapid.T) {
	time.Sleep(7 * time.Second)
	synctest.Wait()
}

func (m *model) start(t *rapid.T) {
	s := m.pick(t, false)
	takeOver := rapid.Bool().Draw(t, "take over")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	m.started(t, s, takeOver, s.startWithin(ctx, takeOver))
}

// started judges what a start ended with.
func (m *model) started(t *rapid.T, s *server, takeOver bool, err error) {
	switch {
	case err == nil:
		s.walLost = false
		s.check()
	case m.short && isShort(err), s.staleLists:
	case s.walLost && errors.Is(err, eventlog.ErrDamaged): // the views know of more
	case takeOver && errors.Is(err, archiver.ErrTakeOver):
		t.Fatalf("a take-over was refused: %v", err)
	case errors.Is(err, archiver.ErrTakeOver), errors.Is(err, archiver.ErrFenced), errors.Is(err, buckettest.ErrInjected):
	default:
		t.Fatalf("start: %v", err)
	}
}

func (m *model) kill(t *rapid.T) { m.pick(t, true).kill() }

func (m *model) stop(t *rapid.T) {
	s := m.pick(t, true)
	if s.log.Err() != nil {
		s.kill()
		return
	}
	s.bucket.Set(noFaults)
	if _, err := s.append(someBlock, "last"); err != nil {
		if !m.broken(s, err) {
			t.Fatalf("append: %v", err)
		}
		s.kill()
		return
	}
	if err := s.log.Close(true); err != nil && !errors.Is(err, archiver.ErrFenced) && !m.broken(s, err) {
		t.Fatalf("close: %v", err)
	}
	<-s.ended
	if s.shipErr == nil {
		for _, e := range s.entries() {
			m.w.archived[e.Event.Seq] = true
		}
	} else if !errors.Is(s.shipErr, archiver.ErrFenced) && !m.broken(s, s.shipErr) {
		t.Fatalf("ship: %v", s.shipErr)
	}
	s.end()
}

// broken reports whether err comes of descriptors that have run out, or of
// lists that stay stale.
func (m *model) broken(s *server, err error) bool {
	return m.short && (isShort(err) || errors.Is(err, eventlog.ErrPoisoned)) || s.staleLists
}

// facts are what a client knows of the log that it stores into.
func (s *server) facts() hostile.Facts {
	s.w.t.Helper()
	head := s.started.Head
	seq, _ := s.log.Committed()
	f := hostile.Facts{
		LogID: head.LogID, Writer: head.Writer, Epoch: head.Epoch, Ordinal: s.started.NextOrdinal,
		Next: uint64(seq.Next()), Offset: uint64(len(eventlog.ObjectMagic)), Now: time.Now().UnixNano(),
	}
	if local := s.log.Local(); len(local) > 0 {
		g := local[len(local)-1]
		entries, err := g.Entries()
		s.w.must(err)
		payload, err := os.ReadFile(g.Path())
		s.w.must(err)
		if f.Ordinal = g.Ordinal; bytes.HasPrefix(payload[max(0, len(payload)-eventlog.TrailerSize):], []byte("SLTRL1\r\n")) {
			f.Ordinal, entries, payload = g.Ordinal+1, nil, []byte(eventlog.ObjectMagic) // it is closed, or looks like it
		}
		for _, e := range entries {
			p := e.Placement
			f.Entries = append(f.Entries, hostile.Entry{Seq: uint64(e.Event.Seq), Raw: e.Raw, Offset: p.Offset, Length: p.Length, Sums: p.Sums})
		}
		f.Offset, f.Sum = uint64(len(payload)), eventlog.Checksum(payload)
	}
	return f
}

func (m *model) recover(t *rapid.T) {
	if len(m.servers) == maxServers {
		t.Skip("servers enough")
	}
	m.servers = append(m.servers, m.w.recovered())
}

// lose destroys a directory for ever.
func (m *model) lose(t *rapid.T) {
	if len(m.servers) == 1 {
		t.Skip("the last one")
	}
	i := rapid.IntRange(0, len(m.servers)-1).Draw(t, "server")
	if m.w.running[m.servers[i]] {
		m.servers[i].kill()
	}
	m.servers = append(m.servers[:i:i], m.servers[i+1:]...)
}

// outage makes a server's bucket fail for a while in one of the ways there are.
func (m *model) outage(t *rapid.T) {
	s := m.any(t)
	s.staleLists = false
	switch rapid.SampledFrom([]string{"none", "away", "lost responses", "failed puts", "lagging lists", "stale lists"}).Draw(t, "kind") {
	case "none":
		s.bucket.Set(noFaults)
	case "away":
		s.bucket.Away()
	case "lost responses":
		s.bucket.FailNext(buckettest.Put, 3, true)
	case "failed puts":
		s.bucket.FailNext(buckettest.Put, 3, false)
	case "lagging lists":
		s.staleLists = true
		s.bucket.Set(m.laggingLists())
	case "stale lists":
		s.staleLists = true
		s.bucket.Set(m.staleLists())
	}
}

func (m *model) check(t *rapid.T) {
	m.w.t = t
	m.w.archive()
}
