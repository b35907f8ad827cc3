// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// sessionAge is how old a machine's youngest lock may be for its data to be
// answered when committed. A lossy start bars machines whose lock is up to 30
// minutes old, so none of them escapes it.
const sessionAge = 25 * time.Minute

// acknowledge returns when the event seq, which made the answer true, is as
// durable as the answer demands.
func (s *Store) acknowledge(ctx context.Context, m machine, verb eventlog.Type, kind eventlog.Kind, seq eventlog.Seq) error {
	needed, err := s.needsArchive(ctx, m, verb, kind)
	if err != nil || !needed {
		return err
	}
	return s.waitArchived(ctx, seq)
}

// needsArchive says whether the answer to a write is a commit point.
func (s *Store) needsArchive(ctx context.Context, m machine, verb eventlog.Type, kind eventlog.Kind) (bool, error) {
	switch {
	case s.opts.Ack == AckCommitted:
		return false, nil
	case s.opts.Ack == AckArchived:
		return true, nil
	case verb == eventlog.BlockDeleted:
		return kind == eventlog.KindKey || kind == eventlog.KindConfig, nil
	case verb == eventlog.BlockStored && kind == eventlog.KindData:
		inSession, err := s.inSession(ctx, m)
		return !inSession, err
	}
	return true, nil
}

// inSession says whether the machine holds a lock that a recovered server
// would know of and still take for live: archived, and younger than
// sessionAge. Then a loss of this server bars the machine, and its client
// cannot finish a backup without what was lost.
func (s *Store) inSession(ctx context.Context, m machine) (bool, error) {
	locks, err := s.opts.Machines.Locks(ctx, m.id)
	if err != nil {
		return false, fmt.Errorf("looking for the machine's locks: %w", err)
	}
	now, archived := s.clock.now(), s.opts.Log.Archived()
	for _, lock := range locks {
		if lock.Stored <= archived && now.Sub(lock.Time) < sessionAge {
			return true, nil
		}
	}
	return false, nil
}

// waitArchived returns nil once everything up to seq is archived.
func (s *Store) waitArchived(ctx context.Context, seq eventlog.Seq) error {
	if s.opts.Ack == AckCommitted || seq == 0 {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, s.opts.AckTimeout)
	defer cancel()
	err := s.opts.Log.WaitArchived(limited, seq)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("waiting until event %s is archived: %w", seq, context.Cause(ctx))
	case errors.Is(err, context.DeadlineExceeded):
		return &Unavailable{
			Reason:     fmt.Sprintf("the archive was not reached within %s: nothing is lost, a retry succeeds once it is reached again", s.opts.AckTimeout),
			RetryAfter: retrySoon, Err: err,
		}
	}
	return &Unavailable{Reason: "the server stopped before this was archived: nothing is lost, a retry tells", RetryAfter: retryLong, Err: err}
}

// steadyClock is the wall clock for judging how old a recorded time is. It
// follows the clock forward and never goes back: a step back would make old
// locks look young to this server, and old to the one that recovers.
type steadyClock struct {
	wall func() time.Time

	mu   sync.Mutex
	last time.Time // owned by mu; the last reading of wall
	high time.Time // owned by mu; the latest time told, without a monotonic part
}

func (c *steadyClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	reading := c.wall()
	if !c.last.IsZero() {
		c.high = c.high.Add(max(0, reading.Sub(c.last))) // monotonic
	}
	if wall := reading.Round(0); wall.After(c.high) {
		c.high = wall
	}
	c.last = reading
	return c.high
}
