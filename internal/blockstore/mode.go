// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"fmt"

	"github.com/strandline-project/strandline/eventlog"
)

// Mode says what the server does at all.
type Mode uint8

// The modes. The zero Mode is Starting.
const (
	Starting Mode = iota // nothing: it is not known yet what is there
	Reading              // reads; writes are refused for now, locks too
	Serving              // everything
	Holding              // reads; locks are kept in memory, other writes are refused for now
	ReadOnly             // reads; locks are kept in memory, other writes are refused for good
	Fenced               // nothing: another server owns the log
)

var modeNames = [...]string{"starting", "reading", "serving", "hold", "read-only", "fenced"}

// String returns the name of m, as status prints it.
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("mode_%d", uint8(m))
}

type modeState struct {
	mode   Mode
	reason string
}

// SetMode changes the mode. reason tells clients why something is refused.
// From the first Serving on, the time of the bars runs.
func (s *Store) SetMode(mode Mode, reason string) {
	s.mode.Store(&modeState{mode, reason})
	if mode == Serving {
		s.beginBars()
	}
}

// Mode returns the present mode and its reason.
func (s *Store) Mode() (Mode, string) {
	state := s.mode.Load()
	return state.mode, state.reason
}

// mayRead refuses reads while it is not known what is there.
func (s *Store) mayRead() error {
	state := s.mode.Load()
	if state.mode == Starting || state.mode == Fenced {
		return state.refusal()
	}
	return nil
}

// mayWrite says where a write of that kind goes: into the log, or, for locks
// in some modes, into memory only.
func (s *Store) mayWrite(kind eventlog.Kind) (inMemory bool, err error) {
	state := s.mode.Load()
	switch state.mode {
	case Serving:
		return false, s.haltedBy()
	case Holding, ReadOnly:
		if kind == eventlog.KindLock {
			return true, nil
		}
		if state.mode == ReadOnly {
			return false, fmt.Errorf("%s: %w", state.reason, ErrReadOnly)
		}
	}
	return false, state.refusal()
}

func (m *modeState) refusal() error {
	return &Unavailable{Reason: m.reason, RetryAfter: retryLong}
}

// sure returns err, which says that something is absent, unless a view has
// stopped: then it may be there.
func (s *Store) sure(err error) error {
	for _, view := range s.opts.Views {
		if cause := view.Err(); cause != nil {
			return &Unavailable{
				Reason:     "a view has stopped, so what it does not show may still exist; the server's operator must look at it",
				RetryAfter: retryLong, Err: cause,
			}
		}
	}
	return err
}

// machine is who a path names, as long as its lock is held.
type machine struct {
	id, account eventlog.Seq
}

// find returns the machine that p names now.
func (s *Store) find(p Path) (machine, error) {
	if err := p.Check(); err != nil {
		return machine{}, err
	}
	return s.lookUp(p)
}

// lookUp is find of names that were checked.
func (s *Store) lookUp(p Path) (machine, error) {
	account, ok, err := s.opts.Machines.AccountByName(p.Account)
	if err != nil {
		return machine{}, fmt.Errorf("finding account %s: %w", p.Account, err)
	}
	if !ok {
		return machine{}, s.sure(fmt.Errorf("%s: %w", p, ErrNoMachine))
	}
	id, ok, err := s.opts.Machines.MachineByName(account, p.Machine)
	if err != nil {
		return machine{}, fmt.Errorf("finding machine %s: %w", p, err)
	}
	if !ok {
		return machine{}, s.sure(fmt.Errorf("%s: %w", p, ErrNoMachine))
	}
	return machine{id, account}, nil
}

// refind says whether p still names m, now that m's lock is held.
func (s *Store) refind(p Path, m machine) error {
	now, err := s.lookUp(p)
	if err != nil {
		return err
	}
	if now != m {
		return fmt.Errorf("%s: it changed hands meanwhile: %w", p, ErrNoMachine)
	}
	return nil
}
