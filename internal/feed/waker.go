// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/strandline-project/strandline/eventlog"
)

// Silence is how long a reader waits for a hint before it looks by itself.
const Silence = 50 * time.Millisecond

// firstDoubt is the pause after a hint that proved empty; it doubles with
// each further one, up to Silence, and ends when a look finds something.
const firstDoubt = time.Millisecond

// Bounds of what nats.go holds for the subscription. Beyond them it drops,
// which costs a reader at most Silence. The second is for forged messages: true
// ones are short.
const (
	pendingMessages = 64 << 10
	pendingBytes    = 8 << 20
)

// subscribe makes every message about what is committed a hint for every waker.
// While NATS is away the subscription waits for it.
func (f *Feed) subscribe() (err error) {
	f.hints, err = f.sub.Subscribe(f.subjects.committed, f.receive)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", f.subjects.committed, err)
	}
	if err := f.hints.SetPendingLimits(pendingMessages, pendingBytes); err != nil {
		return fmt.Errorf("bound the subscription to %s: %w", f.subjects.committed, err)
	}
	if !f.sub.IsConnected() {
		return nil
	}
	// The publisher has a connection of its own: the server must know of the
	// subscription before the first event. If it does not answer, silence helps.
	if err := f.sub.FlushTimeout(flushTimeout); err != nil {
		f.log.Warn("NATS is slow to subscribe; readers look by themselves", "err", err)
	}
	return nil
}

// receive runs on the subscription's own goroutine, one message at a time.
func (f *Feed) receive(msg *nats.Msg) {
	seq, err := f.subjects.hint(msg)
	if err != nil {
		if f.refused.Add(1) == 1 { // the others are in the count; a flood must not fill the log
			f.log.Warn("a message on the feed was refused; further ones are only counted", "err", err)
		}
		return
	}
	f.wakersMu.Lock()
	defer f.wakersMu.Unlock()
	for w := range f.wakers {
		w.hear(seq)
	}
}

// Waker tells one reader when to look into the log again. Its Wait belongs to
// one goroutine at a time.
type Waker struct {
	feed *Feed
	news chan struct{} // holds one token when hint was raised

	mu   sync.Mutex
	hint eventlog.Seq // highest seq heard of and not yet used; guarded by mu

	// What Wait remembers between calls.
	hinted bool          // the last Wait returned because of a hint,
	asked  eventlog.Seq  // and was asked for what comes after this
	doubt  time.Duration // how long to ignore hints, because the last ones proved empty
}

// Waker returns a new one; Close it when its reader ends.
func (f *Feed) Waker() *Waker {
	w := newWaker()
	w.feed = f
	f.wakersMu.Lock()
	defer f.wakersMu.Unlock()
	f.wakers[w] = struct{}{}
	return w
}

func newWaker() *Waker { return &Waker{news: make(chan struct{}, 1)} }

// Wait returns nil when it is worth looking for an event after position(): a hint
// says that there is one, or Silence has passed. It returns ctx's error when ctx
// ends first.
//
// A hint may lie. Each wakes its reader once; a reader whose position has not
// moved since has found nothing, or not yet, and until it moves hints are ignored
// for a while, longer each time, so that a flood of forged ones costs no more than
// the looks that silence costs anyway.
func (w *Waker) Wait(ctx context.Context, position func() eventlog.Seq) error {
	silence := time.NewTimer(Silence)
	defer silence.Stop()
	w.judge(position())
	doubt := time.NewTimer(w.doubt)
	defer doubt.Stop()
	trust := w.doubt == 0
	for {
		after := position()
		trust = trust || after != w.asked // the last hint has proved true meanwhile
		if trust && w.take(after) {
			w.hinted = true
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for an event after %s: %w", after, context.Cause(ctx))
		case <-silence.C:
			return nil
		case <-doubt.C:
			trust = true
		case <-w.news:
		}
	}
}

// judge looks at what became of the last hint.
func (w *Waker) judge(after eventlog.Seq) {
	switch {
	case after != w.asked:
		w.doubt = 0
	case w.hinted:
		w.doubt = min(max(firstDoubt, 2*w.doubt), Silence)
	}
	w.hinted, w.asked = false, after
}

// hear keeps seq as a hint and never blocks.
func (w *Waker) hear(seq eventlog.Seq) {
	w.mu.Lock()
	w.hint = max(w.hint, seq)
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// take uses the hint up and reports whether it was about something after
// after.
func (w *Waker) take(after eventlog.Seq) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	hint := w.hint
	w.hint = 0
	return hint > after
}

// Close ends the hints. Wait may still be called and goes by silence alone.
func (w *Waker) Close() {
	w.feed.wakersMu.Lock()
	defer w.feed.wakersMu.Unlock()
	delete(w.feed.wakers, w)
}
