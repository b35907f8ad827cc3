// SPDX-License-Identifier: Apache-2.0

package modeltest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// History writes a valid history into a Log, event by event: by the verbs, or
// at random by Step. It knows what a server would know, so that every event
// carries all it must. The same seed makes the same history.
type History struct {
	Log *Log

	rng      *rand.Rand
	seq      eventlog.Seq
	time     time.Time
	offset   uint64
	accounts []eventlog.Seq
	machines []*machine
	states   func() []eventlog.ViewState
}

type machine struct {
	id, owner, since eventlog.Seq
	name             string
	live             []Stored
	deleted          []Stored
	barred           bool
}

// Stored is a block of the history.
type Stored struct {
	Machine eventlog.Seq
	Event   eventlog.Event // the block_stored
	Brought eventlog.Seq   // the event that brought its payload
}

// NewHistory returns a history in its first epoch, with the two events that
// every log begins with. When states is not nil, Step records digests now and
// then; states returns what a state_recorded written now would say.
func NewHistory(seed uint64, states func() []eventlog.ViewState) *History {
	h := &History{Log: &Log{}, rng: rand.New(rand.NewPCG(seed, 1)), offset: 8, states: states,
		time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	h.Start(false)
	h.emit(eventlog.Event{Type: eventlog.LogCreated, LogID: eventlog.ID{1: 7}, Format: 1, Actor: "server"})
	return h
}

// Pass lets time go by between two events.
func (h *History) Pass(d time.Duration) { h.time = h.time.Add(d) }

func (h *History) emit(e eventlog.Event) eventlog.Event {
	entry := h.Next(e)
	h.Log.Append(entry)
	return entry.Event
}

// Next numbers and dates an event, whatever it says, and returns its entry
// without appending it. Tests use it to write what no server would.
func (h *History) Next(e eventlog.Event) eventlog.Entry {
	h.time = h.time.Add(time.Millisecond)
	h.seq++
	e.Seq, e.Time = h.seq, h.time.UnixNano()
	entry := eventlog.Entry{Event: e, Raw: eventlog.AppendEvent(nil, &e)}
	if e.Type == eventlog.BlockStored && e.Reuses == 0 && e.Length < 1<<30 {
		sums := sumsFor(&e)
		entry.Placement = eventlog.Placement{Ordinal: uint64(e.Seq.Epoch()), Offset: h.offset, Length: e.Length, Sums: sums}
		h.offset += e.Length
	}
	return entry
}

// sumsFor returns checksums of the chunks of e's payload, which was never there,
// that make the one of all: e's, and what that leaves for the last chunk.
func sumsFor(e *eventlog.Event) []byte {
	sums := make([]byte, 4*eventlog.Chunks(e.Length))
	for i := range eventlog.Chunks(e.Length) - min(1, eventlog.Chunks(e.Length)) {
		binary.LittleEndian.PutUint32(sums[4*i:], e.Checksum+uint32(i))
	}
	if len(sums) > 0 {
		last := sums[len(sums)-4:]
		binary.LittleEndian.PutUint32(last, eventlog.JoinedChecksum(sums, e.Length)^e.Checksum)
	}
	return sums
}

// Start begins the next epoch. A lossy one bars each machine that holds a
// lock, and some epochs are skipped.
func (h *History) Start(lossy bool) eventlog.Event {
	e := eventlog.Event{Type: eventlog.EpochStarted, Writer: eventlog.ID{0: 9}, Host: "host.example", Cause: "start",
		Previous: h.Log.Last(), Lossy: lossy, Actor: "server"}
	if lossy {
		for _, m := range h.machines {
			if slices.ContainsFunc(m.live, func(s Stored) bool { return s.Event.Kind == eventlog.KindLock }) {
				e.Barred, m.barred = append(e.Barred, m.id), true
			}
		}
	}
	skip := uint32(1)
	if h.seq != 0 {
		skip += uint32(h.rng.IntN(2))
	}
	h.seq = eventlog.MakeSeq(h.seq.Epoch()+skip, 0)
	return h.emit(e)
}

// Open opens an account.
func (h *History) Open(name string) eventlog.Seq {
	e := h.emit(eventlog.Event{Type: eventlog.AccountOpened, Name: name, Actor: "operator"})
	h.accounts = append(h.accounts, e.Seq)
	return e.Seq
}

// Register registers a machine.
func (h *History) Register(account eventlog.Seq, name string) eventlog.Seq {
	e := h.emit(eventlog.Event{Type: eventlog.MachineRegistered, Account: account, Name: name, Actor: "user:x"})
	h.machines = append(h.machines, &machine{id: e.Seq, owner: account, since: e.Seq, name: name})
	return e.Seq
}

// Reown moves a machine to another account, with all it has.
func (h *History) Reown(id, to eventlog.Seq) eventlog.Event {
	m := h.machine(id)
	e := h.emit(eventlog.Event{Type: eventlog.MachineReowned, Account: to, Machine: id, Name: m.name,
		From: m.owner, To: to, Previous: m.since, Actor: "operator"})
	m.owner, m.since = to, e.Seq
	return e
}

func (h *History) machine(id eventlog.Seq) *machine {
	i := slices.IndexFunc(h.machines, func(m *machine) bool { return m.id == id })
	if i < 0 {
		panic(fmt.Sprintf("modeltest: machine %s was never registered", id))
	}
	return h.machines[i]
}

// Store stores a block that is not live. One that was stored and deleted
// before may have its payload again (reuse).
func (h *History) Store(id eventlog.Seq, kind eventlog.Kind, name []byte, length uint64, reuse bool) eventlog.Event {
	m := h.machine(id)
	e := eventlog.Event{Type: eventlog.BlockStored, Account: m.owner, Machine: id, Kind: kind, Block: name,
		Length: length, Checksum: eventlog.Checksum(name) + uint32(length), Actor: "user:x"}
	brought := eventlog.Seq(0)
	for i := 0; reuse && i < len(m.deleted); i++ {
		old := &m.deleted[i]
		if old.Event.Kind == kind && string(old.Event.Block) == string(name) {
			e.Length, e.Checksum, e.Reuses, brought = old.Event.Length, old.Event.Checksum, old.Event.Seq, old.Brought
		}
	}
	e = h.emit(e)
	if brought == 0 {
		brought = e.Seq
	}
	m.live = append(m.live, Stored{id, e, brought})
	return e
}

// Delete deletes a live block.
func (h *History) Delete(id eventlog.Seq, kind eventlog.Kind, name []byte) eventlog.Event {
	m := h.machine(id)
	i := slices.IndexFunc(m.live, func(s Stored) bool { return s.Event.Kind == kind && string(s.Event.Block) == string(name) })
	if i < 0 {
		panic(fmt.Sprintf("modeltest: %s block %x of machine %s is not live", kind, name, id))
	}
	s := m.live[i]
	m.live, m.deleted = slices.Delete(m.live, i, i+1), append(m.deleted, s)
	return h.emit(eventlog.Event{Type: eventlog.BlockDeleted, Account: m.owner, Machine: id, Kind: kind, Block: name,
		Length: s.Event.Length, Checksum: s.Event.Checksum, Undoes: s.Event.Seq, Actor: "user:x"})
}

// Release lifts a machine's bar.
func (h *History) Release(id eventlog.Seq) eventlog.Event {
	m := h.machine(id)
	m.barred = false
	return h.emit(eventlog.Event{Type: eventlog.HoldReleased, Account: m.owner, Machine: id, Cause: "operator", Actor: "operator"})
}

// Record records digests.
func (h *History) Record(states ...eventlog.ViewState) eventlog.Event {
	return h.emit(eventlog.Event{Type: eventlog.StateRecorded, Views: states, Actor: "server"})
}

// Waive writes that events before this one may break a rule. It changes no
// view.
func (h *History) Waive(rule string, first, last eventlog.Seq) eventlog.Event {
	return h.emit(eventlog.Event{Type: eventlog.WaiverGranted, Name: rule, From: first, To: last, Cause: "recover --waive", Actor: "operator"})
}

// Stored returns every block ever stored, live or not.
func (h *History) Stored() []Stored {
	var all []Stored
	for _, m := range h.machines {
		all = append(append(all, m.live...), m.deleted...)
	}
	return all
}

// Step writes one random event that is valid here.
func (h *History) Step() {
	h.Pass(time.Duration(h.rng.IntN(600)) * time.Second)
	switch p := h.rng.IntN(100); {
	case len(h.accounts) < 2 || p < 1:
		h.Open(fmt.Sprintf("account%d", len(h.accounts)))
	case len(h.machines) < 2 || p < 4:
		h.Register(h.anyAccount(), fmt.Sprintf("machine%d", len(h.machines)))
	case p < 8:
		h.Reown(h.anyMachine().id, h.anyAccount())
	case p < 10:
		h.Start(p == 9)
	case p < 13 && h.states != nil:
		h.Record(h.states()...)
	case p < 16:
		h.releaseOne()
	case p < 40:
		h.deleteOne()
	default:
		h.storeOne()
	}
}

func (h *History) anyAccount() eventlog.Seq { return h.accounts[h.rng.IntN(len(h.accounts))] }
func (h *History) anyMachine() *machine     { return h.machines[h.rng.IntN(len(h.machines))] }

func (h *History) releaseOne() {
	for _, m := range h.machines {
		if m.barred {
			h.Release(m.id)
			return
		}
	}
	if h.rng.IntN(4) == 0 {
		h.remark()
		return
	}
	h.storeOne()
}

// remark writes an event that changes no view.
func (h *History) remark() {
	last := h.Log.Last()
	switch last % 3 {
	case 0:
		h.Waive("well-formed", eventlog.FirstSeq, last)
	case 1:
		h.emit(eventlog.Event{Type: eventlog.RecoveryCompleted, Actor: "operator", Recovery: &eventlog.Recovery{Upto: last}})
	default:
		h.emit(eventlog.Event{Type: eventlog.DrillCompleted, Actor: "server", Recovery: &eventlog.Recovery{Upto: last}, Drill: &eventlog.Drill{Verdict: eventlog.DrillPassed}})
	}
}

func (h *History) deleteOne() {
	m := h.anyMachine()
	if len(m.live) == 0 {
		h.storeOne()
		return
	}
	s := m.live[h.rng.IntN(len(m.live))]
	h.Delete(m.id, s.Event.Kind, s.Event.Block)
}

// storeOne stores a new block, or one that was deleted, in one of three ways:
// with the old payload, with the same bytes anew, or with other bytes.
func (h *History) storeOne() {
	m := h.anyMachine()
	if len(m.deleted) > 0 && h.rng.IntN(3) == 0 {
		old := m.deleted[h.rng.IntN(len(m.deleted))].Event
		if !slices.ContainsFunc(m.live, func(s Stored) bool {
			return s.Event.Kind == old.Kind && string(s.Event.Block) == string(old.Block)
		}) {
			h.Store(m.id, old.Kind, old.Block, old.Length+uint64(h.rng.IntN(2)), h.rng.IntN(2) == 0)
			return
		}
	}
	kind := eventlog.Kind(1 + h.rng.IntN(5))
	h.Store(m.id, kind, h.Name(), uint64(h.rng.IntN(200<<10)), false)
}

// Name returns a new name for a block.
func (h *History) Name() []byte {
	name := make([]byte, 32)
	for i := 0; i < len(name); i += 8 {
		binary.LittleEndian.PutUint64(name[i:], h.rng.Uint64())
	}
	return name
}
