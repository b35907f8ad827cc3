// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"time"
)

// This file turns one generation into the next: when the open one is cut, who
// closes the last. The next directory is prepare.go's.

func (w *writer) full() bool {
	if w.gen == nil {
		return false
	}
	o := &w.l.opts
	return w.gen.size-uint64(len(ObjectMagic)) >= o.MaxPayload || w.events >= o.MaxEvents || w.frames >= maxFrames
}

// cutWanted reports whether an answer waits for the archive, the archive is
// ready for the next object, and the last cut was long enough ago: then
// objects form by themselves while the last one ships, as batches do.
func (w *writer) cutWanted() bool {
	return w.l.cutPending() && w.gap() <= 0
}

func (l *Log) cutPending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	// With a generation still to close or to ship, the next cut can wait for
	// it: marking that one archived wakes the writer.
	return l.cut > l.archived && l.handed <= l.archived
}

// gap is how long the writer still has to wait before the next cut, which
// comes no sooner after the last than closing that one took.
func (w *writer) gap() time.Duration {
	w.l.mu.Lock()
	took := w.l.closeTook
	w.l.mu.Unlock()
	return took - time.Since(w.lastCut)
}

func (l *Log) wantsCleanEnd() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cleanEnd && l.err == nil
}

// ensureGeneration takes the prepared generation when there is none open. Its
// error is for the events that wait now: nothing of them was written, and those
// that come later may fare better.
func (w *writer) ensureGeneration() error {
	if w.gen != nil {
		return nil
	}
	p := <-w.l.prepared
	if p.err != nil { // of a try ahead of the need; this is the need
		p = <-w.l.prepared
	}
	if p.err != nil {
		return w.l.notNow(p.err)
	}
	w.gen, w.events, w.frames = p.gen, 0, 0
	w.gen.expect(w.expected)
	return nil
}

// cut ends the open generation: behind its last part it goes to the closer.
func (w *writer) cut() {
	w.lastCut = time.Now()
	w.l.mu.Lock()
	w.l.handed = w.last
	w.l.mu.Unlock()
	w.out.put(&part{gen: w.gen, ends: true})
	w.gen, w.expected = nil, w.events
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
