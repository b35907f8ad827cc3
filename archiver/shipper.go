// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// Log is what a Shipper needs of the running event log.
type Log interface {
	// NextClosed waits for the closed generation with the least ordinal above
	// after.
	NextClosed(ctx context.Context, after uint64) (*eventlog.Generation, error)
	// MarkArchived moves the archived watermark over g.
	MarkArchived(g *eventlog.Generation, took time.Duration)
	// ArchiveAway says that the bucket does not answer.
	ArchiveAway()
	// Fence stops the log for good.
	Fence(err error)
	// Local returns the generations at hand, ascending.
	Local() []*eventlog.Generation
	// Archived returns the archived watermark.
	Archived() eventlog.Seq
	// Drop removes the oldest local generation.
	Drop(g *eventlog.Generation) error
	// Pressed holds a value when the disk is nearly full and copies of archived
	// generations can go.
	Pressed() <-chan struct{}
	// WantsRoom returns how many bytes should go from the disk then, else 0.
	WantsRoom() (int64, error)
}

// Shipper makes closed generations visible in the archive, one at a time and
// in ordinal order, and moves the archived watermark. Run does the work; the
// other methods may be called by any goroutine.
type Shipper struct {
	Archive *Archive
	Log     Log
	Dir     *StateDir // remembers what has rotted
	Epoch   uint32    // ours
	Shipped uint64    // the last ordinal that is in the archive when Run begins
	Logger  *slog.Logger
	// Idle is how often the claim is checked while there is nothing to ship;
	// default 5 s.
	Idle time.Duration
	// CheckEvery is how often the store is asked whether it still keeps
	// put-if-absent; default a day. A start has asked before.
	CheckEvery time.Duration
	// Archived is told of each ordinal that is archived now; it must not wait.
	// May be nil.
	Archived func(ordinal uint64)

	mu          sync.Mutex
	checkAt     time.Time // owned by Run; when the store is asked again
	said        string    // owned by mu; why the bucket does not answer, as it was logged last
	lastErr     error     // owned by mu; of the last try, nil after a success
	since       time.Time // owned by mu; when the bucket stopped answering
	bodyErr     error     // owned by mu; why a generation here cannot be read, nil while it can
	bodySince   time.Time // owned by mu; since when
	last        time.Time // owned by mu; when the last object was archived
	lastOrdinal uint64    // owned by mu; its ordinal
}

// Run ships until ctx ends (its error), the log has ended and everything
// closed is archived (nil), or this server is fenced (ErrFenced; the log is
// fenced then too). The archive not answering is no end: it is tried again.
func (s *Shipper) Run(ctx context.Context) error {
	if s.Idle == 0 {
		s.Idle = 5 * time.Second
	}
	if s.CheckEvery == 0 {
		s.CheckEvery = checkEvery
	}
	err := s.run(ctx)
	if errors.Is(err, ErrFenced) {
		s.Log.Fence(err)
	}
	return err
}

func (s *Shipper) run(ctx context.Context) error {
	shipped := s.Shipped
	for {
		s.checkStore(ctx)
		g, err := s.next(ctx, shipped)
		switch {
		case errors.Is(err, errIdle):
			if err := s.confirm(ctx); err != nil {
				return err
			}
			continue
		case errors.Is(err, eventlog.ErrClosed):
			return nil
		case err != nil:
			return err
		}
		if g.Ordinal != shipped+1 {
			return fmt.Errorf("%w: generation %d is to be shipped, the archive ends at %d", eventlog.ErrDamaged, g.Ordinal, shipped)
		}
		err = s.ship(ctx, g)
		if errors.Is(err, ErrUnsupported) {
			s.stopPutting(err)
			continue
		}
		if err != nil {
			return err
		}
		shipped = g.Ordinal
	}
}

var errIdle = errors.New("nothing to ship")

// next waits for the next closed generation, at most Idle. In a store that does
// not keep put-if-absent there is nothing to ship.
func (s *Shipper) next(ctx context.Context, after uint64) (*eventlog.Generation, error) {
	waiting, cancel := context.WithTimeout(ctx, s.Idle)
	defer cancel()
	if s.Archive.Unsafe() != nil {
		<-waiting.Done()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return nil, errIdle
	}
	g, err := s.Log.NextClosed(waiting, after)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return nil, errIdle
	}
	return g, err
}

