// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/strandline-project/strandline/eventlog"
)

// synthesis makes the events of a synthetic archive, one after the other, with
// as much memory as the machines need and not the blocks.
type synthesis struct {
	plan     *plan
	rng      *rand.Rand
	source   *rand.PCG
	last     eventlog.Seq
	time     int64
	made     int
	done     bool
	accounts []eventlog.Seq
	machines []synthetic
	recorded eventlog.Seq // the last state_recorded
	payload  []byte       // of the last event, valid until the next
}

// synthetic is one machine.
type synthetic struct {
	id      eventlog.Seq
	account int // index
	name    string
	owner   eventlog.Seq // the event that made it so
	blocks  []stored     // some live ones
	locks   []stored
}

type stored struct {
	seq      eventlog.Seq
	name     [32]byte
	checksum uint32
}

const (
	syntheticStart    = 1_767_225_600_000_000_000 // 2026-01-01 in nanoseconds
	syntheticAccounts = 4
	remembered        = 256    // live blocks of a machine that may be deleted
	recordEvery       = 65_536 // events
)

func newSynthesis(p *plan) *synthesis {
	source := rand.NewPCG(p.Seed, 0x5eed)
	s := &synthesis{plan: p, rng: rand.New(source), source: source, last: eventlog.MakeSeq(1, 2), time: syntheticStart, payload: make([]byte, p.Payload)}
	return s
}

// next returns the next event; false when there is none any more.
func (s *synthesis) next() (eventlog.Entry, bool) {
	switch {
	case s.done:
		return eventlog.Entry{}, false
	case len(s.accounts) < syntheticAccounts:
		e := s.emit(eventlog.Event{Type: eventlog.AccountOpened, Name: accountName(len(s.accounts))}, nil)
		s.accounts = append(s.accounts, e.Event.Seq)
		return e, true
	case len(s.machines) < s.plan.Machines:
		return s.register(), true
	case s.made >= s.plan.Events:
		s.done = true
		return s.record(), true
	case uint64(s.last)-uint64(s.recorded) >= recordEvery && s.recorded != 0, s.recorded == 0:
		return s.record(), true
	}
	return s.work(&s.machines[s.rng.IntN(len(s.machines))]), true
}

func accountName(i int) string { return fmt.Sprintf("account-%d", i) }

// paths are those of the machines now.
func (s *synthesis) paths() []string {
	paths := make([]string, len(s.machines))
	for i, m := range s.machines {
		paths[i] = accountName(m.account) + "/" + m.name
	}
	return paths
}

func (s *synthesis) emit(ev eventlog.Event, payload []byte) eventlog.Entry {
	s.made++
	s.last = s.last.Next()
	s.time += int64(s.rng.IntN(2_000_000))
	ev.Seq, ev.Time, ev.Actor = s.last, s.time, "bench"
	switch ev.Type {
	case eventlog.AccountOpened:
		ev.Account = ev.Seq
	case eventlog.MachineRegistered:
		ev.Machine = ev.Seq
	}
	entry := eventlog.Entry{Event: ev, Raw: eventlog.AppendEvent(nil, &ev)}
	if len(payload) > 0 {
		entry.Placement = eventlog.Placement{Ordinal: 1, Length: uint64(len(payload))}
		for rest := payload; len(rest) > 0; {
			n := min(len(rest), eventlog.ChunkSize)
			entry.Placement.Sums = binary.LittleEndian.AppendUint32(entry.Placement.Sums, eventlog.Checksum(rest[:n]))
			rest = rest[n:]
		}
	}
	return entry
}

func (s *synthesis) register() eventlog.Entry {
	m := synthetic{account: len(s.machines) % len(s.accounts), name: fmt.Sprintf("machine-%d", len(s.machines))}
	e := s.emit(eventlog.Event{Type: eventlog.MachineRegistered, Account: s.accounts[m.account], Name: m.name}, nil)
	m.id, m.owner = e.Event.Seq, e.Event.Seq
	s.machines = append(s.machines, m)
	return e
}

// record is a state_recorded as of the one before, the first one without any
// digest, the last one as of right before itself.
func (s *synthesis) record() eventlog.Entry {
	ev := eventlog.Event{Type: eventlog.StateRecorded}
	next := s.last.Next()
	switch {
	case s.done:
		for _, state := range s.plan.digests[next] {
			state.AsOf = s.last // the record itself changes no row
			ev.Views = append(ev.Views, state)
		}
	case s.recorded != 0:
		ev.Views = s.plan.digests[s.recorded]
	}
	e := s.emit(ev, nil)
	s.recorded = e.Event.Seq
	return e
}

// work is an event about m's blocks: 90 % stores, 8 % deletes, 2 % the rest.
func (s *synthesis) work(m *synthetic) eventlog.Entry {
	switch roll := s.rng.IntN(10_000); {
	case roll < 800 && len(m.blocks) > 0:
		return s.remove(m, &m.blocks, eventlog.KindData)
	case roll < 990 && len(m.locks) > 0:
		return s.remove(m, &m.locks, eventlog.KindLock)
	case roll >= 800 && roll < 990:
		return s.store(m, &m.locks, eventlog.KindLock)
	case roll == 990:
		return s.reown(m)
	}
	return s.store(m, &m.blocks, eventlog.KindData)
}

func (s *synthesis) store(m *synthetic, to *[]stored, kind eventlog.Kind) eventlog.Entry {
	var b stored
	for i := 0; i < len(b.name); i += 8 {
		binary.LittleEndian.PutUint64(b.name[i:], s.source.Uint64())
	}
	copy(s.payload, b.name[:])
	b.name, b.checksum = sha256.Sum256(s.payload), eventlog.Checksum(s.payload)
	e := s.emit(eventlog.Event{Type: eventlog.BlockStored, Account: s.accounts[m.account], Machine: m.id, Kind: kind,
		Block: b.name[:], Length: uint64(len(s.payload)), Checksum: b.checksum}, s.payload)
	b.seq = e.Event.Seq
	if len(*to) < remembered {
		*to = append(*to, b)
	} else {
		(*to)[s.rng.IntN(remembered)] = b
	}
	return e
}

func (s *synthesis) remove(m *synthetic, from *[]stored, kind eventlog.Kind) eventlog.Entry {
	at := s.rng.IntN(len(*from))
	b := (*from)[at]
	(*from)[at] = (*from)[len(*from)-1]
	*from = (*from)[:len(*from)-1]
	return s.emit(eventlog.Event{Type: eventlog.BlockDeleted, Account: s.accounts[m.account], Machine: m.id, Kind: kind,
		Block: b.name[:], Length: uint64(len(s.payload)), Checksum: b.checksum, Undoes: b.seq}, nil)
}

func (s *synthesis) reown(m *synthetic) eventlog.Entry {
	from := m.account
	m.account = (from + 1) % len(s.accounts)
	e := s.emit(eventlog.Event{Type: eventlog.MachineReowned, Account: s.accounts[m.account], Machine: m.id, Name: m.name,
		From: s.accounts[from], To: s.accounts[m.account], Previous: m.owner}, nil)
	m.owner = e.Event.Seq
	return e
}
