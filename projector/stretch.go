// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"context"
	"errors"
	"iter"
	"runtime"
	"sync"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/memory"
)

// PackedSource is a Source that can hand events out before they are decoded,
// an object at a time, so that each core decodes what it projects.
type PackedSource interface {
	Source
	// FollowPacked is Follow, with objects that may begin before from, and
	// such as have no events left.
	FollowPacked(ctx context.Context, from eventlog.Seq) iter.Seq2[*eventlog.Packed, error]
}

// stretch is a part of the log on its way into views that are being loaded.
// Because a projector never looks at rows, stretches are projected at the
// same time, each by one goroutine; what they gather is taken in, in order, by
// one.
type stretch struct {
	part     part
	before   gone           // what was cleaned away before it
	lanes    []*lane        // of the views
	begin    []eventlog.Seq // where they begin
	gathered []gathering
	weight   int64         // of cutting.memory, held until it is taken in
	err      error         // set before done is closed
	done     chan struct{} // closed when the events are gathered
}

// part is what a stretch is made from.
type part struct {
	source  Source // its events; a batch is valid until the next
	cleaned []eventlog.Range
	horizon eventlog.Seq
	last    eventlog.Seq // that it covers
	size    int64        // bytes of the events, about
}

// gathering is what a stretch does to a view: the sink of its lane, and what
// the view takes in afterwards.
type gathering interface {
	sink
	// reset makes it empty, to be used again.
	reset()
}

// noted is a state_recorded that a stretch met.
type noted struct {
	entry         eventlog.Entry
	last, horizon eventlog.Seq
}

// run gathers all events of the stretch.
func (s *stretch) run(ctx context.Context) {
	defer close(s.done)
	s.err = project(ctx, s.part.source, s.lanes...)
	if packed, ok := s.part.source.(*eventlog.Packed); ok && packed.Again != nil && errors.Is(s.err, eventlog.ErrObjectDamaged) {
		s.err = s.runAgain(ctx, packed)
	}
}

// runAgain gathers the events out of another copy of their footer.
func (s *stretch) runAgain(ctx context.Context, packed *eventlog.Packed) error {
	again, err := packed.Again(ctx)
	if err != nil {
		return err
	}
	s.part.source = again.UpTo(packed.Upto())
	for i, l := range s.lanes {
		s.gathered[i].reset()
		l.position, l.time, l.gone = s.begin[i], 0, s.before.lend()
	}
	return project(ctx, s.part.source, s.lanes...)
}

// cutting cuts what a source yields into stretches.
type cutting struct {
	source  Source
	upto    eventlog.Seq // the last event that counts; 0: all do
	sites   []*site
	queue   chan *stretch // in the order of the events
	slots   chan struct{} // one for each stretch that is being gathered
	memory  *memory.Budgeted
	running *sync.WaitGroup

	before eventlog.Seq // the last event that the parts so far cover
	gone   gone         // that they stated
}

func newCutting(source Source, upto eventlog.Seq, sites []*site, running *sync.WaitGroup) *cutting {
	cores := runtime.GOMAXPROCS(0)
	return &cutting{source: source, upto: upto, sites: sites, running: running,
		queue: make(chan *stretch, cores), slots: make(chan struct{}, cores), memory: memory.NewBudgeted(stretchMemory)}
}

// stretchMemory bounds the stretches under way, on however many cores: bytes
// of their events, and as many again for what they gather; fewer where GOMEMLIMIT
// is low. A single larger one goes alone.
const (
	stretchMemory = 128 << 20
	eventSize     = 128 // bytes of an event that was decoded already, about
)

// release gives back what a stretch that was taken in held.
func (c *cutting) release(s *stretch) { c.memory.Release(s.weight) }

// run cuts until the source ends, fails, or ctx ends. That it fails is the
// last stretch.
func (c *cutting) run(ctx context.Context) {
	defer close(c.queue)
	for p, err := range c.parts(ctx) {
		s := &stretch{part: p, done: make(chan struct{})}
		if err != nil {
			s.err = &sourceError{c.sites[0].projector.Name(), c.before, err}
			close(s.done)
		} else if !c.begin(ctx, s) {
			return
		}
		select {
		case c.queue <- s:
		case <-ctx.Done():
			return
		}
	}
}

// begin starts the gathering of s; false when ctx has ended.
func (c *cutting) begin(ctx context.Context, s *stretch) bool {
	// In the order of the events: the one that is taken in next never waits for
	// what a later one holds.
	weight := c.memory.AtMost(2 * s.part.size)
	if c.memory.Acquire(ctx, weight) != nil {
		return false
	}
	s.weight, s.before = weight, c.gone.lend()
	for _, site := range c.sites {
		l := &lane{projector: site.projector, settled: func() {}, gone: s.before.lend(), position: max(c.before, site.begin)}
		g := site.gathering()
		l.sink = g
		s.lanes, s.begin, s.gathered = append(s.lanes, l), append(s.begin, l.position), append(s.gathered, g)
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	c.running.Go(func() {
		defer func() { <-c.slots }()
		s.run(ctx)
	})
	c.gone.take(&eventlog.Batch{Cleaned: s.part.cleaned, Horizon: s.part.horizon})
	c.before = s.part.last
	return true
}

// from is the first event that a view does not have.
func (c *cutting) from() eventlog.Seq {
	lowest := c.sites[0].begin
	for _, site := range c.sites {
		lowest = min(lowest, site.begin)
	}
	if lowest == 0 {
		return eventlog.FirstSeq
	}
	return lowest.Next()
}

func (c *cutting) parts(ctx context.Context) iter.Seq2[part, error] {
	if packed, ok := c.source.(PackedSource); ok {
		return c.packedParts(ctx, packed)
	}
	source := c.source
	if c.upto != 0 {
		source = until{source, c.upto}
	}
	return func(yield func(part, error) bool) {
		for batch, err := range source.Follow(ctx, c.from()) {
			p := part{source: one(batch), cleaned: batch.Cleaned, horizon: batch.Horizon, last: batch.Last(), size: int64(len(batch.Entries)) * eventSize}
			if n := len(batch.Cleaned); n > 0 {
				p.last = max(p.last, batch.Cleaned[n-1].Last)
			}
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

func (c *cutting) packedParts(ctx context.Context, source PackedSource) iter.Seq2[part, error] {
	return func(yield func(part, error) bool) {
		for packed, err := range source.FollowPacked(ctx, c.from()) {
			if err != nil {
				yield(part{}, err)
				return
			}
			if c.upto != 0 && packed.Trailer.First > c.upto {
				return
			}
			if !yield(part{packed.UpTo(c.upto), packed.Cleaned, packed.Horizon, packed.Trailer.Last, int64(packed.Trailer.FooterRawSize)}, nil) {
				return
			}
		}
	}
}

// one is a source of one batch.
type one eventlog.Batch

// Follow implements Source.
func (o one) Follow(_ context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		batch := eventlog.Batch(o)
		if batch.Entries = since(batch.Entries, from); len(batch.Entries) > 0 || len(batch.Cleaned) > 0 {
			yield(batch, nil)
		}
	}
}
