// SPDX-License-Identifier: Apache-2.0

// Package feed fans events out over NATS: to the server's own views as a
// wake-up, to other programs as news. It is fast, not trusted:
//
//   - An event is published after it is committed, and only then.
//   - Publishing never blocks and never fails a write: what does not fit in
//     the queue, or cannot be sent, is dropped and counted.
//   - What comes in is a hint that there may be something to read, never the
//     thing itself. Readers take events from the log, and look by themselves
//     after Silence without a hint.
//
// So a NATS that is down, slow, restarted, duplicating, reordering or lying
// changes nothing but latency. By default the NATS server runs inside this
// process and opens no port.
//
// The package is the only importer of nats.go and nats-server.
package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/strandline-project/strandline/eventlog"
)

// Limits of the queue between the committer and NATS. Raw events stay in
// memory while they wait, so their bytes are bounded too.
const (
	queueEvents = 16 << 10
	queueBytes  = 32 << 20
)

// flushTimeout bounds how long Close waits for what is still queued.
const flushTimeout = 2 * time.Second

// Options say where the feed's NATS is and which log it speaks for.
type Options struct {
	LogID eventlog.ID // required; part of every subject

	// URL of an external server or cluster (comma-separated); empty for the
	// embedded one. CredsFile is its user's credentials file, may be empty.
	URL       string
	CredsFile string

	// ListenAddr opens the embedded server to programs on this host:port,
	// which may then subscribe but never publish; empty for no port. Beyond
	// loopback it needs ListenPassword, the password of the user "consumer".
	ListenAddr     string
	ListenPassword string

	Logger *slog.Logger // nil for slog.Default()
}

// Feed publishes the events of one log and wakes the readers of one server.
type Feed struct {
	subjects subjects
	log      *slog.Logger
	server   *embedded  // nil with an external one
	pub, sub *nats.Conn // apart, so that a flood of hints never stops publishing
	hints    *nats.Subscription

	mu     sync.RWMutex // held shared by Publish, exclusively to set closed
	closed bool
	queue  chan news // owned by run at its reading end; closed under mu
	queued atomic.Int64
	done   chan struct{} // run has ended

	committed atomic.Uint64 // highest seq to be told of, 0 when it was

	wakersMu sync.Mutex
	wakers   map[*Waker]struct{}

	published, dropped, refused, denied atomic.Uint64
}

// news is one event on its way out.
type news struct {
	raw      []byte
	seq      eventlog.Seq
	archived eventlog.Seq
	kind     eventlog.Type
	machine  eventlog.Seq
}

// Start opens the feed. ctx bounds the start only; Close ends the feed. An
// external server that does not answer is no error: the feed connects when it
// comes up, and counts what it drops until then.
func Start(ctx context.Context, o Options) (*Feed, error) {
	if o.LogID == (eventlog.ID{}) {
		return nil, errors.New("start the feed: the log's id is not known")
	}
	f := &Feed{
		subjects: subjectsOf(o.LogID),
		log:      o.Logger,
		queue:    make(chan news, queueEvents),
		done:     make(chan struct{}),
		wakers:   make(map[*Waker]struct{}),
	}
	if f.log == nil {
		f.log = slog.Default()
	}
	f.log = f.log.With("component", "feed")
	if err := f.connect(ctx, o); err != nil {
		f.disconnect()
		return nil, fmt.Errorf("start the feed: %w", err)
	}
	go f.run()
	return f, nil
}

func (f *Feed) connect(ctx context.Context, o Options) (err error) {
	where := external(o)
	if o.URL == "" {
		if f.server, err = startEmbedded(ctx, o, f.subjects, f.log); err != nil {
			return err
		}
		where = f.server.target()
	}
	if f.pub, err = where.dial(f, "publisher"); err != nil {
		return err
	}
	if f.sub, err = where.dial(f, "views"); err != nil {
		return err
	}
	return f.subscribe()
}

