// SPDX-License-Identifier: Apache-2.0

package modeltest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// Model is both views in plain maps. It believes every event; it is for valid
// histories.
type Model struct {
	position eventlog.Seq
	accounts map[eventlog.Seq]string
	machines map[eventlog.Seq]*projector.Machine
	totals   map[eventlog.Seq]projector.Totals
	locks    map[eventlog.Seq]map[string]eventlog.Event
	bars     map[eventlog.Seq]eventlog.Seq
	epochs   []eventlog.Seq
	blocks   []block // every store ever, in order
	live     map[blockName]int
}

type blockName struct {
	machine eventlog.Seq
	kind    eventlog.Kind
	name    string
}

type block struct {
	blockName
	stored  eventlog.Event
	place   eventlog.Placement // of its payload, wherever that came from
	deleted eventlog.Seq
}

// NewModel returns a model of empty views.
func NewModel() *Model {
	return &Model{accounts: map[eventlog.Seq]string{}, machines: map[eventlog.Seq]*projector.Machine{},
		totals: map[eventlog.Seq]projector.Totals{}, locks: map[eventlog.Seq]map[string]eventlog.Event{},
		bars: map[eventlog.Seq]eventlog.Seq{}, live: map[blockName]int{}}
}

// Apply applies one event.
func (m *Model) Apply(entry *eventlog.Entry) {
	e := &entry.Event
	m.position = e.Seq
	switch e.Type {
	case eventlog.EpochStarted:
		m.epochs = append(m.epochs, e.Seq)
		for _, id := range e.Barred {
			m.bars[id] = e.Seq
		}
	case eventlog.AccountOpened:
		m.accounts[e.Seq] = e.Name
	case eventlog.MachineRegistered:
		m.machines[e.Seq] = &projector.Machine{ID: e.Seq, Name: e.Name, Registered: time.Unix(0, e.Time),
			RegisteredBy: e.Account, Owner: e.Account, OwnedSince: e.Seq}
		m.locks[e.Seq] = map[string]eventlog.Event{}
	case eventlog.MachineReowned:
		m.machines[e.Machine].Owner, m.machines[e.Machine].OwnedSince = e.To, e.Seq
	case eventlog.HoldReleased:
		delete(m.bars, e.Machine)
	case eventlog.BlockStored:
		m.store(entry)
	case eventlog.BlockDeleted:
		m.remove(e)
	}
}

func (m *Model) store(entry *eventlog.Entry) {
	e := &entry.Event
	b := block{blockName{e.Machine, e.Kind, string(e.Block)}, *e, entry.Placement, 0}
	if e.Reuses != 0 {
		i := slices.IndexFunc(m.blocks, func(old block) bool { return old.stored.Seq == e.Reuses })
		b.place = m.blocks[i].place
	}
	m.live[b.blockName] = len(m.blocks)
	m.blocks = append(m.blocks, b)
	t := m.totals[e.Machine]
	m.totals[e.Machine] = projector.Totals{Blocks: t.Blocks + 1, Bytes: t.Bytes + e.Length}
	if e.Kind == eventlog.KindLock {
		m.locks[e.Machine][string(e.Block)] = *e
	}
}

func (m *Model) remove(e *eventlog.Event) {
	name := blockName{e.Machine, e.Kind, string(e.Block)}
	m.blocks[m.live[name]].deleted = e.Seq
	delete(m.live, name)
	t := m.totals[e.Machine]
	m.totals[e.Machine] = projector.Totals{Blocks: t.Blocks - 1, Bytes: t.Bytes - e.Length}
	if e.Kind == eventlog.KindLock {
		delete(m.locks[e.Machine], string(e.Block))
	}
}

// Check compares both views with the model, by every query they have, and
// the digests they carry with their rows. It returns the first difference.
func (m *Model) Check(ctx context.Context, machines *projector.MachineView, blocks *projector.BlockView) error {
	checks := []func() error{
		func() error { return m.checkPositions(ctx, machines.View, blocks.View) },
		func() error { return m.checkAccounts(ctx, machines) },
		func() error { return m.checkMachines(ctx, machines) },
		func() error { return m.checkEpochs(ctx, machines) },
		func() error { return m.checkBlocks(ctx, blocks, m.position) },
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return fmt.Errorf("as of %s: %w", m.position, err)
		}
	}
	return nil
}

