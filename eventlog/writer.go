// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"
)

// maxFrames is how many bytes of frames a generation may have, about: tidwall/wal
// keeps them in memory while it is open. A footer, which has less, so stays well
// within its limit.
const maxFrames = 32 << 20

// writer is the goroutine before the committer: it gives each event its seq and
// appends its payload to the open generation, so that the disk has begun with
// the next payloads while the committer waits for the last ones. Its fields
// belong to it.
//
// A crash here leaves payload bytes that no frame names: the next start cuts
// them off.
type writer struct {
	l        *Log
	gen      *openGeneration // nil until the first event after a cut
	last     Seq             // last seq issued
	events   int             // in the open generation so far
	frames   int             // bytes of its frames so far, about
	expected int             // events in the generation before it
	lastCut  time.Time
	decoded  Event      // of admit, kept for its memory
	payloads []byte     // of a payloadWriter
	waiting  []*Pending // taken from the queues, kept for its memory
	timer    *time.Timer
	out      *slot // to the committer
}

// runWriter writes what waits, again and again. It ends after the committer,
// which closes committed.
func (l *Log) runWriter(out *slot, committed <-chan struct{}) {
	defer l.done.Done()
	defer close(l.stop)
	defer close(l.toClose)
	defer l.lockThread()()
	w := &writer{l: l, last: l.opts.Last, timer: time.NewTimer(0), out: out, payloads: make([]byte, payloadBuffer)}
	w.run()
	out.close()
	<-committed       // or refused, whatever was passed on
	l.fail(ErrClosed) // unless something else stopped it
	w.end()
}

// run returns when the log is closed and nothing waits, or after a failure.
func (w *writer) run() {
	for {
		waiting, stopping := w.takeWaiting()
		if rest, err := w.step(waiting, stopping); err != nil {
			w.l.poison(err)
			resolveRest(rest, w.l.Err())
			return
		}
		if stopping && len(waiting) == 0 {
			return
		}
		if len(waiting) == 0 {
			w.wait()
		}
	}
}

// lockThread keeps a goroutine on its OS thread, if a test wants it; the
// function returned ends that.
func (l *Log) lockThread() (unlock func()) {
	if !l.opts.lockThread {
		return func() {}
	}
	runtime.LockOSThread()
	return runtime.UnlockOSThread
}

// end leaves no file open that the closer does not get. After a failure the
// generation stays as it is: nobody knows what the disk holds of it.
func (w *writer) end() {
	w.timer.Stop()
	switch {
	case w.gen == nil:
	case w.gen.events > 0 || errors.Is(w.l.Err(), ErrPoisoned):
		if err := w.gen.abandon(); err != nil {
			w.l.poison(err)
		}
	default:
		w.l.discard(w.gen)
	}
}

// takeWaiting removes from the queues what comes next: all that is small, then
// large ones for which there is room on the way to the committer. So a small
// event waits for the large ones that are on the way, not for those behind them.
// stopping says that Close was called, or that the log has stopped, and that
// nothing is left: with nothing taken there is nothing more to come.
func (w *writer) takeWaiting() (waiting []*Pending, stopping bool) {
	room := w.out.room()
	l := w.l
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.queue), batchEvents)
	w.waiting = append(w.waiting[:0], l.queue[:n]...)
	l.queue = l.queue[n:]
	var size uint64
	for n = 0; n < len(l.large) && n < batchEvents; n++ {
		next := l.large[n].apart()
		if size+next > room && (size > 0 || room < batchBytes) { // one is always let through
			break
		}
		size += next
	}
	w.waiting = append(w.waiting, l.large[:n]...)
	l.large = l.large[n:]
	return w.waiting, (l.stopping || l.err != nil) && len(l.queue)+len(l.large) == 0
}

// resolveRest resolves what a failure left.
func resolveRest(rest []*Pending, err error) {
	for _, p := range rest {
		select {
		case <-p.done: // it was refused before
		default:
			p.resolve(0, err)
		}
	}
}

// step does one round: write what waits, then cut the generation if it is time.
// With an error, which poisons the log, it returns what was not passed on.
func (w *writer) step(waiting []*Pending, stopping bool) (rest []*Pending, err error) {
	if rest, err = w.write(waiting); err != nil {
		return rest, err
	}
	idle := len(waiting) == 0
	switch {
	case w.empty():
	case idle && stopping:
		w.gen.clean = w.l.wantsCleanEnd()
		w.cut()
	case w.full() || w.cutWanted() || time.Since(w.gen.began) >= w.l.opts.MaxAge:
		w.cut()
	}
	return nil, nil
}

func (w *writer) empty() bool { return w.gen == nil || w.events == 0 }

// wait returns when there may be work: an append, room for a large one, an
// answer that waits for the archive, or the open generation's age.
func (w *writer) wait() {
	if w.empty() {
		select {
		case <-w.l.wake:
		case <-w.out.taken:
		}
		return
	}
	pause := w.l.opts.MaxAge - time.Since(w.gen.began)
	if w.l.cutPending() {
		pause = min(pause, w.gap())
	}
	w.timer.Reset(max(0, pause))
	select {
	case <-w.l.wake:
	case <-w.out.taken:
	case <-w.timer.C:
	}
}

