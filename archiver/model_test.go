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
// back and taken over, with a bucket that goes away and loses responses. After
// every step the archive is whole and holds what was acknowledged as archived,
// no seq was issued twice, and every log that is served tells what was lost.
func TestNothingArchivedIsEverLost(t *testing.T) {
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
	// A copy of a disk cannot know what its original acknowledged after:
	// histories without any are held to more.
	if rapid.Bool().Draw(t, "with copies") {
		actions["clone"], actions["roll back"] = m.clone, m.rollBack
	}
	t.Repeat(actions)
}

// model is the servers that there are, running or not.
type model struct {
	w       *world
	servers []*server
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
	if err != nil && s.log.Err() == nil {
		t.Fatalf("append: %v", err)
	}
}

func (m *model) wait(t *rapid.T) {
	s := m.pick(t, true)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := s.waitWithin(ctx)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, archiver.ErrFenced) {
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
	err := s.startWithin(ctx, takeOver)
	switch {
	case err == nil:
		s.check()
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
		t.Fatalf("append: %v", err)
	}
	if err := s.log.Close(true); err != nil && !errors.Is(err, archiver.ErrFenced) {
		t.Fatalf("close: %v", err)
	}
	<-s.ended
	if s.shipErr == nil {
		for _, e := range s.entries() {
			m.w.archived[e.Event.Seq] = true
		}
	} else if !errors.Is(s.shipErr, archiver.ErrFenced) {
		t.Fatalf("ship: %v", s.shipErr)
	}
	s.end()
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

// clone copies a directory. What its owner acknowledges from here on is unknown
// to the copy, which has the same claims.
func (m *model) clone(t *rapid.T) {
	if len(m.servers) == maxServers {
		t.Skip("servers enough")
	}
	s := m.servers[rapid.IntRange(0, len(m.servers)-1).Draw(t, "server")]
	m.servers = append(m.servers, s.clone())
	m.w.copied = true
}

// rollBack gives a server that does not run the directory of another moment.
func (m *model) rollBack(t *rapid.T) {
	s := m.pick(t, false)
	other := m.servers[rapid.IntRange(0, len(m.servers)-1).Draw(t, "server")]
	synctest.Wait()
	s.path = m.w.copyDir(other.path)
	s.views = openViews(s.path, s.stepped)
	m.w.copied = true
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
	s := m.servers[rapid.IntRange(0, len(m.servers)-1).Draw(t, "server")]
	switch rapid.SampledFrom([]string{"none", "away", "lost responses", "failed puts"}).Draw(t, "kind") {
	case "none":
		s.bucket.Set(noFaults)
	case "away":
		s.bucket.Away()
	case "lost responses":
		s.bucket.FailNext(buckettest.Put, 3, true)
	case "failed puts":
		s.bucket.FailNext(buckettest.Put, 3, false)
	}
}

func (m *model) check(t *rapid.T) {
	m.w.t = t
	m.w.archive()
}
