// SPDX-License-Identifier: Apache-2.0

// Package eventlog says what happened: it turns events into a log that is
// durable before anyone hears of it.
//
// Append hands an event, and for a block its payload, to the writer, which
// appends the payload bytes to the open generation's payload file. The
// committer, behind it, takes whatever was written as one batch, syncs that
// file, unless the payloads are so small that their frames carry them, then
// writes the frames in one tidwall/wal batch with fsync. After that line the batch is committed: it survives a kill and a power loss of this
// machine. Then readers see it (Follow) and the promises resolve. See
// committer.commit.
//
// Generations are closed by size, number of events, age, or because an answer
// waits for the archive. A closed one is an archive object, byte for byte, and
// never changes. The archiver ships them in order and tells the log how far
// it got (MarkArchived).
//
// Invariants:
//
//   - No seq is issued twice; within an epoch there is no gap.
//   - What an earlier process wrote is never opened for writing, and never
//     counts as durable before it was written or synced again by this one.
//   - After any error of a write or sync the log is poisoned: no later append
//     succeeds, because what the disk holds is not known. An error before
//     anything of an event was written refuses that event, and no more.
//   - A payload file has no holes and no bytes of refused bodies.
package eventlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/strandline-project/strandline/internal/durable"
)

// Log is a running event log. All its methods may be called by any goroutine.
type Log struct {
	opts   Options
	limits *limits
	memory *memory
	clock  clock

	mu       sync.Mutex
	queue    []*Pending    // owned by mu; waiting for the writer
	large    []*Pending    // owned by mu; likewise, with payloads that no frame carries
	wake     chan struct{} // capacity 1: the queue or cut changed
	stopping bool          // owned by mu; Close was called
	cut      Seq           // owned by mu; an answer waits until this is archived
	cleanEnd bool          // owned by mu; the last generation carries the clean-end flag

	committed     Seq           // owned by mu
	committedTime int64         // owned by mu; of the last committed event
	archived      Seq           // owned by mu
	err           error         // owned by mu; why the log stopped
	changed       chan struct{} // owned by mu; closed and replaced when any of the above moves

	gens      []*Generation // owned by mu; local generations, ascending; the last ones may not be closed
	handed    Seq           // owned by mu; last seq of the last generation that is closed or being closed
	fenced    bool          // owned by mu; the archive belongs to another server
	closeTook time.Duration // owned by mu; the last close
	ended     bool          // owned by mu; no generation will be closed any more
	leftover  error         // owned by mu; why a prepared generation is still there
	doomed    []*Generation // owned by mu; dropped, and their directories are still to be removed

	toClose  chan *openGeneration // committer to closer
	prepared chan prepared        // preparer to writer
	// unprepared is why the next generation cannot be prepared; nil while it can.
	unprepared atomic.Pointer[error]
	given      atomic.Uint64 // promises
	resolved   atomic.Uint64 // of them
	stop       chan struct{} // closed when the writer ends: the preparer ends too
	done       sync.WaitGroup
}

// Open starts a log after Last. It writes only new generations; those of
// Local are read. The log runs until Close, or until it is poisoned.
func Open(opts Options) (*Log, error) {
	opts.setDefaults()
	if err := opts.check(); err != nil {
		return nil, err
	}
	if err := emptySpool(opts.Spool); err != nil {
		return nil, err
	}
	limits := newLimits(opts.Limits, opts.Dir)
	l := &Log{
		opts: opts, limits: limits, memory: &memory{free: limits.BodyMemory, spool: opts.Spool},
		wake: make(chan struct{}, 1), changed: make(chan struct{}),
		committed: opts.Last, committedTime: opts.LastTime, archived: opts.Archived,
		gens:    slices.Clone(opts.Local),
		toClose: make(chan *openGeneration, 1), prepared: make(chan prepared), stop: make(chan struct{}),
	}
	for _, g := range opts.Local {
		if g.Trailer.Last > opts.Archived {
			limits.backlog += g.weight()
			l.handed = g.Trailer.Last
		}
	}
	now := time.Now()
	l.clock.note(opts.Last, opts.Wall(now).UnixNano(), now)
	limits.copies = l.copiesLocked() // nobody else is there yet
	l.done.Add(4)
	go l.runPreparer()
	go l.runCloser()
	written, committed := newSlot(), make(chan struct{})
	go l.runWriter(written, committed)
	go l.runCommitter(written, committed)
	return l, nil
}

func emptySpool(dir string) error {
	if err := durable.RemoveAll(dir); err != nil {
		return fmt.Errorf("emptying the spool folder: %w", err)
	}
	if err := durable.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("making the spool folder: %w", err)
	}
	return nil
}

// Pending is the promise of an Append. It always resolves.
type Pending struct {
	log    *Log
	event  Event
	raw    []byte // the event's wire form, once it has a seq
	body   *Body
	offset uint64 // of the body in the generation's payload file, once it is written
	done   chan struct{}
	seq    Seq
	err    error // valid when done is closed, like seq
}

// Done is closed when the promise has resolved.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Wait returns the event's seq once it is committed, or why it is not. An
// error that is ErrPoisoned means not known: the event may come to light at
// the next start. Any other error means that it is not in the log.
func (p *Pending) Wait() (Seq, error) {
	<-p.done
	return p.seq, p.err
}