// write writes what waits, in as many parts as generations and the bounds of
// one sync want, and returns what it did not pass on.
func (w *writer) write(waiting []*Pending) (rest []*Pending, err error) {
	for len(waiting) > 0 {
		if err := w.l.Err(); err != nil { // the committer failed, or the log was fenced: no file is touched any more
			resolveRest(waiting, err)
			return nil, nil
		}
		if err := w.ensureGeneration(); err != nil {
			resolveRest(waiting, err)
			return nil, nil
		}
		taken, err := w.writePart(waiting)
		if err != nil {
			return waiting, err
		}
		waiting = waiting[taken:]
		if w.full() {
			w.cut()
		}
	}
	return nil, nil
}

// writePart writes what fits into the open generation and one sync, and passes
// it on. It returns how many it dealt with.
func (w *writer) writePart(waiting []*Pending) (taken int, err error) {
	p, taken, err := w.assign(waiting)
	if err != nil || len(p.accepted) == 0 {
		return taken, err
	}
	if err := w.writePayloads(p); err != nil {
		return 0, err
	}
	if w.events == 0 {
		w.gen.began = time.Now()
	}
	w.events += len(p.accepted)
	w.frames += p.frames()
	w.out.put(p)
	return taken, nil
}

// assign gives each event that the rules admit its seq and time, until the
// generation or one sync has enough, or before a large payload that the small
// ones before it need not wait for; the refused ones leave no trace. It returns how
// many it looked at.
func (w *writer) assign(waiting []*Pending) (p *part, taken int, err error) {
	p = &part{gen: w.gen}
	room := min(w.l.opts.MaxEvents-w.events, batchEvents)
	for _, pending := range waiting {
		slow := pending.apart() >= slowSync && p.apart < slowSync
		if len(p.accepted) == room || p.frames() >= partFrames || slow && len(p.accepted) > 0 {
			break
		}
		if err := w.stamp(&pending.event); err != nil {
			return nil, 0, err
		}
		taken++
		if err := w.admit(pending); err != nil {
			pending.resolve(0, fmt.Errorf("%s: %w", pending.event.Type, err))
			continue
		}
		pending.seq = pending.event.Seq
		w.last = pending.seq
		p.add(pending)
	}
	return p, taken, nil
}

// stamp gives ev the next seq, the time and the ids that its type makes.
func (w *writer) stamp(ev *Event) error {
	epoch := w.gen.head.Epoch
	switch {
	case w.last.Epoch() != epoch:
		ev.Seq = MakeSeq(epoch, 1)
	case w.last.Exhausted():
		return fmt.Errorf("epoch %d has issued its last sequence number; start the server again", epoch)
	default:
		ev.Seq = w.last.Next()
	}
	now := time.Now()
	ev.Time = w.l.opts.Wall(now).UnixNano()
	w.l.clock.note(ev.Seq, ev.Time, now)
	switch ev.Type {
	case AccountOpened:
		ev.Account = ev.Seq
	case MachineRegistered:
		ev.Machine = ev.Seq
	}
	return nil
}

// admit encodes p's event and asks whether every later start could read it
// and would take it in.
func (w *writer) admit(p *Pending) error {
	p.raw = AppendEvent(nil, &p.event)
	if len(p.raw) > MaxEvent {
		return fmt.Errorf("an event of %d bytes, more than %d", len(p.raw), MaxEvent)
	}
	if err := DecodeEvent(p.raw, &w.decoded); err != nil {
		return err
	}
	if b := p.body; b != nil && (b.Length != p.event.Length || b.Length > MaxPayload) {
		return fmt.Errorf("a payload of %d bytes for an event of length %d; at most %d", b.Length, p.event.Length, int64(MaxPayload))
	}
	if w.l.opts.Rules == nil {
		return nil
	}
	return w.l.opts.Rules.Admit(&p.event)
}

// metadata is what p takes of a footer, and nearly of a frame.
func (p *Pending) metadata() int {
	e := Entry{Raw: p.raw}
	if p.body != nil {
		e.Placement.Sums = p.body.Sums
	}
	return FooterEntrySize(&e)
}

// writePayloads appends the bodies to the payload file, in event order.
func (w *writer) writePayloads(p *part) error {
	to := &payloadWriter{file: w.gen.payload, buf: w.payloads, from: w.gen.size, at: w.gen.size}
	for _, pending := range p.accepted {
		if pending.body == nil {
			continue
		}
		pending.offset = w.gen.size
		if err := pending.body.writeTo(to); err != nil {
			return fmt.Errorf("writing the payload of seq %s: %w", pending.seq, err)
		}
		w.gen.add(pending.body)
	}
	if err := to.flush(); err != nil {
		return fmt.Errorf("writing %d payload bytes of generation %d: %w", p.size(), w.gen.Ordinal, err)
	}
	return nil
}

// payloadBuffer is how many bytes of payloads one write has, at most.
const payloadBuffer = 1 << 20

// payloadWriter gathers payloads into writes that end where a buffer's worth of
// the file does. Each byte stands in the buffer as it will stand in the file,
// modulo its size: the kernel copies between places that are aligned alike more
// than twice as fast, and few large pieces faster than many.
type payloadWriter struct {
	file     io.Writer
	buf      []byte // payloadBuffer bytes
	from, at uint64 // in the file: what the buffer holds
}

func (w *payloadWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		some := copy(w.buf[w.at%payloadBuffer:], p[n:])
		n += some
		w.at += uint64(some)
		if w.at%payloadBuffer == 0 {
			if err := w.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

func (w *payloadWriter) flush() error {
	if w.from == w.at {
		return nil
	}
	begin := w.from % payloadBuffer
	_, err := w.file.Write(w.buf[begin : begin+w.at-w.from])
	w.from = w.at
	return err
}
