// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"fmt"
	"time"
)

// sealAfter is how long the log is idle before the last batch gets its seal.
const sealAfter = 50 * time.Millisecond

// committer is the one goroutine that makes events durable. What the writer
// passed on while it was busy is its next batch. Its fields belong to it.
type committer struct {
	l       *Log
	open    *openGeneration // whose frames are not sealed; nil: none
	last    Seq             // the last committed
	scratch []byte          // one frame
}

// runCommitter commits, seals, and hands generations to the closer. At its end
// it closes committed.
func (l *Log) runCommitter(in *slot, committed chan<- struct{}) {
	defer l.done.Done()
	defer close(committed)
	defer l.lockThread()()
	c := &committer{l: l}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var idle <-chan time.Time
		if c.open != nil {
			timer.Reset(sealAfter)
			idle = timer.C
		}
		p, more := in.take(idle)
		if !more {
			return
		}
		if err := c.step(p); err != nil {
			l.poison(err)
		}
		if p != nil {
			c.finish(p)
		}
	}
}

// step commits p, or, when nothing came, seals what was committed last. Any
// error poisons the log.
func (c *committer) step(p *part) error {
	switch {
	case errors.Is(c.l.Err(), ErrPoisoned):
		c.open = nil
		return nil
	case p == nil:
		return c.seal()
	case len(p.accepted) == 0:
		return nil
	}
	return c.commit(p)
}

// commit makes a batch durable: its payload bytes are written, and those that
// no frame carries are synced, before any frame names them; then the frames,
// with fsync.
func (c *committer) commit(p *part) error {
	began := time.Now()
	if err := p.sync(); err != nil {
		return err
	}
	synced := time.Now()
	entries := p.entries()
	c.addFrames(p, entries)
	if err := p.gen.sync(); err != nil {
		return err
	}
	// COMMITTED. A crash before the frames' sync returned may leave none, some
	// or all of the batch: whole frames from the front of it, each with its
	// payload already durable or in it, and nobody was told. A crash after it leaves all
	// of the batch, and everybody may be told.
	c.open, c.last = p.gen, entries[len(entries)-1].Event.Seq
	c.observe(p, synced.Sub(began), time.Since(synced))
	c.publish(p, entries)
	return nil
}

func (c *committer) observe(p *part, payload, frames time.Duration) {
	if p.apart == 0 {
		payload = 0
	}
	c.l.opts.Observer.Synced(payload, frames)
	c.l.opts.Observer.BatchCommitted(len(p.accepted), int64(p.size()))
}

// addFrames encodes the events into the generation's batch of frames.
func (c *committer) addFrames(p *part, entries []Entry) {
	durable, _ := c.l.Committed() // everything committed is durable
	for i := range entries {
		e := &entries[i]
		c.scratch = p.gen.addFrame(c.scratch, &frame{
			flags: frameEvent, seq: e.Event.Seq, durable: durable,
			offset: e.Placement.Offset, length: e.Placement.Length, body: e.Raw, sums: e.Placement.Sums,
			payload: p.accepted[i].body.carried(),
		})
	}
}

// publish makes committed entries visible and resolves their promises.
func (c *committer) publish(p *part, entries []Entry) {
	l, last := c.l, &entries[len(entries)-1].Event
	l.limits.carried(int64(p.carried))
	l.limits.committed(int64(p.size()) + int64(p.metadata))
	l.mu.Lock()
	p.gen.extend(entries)
	if p.gen.events == 0 {
		l.gens = append(l.gens, p.gen.Generation)
	}
	p.gen.events += len(entries)
	l.committed, l.committedTime = last.Seq, last.Time
	l.changedLocked()
	l.mu.Unlock()
	for _, pending := range p.accepted {
		pending.resolve(pending.seq, nil)
	}
	p.accepted = nil
}

// finish resolves what was not committed, and passes the generation on.
func (c *committer) finish(p *part) {
	for _, pending := range p.accepted {
		pending.resolve(0, c.l.Err())
	}
	if p.ends {
		c.open = nil
		c.l.toClose <- p.gen
	}
}

// seal states once more, now that nothing follows, that the last part is
// durable: so rot in it is told from a torn tail without any outside witness.
func (c *committer) seal() error {
	gen := c.open
	c.open = nil
	c.scratch = gen.addFrame(c.scratch, &frame{flags: frameSeal, seq: c.last, durable: c.last})
	if err := gen.sync(); err != nil {
		return fmt.Errorf("sealing at seq %s: %w", c.last, err)
	}
	return nil
}
