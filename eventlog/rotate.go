// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"time"
)

// This file turns one generation into the next: when the open one is cut, who
// prepares the next directory, who closes the last.

func (c *committer) full() bool {
	if c.gen == nil {
		return false
	}
	o := &c.l.opts
	return c.gen.size-uint64(len(ObjectMagic)) >= o.MaxPayload || c.gen.events >= o.MaxEvents || c.metadata >= maxMetadata
}

// cutWanted reports whether an answer waits for the archive, the archive is
// ready for the next object, and the last cut was long enough ago: then
// objects form by themselves while the last one ships, as batches do.
func (c *committer) cutWanted() bool {
	return c.l.cutPending() && c.gap() <= 0
}

func (l *Log) cutPending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	// With a generation still to close or to ship, the next cut can wait for
	// it: marking that one archived wakes the committer.
	return l.cut > l.archived && l.handed <= l.archived
}

// gap is how long the committer still has to wait before the next cut, which
// comes no sooner after the last than closing that one took.
func (c *committer) gap() time.Duration {
	c.l.mu.Lock()
	took := c.l.closeTook
	c.l.mu.Unlock()
	return took - time.Since(c.lastCut)
}

func (l *Log) wantsCleanEnd() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cleanEnd && l.err == nil
}

// ensureGeneration takes the prepared generation when there is none open.
func (c *committer) ensureGeneration() error {
	if c.gen != nil {
		return nil
	}
	p := <-c.l.prepared
	if p.err != nil {
		return p.err
	}
	c.gen, c.metadata = p.gen, 0
	return nil
}

// handOver gives the open generation to the closer.
func (c *committer) handOver() {
	c.lastCut = time.Now()
	c.l.mu.Lock()
	c.l.handed = c.last
	c.l.mu.Unlock()
	c.l.toClose <- c.gen
	c.gen = nil
}

// prepared is a generation whose directory is ready.
type prepared struct {
	gen *openGeneration
	err error
}

// runPreparer makes the next generation's directory ahead of its need, until
// one cannot be made or the committer ends.
func (l *Log) runPreparer() {
	defer l.done.Done()
	head := l.opts.Head
	for head.Ordinal = l.opts.NextOrdinal; ; head.Ordinal++ {
		gen, err := newGeneration(l.opts.Dir, head, 0, l.opts.files)
		select {
		case l.prepared <- prepared{gen, err}:
			if err != nil {
				return
			}
		case <-l.stop:
			if err == nil {
				l.discard(gen)
			}
			return
		}
	}
}

// discard removes a prepared generation that nobody took. Should it stay, the
// next start removes it.
func (l *Log) discard(gen *openGeneration) {
	err := errors.Join(gen.abandon(), gen.remove())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leftover = errors.Join(l.leftover, err)
}

// runCloser closes generations in order, behind the committer's back. It
// outlives the committer until all are closed, or one cannot be.
func (l *Log) runCloser() {
	defer l.done.Done()
	for gen := range l.toClose {
		began := time.Now()
		finish := func() error { return gen.close(began) }
		if errors.Is(l.Err(), ErrPoisoned) {
			finish = gen.abandon
		}
		if err := finish(); err != nil {
			l.poison(err)
			continue
		}
		l.mu.Lock()
		l.closeTook = time.Since(began)
		l.forgetLocked()
		l.changedLocked()
		l.mu.Unlock()
		l.nudge()
	}
}