// Publish queues committed events, in their order, for the subjects of their types
// and machines, with the archived watermark of now, and tells before them how far
// the log is committed. It never blocks; an event that finds no room is dropped
// and counted. The entries' Raw is kept until it is sent.
func (f *Feed) Publish(entries []eventlog.Entry, archived eventlog.Seq) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.closed {
		f.dropped.Add(uint64(len(entries)))
		return
	}
	// Told with whatever is sent next, so that it is not lost with an event that
	// finds no room: then others are queued.
	if n := len(entries); n > 0 {
		f.raise(entries[n-1].Event.Seq)
	}
	for i := range entries {
		if !f.enqueue(newsOf(&entries[i], archived)) {
			f.dropped.Add(1)
		}
	}
}

// raise has seq told if it is higher than what is to be told already.
func (f *Feed) raise(seq eventlog.Seq) {
	for {
		old := f.committed.Load()
		if uint64(seq) <= old || f.committed.CompareAndSwap(old, uint64(seq)) {
			return
		}
	}
}

// enqueue reports whether there was room.
func (f *Feed) enqueue(n news) bool {
	size := int64(len(n.raw))
	if f.queued.Add(size) <= queueBytes {
		select {
		case f.queue <- n:
			return true
		default:
		}
	}
	f.queued.Add(-size)
	return false
}

func newsOf(entry *eventlog.Entry, archived eventlog.Seq) news {
	return news{
		raw: entry.Raw, seq: entry.Event.Seq, archived: archived,
		kind: entry.Event.Type, machine: entry.Event.Machine,
	}
}

// run is the one goroutine that talks to the publishing connection.
func (f *Feed) run() {
	defer close(f.done)
	for n := range f.queue {
		f.queued.Add(-int64(len(n.raw)))
		if err := f.send(n); err != nil {
			f.dropped.Add(1)
			continue
		}
		f.published.Add(1)
	}
}

// send sends one event, and what is to be told before it. If the second fails so
// does the first: the connection is away, and silence wakes the views.
func (f *Feed) send(n news) error {
	if seq := f.committed.Swap(0); seq != 0 {
		if err := f.pub.PublishMsg(f.subjects.committedMessage(eventlog.Seq(seq))); err != nil {
			return err
		}
	}
	return f.pub.PublishMsg(f.subjects.message(n))
}

// Stats are counts since the feed was started.
type Stats struct {
	Published uint64 // events handed to NATS
	Dropped   uint64 // events that were not: the queue was full, or NATS away
	Refused   uint64 // messages to the views that could not be read
	Connected bool   // NATS answers now
}

// Stats returns the counts as of now.
func (f *Feed) Stats() Stats {
	return Stats{
		Published: f.published.Load(),
		Dropped:   f.dropped.Load(),
		Refused:   f.refused.Load(),
		Connected: f.pub.IsConnected(),
	}
}

// Addr returns the host:port on which the embedded server listens, "" when it
// has no port or the server is an external one.
func (f *Feed) Addr() string {
	if f.server == nil {
		return ""
	}
	return f.server.addr()
}

// Close sends what is queued, as far as that takes no longer than a few
// seconds, and ends the feed. Publish may still be called, and drops; Wakers
// go on waking by silence. A second Close does nothing.
func (f *Feed) Close() {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return
	}
	f.closed = true
	close(f.queue)
	f.mu.Unlock()
	<-f.done
	if f.pub.IsConnected() {
		if err := f.pub.FlushTimeout(flushTimeout); err != nil {
			f.log.Warn("the last events were not published; readers find them in the log", "err", err)
		}
	}
	f.disconnect()
}

// disconnect closes whatever connect opened.
func (f *Feed) disconnect() {
	for _, conn := range []*nats.Conn{f.sub, f.pub} {
		if conn != nil {
			conn.Close()
		}
	}
	if f.server != nil {
		f.server.stop()
	}
}