// ship puts one object and, when the archive is still ours after that, moves
// the watermark.
func (s *Shipper) ship(ctx context.Context, g *eventlog.Generation) error {
	began, err := s.put(ctx, g)
	if err != nil {
		return err
	}
	took := time.Since(began)
	if err := s.confirm(ctx); err != nil {
		return err
	}
	// ARCHIVED. The object was visible before any successor's claim, so the
	// successor's list has it: it survives the loss of this machine.
	s.Archive.Expect(g.Ordinal)
	s.Log.MarkArchived(g, took)
	s.mu.Lock()
	s.lastOrdinal, s.last = g.Ordinal, time.Now()
	s.mu.Unlock()
	if s.Archived != nil {
		s.Archived(g.Ordinal)
	}
	return nil
}

// put puts g's object, and returns when the try that succeeded began. While this
// machine cannot read g's file, for want of descriptors or a permission, it tries
// again: that passes. A file that is gone or damaged does not come back.
func (s *Shipper) put(ctx context.Context, g *eventlog.Generation) (began time.Time, err error) {
	key := Shipped(g.Ordinal).Key()
	err = retry(ctx, 0, func() error {
		began = time.Now()
		body, err := s.Dir.bodyOf(g)
		if err == nil {
			// A crash after the object became visible and before the watermark moved is
			// no loss: the next start finds equal bytes there.
			err = PutEqual(ctx, noting{s.Archive.Bucket(), s}, key, body)
		} else {
			err = fmt.Errorf("%w: %w", errBody, err)
		}
		hindered := errors.Is(err, errBody) && !isLost(err)
		s.noteBody(g, hindered, err)
		if err != nil && !hindered {
			return permanent(err)
		}
		return err
	})
	if errors.Is(err, ErrDifferent) {
		return began, fmt.Errorf("%w: %s of %v holds other events than ours", ErrFenced, key, s.Archive.Bucket())
	}
	return began, err
}

// isLost says that a file is not there any more as it was written.
func isLost(err error) bool {
	return errors.Is(err, eventlog.ErrDamaged) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// noteBody remembers whether this machine can read what it ships.
func (s *Shipper) noteBody(g *eventlog.Generation, hindered bool, err error) {
	s.mu.Lock()
	before := s.bodyErr
	s.bodyErr = nil
	if hindered {
		s.bodyErr = err
		if before == nil {
			s.bodySince = time.Now()
		}
	}
	s.mu.Unlock()
	switch {
	case hindered && before == nil:
		s.Logger.Error("a generation cannot be read now, and waits to be shipped; trying again", "generation", g.String(), "error", err)
	case !hindered && before != nil:
		s.Logger.Info("the generation can be read again", "generation", g.String())
	}
}

// confirm returns nil when no later epoch was claimed at a moment after the
// call began. Not known is not enough: it asks until it knows.
func (s *Shipper) confirm(ctx context.Context) error {
	err := retry(ctx, 0, func() error {
		err := s.Archive.stillOurs(ctx, s.Epoch)
		s.note(err)
		if errors.Is(err, ErrFenced) {
			return permanent(err)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("epoch %d: %w", s.Epoch, err)
	}
	return nil
}

// noting tells the shipper how each put ended.
type noting struct {
	Bucket
	s *Shipper
}

func (n noting) PutIfAbsent(ctx context.Context, key string, body Body) error {
	err := n.Bucket.PutIfAbsent(ctx, key, body)
	if !errors.Is(err, ErrExists) {
		n.s.note(err)
	}
	return err
}

// note remembers whether the bucket answers, and takes what is put. Why not is
// logged once, however often it is tried.
func (s *Shipper) note(err error) {
	if err == nil {
		err = s.Archive.Unsafe()
	}
	now := time.Now()
	s.mu.Lock()
	before := s.lastErr
	s.lastErr = err
	news := reason(err) != s.said
	s.said = reason(err)
	if err != nil && before == nil {
		s.since = now
	}
	since := s.since
	s.mu.Unlock()
	switch {
	case err != nil && !errors.Is(err, ErrFenced):
		s.Log.ArchiveAway()
		if news {
			s.Logger.Warn("the archive takes nothing now; trying again", "since", since, "error", err)
		}
	case err == nil && before != nil:
		s.Logger.Info("the archive answers again", "away", now.Sub(since).Round(time.Millisecond))
	}
}

// reason is what an error comes down to: two tries that fail alike can differ in
// the names of files. "" is none.
func reason(err error) string {
	for err != nil && errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	if err == nil {
		return ""
	}
	return err.Error()
}

// Away returns why and since when nothing is shipped, because the archive does
// not answer or this machine cannot read what is to be shipped; nil otherwise.
func (s *Shipper) Away() (why error, since time.Time) { //nolint:revive // the error is the answer here
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bodyErr != nil {
		return s.bodyErr, s.bodySince
	}
	return s.lastErr, s.since
}

// Last returns the last object that was archived by this Shipper and when;
// the zero time before there was one.
func (s *Shipper) Last() (ordinal uint64, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastOrdinal, s.last
}
