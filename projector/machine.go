// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/strandline-project/strandline/eventlog"
)

// The tables of the machine view. An id is the seq of the event that made
// its bearer: of account_opened, of machine_registered.
//
//	accounts       account          -> time(8) name
//	account-names  name             -> account(8)
//	machines       machine          -> account(8) time(8) name: as registered; written once
//	owners         machine          -> account(8); the row's seq is the event that made it so
//	machine-names  account(8) name  -> machine(8)
//	locks          machine(8) block -> time(8) length(8)
//	totals         machine          -> blocks(8) bytes(8), of all kinds
//	bars           machine          -> nothing; the row's seq is the epoch_started that barred it
//	epochs         epoch(4)         -> time(8) cut(8) lossy(1) writer(16) length(2) host cause
var (
	accounts     = &Table{ID: 1, Name: "accounts"}
	accountNames = &Table{ID: 2, Name: "account-names"}
	machines     = &Table{ID: 3, Name: "machines", Machine: true}
	owners       = &Table{ID: 4, Name: "owners", Machine: true}
	machineNames = &Table{ID: 5, Name: "machine-names"}
	locks        = &Table{ID: 6, Name: "locks", Machine: true}
	totals       = &Table{ID: 7, Name: "totals", Machine: true, Counters: true}
	bars         = &Table{ID: 8, Name: "bars", Machine: true}
	epochs       = &Table{ID: 9, Name: "epochs"}
)

var machineTables = []*Table{accounts, accountNames, machines, owners, machineNames, locks, totals, bars, epochs}

// Machines returns the projector of the machine view.
func Machines() Projector { return machineProjector{} }

type machineProjector struct{}

func (machineProjector) Name() string     { return "machine" }
func (machineProjector) Version() uint32  { return 1 }
func (machineProjector) Tables() []*Table { return machineTables }

var errUnknownType = errors.New("the view has no rule for events of this type")

func (machineProjector) Project(entry *eventlog.Entry, c *Changes) error {
	e := &entry.Event
	switch e.Type {
	case eventlog.LogCreated, eventlog.StateRecorded, eventlog.WaiverGranted,
		eventlog.DrillCompleted, eventlog.RecoveryCompleted:
		return nil
	case eventlog.EpochStarted:
		epochStarted(e, c)
		return nil
	case eventlog.AccountOpened:
		return accountOpened(e, c)
	case eventlog.MachineRegistered:
		return machineRegistered(e, c)
	case eventlog.MachineReowned:
		return machineReowned(e, c)
	case eventlog.BlockStored:
		return countStored(e, c)
	case eventlog.BlockDeleted:
		return countDeleted(e, c)
	case eventlog.HoldReleased:
		return holdReleased(e, c)
	case eventlog.AccountCredited, eventlog.MachineRetired, eventlog.KeyIssued, eventlog.KeyRevoked,
		eventlog.PolicySet, eventlog.TransactionStarted, eventlog.TransactionCommitted,
		eventlog.TransactionAborted, eventlog.HoldEntered, eventlog.UsageMetered,
		eventlog.HistoryCleaned:
		return fmt.Errorf("%w: %s", errUnknownType, e.Type)
	}
	return fmt.Errorf("%w: %s", errUnknownType, e.Type)
}

