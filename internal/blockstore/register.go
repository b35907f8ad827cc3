// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"fmt"
	"strings"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// Register opens the account, if its name is new, and registers the machine,
// if its name is new there. It returns nil when both survive the loss of this
// server. Repeating it is no error.
func (s *Store) Register(ctx context.Context, actor string, p Path) error {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	if err := s.register(ctx, actor, p); err != nil {
		return fmt.Errorf("registering %s: %w", p, err)
	}
	return nil
}

func (s *Store) register(ctx context.Context, actor string, p Path) error {
	if err := p.Check(); err != nil {
		return err
	}
	if _, err := s.mayWrite(0); err != nil {
		return err
	}
	seq, err := s.registerLocked(ctx, actor, p)
	if err != nil {
		return err
	}
	return s.waitArchived(ctx, seq)
}

// registerLocked does it under the account's name and returns the seq of the
// event since when the machine has its name.
func (s *Store) registerLocked(ctx context.Context, actor string, p Path) (eventlog.Seq, error) {
	h, err := s.take(ctx, accountLock(p.Account))
	if err != nil {
		return 0, err
	}
	defer h.release()
	account, err := s.openAccount(ctx, h, actor, p.Account)
	if err != nil {
		return 0, err
	}
	id, found, err := s.opts.Machines.MachineByName(account, p.Machine)
	if err != nil {
		return 0, fmt.Errorf("finding the machine: %w", err)
	}
	if !found {
		if err := s.admitSmall(); err != nil {
			return 0, err
		}
		return s.write(ctx, h, eventlog.Event{Type: eventlog.MachineRegistered, Account: account, Actor: actor, Name: p.Machine}, nil)
	}
	known, err := s.registration(id)
	return known.OwnedSince, err
}

// registration returns what is known of a machine that has a name.
func (s *Store) registration(id eventlog.Seq) (projector.Machine, error) {
	known, found, err := s.opts.Machines.Machine(id)
	if err != nil {
		return projector.Machine{}, fmt.Errorf("finding the registration of machine %s: %w", id, err)
	}
	if !found {
		return projector.Machine{}, fmt.Errorf("machine %s has a name but no registration: rebuild the machine view", id)
	}
	return known, nil
}

// openAccount returns the account's id and opens it if need be.
func (s *Store) openAccount(ctx context.Context, h *held, actor, name string) (eventlog.Seq, error) {
	account, found, err := s.opts.Machines.AccountByName(name)
	if err != nil {
		return 0, fmt.Errorf("finding the account: %w", err)
	}
	if found {
		return account, nil
	}
	if err := s.admitSmall(); err != nil {
		return 0, err
	}
	return s.write(ctx, h, eventlog.Event{Type: eventlog.AccountOpened, Actor: actor, Name: name}, nil)
}

// Reown gives a machine, with all that it stores, to another account, which
// must not have one of the same name (ErrExists). It returns nil when that
// survives the loss of this server; that the machine is there already is no
// error.
func (s *Store) Reown(ctx context.Context, actor string, from Path, to string) error {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	if err := s.reown(ctx, actor, from, to); err != nil {
		return fmt.Errorf("giving machine %s to account %s: %w", from, to, err)
	}
	return nil
}

func (s *Store) reown(ctx context.Context, actor string, from Path, to string) error {
	if _, err := s.mayWrite(0); err != nil {
		return err
	}
	m, err := s.find(from)
	if err != nil {
		return err
	}
	if err := s.admitSmall(); err != nil {
		return err
	}
	seq, err := s.reownLocked(ctx, actor, from, to, m)
	if err != nil {
		return err
	}
	return s.waitArchived(ctx, seq)
}

func (s *Store) reownLocked(ctx context.Context, actor string, from Path, to string, m machine) (eventlog.Seq, error) {
	names := []lock{accountLock(from.Account), accountLock(to)}
	switch c := strings.Compare(from.Account, to); {
	case c == 0:
		names = names[:1]
	case c > 0:
		names[0], names[1] = names[1], names[0]
	}
	h, err := s.take(ctx, append(names, machineLock(m.id, true))...)
	if err != nil {
		return 0, err
	}
	defer h.release()
	if err := s.refind(from, m); err != nil {
		return 0, err
	}
	known, err := s.registration(m.id)
	if err != nil {
		return 0, err
	}
	target, err := s.freeName(to, from.Machine, m)
	if err != nil || target == m.account {
		return known.OwnedSince, err
	}
	return s.write(ctx, h, eventlog.Event{
		Type: eventlog.MachineReowned, Account: target, Machine: m.id, Actor: actor, Name: from.Machine,
		From: m.account, To: target, Previous: known.OwnedSince,
	}, nil)
}

// freeName returns the account to, which has no other machine of that name.
func (s *Store) freeName(to, name string, m machine) (eventlog.Seq, error) {
	account, found, err := s.opts.Machines.AccountByName(to)
	if err != nil {
		return 0, fmt.Errorf("finding account %s: %w", to, err)
	}
	if !found {
		return 0, s.sure(fmt.Errorf("account %s: %w", to, ErrNoMachine))
	}
	id, taken, err := s.opts.Machines.MachineByName(account, name)
	if err != nil {
		return 0, fmt.Errorf("finding machine %s of account %s: %w", name, to, err)
	}
	if taken && id != m.id {
		return 0, fmt.Errorf("account %s has a machine %q: %w", to, name, ErrExists)
	}
	return account, nil
}
