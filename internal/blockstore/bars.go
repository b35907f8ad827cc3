// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// A machine whose session was cut off by a lossy start is barred: its client
// would not send again what the lost server had acknowledged, so a backup
// that it finished now could lack data. The bar stands in the machine view and
// only an event (hold_released) lifts it: when a new lock shows a new session,
// or when the operator says so. A new lock counts once the old ones are gone:
// the client has deleted them, or the server has, after barTime of serving. So
// a session that slept for longer than that finds its lock gone, and what it
// sends is refused until somebody begins anew.

// barTime is how long a bar lasts from the beginning of serving, by the
// monotonic clock: a client takes a lock for dead after 30 minutes.
const barTime = 30 * time.Minute

// barRetry is the pause after old locks could not be deleted.
const barRetry = time.Minute

// Bar is one machine whose writes are refused.
type Bar struct {
	Machine eventlog.Seq
	Path    Path
	Lost    time.Time // when the server started that found its predecessor's last seconds lost
	Until   time.Time // by the server's clock; zero before serving began, and when Waiting
	Waiting bool      // its old locks are gone: the next lock ends the bar
}

// Bars returns the machines that are barred now, in no order.
func (s *Store) Bars(ctx context.Context) ([]Bar, error) {
	barred, err := s.opts.Machines.BarredMachines(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking for barred machines: %w", err)
	}
	var bars []Bar
	for id, since := range barred {
		bar, err := s.describeBar(ctx, id, since)
		if err != nil {
			return nil, err
		}
		bars = append(bars, bar)
	}
	return bars, nil
}

func (s *Store) describeBar(ctx context.Context, id, since eventlog.Seq) (Bar, error) {
	known, err := s.registration(id)
	if err != nil {
		return Bar{}, err
	}
	owner, found, err := s.opts.Machines.Account(known.Owner)
	if err == nil && !found {
		err = errors.New("the machine view does not have it: rebuild the view")
	}
	if err != nil {
		return Bar{}, fmt.Errorf("finding account %s: %w", known.Owner, err)
	}
	old, err := s.oldLocks(ctx, id, since)
	if err != nil {
		return Bar{}, err
	}
	bar := Bar{Machine: id, Path: Path{owner.Name, known.Name}, Waiting: len(old) == 0}
	if !bar.Waiting {
		bar.Until = s.barsEnd()
	}
	bar.Lost, err = s.startedAt(ctx, since)
	return bar, err
}

// startedAt returns the time of an epoch_started.
func (s *Store) startedAt(ctx context.Context, seq eventlog.Seq) (time.Time, error) {
	for epoch, err := range s.opts.Machines.Epochs(ctx) {
		if err != nil {
			return time.Time{}, fmt.Errorf("looking for the start %s: %w", seq, err)
		}
		if epoch.Seq == seq {
			return epoch.Time, nil
		}
	}
	return time.Time{}, fmt.Errorf("the machine view does not have the start %s: rebuild the view", seq)
}

// barsEnd returns when the bars end, zero while that is not known.
func (s *Store) barsEnd() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.served.IsZero() {
		return time.Time{}
	}
	return s.opts.Clock.Now().Add(barTime - s.opts.Clock.Since(s.served))
}

// checkBar refuses a write of a barred machine, but for the first lock of a
// new session: then it says that the machine is barred, and the caller lifts
// the bar before it stores that lock.
func (s *Store) checkBar(ctx context.Context, m machine, p Path, kind eventlog.Kind) (barred bool, err error) {
	since, barred, err := s.opts.Machines.Barred(m.id)
	if err != nil {
		return false, fmt.Errorf("looking whether the machine is barred: %w", err)
	}
	if !barred {
		return false, nil
	}
	old, err := s.oldLocks(ctx, m.id, since)
	if err != nil {
		return true, err
	}
	waiting := len(old) == 0
	if waiting && kind == eventlog.KindLock {
		return true, nil
	}
	lost, err := s.startedAt(ctx, since)
	if err != nil {
		return true, err
	}
	return true, &Barred{Machine: p.String(), Reason: barText(p, lost, s.barsEnd(), waiting)}
}

func barText(p Path, lost, until time.Time, waiting bool) string {
	why := fmt.Sprintf("writes of %s are refused for now: this server's predecessor lost its last seconds before %s, "+
		"and a session that held a lock then was cut off; what it sent last may be missing. Reading works (restic: --no-lock). ",
		p, lost.UTC().Format(time.RFC3339))
	operator := fmt.Sprintf("the server's operator runs `strandline release %s`", p)
	if waiting {
		return why + "The locks of then are gone. To go on: end what still runs, and begin a new backup, whose lock ends this (`restic unlock`, then `restic backup`); " +
			"or, for a client that holds no locks (rustic), " + operator + "."
	}
	end := "wait until 30 minutes after the server begins to serve"
	if !until.IsZero() {
		end = "wait until " + until.UTC().Format(time.RFC3339)
	}
	return why + "To go on: `restic unlock --remove-all`, then begin a new backup; or " + end + ", then begin a new one; or " + operator + "."
}