func (m *Model) checkPositions(ctx context.Context, views ...*projector.View) error {
	for _, v := range views {
		seq, digest := v.Digest()
		_, rows, err := v.Recompute(ctx)
		if err != nil {
			return err
		}
		if seq != m.position || digest != rows {
			return fmt.Errorf("%s view at %s with digest %s, its rows make %s", v.Name(), seq, digest, rows)
		}
	}
	return nil
}

func (m *Model) checkAccounts(ctx context.Context, v *projector.MachineView) error {
	n := 0
	for account, err := range v.Accounts(ctx) {
		if err != nil {
			return err
		}
		n++
		id, found, err := v.AccountByName(account.Name)
		if err != nil || !found || id != account.ID || m.accounts[id] != account.Name {
			return fmt.Errorf("account %+v, by its name %s (%t, %w), in the model %q", account, id, found, err, m.accounts[account.ID])
		}
		if err := m.checkAccountTotals(ctx, v, id); err != nil {
			return err
		}
	}
	if n != len(m.accounts) {
		return fmt.Errorf("%d accounts, in the model %d", n, len(m.accounts))
	}
	return nil
}

func (m *Model) checkAccountTotals(ctx context.Context, v *projector.MachineView, account eventlog.Seq) error {
	var want projector.Totals
	for id, machine := range m.machines {
		if machine.Owner == account {
			want.Blocks, want.Bytes = want.Blocks+m.totals[id].Blocks, want.Bytes+m.totals[id].Bytes
		}
	}
	got, asOf, err := v.AccountTotals(ctx, account)
	if err != nil || got != want || asOf != v.Position() {
		return fmt.Errorf("account %s holds %+v as of %s (%w), in the model %+v", account, got, asOf, err, want)
	}
	return nil
}

func (m *Model) checkMachines(ctx context.Context, v *projector.MachineView) error {
	n := 0
	for machine, err := range v.Machines(ctx) {
		if err != nil {
			return err
		}
		n++
		if want := m.machines[machine.ID]; want == nil || machine != *want {
			return fmt.Errorf("machine %+v, in the model %+v", machine, want)
		}
		id, found, err := v.MachineByName(machine.Owner, machine.Name)
		if err != nil || !found || id != machine.ID {
			return fmt.Errorf("machine %s of account %s by its name %q: %s, %t, %w", machine.ID, machine.Owner, machine.Name, id, found, err)
		}
		if err := m.checkMachine(ctx, v, id); err != nil {
			return fmt.Errorf("machine %s: %w", id, err)
		}
	}
	if n != len(m.machines) {
		return fmt.Errorf("%d machines, in the model %d", n, len(m.machines))
	}
	barred, err := v.BarredMachines(ctx)
	if err != nil || !maps.Equal(barred, m.bars) {
		return fmt.Errorf("barred machines %v (%w), in the model %v", barred, err, m.bars)
	}
	return nil
}

func (m *Model) checkMachine(ctx context.Context, v *projector.MachineView, id eventlog.Seq) error {
	totals, err := v.Totals(id)
	if err != nil || totals != m.totals[id] {
		return fmt.Errorf("holds %+v (%w), in the model %+v", totals, err, m.totals[id])
	}
	bar, barred, err := v.Barred(id)
	if want, ok := m.bars[id]; err != nil || barred != ok || bar != want {
		return fmt.Errorf("barred by %s, %t (%w), in the model %s, %t", bar, barred, err, want, ok)
	}
	locks, err := v.Locks(ctx, id)
	if err != nil || len(locks) != len(m.locks[id]) {
		return fmt.Errorf("%d locks (%w), in the model %d", len(locks), err, len(m.locks[id]))
	}
	for _, lock := range locks {
		e, found := m.locks[id][string(lock.Name)]
		if !found || e.Seq != lock.Stored || e.Time != lock.Time.UnixNano() || e.Length != lock.Length {
			return fmt.Errorf("lock %+v, in the model %+v", lock, e)
		}
	}
	return nil
}

