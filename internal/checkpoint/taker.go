// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// Log is what a Taker needs of the running log; *eventlog.Log is one.
type Log interface {
	// ReadTo yields the events from seq from on, up to the log's end of now.
	ReadTo(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error]
	Committed() (eventlog.Seq, int64)
	// WaitCommitted waits for an event after seq, WaitArchived until seq is
	// archived.
	WaitCommitted(ctx context.Context, seq eventlog.Seq) error
	WaitArchived(ctx context.Context, seq eventlog.Seq) error
}

var _ Log = (*eventlog.Log)(nil)

// Options of a Taker. All but Schedule, Busy, LastOrdinal, Clock and Logger
// must be set.
type Options struct {
	Archive *archiver.Archive
	Epoch   uint32      // of this server
	Writer  eventlog.ID // of its claim
	Log     Log
	Engine  projector.Engine  // of real directories
	Views   []*projector.View // those that the checkpoints are of
	Dir     string            // scratch, on the volume of the views; removed at will
	Schedule
	// LastOrdinal returns the last ordinal known to be archived, 0 for none.
	LastOrdinal func() uint64
	// Busy says that the server has better things to do with disk and
	// network than an upload. It delays one, never for ever.
	Busy   func() bool
	Clock  clockwork.Clock
	Logger *slog.Logger
}

// Schedule says when checkpoints are taken and how long they are kept. The
// zero Schedule takes none.
type Schedule struct {
	Every  time.Duration // at least so often, if anything changed; 0: not by time
	Events uint64        // after so many events; 0: not by number
	Keep   int           // the newest so many are kept; at least 1
	Days   int           // and for each of so many days the newest of it
}

// off says that nothing is to be taken.
func (s *Schedule) off() bool { return s.Every == 0 && s.Events == 0 }

// Taker takes checkpoints of a running server's views, one at a time. Run and
// Final are called by one goroutine at a time, Status by any.
type Taker struct {
	Options
	hashes hashes         // owned by whoever runs
	last   *Manifest      // newest that counts; owned by whoever runs
	loaded bool           // last was looked for in the archive
	known  []eventlog.Seq // checkpoints in the archive, as last seen; owned by whoever runs

	mu     sync.Mutex
	status Status // owned by mu
}

// Status is what a Taker did.
type Status struct {
	Seq      eventlog.Seq  // of the newest checkpoint known; 0: none
	Time     time.Time     // when it was taken
	Bytes    int64         // of its files
	Took     time.Duration // until it was whole; 0: another process took it
	Uploaded uint64        // bytes, by this process
	Taken    uint64        // checkpoints, by this process
	Failures uint64        // tries that came to nothing, and removals
	Err      string        // why the last try failed; "": it did not
}

// New returns a Taker. It does nothing before Run.
func New(o Options) *Taker {
	if o.Busy == nil {
		o.Busy = func() bool { return false }
	}
	if o.LastOrdinal == nil {
		o.LastOrdinal = func() uint64 { return 0 }
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.Keep = max(o.Keep, 1)
	return &Taker{Options: o}
}

// Status returns what was done until now.
func (t *Taker) Status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.status
}

const (
	// settling is how long a server runs before its first checkpoint.
	settling = time.Minute
	// tryAgain is how long a failed try rests.
	tryAgain = 5 * time.Minute
)

// Run takes checkpoints as they fall due, until ctx ends. One that fails is
// logged and tried again later: it costs nothing but a longer recovery.
func (t *Taker) Run(ctx context.Context) {
	if t.off() {
		return
	}
	if t.sleep(ctx, t.soon(settling)) != nil {
		return
	}
	for {
		next, err := t.round(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = t.await(ctx, next)
		} else {
			t.fail("no checkpoint of the views was taken; a recovery begins with an older one", err)
			err = t.sleep(ctx, t.soon(tryAgain))
		}
		if err != nil {
			return
		}
	}
}

// soon is d, or less when checkpoints are to come more often.
func (t *Taker) soon(d time.Duration) time.Duration {
	if t.Every == 0 {
		return d
	}
	return min(d, t.Every)
}

func (t *Taker) sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.Clock.After(d):
		return ctx.Err()
	}
}

func (t *Taker) fail(what string, err error) {
	t.Logger.Warn(what, "err", err)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.Failures++
	t.status.Err = err.Error()
}

