// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// MachineView is the view of accounts, machines, live locks, totals, bars and
// epochs.
//
// What every request asks is remembered: ids by name, bars, locks.
type MachineView struct {
	*View

	ids   memo[string, eventlog.Seq] // 0: there is none
	bars  memo[eventlog.Seq, eventlog.Seq]
	locks memo[eventlog.Seq, []Lock]
}

var (
	nameTables = []*Table{accountNames, machineNames}
	barTables  = []*Table{bars}
	lockTables = []*Table{locks}
)

// OpenMachineView opens the machine view in dir; see Open.
func OpenMachineView(engine Engine, dir string, use Use, log *slog.Logger) (*MachineView, error) {
	v, err := Open(engine, dir, Machines(), use, log)
	if err != nil {
		return nil, err
	}
	return &MachineView{View: v}, nil
}

// Account is someone who owns machines.
type Account struct {
	ID     eventlog.Seq // of its account_opened
	Name   string
	Opened time.Time
}

// Machine is one machine: what its registration says, for ever, and who owns
// it now.
type Machine struct {
	ID           eventlog.Seq // of its machine_registered
	Name         string
	Registered   time.Time
	RegisteredBy eventlog.Seq // account at registration
	Owner        eventlog.Seq // account now
	OwnedSince   eventlog.Seq // the event that made Owner the owner; what a machine_reowned names as Previous
}

// Totals are a machine's or an account's live blocks of all kinds.
type Totals struct{ Blocks, Bytes uint64 }

// Lock is a live lock of a machine.
type Lock struct {
	Name   []byte
	Stored eventlog.Seq
	Time   time.Time // recorded when it was stored
	Length uint64    // bytes
}

// Epoch is one start of a server.
type Epoch struct {
	Number uint32
	Seq    eventlog.Seq // of its epoch_started
	Time   time.Time
	Cut    eventlog.Seq // the last seq of older epochs that counts
	Lossy  bool
	Writer eventlog.ID
	Host   string
	Cause  string
}

// AccountByName returns the id of an account.
func (v *MachineView) AccountByName(name string) (eventlog.Seq, bool, error) {
	return v.idAt(accountNames, []byte(name))
}

// MachineByName returns the id of an account's machine.
func (v *MachineView) MachineByName(account eventlog.Seq, name string) (eventlog.Seq, bool, error) {
	return v.idAt(machineNames, nameKey(account, name))
}

func (v *MachineView) idAt(table *Table, key []byte) (eventlog.Seq, bool, error) {
	id, err := v.ids.get(string(append([]byte{table.ID}, key...)), &v.changes, nameTables, func() (eventlog.Seq, error) {
		row, found, err := v.get(table, key, 8)
		if err != nil || !found {
			return 0, err
		}
		return eventlog.Seq(binary.BigEndian.Uint64(row.Value)), nil
	})
	return id, id != 0, err
}

// get returns a row whose value has at least size bytes.
func (v *MachineView) get(table *Table, key []byte, size int) (Row, bool, error) {
	row, found, err := v.row(table, key)
	if err == nil && found && len(row.Value) < size {
		err = fmt.Errorf("%w: %d bytes", errRow, len(row.Value))
	}
	if err != nil {
		return Row{}, false, fmt.Errorf("look up row %x of %s in the machine view: %w", key, table.Name, err)
	}
	return row, found, nil
}

// Account returns an account.
func (v *MachineView) Account(id eventlog.Seq) (Account, bool, error) {
	key := seqKey(id)
	row, found, err := v.get(accounts, key[:], 8)
	if err != nil || !found {
		return Account{}, false, err
	}
	return makeAccount(row), true, nil
}

func makeAccount(row Row) Account {
	return Account{ID: row.Seq, Name: string(row.Value[8:]), Opened: timeAt(row.Value)}
}

func timeAt(b []byte) time.Time { return time.Unix(0, int64(binary.BigEndian.Uint64(b))) }

// Machine returns a machine.
func (v *MachineView) Machine(id eventlog.Seq) (Machine, bool, error) {
	key := seqKey(id)
	row, found, err := v.get(machines, key[:], 16)
	if err != nil || !found {
		return Machine{}, false, err
	}
	owner, found, err := v.get(owners, key[:], 8)
	if err != nil || !found {
		return Machine{}, false, errors.Join(err, notFound(found, "owner", id))
	}
	return makeMachine(row, owner), true, nil
}

func notFound(found bool, what string, machine eventlog.Seq) error {
	if found {
		return nil
	}
	return fmt.Errorf("machine view: machine %s has no %s", machine, what)
}

