// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"time"
)

// A batch takes what waits, up to these bounds, so that one fsync does not
// keep small events waiting behind a gigabyte, and so that clients with large
// bodies do not all wait for one sync and then all send while the disk idles.
const (
	batchEvents = 4096
	batchBytes  = 16 << 20
)

// partMetadata bounds the bytes of frames that one sync writes; what is over
// it by one event still fits into maxTorn and into a footer.
const partMetadata = 16 << 20

// sealAfter is how long the log is idle before the last batch gets its seal.
const sealAfter = 50 * time.Millisecond

// maxMetadata keeps a footer well within its limit.
const maxMetadata = 32 << 20

// committer is the one goroutine that writes. Its fields belong to it.
type committer struct {
	l         *Log
	gen       *openGeneration // nil until the first event after a close
	last      Seq             // last seq issued
	metadata  int             // bytes of the open generation's footer so far
	lastCut   time.Time
	lastBatch time.Time
	scratch   []byte // one frame
	decoded   Event  // of admit, kept for its memory
	small     bytes.Buffer
	timer     *time.Timer
}

// runCommitter takes what waits as one batch and commits it, again and again.
// There is no timer to form batches: they form while the last one syncs.
func (l *Log) runCommitter() {
	defer l.done.Done()
	defer close(l.stop)
	defer close(l.toClose)
	if l.opts.lockThread {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	c := &committer{l: l, last: l.opts.Last, timer: time.NewTimer(0)}
	defer c.end()
	for {
		batch, stopping := l.takeBatch()
		if err := c.step(batch, stopping); err != nil {
			l.poison(err)
			resolveRest(batch, l.Err())
			return
		}
		if stopping && len(batch) == 0 {
			l.fail(ErrClosed)
			return
		}
		if len(batch) == 0 {
			c.wait()
		}
	}
}

// end leaves no file open that the closer does not get. After a failure the
// generation stays as it is: nobody knows what the disk holds of it.
func (c *committer) end() {
	c.timer.Stop()
	switch {
	case c.gen == nil:
	case c.gen.events > 0 || errors.Is(c.l.Err(), ErrPoisoned):
		if err := c.gen.abandon(); err != nil {
			c.l.poison(err)
		}
	default:
		c.l.discard(c.gen)
	}
}

// takeBatch removes the next batch from the queue. stopping says that Close
// was called; with an empty batch there is nothing more to come.
func (l *Log) takeBatch() (batch []*Pending, stopping bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var size uint64
	n := 0
	for n < len(l.queue) && n < batchEvents && (n == 0 || size < batchBytes) {
		if body := l.queue[n].body; body != nil {
			size += body.Length
		}
		n++
	}
	batch = l.queue[:n:n]
	l.queue = l.queue[n:]
	if l.err != nil {
		stopping = true
	}
	return batch, stopping || l.stopping
}

// resolveRest resolves what the failure left of a batch.
func resolveRest(batch []*Pending, err error) {
	for _, p := range batch {
		select {
		case <-p.done: // it was committed or refused before
		default:
			p.resolve(0, err)
		}
	}
}

// step does one round: commit the batch, then cut the generation if it is
// time, or seal it when nothing else is to do. Any error poisons the log.
func (c *committer) step(batch []*Pending, stopping bool) error {
	if err := c.commit(batch); err != nil {
		return err
	}
	idle := len(batch) == 0
	switch {
	case c.empty():
	case idle && stopping:
		c.gen.clean = c.l.wantsCleanEnd()
		c.handOver()
	case c.full() || c.cutWanted() || time.Since(c.gen.began) >= c.l.opts.MaxAge:
		c.handOver()
	case idle && !c.gen.sealed && time.Since(c.lastBatch) >= sealAfter:
		return c.seal()
	}
	return nil
}

func (c *committer) empty() bool { return c.gen == nil || c.gen.events == 0 }

// wait returns when there may be work: an append, an answer that waits for
// the archive, the open generation's age, or the silence after which it is
// sealed.
func (c *committer) wait() {
	if c.empty() {
		<-c.l.wake
		return
	}
	pause := c.l.opts.MaxAge - time.Since(c.gen.began)
	if !c.gen.sealed {
		pause = min(pause, sealAfter-time.Since(c.lastBatch))
	}
	if c.l.cutPending() {
		pause = min(pause, c.gap())
	}
	c.timer.Reset(max(0, pause))
	select {
	case <-c.l.wake:
	case <-c.timer.C:
	}
}

// commit makes a batch durable, in as many parts as generations and the
// bounds of one sync want.
func (c *committer) commit(batch []*Pending) error {
	for len(batch) > 0 {
		if err := c.ensureGeneration(); err != nil {
			return err
		}
		taken, err := c.commitPart(batch)
		if err != nil {
			return err
		}
		batch = batch[taken:]
		if c.full() {
			c.handOver()
		}
	}
	return nil
}

// commitPart commits what fits into the open generation and one sync: payload
// bytes, sync, frames, sync. It returns how many of the batch it dealt with.
func (c *committer) commitPart(batch []*Pending) (taken int, err error) {
	accepted, taken, err := c.assign(batch)
	if err != nil || len(accepted) == 0 {
		return taken, err
	}
	began := time.Now()
	size, err := c.writePayloads(accepted)
	if err != nil {
		return 0, err
	}
	synced := time.Now()
	entries, metadata := c.addFrames(accepted)
	if err := c.gen.sync(); err != nil {
		return 0, err
	}
	// COMMITTED. A crash before the frames' sync returned may leave none, some
	// or all of the batch: whole frames from the front of it, each with its
	// payload already durable, and nobody was told. A crash after it leaves all
	// of the batch, and everybody may be told.
	c.lastBatch = time.Now()
	c.publish(accepted, entries, int64(size)+int64(metadata))
	c.observe(began, synced, len(entries), size)
	return taken, nil
}

func (c *committer) observe(began, synced time.Time, events int, size uint64) {
	payload := synced.Sub(began)
	if size == 0 {
		payload = 0
	}
	c.l.opts.Observer.Synced(payload, c.lastBatch.Sub(synced))
	c.l.opts.Observer.BatchCommitted(events, int64(size))
}

// assign gives each event that the rules admit its seq and time, until the
// generation or one sync has enough; the refused ones leave no trace. It
// returns how many it looked at.
func (c *committer) assign(batch []*Pending) (accepted []*Pending, taken int, err error) {
	room, metadata := c.l.opts.MaxEvents-c.gen.events, 0
	for _, p := range batch {
		if len(accepted) == room || metadata >= partMetadata {
			break
		}
		if err := c.stamp(&p.event); err != nil {
			return nil, 0, err
		}
		taken++
		if err := c.admit(p); err != nil {
			p.resolve(0, fmt.Errorf("%s: %w", p.event.Type, err))
			continue
		}
		p.seq = p.event.Seq
		c.last = p.seq
		metadata += p.metadata()
		accepted = append(accepted, p)
	}
	return accepted, taken, nil
}

// stamp gives ev the next seq, the time and the ids that its type makes.
func (c *committer) stamp(ev *Event) error {
	epoch := c.gen.head.Epoch
	switch {
	case c.last.Epoch() != epoch:
		ev.Seq = MakeSeq(epoch, 1)
	case c.last.Exhausted():
		return fmt.Errorf("epoch %d has issued its last sequence number; start the server again", epoch)
	default:
		ev.Seq = c.last.Next()
	}
	ev.Time = time.Now().UnixNano()
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
func (c *committer) admit(p *Pending) error {
	p.raw = AppendEvent(nil, &p.event)
	if len(p.raw) > MaxEvent {
		return fmt.Errorf("an event of %d bytes, more than %d", len(p.raw), MaxEvent)
	}
	if err := DecodeEvent(p.raw, &c.decoded); err != nil {
		return err
	}
	if b := p.body; b != nil && (b.Length != p.event.Length || b.Length > MaxPayload) {
		return fmt.Errorf("a payload of %d bytes for an event of length %d; at most %d", b.Length, p.event.Length, int64(MaxPayload))
	}
	if c.l.opts.Rules == nil {
		return nil
	}
	return c.l.opts.Rules.Admit(&p.event)
}

// metadata is what p takes of a footer, and nearly of a frame.
func (p *Pending) metadata() int {
	e := Entry{Raw: p.raw}
	if p.body != nil {
		e.Placement.Sums = p.body.Sums
	}
	return FooterEntrySize(&e)
}

// writePayloads appends the bodies to the payload file, in event order, and
// syncs it before any frame can name them.
func (c *committer) writePayloads(accepted []*Pending) (uint64, error) {
	var size uint64
	c.small.Reset()
	w := &payloadWriter{gen: c.gen, small: &c.small}
	for _, p := range accepted {
		if p.body == nil {
			continue
		}
		size += p.body.Length
		if err := p.body.writeTo(w); err != nil {
			return 0, fmt.Errorf("writing the payload of seq %s: %w", p.seq, err)
		}
	}
	if size == 0 {
		return 0, nil
	}
	err := w.flush()
	if err == nil {
		err = c.gen.payload.Sync()
	}
	if err != nil {
		return 0, fmt.Errorf("writing %d payload bytes of generation %d: %w", size, c.gen.Ordinal, err)
	}
	return size, nil
}

// payloadWriter gathers small bodies into one write.
type payloadWriter struct {
	gen   *openGeneration
	small *bytes.Buffer
}

func (w *payloadWriter) Write(p []byte) (int, error) {
	w.gen.sumSoFar = UpdateChecksum(w.gen.sumSoFar, p)
	if len(p) < bufferSize/4 {
		if w.small.Len() >= 4*bufferSize {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
		return w.small.Write(p)
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	return w.gen.payload.Write(p)
}

func (w *payloadWriter) flush() error {
	_, err := w.gen.payload.Write(w.small.Bytes())
	w.small.Reset()
	return err
}

// addFrames encodes the events into the generation's batch of frames. It
// returns them as entries, and the bytes of footer that they will take.
func (c *committer) addFrames(accepted []*Pending) (entries []Entry, metadata int) {
	entries = make([]Entry, len(accepted))
	durable, _ := c.l.Committed() // everything committed is durable
	for i, p := range accepted {
		e := &entries[i]
		e.Event, e.Raw = p.event, p.raw
		if p.body != nil && p.body.Length > 0 {
			e.Placement = Placement{Ordinal: c.gen.Ordinal, Offset: c.gen.size, Length: p.body.Length, Sums: p.body.Sums}
			c.gen.size += p.body.Length
		}
		metadata += FooterEntrySize(e)
		f := frame{
			flags: frameEvent, seq: p.seq, durable: durable,
			offset: e.Placement.Offset, length: e.Placement.Length, body: e.Raw, sums: e.Placement.Sums,
		}
		c.scratch = c.gen.addFrame(c.scratch, &f)
	}
	c.gen.sealed = false
	c.metadata += metadata
	return entries, metadata
}

// publish makes committed entries visible and resolves their promises.
func (c *committer) publish(accepted []*Pending, entries []Entry, weight int64) {
	l, last := c.l, &entries[len(entries)-1].Event
	l.limits.committed(weight)
	l.mu.Lock()
	c.gen.extend(entries)
	if c.gen.events == 0 {
		c.gen.began = time.Now()
		l.gens = append(l.gens, c.gen.Generation)
	}
	c.gen.events += len(entries)
	l.committed, l.committedTime = last.Seq, last.Time
	l.changedLocked()
	l.mu.Unlock()
	for _, p := range accepted {
		p.resolve(p.seq, nil)
	}
}

// seal states once more, now that nothing follows, that the last batch is
// durable: so rot in it is told from a torn tail without any outside witness.
func (c *committer) seal() error {
	f := frame{flags: frameSeal, seq: c.last, durable: c.last}
	c.scratch = c.gen.addFrame(c.scratch, &f)
	if err := c.gen.sync(); err != nil {
		return fmt.Errorf("sealing at seq %s: %w", c.last, err)
	}
	c.gen.sealed = true
	return nil
}