// oldLocks returns the live locks that were stored before the bar.
func (s *Store) oldLocks(ctx context.Context, id, bar eventlog.Seq) ([]Ref, error) {
	locks, err := s.opts.Machines.Locks(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("looking for the machine's locks: %w", err)
	}
	var old []Ref
	for _, lock := range locks {
		if lock.Stored < bar && len(lock.Name) == len(Ref{}.Name) {
			old = append(old, Ref{Kind: eventlog.KindLock, Name: [32]byte(lock.Name)})
		}
	}
	return old, nil
}

// liftForLock lifts the bar because a new session begins: h holds the machine
// alone, and no old lock may be left.
func (s *Store) liftForLock(ctx context.Context, h *held, w *put) error {
	barred, err := s.checkBar(ctx, w.machine, w.path, w.ref.Kind)
	if err != nil || !barred {
		return err
	}
	_, err = s.write(ctx, h, eventlog.Event{
		Type: eventlog.HoldReleased, Account: w.machine.account, Machine: w.machine.id, Actor: w.actor,
		Cause: "a new session began after the old locks were deleted",
	}, nil)
	return err
}

// Release lifts the bar of the machine p and deletes its old locks, so that a
// session which slept through the bar finds its lock gone. It returns when
// that is archived; false when the machine was not barred.
func (s *Store) Release(ctx context.Context, actor string, p Path) (bool, error) {
	leave, err := s.enter()
	if err != nil {
		return false, err
	}
	defer leave()
	seq, err := s.release(ctx, actor, p)
	if err == nil {
		err = s.waitArchived(ctx, seq)
	}
	if err != nil {
		return false, fmt.Errorf("releasing %s: %w", p, err)
	}
	return seq != 0, nil
}

func (s *Store) release(ctx context.Context, actor string, p Path) (eventlog.Seq, error) {
	if _, err := s.mayWrite(0); err != nil {
		return 0, err
	}
	m, err := s.find(p)
	if err != nil {
		return 0, err
	}
	return s.lift(ctx, m.id, actor, "the operator released it")
}

// lift deletes the locks stored before the bar and lifts it, by events: the
// operator has said that nothing of the session runs any more. It returns the
// seq of the last one, 0 when there was no bar.
func (s *Store) lift(ctx context.Context, id eventlog.Seq, actor, cause string) (eventlog.Seq, error) {
	h, err := s.take(ctx, machineLock(id, true))
	if err != nil {
		return 0, err
	}
	defer h.release()
	m, barred, err := s.removeOldLocks(ctx, h, id, actor)
	if err != nil || !barred {
		return 0, err
	}
	return s.write(ctx, h, eventlog.Event{Type: eventlog.HoldReleased, Account: m.account, Machine: id, Actor: actor, Cause: cause}, nil)
}

// removeOldLocks deletes the locks stored before the bar of a machine that h
// holds alone, if it is barred.
func (s *Store) removeOldLocks(ctx context.Context, h *held, id eventlog.Seq, actor string) (m machine, barred bool, err error) {
	since, barred, err := s.opts.Machines.Barred(id)
	if err != nil || !barred {
		return machine{}, false, err
	}
	known, err := s.registration(id)
	if err != nil {
		return machine{}, true, err
	}
	old, err := s.oldLocks(ctx, id, since)
	if err != nil {
		return machine{}, true, err
	}
	m = machine{id, known.Owner}
	for _, ref := range old {
		// A crash between these leaves the machine barred, with fewer locks.
		if _, err := s.removeLocked(ctx, h, actor, m, ref); err != nil {
			return m, true, err
		}
	}
	return m, true, nil
}

// beginBars starts the time of the bars, once.
func (s *Store) beginBars() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || !s.served.IsZero() {
		return
	}
	s.served = s.opts.Clock.Now()
	s.keepers.Go(func() { s.keepBars(s.background) })
}

// keepBars deletes the old locks of all barred machines when the time of the
// bars is over. From then on the next lock ends a machine's bar.
func (s *Store) keepBars(ctx context.Context) {
	timer := s.opts.Clock.NewTimer(barTime)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.halted:
			return
		case <-timer.Chan():
		}
		err := s.endSessions(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		s.log.Warn("the time of the bars is over but a cut-off session's locks could not be deleted; trying again", "pause", barRetry, "err", err)
		timer.Reset(barRetry)
	}
}

// endSessions deletes the old locks of all barred machines.
func (s *Store) endSessions(ctx context.Context) error {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	if err := s.admitSmall(); err != nil {
		return err
	}
	barred, err := s.opts.Machines.BarredMachines(ctx)
	if err != nil {
		return fmt.Errorf("looking for barred machines: %w", err)
	}
	var errs []error
	for id := range barred {
		if err := s.endSession(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("deleting the old locks of barred machine %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Store) endSession(ctx context.Context, id eventlog.Seq) error {
	h, err := s.take(ctx, machineLock(id, true))
	if err != nil {
		return err
	}
	defer h.release()
	_, _, err = s.removeOldLocks(ctx, h, id, "server")
	return err
}