func (m *Model) checkEpochs(ctx context.Context, v *projector.MachineView) error {
	var got []eventlog.Seq
	for epoch, err := range v.Epochs(ctx) {
		if err != nil {
			return err
		}
		if epoch.Host != "host.example" || epoch.Cause != "start" || epoch.Number != epoch.Seq.Epoch() {
			return fmt.Errorf("epoch %+v", epoch)
		}
		got = append(got, epoch.Seq)
	}
	if !slices.Equal(got, m.epochs) {
		return fmt.Errorf("epochs %v, in the model %v", got, m.epochs)
	}
	return nil
}

// CheckAsOf compares what the block view says of the past.
func (m *Model) CheckAsOf(ctx context.Context, v *projector.BlockView, asOf eventlog.Seq) error {
	if err := m.checkBlocks(ctx, v, asOf); err != nil {
		return fmt.Errorf("view at %s, as of %s: %w", m.position, asOf, err)
	}
	return nil
}

func (m *Model) checkBlocks(ctx context.Context, v *projector.BlockView, asOf eventlog.Seq) error {
	type place struct {
		machine eventlog.Seq
		kind    eventlog.Kind
	}
	want := map[place][]block{}
	for id := range m.machines {
		for kind := eventlog.KindData; kind <= eventlog.KindConfig; kind++ {
			want[place{id, kind}] = nil
		}
	}
	for _, b := range m.blocks {
		if b.stored.Seq <= asOf && (b.deleted == 0 || asOf < b.deleted) {
			want[place{b.machine, b.kind}] = append(want[place{b.machine, b.kind}], b)
		}
	}
	for at, blocks := range want {
		slices.SortFunc(blocks, func(a, b block) int { return bytes.Compare([]byte(a.name), []byte(b.name)) })
		if err := checkList(ctx, v, at.machine, at.kind, asOf, blocks); err != nil {
			return fmt.Errorf("machine %s, %s blocks: %w", at.machine, at.kind, err)
		}
		if asOf != m.position {
			continue
		}
		if err := checkList(ctx, v, at.machine, at.kind, 0, blocks); err != nil {
			return fmt.Errorf("machine %s, %s blocks now: %w", at.machine, at.kind, err)
		}
	}
	return nil
}

func checkList(ctx context.Context, v *projector.BlockView, machine eventlog.Seq, kind eventlog.Kind, asOf eventlog.Seq, want []block) error {
	i := 0
	for row, err := range v.List(ctx, machine, kind, asOf) {
		if err != nil {
			return err
		}
		if i >= len(want) {
			return fmt.Errorf("block %x is not in the model", row.Name)
		}
		if err := checkBlock(v, row, &want[i], asOf); err != nil {
			return fmt.Errorf("block %x: %w", row.Name, err)
		}
		i++
	}
	if i != len(want) {
		return fmt.Errorf("%d blocks, in the model %d", i, len(want))
	}
	return nil
}

func checkBlock(v *projector.BlockView, row projector.BlockRow, want *block, asOf eventlog.Seq) error {
	e := &want.stored
	if string(row.Name) != want.name || row.Stored != e.Seq || row.Length != e.Length || row.Checksum != e.Checksum || row.Reuses != e.Reuses {
		return fmt.Errorf("%+v, in the model %+v", row, *want)
	}
	place, err := v.Placement(row)
	if err != nil || place.Ordinal != want.place.Ordinal || place.Offset != want.place.Offset || !bytes.Equal(place.Sums, want.place.Sums) {
		return fmt.Errorf("placed at %+v (%w), in the model at %+v", place, err, want.place)
	}
	at, found, err := v.Latest(row.Machine, row.Kind, row.Name)
	if asOf != 0 {
		at, found, err = v.AsOf(row.Machine, row.Kind, row.Name, asOf)
	}
	if err != nil || !found || at.Stored != row.Stored {
		return fmt.Errorf("by its name: stored by %s, %t, %w", at.Stored, found, err)
	}
	return nil
}