func epochStarted(e *eventlog.Event, c *Changes) {
	var buf [256]byte
	value := binary.BigEndian.AppendUint64(buf[:0], uint64(e.Time))
	value = binary.BigEndian.AppendUint64(value, uint64(e.Previous))
	value = append(value, bit(e.Lossy))
	value = append(value, e.Writer[:]...)
	value = binary.BigEndian.AppendUint16(value, uint16(len(e.Host)))
	value = append(append(value, e.Host...), e.Cause...)
	c.Insert(RuleEpochOnce, epochs, binary.BigEndian.AppendUint32(nil, e.Seq.Epoch()), value, nil)
	for _, machine := range e.Barred {
		key := seqKey(machine)
		c.Require(RuleMachine, machines, key[:])
		c.Put(bars, key[:], nil)
	}
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func accountOpened(e *eventlog.Event, c *Changes) error {
	if err := ownSeq("account", e.Account, e.Seq); err != nil {
		return err
	}
	if e.Name == "" {
		return errors.New("an account without a name")
	}
	var buf [128]byte
	key := seqKey(e.Seq)
	c.Insert(RuleAccountOnce, accounts, key[:], append(binary.BigEndian.AppendUint64(buf[:0], uint64(e.Time)), e.Name...), nil)
	c.Insert(RuleAccountOnce, accountNames, []byte(e.Name), key[:], nil)
	return nil
}

// ownSeq checks that an event which makes a new bearer of an id names none or
// itself. Tarsnap's 2014 bug was an event that registered a machine again,
// under the id it had, after the data it owned.
func ownSeq(what string, id, seq eventlog.Seq) error {
	if id != 0 && id != seq {
		return fmt.Errorf("%s %s exists or does not by the event %s alone; event %s cannot make it again, and what changes is told by other events", what, id, id, seq)
	}
	return nil
}

func machineRegistered(e *eventlog.Event, c *Changes) error {
	if err := ownSeq("machine", e.Machine, e.Seq); err != nil {
		return err
	}
	var buf [128]byte
	key, account := seqKey(e.Seq), seqKey(e.Account)
	value := append(buf[:0], account[:]...)
	value = append(binary.BigEndian.AppendUint64(value, uint64(e.Time)), e.Name...)
	c.Require(RuleAccount, accounts, account[:])
	c.Insert(RuleMachineOnce, machines, key[:], value, nil)
	c.Insert(RuleMachineOnce, owners, key[:], account[:], nil)
	c.Insert(RuleMachineName, machineNames, nameKey(e.Account, e.Name), key[:], nil)
	return nil
}

func machineReowned(e *eventlog.Event, c *Changes) error {
	if e.Machine == 0 {
		return errors.New("it names no machine")
	}
	key, to := seqKey(e.Machine), seqKey(e.To)
	c.Require(RuleMachine, machines, key[:])
	c.Require(RuleAccount, accounts, to[:])
	c.Replace(RuleOwner, owners, key[:], e.Previous, to[:])
	c.Remove(RuleOwner, machineNames, nameKey(e.From, e.Name), e.Previous, key[:])
	c.Insert(RuleMachineName, machineNames, nameKey(e.To, e.Name), key[:], nil)
	return nil
}

func nameKey(account eventlog.Seq, name string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(account)), name...)
}

func countStored(e *eventlog.Event, c *Changes) error {
	if err := checkBlock(e); err != nil {
		return err
	}
	key, account := seqKey(e.Machine), seqKey(e.Account)
	c.Require(RuleMachine, machines, key[:])
	c.Require(RuleAccount, accounts, account[:])
	c.Add(totals, key[:], 1, int64(e.Length))
	if e.Kind == eventlog.KindLock {
		var buf [16]byte
		value := binary.BigEndian.AppendUint64(buf[:0], uint64(e.Time))
		value = binary.BigEndian.AppendUint64(value, e.Length)
		c.Insert(RuleStoreLive, locks, append(key[:], e.Block...), value, nil)
	}
	return nil
}

func countDeleted(e *eventlog.Event, c *Changes) error {
	if err := checkBlock(e); err != nil {
		return err
	}
	key, account := seqKey(e.Machine), seqKey(e.Account)
	c.Require(RuleMachine, machines, key[:])
	c.Require(RuleAccount, accounts, account[:])
	c.Add(totals, key[:], -1, -int64(e.Length))
	if e.Kind == eventlog.KindLock {
		c.Remove(RuleDeleteStored, locks, append(key[:], e.Block...), e.Undoes, nil)
	}
	return nil
}

// checkBlock checks what both views rely on in a block's event.
func checkBlock(e *eventlog.Event) error {
	switch {
	case !e.Kind.Valid():
		return fmt.Errorf("a block of kind %d", e.Kind)
	case len(e.Block) > eventlog.MaxBlockName:
		return fmt.Errorf("a block's name of %d bytes", len(e.Block))
	case (len(e.Block) == 0) != (e.Kind == eventlog.KindConfig):
		return fmt.Errorf("a %s block with a name of %d bytes; the config has none, all others have one", e.Kind, len(e.Block))
	case e.Length > math.MaxInt64:
		return fmt.Errorf("a block of %d bytes", e.Length)
	case e.Type == eventlog.BlockDeleted && (e.Undoes == 0 || e.Undoes >= e.Seq):
		return fmt.Errorf("it undoes event %s, which is not an earlier one", e.Undoes)
	case e.Type == eventlog.BlockStored && e.Reuses >= e.Seq:
		return fmt.Errorf("it reuses the payload of event %s, which is not an earlier one", e.Reuses)
	}
	return nil
}

func holdReleased(e *eventlog.Event, c *Changes) error {
	if e.Machine == 0 {
		return errors.New("it names no machine; a hold of the whole server is not known to this version")
	}
	key := seqKey(e.Machine)
	c.Require(RuleMachine, machines, key[:])
	c.Remove(RuleBar, bars, key[:], AnySeq, nil)
	return nil
}