// ErrPoisoned says that a write or sync of the WAL failed, so that nobody
// knows what the disk holds. Only a new start goes on.
var ErrPoisoned = errors.New("the log stopped at a failed write and takes no more events until the server is started again")

// ErrClosed says that the log was closed in order.
var ErrClosed = errors.New("the log is closed")

// ErrDamaged says that bytes which count as durable are not what was written.
var ErrDamaged = errors.New("damaged")

// apart are the bytes of p's payload if no frame carries it, else 0.
func (p *Pending) apart() uint64 {
	if p.body == nil || p.body.carried() != nil {
		return 0
	}
	return p.body.Length
}

// Append hands ev, with its body if it brings a payload, to the writer and
// returns at once. Small ones may overtake large ones that wait: who needs an
// order waits for the first before appending the second. Seq, Time and, for the event types that make them, the ids
// are assigned there. The log owns ev's slices and body from here on.
func (l *Log) Append(ev Event, body *Body) *Pending {
	l.given.Add(1)
	p := &Pending{log: l, event: ev, body: body, done: make(chan struct{})}
	l.mu.Lock()
	err := l.err
	if err == nil && l.stopping {
		err = ErrClosed
	}
	switch {
	case err != nil:
	case p.apart() > 0:
		l.large = append(l.large, p)
	default:
		l.queue = append(l.queue, p)
	}
	l.mu.Unlock()
	if err != nil {
		p.resolve(0, err)
		return p
	}
	l.nudge()
	return p
}

func (p *Pending) resolve(seq Seq, err error) {
	p.seq, p.err = seq, err
	p.body.Release()
	p.body = nil
	p.log.resolved.Add(1)
	close(p.done)
}

// Promises returns how many promises were given, and how many of them have
// resolved. It takes no lock: it answers whatever hangs.
func (l *Log) Promises() (given, resolved uint64) {
	resolved = l.resolved.Load() // first: never more than were given
	return l.given.Load(), resolved
}

func (l *Log) nudge() { notify(l.wake) }

// Committed returns the last committed seq and its time.
func (l *Log) Committed() (Seq, int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.committed, l.committedTime
}

// Archived returns the archived watermark.
func (l *Log) Archived() Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.archived
}

// Err returns why the log takes no more events, nil while it does.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// WaitCommitted returns when an event after the given seq is committed, with
// the log's error when there never will be one, or with ctx's.
func (l *Log) WaitCommitted(ctx context.Context, after Seq) error {
	return l.wait(ctx, func() bool { return l.committed > after })
}

// WaitArchived returns when everything up to seq is archived. It asks for the
// open generation to be closed as soon as the archive is ready for it. When
// the log stops first it returns the log's error: what is committed may still
// be archived by a later start.
func (l *Log) WaitArchived(ctx context.Context, seq Seq) error {
	l.mu.Lock()
	l.cut = max(l.cut, seq)
	l.mu.Unlock()
	l.nudge()
	return l.wait(ctx, func() bool { return l.archived >= seq })
}

// wait returns when met, called with mu held, says true.
func (l *Log) wait(ctx context.Context, met func() bool) error {
	for {
		l.mu.Lock()
		ok, err, changed := met(), l.err, l.changed
		l.mu.Unlock()
		if ok {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// changedLocked wakes everyone in wait.
func (l *Log) changedLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// fail stops the log for good: every waiter gets err, and so does everyone
// who comes later. The first error counts, but neither an orderly end nor a
// fence hides what fails in its course: that a write or sync failed must be
// known to all who would touch the files.
func (l *Log) fail(err error) {
	l.mu.Lock()
	switch {
	case l.err == nil || errors.Is(l.err, ErrClosed):
		l.err = err
	case errors.Is(err, ErrPoisoned) && !errors.Is(l.err, ErrPoisoned):
		l.err = fmt.Errorf("%w (it had stopped before: %w)", err, l.err)
	}
	err = l.err
	queue := slices.Concat(l.queue, l.large)
	l.queue, l.large = nil, nil
	l.changedLocked()
	l.mu.Unlock()
	for _, p := range queue {
		p.resolve(0, err)
	}
	l.nudge()
}

// poison stops the log after a failed write or sync.
func (l *Log) poison(err error) {
	if !errors.Is(l.Err(), ErrPoisoned) {
		l.opts.Logger.Error("the log is poisoned: a write or sync failed, and nobody knows what the disk holds; look at the disk, then start the server again", "error", err)
	}
	l.fail(fmt.Errorf("%w: %w", ErrPoisoned, err))
}

// Fence stops the log because it no longer owns its archive: what it would
// commit from now on could never be archived, and what it has committed and
// not archived is for the owner to judge. The archived watermark stands still.
func (l *Log) Fence(err error) {
	l.mu.Lock()
	l.fenced = true
	l.mu.Unlock()
	l.fail(err)
}

// Close commits what was appended before, closes the open generation (with
// the clean-end flag if clean is true) and stops the log's goroutines. With no
// event in the open generation there is no object to carry the flag: who wants
// it appends a last event first. Closed generations stay to be shipped:
// NextClosed goes on working. Close returns the error that stopped the log, if
// any did.
func (l *Log) Close(clean bool) error {
	l.mu.Lock()
	l.stopping, l.cleanEnd = true, clean
	l.mu.Unlock()
	l.nudge()
	l.done.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.changedLocked()
	if errors.Is(l.err, ErrClosed) {
		return l.leftover
	}
	return errors.Join(l.err, l.leftover)
}