func makeMachine(row, owner Row) Machine {
	return Machine{ID: row.Seq, Name: string(row.Value[16:]), Registered: timeAt(row.Value[8:]),
		RegisteredBy: eventlog.Seq(binary.BigEndian.Uint64(row.Value)),
		Owner:        eventlog.Seq(binary.BigEndian.Uint64(owner.Value)), OwnedSince: owner.Seq}
}

// Accounts yields every account, in the order of their ids, as of one moment.
// An error is yielded once, last.
func (v *MachineView) Accounts(ctx context.Context) iter.Seq2[Account, error] {
	return each(ctx, v.View, accounts, nil, func(row Row) (Account, error) {
		if len(row.Value) < 8 {
			return Account{}, fmt.Errorf("%w: an account of %d bytes", errRow, len(row.Value))
		}
		return makeAccount(row), nil
	})
}

// Machines yields every machine, in the order of their ids. An error is
// yielded once, last.
func (v *MachineView) Machines(ctx context.Context) iter.Seq2[Machine, error] {
	return each(ctx, v.View, machines, nil, func(row Row) (Machine, error) {
		machine, found, err := v.Machine(row.Seq)
		return machine, errors.Join(err, notFound(found || err != nil, "registration", row.Seq))
	})
}

// Epochs yields every epoch, in order. An error is yielded once, last.
func (v *MachineView) Epochs(ctx context.Context) iter.Seq2[Epoch, error] {
	return each(ctx, v.View, epochs, nil, makeEpoch)
}

func makeEpoch(row Row) (Epoch, error) {
	const fixed = 8 + 8 + 1 + 16 + 2
	if len(row.Value) < fixed {
		return Epoch{}, fmt.Errorf("%w: an epoch of %d bytes", errRow, len(row.Value))
	}
	host := fixed + int(binary.BigEndian.Uint16(row.Value[fixed-2:]))
	if len(row.Value) < host {
		return Epoch{}, fmt.Errorf("%w: an epoch of %d bytes", errRow, len(row.Value))
	}
	return Epoch{Number: row.Seq.Epoch(), Seq: row.Seq, Time: timeAt(row.Value),
		Cut: eventlog.Seq(binary.BigEndian.Uint64(row.Value[8:])), Lossy: row.Value[16] == 1,
		Writer: eventlog.ID(row.Value[17:33]), Host: string(row.Value[fixed:host]), Cause: string(row.Value[host:])}, nil
}

// Totals returns what a machine holds; zero when it holds nothing.
func (v *MachineView) Totals(machine eventlog.Seq) (Totals, error) {
	key := seqKey(machine)
	row, found, err := v.get(totals, key[:], 16)
	if err != nil || !found {
		return Totals{}, err
	}
	return makeTotals(row)
}

func makeTotals(row Row) (Totals, error) {
	if len(row.Value) < 16 {
		return Totals{}, fmt.Errorf("%w: totals of %d bytes", errRow, len(row.Value))
	}
	return Totals{binary.BigEndian.Uint64(row.Value), binary.BigEndian.Uint64(row.Value[8:])}, nil
}

// AccountTotals returns what an account's machines hold together, by adding
// up, and as of which event that is. The sum includes each event up to that one
// and none after it.
func (v *MachineView) AccountTotals(ctx context.Context, account eventlog.Seq) (all Totals, asOf eventlog.Seq, err error) {
	key := seqKey(account)
	err = v.inSnapshot(func(snapshot Snapshot) error {
		at, err := v.stateIn(snapshot)
		if err != nil {
			return err
		}
		asOf = at.position
		_, err = rangeOver(ctx, snapshot, machineNames, false, key[:], func(row Row) (bool, error) {
			id, err := makeID(row)
			if err != nil {
				return false, err
			}
			one, err := totalsIn(snapshot, id)
			all.Blocks, all.Bytes = all.Blocks+one.Blocks, all.Bytes+one.Bytes
			return err == nil, err
		})
		return err
	})
	if err != nil {
		return Totals{}, 0, fmt.Errorf("add up account %s: %w", account, err)
	}
	return all, asOf, nil
}

func totalsIn(snapshot Snapshot, machine eventlog.Seq) (Totals, error) {
	key := seqKey(machine)
	raw, found, err := snapshot.Get(nil, append([]byte{totals.ID}, key[:]...))
	if err != nil || !found {
		return Totals{}, err
	}
	row, err := makeRow(totals, false, key[:], raw)
	if err != nil {
		return Totals{}, err
	}
	return makeTotals(row)
}

func makeID(row Row) (eventlog.Seq, error) {
	if len(row.Value) < 8 {
		return 0, fmt.Errorf("%w: an id of %d bytes", errRow, len(row.Value))
	}
	return eventlog.Seq(binary.BigEndian.Uint64(row.Value)), nil
}

