// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// Roster is the log's Rules: which accounts and machines there are, as of the
// last event admitted. So an event that a recovery would refuse is never
// written, whatever a view or a request says. It belongs to the writer's
// goroutine from Open on.
type Roster struct {
	accounts map[eventlog.Seq]struct{}
	names    map[string]eventlog.Seq    // account name -> id
	machines map[eventlog.Seq]*enrolled //
	taken    map[nameOf]eventlog.Seq    // machine name -> id
	barred   map[eventlog.Seq]struct{}  // machines
}

type enrolled struct {
	name  string
	owner eventlog.Seq
	since eventlog.Seq // the event that made owner the owner
}

type nameOf struct {
	account eventlog.Seq
	machine string
}

var _ eventlog.Rules = (*Roster)(nil)

// RosterSource is what NewRoster reads; *projector.MachineView is one.
type RosterSource interface {
	Accounts(ctx context.Context) iter.Seq2[projector.Account, error]
	Machines(ctx context.Context) iter.Seq2[projector.Machine, error]
	BarredMachines(ctx context.Context) (map[eventlog.Seq]eventlog.Seq, error)
}

var _ RosterSource = (*projector.MachineView)(nil)

// NewRoster reads the machine view, which stands at the log's end.
func NewRoster(ctx context.Context, view RosterSource) (*Roster, error) {
	r := &Roster{
		accounts: map[eventlog.Seq]struct{}{}, names: map[string]eventlog.Seq{},
		machines: map[eventlog.Seq]*enrolled{}, taken: map[nameOf]eventlog.Seq{}, barred: map[eventlog.Seq]struct{}{},
	}
	for account, err := range view.Accounts(ctx) {
		if err != nil {
			return nil, fmt.Errorf("calling the roll: %w", err)
		}
		r.addAccount(account.ID, account.Name)
	}
	for machine, err := range view.Machines(ctx) {
		if err != nil {
			return nil, fmt.Errorf("calling the roll: %w", err)
		}
		r.addMachine(machine.ID, &enrolled{machine.Name, machine.Owner, machine.OwnedSince})
	}
	barred, err := view.BarredMachines(ctx)
	if err != nil {
		return nil, fmt.Errorf("calling the roll: %w", err)
	}
	for id := range barred {
		r.barred[id] = struct{}{}
	}
	return r, nil
}

func (r *Roster) addAccount(id eventlog.Seq, name string) {
	r.accounts[id] = struct{}{}
	r.names[name] = id
}

func (r *Roster) addMachine(id eventlog.Seq, m *enrolled) {
	r.machines[id] = m
	r.taken[nameOf{m.owner, m.name}] = id
}

// Admit refuses ev when it names an account or machine that is not there,
// makes one again, or is of a type that nobody writes. With nil, ev counts.
func (r *Roster) Admit(ev *eventlog.Event) error {
	switch ev.Type {
	case eventlog.LogCreated, eventlog.StateRecorded, eventlog.WaiverGranted,
		eventlog.DrillCompleted, eventlog.RecoveryCompleted:
		return nil
	case eventlog.EpochStarted:
		return r.startEpoch(ev)
	case eventlog.AccountOpened:
		return r.openAccount(ev)
	case eventlog.MachineRegistered:
		return r.register(ev)
	case eventlog.MachineReowned:
		return r.reown(ev)
	case eventlog.BlockStored, eventlog.BlockDeleted:
		return r.block(ev)
	case eventlog.HoldReleased:
		return r.release(ev)
	case eventlog.AccountCredited, eventlog.MachineRetired, eventlog.KeyIssued, eventlog.KeyRevoked,
		eventlog.PolicySet, eventlog.TransactionStarted, eventlog.TransactionCommitted,
		eventlog.TransactionAborted, eventlog.HoldEntered, eventlog.UsageMetered,
		eventlog.HistoryCleaned:
	}
	return errors.New("no part of this version writes events of this type")
}

func (r *Roster) startEpoch(ev *eventlog.Event) error {
	for _, id := range ev.Barred {
		if _, ok := r.machines[id]; !ok {
			return fmt.Errorf("it bars machine %s, which was never registered", id)
		}
	}
	for _, id := range ev.Barred {
		r.barred[id] = struct{}{}
	}
	return nil
}

func (r *Roster) openAccount(ev *eventlog.Event) error {
	if id, ok := r.names[ev.Name]; ok {
		return fmt.Errorf("account %q was opened already, as %s", ev.Name, id)
	}
	r.addAccount(ev.Seq, ev.Name)
	return nil
}

func (r *Roster) register(ev *eventlog.Event) error {
	if _, ok := r.accounts[ev.Account]; !ok {
		return fmt.Errorf("account %s was never opened", ev.Account)
	}
	if id, ok := r.taken[nameOf{ev.Account, ev.Name}]; ok {
		return fmt.Errorf("machine %q of account %s was registered already, as %s", ev.Name, ev.Account, id)
	}
	r.addMachine(ev.Seq, &enrolled{ev.Name, ev.Account, ev.Seq})
	return nil
}

func (r *Roster) reown(ev *eventlog.Event) error {
	m, ok := r.machines[ev.Machine]
	_, known := r.accounts[ev.To]
	switch {
	case !ok:
		return fmt.Errorf("machine %s was never registered", ev.Machine)
	case !known:
		return fmt.Errorf("account %s was never opened", ev.To)
	case m.owner != ev.From || m.since != ev.Previous || m.name != ev.Name:
		return fmt.Errorf("machine %s is %q of account %s since %s, not %q of %s since %s",
			ev.Machine, m.name, m.owner, m.since, ev.Name, ev.From, ev.Previous)
	}
	if id, taken := r.taken[nameOf{ev.To, m.name}]; taken {
		return fmt.Errorf("account %s has a machine %q already, %s", ev.To, m.name, id)
	}
	delete(r.taken, nameOf{m.owner, m.name})
	r.addMachine(ev.Machine, &enrolled{m.name, ev.To, ev.Seq})
	return nil
}

func (r *Roster) block(ev *eventlog.Event) error {
	m, ok := r.machines[ev.Machine]
	if !ok {
		return fmt.Errorf("machine %s was never registered", ev.Machine)
	}
	if m.owner != ev.Account {
		return fmt.Errorf("machine %s belongs to account %s, not %s", ev.Machine, m.owner, ev.Account)
	}
	return nil
}

func (r *Roster) release(ev *eventlog.Event) error {
	if _, ok := r.barred[ev.Machine]; !ok {
		return fmt.Errorf("machine %s is not barred", ev.Machine)
	}
	delete(r.barred, ev.Machine)
	return nil
}
