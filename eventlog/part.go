// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"fmt"
	"sync"
	"time"
)

// A batch takes what was written, up to these bounds, so that one sync does not keep
// small events waiting behind a gigabyte, and so that clients with large bodies
// do not all wait for one sync and then all send while the disk idles.
const (
	batchEvents = 4096
	batchBytes  = 16 << 20 // of payloads that no frame carries
	// partFrames bounds the bytes of frames that one sync writes; what is over it
	// by one event still fits into maxTorn and into a footer.
	partFrames = 16 << 20
	// slowSync is how many bytes take so long to sync that small events which came
	// before them are committed first.
	slowSync = 1 << 20
)

// part is events of one generation on their way from the writer to the
// committer. Whoever has it owns it.
type part struct {
	gen      *openGeneration
	accepted []*Pending // with seq and offset
	metadata int        // bytes that they take of a footer, and nearly of frames without payloads
	carried  int        // bytes of payload that their frames carry
	apart    uint64     // bytes of payload that no frame carries
	ends     bool       // nothing of gen comes after it
}

// entries returns the events with the places of their payloads.
func (p *part) entries() []Entry {
	entries := make([]Entry, len(p.accepted))
	for i, pending := range p.accepted {
		e := &entries[i]
		e.Event, e.Raw = pending.event, pending.raw
		if b := pending.body; b != nil && b.Length > 0 {
			e.Placement = Placement{Ordinal: p.gen.Ordinal, Offset: pending.offset, Length: b.Length, Sums: b.Sums}
		}
	}
	return entries
}

func (p *part) add(pending *Pending) {
	p.accepted = append(p.accepted, pending)
	p.metadata += pending.metadata()
	p.carried += len(pending.body.carried())
	p.apart += pending.apart()
}

// sync makes the payloads of p durable that no frame carries.
func (p *part) sync() error {
	if p.apart == 0 {
		return nil
	}
	if err := p.gen.payload.Sync(); err != nil {
		return fmt.Errorf("syncing %d payload bytes of generation %d: %w", p.apart, p.gen.Ordinal, err)
	}
	return nil
}

// size is how many bytes of payload p has.
func (p *part) size() uint64 { return p.apart + uint64(p.carried) }

// frames is about how many bytes of frames p makes.
func (p *part) frames() int { return p.metadata + p.carried }

// takes says whether q may be synced together with p, which it follows.
func (p *part) takes(q *part) bool {
	switch {
	case p.gen != q.gen || p.ends:
		return false
	case len(q.accepted) == 0: // it only ends the generation
		return true
	case p.apart < slowSync && q.apart >= slowSync: // p would wait, for nothing
		return false
	}
	return len(p.accepted)+len(q.accepted) <= batchEvents && p.apart+q.apart <= batchBytes && p.frames()+q.frames() <= partFrames
}

func (p *part) join(q *part) {
	p.accepted = append(p.accepted, q.accepted...)
	p.metadata += q.metadata
	p.carried += q.carried
	p.apart += q.apart
	p.ends = q.ends
}

// slot is what waits between the writer and the committer: parts, of which the
// last grows. There is no timer to form batches: they form here while one
// syncs.
type slot struct {
	mu      sync.Mutex
	waiting []*part // owned by mu; at most slotParts
	closed  bool    // owned by mu; none comes any more

	filled chan struct{} // capacity 1: there may be a part
	taken  chan struct{} // capacity 1: there may be room
}

// slotParts lets small events stand before a part with large payloads.
const slotParts = 2

func newSlot() *slot {
	return &slot{filled: make(chan struct{}, 1), taken: make(chan struct{}, 1)}
}

// put passes p on. It waits while there is no room.
func (s *slot) put(p *part) {
	for !s.tryPut(p) {
		<-s.taken
	}
	notify(s.filled)
}

func (s *slot) tryPut(p *part) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.waiting)
	switch {
	case n > 0 && s.waiting[n-1].takes(p):
		s.waiting[n-1].join(p)
	case n < slotParts:
		s.waiting = append(s.waiting, p)
	default:
		return false
	}
	return true
}

// room is how many bytes of payloads that no frame carries may be put: one
// batch of them is written ahead, no more, because small events that come later
// wait for it.
func (s *slot) room() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var apart uint64
	for _, p := range s.waiting {
		apart += p.apart
	}
	if apart == 0 {
		return batchBytes // also if it waits a moment: small events that keep coming must not starve large ones
	}
	last := s.waiting[len(s.waiting)-1]
	if apart > batchBytes || last.apart == 0 || last.ends {
		return 0
	}
	return batchBytes - apart
}

// take returns the first part that waits, and waits for it; nil when none came
// until idle fired. more is false at the end.
func (s *slot) take(idle <-chan time.Time) (p *part, more bool) {
	for {
		s.mu.Lock()
		if len(s.waiting) > 0 {
			p, s.waiting = s.waiting[0], s.waiting[1:]
		}
		closed := s.closed
		s.mu.Unlock()
		if p != nil {
			notify(s.taken)
			return p, true
		}
		if closed {
			return nil, false
		}
		select {
		case <-s.filled:
		case <-idle:
			return nil, true
		}
	}
}

func (s *slot) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	notify(s.filled)
}

func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