// Locks returns a machine's live locks, in the order of their names. The slice
// is for reading only.
func (v *MachineView) Locks(ctx context.Context, machine eventlog.Seq) ([]Lock, error) {
	return v.locks.get(machine, &v.changes, lockTables, func() ([]Lock, error) { return v.readLocks(ctx, machine) })
}

func (v *MachineView) readLocks(ctx context.Context, machine eventlog.Seq) ([]Lock, error) {
	var all []Lock
	key := seqKey(machine)
	for lock, err := range each(ctx, v.View, locks, key[:], makeLock) {
		if err != nil {
			return nil, fmt.Errorf("read the locks of machine %s: %w", machine, err)
		}
		all = append(all, lock)
	}
	return all, nil
}

func makeLock(row Row) (Lock, error) {
	if len(row.Key) < 8 || len(row.Value) < 16 {
		return Lock{}, fmt.Errorf("%w: a lock of %d bytes", errRow, len(row.Value))
	}
	return Lock{Name: bytes.Clone(row.Key[8:]), Stored: row.Seq, Time: timeAt(row.Value), Length: binary.BigEndian.Uint64(row.Value[8:])}, nil
}

// Barred returns the epoch_started that barred a machine, false when the
// machine is not barred.
func (v *MachineView) Barred(machine eventlog.Seq) (eventlog.Seq, bool, error) {
	since, err := v.bars.get(machine, &v.changes, barTables, func() (eventlog.Seq, error) {
		key := seqKey(machine)
		row, _, err := v.get(bars, key[:], 0)
		return row.Seq, err
	})
	return since, since != 0, err
}

// BarredMachines returns every barred machine with the epoch_started that
// barred it.
func (v *MachineView) BarredMachines(ctx context.Context) (map[eventlog.Seq]eventlog.Seq, error) {
	barred := map[eventlog.Seq]eventlog.Seq{}
	for row, err := range each(ctx, v.View, bars, nil, func(row Row) (Row, error) { return row, nil }) {
		if err != nil {
			return nil, fmt.Errorf("read the barred machines: %w", err)
		}
		if len(row.Key) != 8 {
			return nil, fmt.Errorf("read the barred machines: %w: a key of %d bytes", errRow, len(row.Key))
		}
		barred[eventlog.Seq(binary.BigEndian.Uint64(row.Key))] = row.Seq
	}
	return barred, nil
}

// interrupted is how long before the cut a lock may have been stored for its
// holder to count as at work when the server was lost: restic refreshes its
// locks every five minutes and takes them for dead after thirty.
const interrupted = 30 * time.Minute

// InterruptedAt returns the machines, in the order of their ids, whose
// session a loss at cut has interrupted: each held a lock stored less than 30
// minutes before the event cut, by the recorded times. The view must stand at
// cut.
func (v *MachineView) InterruptedAt(ctx context.Context, cut eventlog.Seq) ([]eventlog.Seq, error) {
	at := v.committed()
	if at.position != cut {
		return nil, fmt.Errorf("find the sessions interrupted at event %s: the machine view stands at %s; bring it there first", cut, at.position)
	}
	var all []eventlog.Seq
	for row, err := range each(ctx, v.View, locks, nil, func(row Row) (Row, error) { return row, nil }) {
		if err != nil {
			return nil, fmt.Errorf("find the sessions interrupted at event %s: %w", cut, err)
		}
		lock, err := makeLock(row)
		if err != nil {
			return nil, fmt.Errorf("find the sessions interrupted at event %s: %w", cut, err)
		}
		machine := eventlog.Seq(binary.BigEndian.Uint64(row.Key))
		if time.Unix(0, at.time).Sub(lock.Time) < interrupted && (len(all) == 0 || all[len(all)-1] != machine) {
			all = append(all, machine)
		}
	}
	return all, nil
}

// each yields what decode makes of the live rows of a table whose keys begin
// with prefix, as of one moment. An error is yielded once, last.
func each[T any](ctx context.Context, v *View, table *Table, prefix []byte, decode func(Row) (T, error)) iter.Seq2[T, error] {
	return sequence(func(yield func(T) bool) error {
		err := v.inSnapshot(func(snapshot Snapshot) error {
			_, err := rangeOver(ctx, snapshot, table, false, prefix, func(row Row) (bool, error) {
				one, err := decode(row)
				return err == nil && yield(one), err
			})
			return err
		})
		if err != nil {
			return fmt.Errorf("read %s of the %s view: %w", table.Name, v.Name(), err)
		}
		return nil
	})
}