// await waits until due, the zero time being never, or until as many events
// have come as a checkpoint is to have behind it.
func (t *Taker) await(ctx context.Context, due time.Time) error {
	limited := ctx
	if !due.IsZero() {
		var cancel context.CancelFunc
		limited, cancel = clockwork.WithDeadline(ctx, t.Clock, due)
		defer cancel()
	}
	if t.Events == 0 {
		<-limited.Done()
		return ctx.Err()
	}
	err := t.Log.WaitCommitted(limited, t.since()+eventlog.Seq(t.Events)-1)
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// round takes a checkpoint if one is due and anything has changed, and returns
// when the next one is due by time, the zero time for never.
func (t *Taker) round(ctx context.Context) (next time.Time, err error) {
	if err := t.load(ctx); err != nil {
		return next, err
	}
	now := t.Clock.Now()
	if t.Every > 0 {
		next = now.Add(t.Every)
		if t.last != nil && !t.full() && t.last.Time.Before(now) {
			if due := t.last.Time.Add(t.Every); due.After(now) {
				return due, nil // an earlier process took it
			}
		}
	}
	if t.Every == 0 && !t.full() {
		return next, nil
	}
	if !t.changed() {
		err := t.verify(ctx)
		if !errors.Is(err, errLost) {
			return next, err
		}
		t.Logger.Warn("another checkpoint is taken, though nothing has changed", "err", err)
	}
	if err := t.take(ctx, true); err != nil {
		return next, err
	}
	err = t.retain(ctx)
	if errors.Is(err, errLost) {
		t.unlearn()
		return next, err // another is taken soon
	}
	if err != nil && ctx.Err() == nil {
		t.fail("old checkpoints are not removed from the archive; they take room, and harm nothing", err)
	}
	return next, nil
}

// Final takes a checkpoint of views that nothing moves any more and whose
// events are all archived, if anything has changed; ctx's end gives it up. Run
// has returned.
func (t *Taker) Final(ctx context.Context) {
	if t.off() {
		return
	}
	err := t.load(ctx)
	if err == nil && t.changed() {
		err = t.take(ctx, false)
	}
	if err != nil {
		t.fail("no checkpoint of the views was taken at the end; a recovery begins with an older one", err)
	}
}

// load finds out, once, which checkpoint is the newest that is whole.
func (t *Taker) load(ctx context.Context) error {
	if t.loaded {
		return nil
	}
	all, err := readAll(ctx, t.Archive)
	if err != nil {
		return err
	}
	for _, f := range all {
		t.known = append(t.known, f.seq)
	}
	for _, f := range all {
		if f.manifest == nil {
			continue
		}
		lacks, err := lacking(ctx, t.Archive, f.manifest.contents())
		if err != nil {
			return err
		}
		if len(lacks) == 0 {
			t.learn(f.manifest, 0)
			break
		}
		t.Logger.Warn("a checkpoint does not count: files of it are missing in the archive, or have another size", "checkpoint", nameOf(f.seq), "files", len(lacks))
	}
	t.loaded = true
	return nil
}

// verify makes sure that the newest checkpoint is still whole; errLost when it
// is not.
func (t *Taker) verify(ctx context.Context) error {
	want := t.last.contents()
	lacks, err := lacking(ctx, t.Archive, want)
	if err == nil && len(lacks) == 0 {
		_, err = t.Archive.Stat(ctx, manifestKey(t.last.Seq))
	}
	if errors.Is(err, archiver.ErrNotFound) || err == nil && len(lacks) > 0 {
		return fmt.Errorf("%w: the one as of event %s, lacks %d of %d files or its manifest", errLost, t.last.Seq, len(lacks), len(want))
	}
	return err
}

// unlearn forgets the newest checkpoint: it is not whole any more.
func (t *Taker) unlearn() {
	t.last, t.loaded = nil, false
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.Seq, t.status.Time, t.status.Bytes, t.status.Took = 0, time.Time{}, 0, 0
}

// learn remembers m as the newest checkpoint.
func (t *Taker) learn(m *Manifest, took time.Duration) {
	t.last = m
	t.known = append(t.known, m.Seq)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.Seq, t.status.Time, t.status.Bytes, t.status.Took = m.Seq, m.Time, m.bytes(), took
}

// full says that as many events have come as a checkpoint is to have at most
// behind it.
func (t *Taker) full() bool { return t.Events > 0 && t.behind() >= t.Events }

// behind is how many events came since the last checkpoint, or since this
// epoch began, if that is less.
func (t *Taker) behind() uint64 {
	end, _ := t.Log.Committed()
	from := t.since()
	return uint64(max(end, from) - from)
}

// since is the event that behind counts from.
func (t *Taker) since() eventlog.Seq {
	from := eventlog.MakeSeq(t.Epoch, 0)
	if t.last != nil {
		from = max(from, t.last.Seq)
	}
	return from
}

// longTail is how many events make a new checkpoint worth it, even if the
// views have come back to the same rows.
const longTail = 65_536

// changed reports whether a new checkpoint would be another than the last.
func (t *Taker) changed() bool {
	if t.last == nil || len(t.last.Views) != len(t.Views) || t.behind() >= longTail || t.full() {
		return true
	}
	known := map[string]View{}
	for _, v := range t.last.Views {
		known[v.Name] = v
	}
	for _, view := range t.Views {
		_, digest := view.Digest()
		if v, ok := known[view.Name()]; !ok || v.Version != view.Version() || v.Digest != digest {
			return true
		}
	}
	return false
}

// take takes a checkpoint and puts it into the archive. gently leaves disk and
// network to others.
func (t *Taker) take(ctx context.Context, gently bool) (err error) {
	began := t.Clock.Now()
	m, err := t.copyViews(ctx)
	defer func() { err = errors.Join(err, t.clear()) }()
	if err != nil {
		return err
	}
	u := &upload{Taker: t, gently: gently, began: began}
	if err := u.run(ctx, m); err != nil {
		return fmt.Errorf("checkpoint as of event %s: %w", m.Seq, err)
	}
	took := t.Clock.Since(began)
	t.learn(m, took)
	t.mu.Lock()
	t.status.Taken++
	t.status.Err = ""
	t.mu.Unlock()
	t.Logger.Info("checkpoint of the views taken", "seq", m.Seq.String(), "files", u.put, "uploaded", u.bytes, "bytes", m.bytes(), "took", took.Round(time.Millisecond).String())
	return nil
}
