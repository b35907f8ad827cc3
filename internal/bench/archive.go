// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
)

// Archive describes a synthetic archive with the shapes of a real one: of the
// events about 90 % store a block, 8 % delete one, the rest are locks.
type Archive struct {
	Events   int
	Machines int
}

// payloadSize is the bytes of each synthetic block: a recovery never reads
// them.
const payloadSize = 16

// Fill writes the archive into bucket, through the real log and shipper, with
// dir as the state directory of the server that is then lost.
func (a Archive) Fill(ctx context.Context, dir string, bucket archiver.Bucket, archiveSpec string) (err error) {
	state, err := archiver.CreateStateDir(dir, archiver.State{
		LogID: archiver.NewID(), DirID: archiver.NewID(), Archive: archiveSpec, Phase: archiver.PhaseInitialising,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, state.Close()) }()
	if err := archiver.Initialise(ctx, state, bucket, "bench", time.Now()); err != nil {
		return err
	}
	logID := state.State().LogID
	log, err := eventlog.Open(eventlog.Options{
		Dir: state.Path("wal"), Spool: state.Path("spool"), Head: eventlog.Head{LogID: logID, Writer: archiver.NewID(), Epoch: 1},
		Last: eventlog.MakeSeq(1, 2), NextOrdinal: 2, Archived: eventlog.MakeSeq(1, 2), Limits: eventlog.Limits{DrainTime: -1},
	})
	if err != nil {
		return err
	}
	shipper := &archiver.Shipper{Archive: archiver.At(bucket, logID), Log: log, Epoch: 1, Shipped: 1, Logger: slog.New(slog.DiscardHandler)}
	shipped := make(chan error, 1)
	go func() { shipped <- shipper.Run(ctx) }()
	fillErr := a.append(ctx, log)
	closeErr := log.Close(true)
	return errors.Join(fillErr, closeErr, <-shipped)
}

// append puts the events into log, a batch at a time.
func (a Archive) append(ctx context.Context, log *eventlog.Log) error {
	f := filler{ctx: ctx, log: log}
	account := f.wait(f.add(eventlog.Event{Type: eventlog.AccountOpened, Actor: "bench", Name: "bench"}, nil))
	machines := make([]synthetic, a.Machines)
	for i := range machines {
		machines[i] = synthetic{account: account, id: f.wait(f.add(eventlog.Event{
			Type: eventlog.MachineRegistered, Actor: "bench", Account: account, Name: fmt.Sprintf("m%d", i),
		}, nil))}
	}
	for n := a.Machines + 1; n < a.Events && f.err == nil; n++ {
		f.next(&machines[n%a.Machines], n)
	}
	f.flush()
	return f.err
}

// synthetic is one machine of the archive.
type synthetic struct {
	id, account eventlog.Seq
	stored      []stored // live blocks, the oldest first
}

type stored struct {
	kind     eventlog.Kind
	name     []byte
	checksum uint32
	pending  *eventlog.Pending
}

// filler keeps many appends under way, so that batches form.
type filler struct {
	ctx     context.Context
	log     *eventlog.Log
	pending []*eventlog.Pending
	err     error
}

const fillerPending = 8192

func (f *filler) add(ev eventlog.Event, body *eventlog.Body) *eventlog.Pending {
	p := f.log.Append(ev, body)
	if f.pending = append(f.pending, p); len(f.pending) >= fillerPending {
		f.flush()
	}
	return p
}

func (f *filler) wait(p *eventlog.Pending) eventlog.Seq {
	seq, err := p.Wait()
	f.err = errors.Join(f.err, err)
	return seq
}

func (f *filler) flush() {
	for _, p := range f.pending {
		f.wait(p)
	}
	f.pending = f.pending[:0]
}

// next appends the n-th event, about machine m.
func (f *filler) next(m *synthetic, n int) {
	if n%100 >= 92 && len(m.stored) > 0 {
		old := m.stored[0]
		m.stored = m.stored[1:]
		f.add(eventlog.Event{
			Type: eventlog.BlockDeleted, Actor: "bench", Account: m.account, Machine: m.id, Kind: old.kind, Block: old.name,
			Length: payloadSize, Checksum: old.checksum, Undoes: f.wait(old.pending),
		}, nil)
		return
	}
	name := make([]byte, 32)
	binary.BigEndian.PutUint64(name, uint64(n)*0x9e3779b97f4a7c15) // spread like a hash
	binary.BigEndian.PutUint64(name[8:], uint64(n))
	body, err := f.log.Receive(f.ctx, strings.NewReader(fmt.Sprintf("%0*d", payloadSize, n)), payloadSize, payloadSize)
	if err != nil {
		f.err = errors.Join(f.err, err)
		return
	}
	s := stored{kind: eventlog.KindData, name: name, checksum: body.Checksum}
	if n%100 < 2 {
		s.kind = eventlog.KindLock
	}
	s.pending = f.add(eventlog.Event{
		Type: eventlog.BlockStored, Actor: "bench", Account: m.account, Machine: m.id, Kind: s.kind, Block: name,
		Length: body.Length, Checksum: body.Checksum,
	}, body)
	m.stored = append(m.stored, s)
}
