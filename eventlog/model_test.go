// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"cmp"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/strandline-project/strandline/internal/testkit/hostile"
)

// model is a log as it should be: a list of events with their contents. The
// real one beside it lives through appends, cuts, shipping, ends and kills.
type model struct {
	t *testing.T
	s *testState
	l *Log

	events  []modelEvent
	waiting []modelEvent // appended, answer not taken yet
}

type modelEvent struct {
	seq     Seq
	content []byte // nil: an event without a payload
	apart   bool   // which no frame carries
	pending *Pending
}

func newModel(t *testing.T) *model {
	m := &model{t: t, s: fastState(t)}
	m.s.history = &fakeHistory{}
	m.open()
	return m
}

func (m *model) open() {
	m.l = m.s.open(func(o *Options) {
		o.MaxEvents, o.MaxPayload = 7, 50_000
		o.Limits.BodyMemory = bufferSize
		last, _ := m.s.history.end()
		o.Archived = last.Seq
	})
}

func (m *model) append(rt *rapid.T) {
	for range rapid.IntRange(1, 8).Draw(rt, "events") {
		e := modelEvent{}
		if size := rapid.IntRange(-1, 30_000).Draw(rt, "size"); size >= 0 {
			e.content = content(uint64(size), size)
			if rapid.IntRange(0, 4).Draw(rt, "harm") == 0 {
				e.content = hostile.Any(mathrand.New(mathrand.NewPCG(uint64(size), 9)), factsOf(m.t, m.l)).Bytes
			}
			size = len(e.content)
			body, err := m.l.Receive(m.t.Context(), bytes.NewReader(e.content), int64(size), 1<<30)
			must(m.t, err)
			e.apart = size > 0 && body.carried() == nil // it may be spooled
			e.pending = m.l.Append(storeEvent(e.content), body)
		} else {
			e.pending = m.l.Append(noteEvent(1), nil)
		}
		m.waiting = append(m.waiting, e)
	}
}

// settle takes the answers: the events get the next numbers, the small ones in
// the order in which they were appended, and the large ones.
func (m *model) settle(*rapid.T) {
	last := map[bool]Seq{} // by whether no frame carries it
	for i := range m.waiting {
		e := &m.waiting[i]
		e.seq = committed(m.t, e.pending)
		if e.seq <= last[e.apart] {
			m.t.Fatalf("event %s was appended after %s", e.seq, last[e.apart])
		}
		last[e.apart] = e.seq
	}
	slices.SortFunc(m.waiting, func(a, b modelEvent) int { return cmp.Compare(a.seq, b.seq) })
	for _, e := range m.waiting {
		if n := len(m.events); n == 0 && e.seq != FirstSeq || n > 0 && !e.seq.Follows(m.events[n-1].seq) {
			m.t.Fatalf("event %s follows %d others", e.seq, n)
		}
		m.events = append(m.events, e)
	}
	m.waiting = nil
}

func (m *model) ship(rt *rapid.T) {
	archive(m.t, m.l, m.s.history, rapid.IntRange(0, 5).Draw(rt, "keep"))
}

// reopen ends the log in order. All answers must be there then.
func (m *model) reopen(rt *rapid.T) {
	must(m.t, m.l.Close(rapid.Bool().Draw(rt, "clean")))
	m.settle(rt)
	m.open()
}

// kill goes on with the files as a killed process would leave them.
func (m *model) kill(rt *rapid.T) {
	m.settle(rt)
	copied := fastState(m.t)
	copied.history = m.s.history
	copyWhileClosing(m.t, copied.root, m.s.root)
	must(m.t, m.l.Close(false))
	must(m.t, os.RemoveAll(m.s.root))
	m.s = copied
	m.open()
}

// copyWhileClosing copies a state directory until no file vanished under it.
func copyWhileClosing(t *testing.T, to, from string) {
	eventually(t, "the files stand still", func() bool {
		must(t, os.RemoveAll(to))
		return os.CopyFS(to, os.DirFS(from)) == nil
	})
}

// check reads from a seq on and compares.
func (m *model) check(rt *rapid.T) {
	m.settle(rt)
	if len(m.events) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.events)-1).Draw(rt, "from")
	entries := collect(m.t, m.l, m.events[i].seq)
	if len(entries) != len(m.events)-i {
		m.t.Fatalf("%d events from %s on, want %d", len(entries), m.events[i].seq, len(m.events)-i)
	}
	local := map[uint64]bool{}
	for _, g := range m.l.Local() {
		local[g.Ordinal] = true
	}
	for k, e := range entries {
		want := m.events[i+k]
		if e.Event.Seq != want.seq || e.Placement.Length != uint64(len(want.content)) {
			m.t.Fatalf("event %s of %d bytes, want %s of %d", e.Event.Seq, e.Placement.Length, want.seq, len(want.content))
		}
		if local[e.Placement.Ordinal] && !bytes.Equal(readBlock(m.t, m.l, e), want.content) {
			m.t.Fatalf("the payload of %s is not what was stored", want.seq)
		}
	}
	if seq, at := m.l.Committed(); seq != m.events[len(m.events)-1].seq || at <= 0 || at > time.Now().UnixNano() {
		m.t.Fatalf("committed is %s at %d, want %s", seq, at, m.events[len(m.events)-1].seq)
	}
}

func TestALogIsAListOfEventsWhateverHappensToIt(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel(t)
		rt.Repeat(map[string]func(*rapid.T){
			"append": m.append, "settle": m.settle, "ship": m.ship, "reopen": m.reopen, "kill": m.kill, "check": m.check,
		})
		m.check(rt)
		must(t, m.l.Close(true))
		must(t, os.RemoveAll(m.s.root))
	})
}
