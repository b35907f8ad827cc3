// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"io"
	"iter"
	"log/slog"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// Options of New. Log, Machines, Blocks, Views and Archive must be set.
type Options struct {
	Log      Log
	Machines Machines
	Blocks   Blocks
	Views    []Progress           // every view that a write waits for
	Archive  Archive              //
	Gone     func(err error) bool // whether an error of Archive says for certain that the object is not there

	AppendOnly bool          // only locks may be deleted
	MaxSize    uint64        // quota of an account in bytes; 0: none
	MaxBody    int64         // largest body in bytes; 0: 1 GiB
	Ack        Ack           //
	AckTimeout time.Duration // for the archive; 0: 50 s, which is under the usual proxy's 60
	CacheBytes uint64        // for pages read from the archive, those on their way included; 0: 64 MiB
	Logger     *slog.Logger
	Clock      clockwork.Clock // nil: the machine's
}

func (o *Options) setDefaults() {
	if o.MaxBody == 0 {
		o.MaxBody = 1 << 30
	}
	if o.AckTimeout == 0 {
		o.AckTimeout = 50 * time.Second
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Gone == nil {
		o.Gone = func(error) bool { return false }
	}
}

// Log is what the application needs of the event log; *eventlog.Log is one.
type Log interface {
	// Receive reads a whole body and hashes it; see eventlog.Log.Receive.
	Receive(ctx context.Context, r io.Reader, size, limit int64) (*eventlog.Body, error)
	// ReceiveUrgent is Receive for a lock.
	ReceiveUrgent(r io.Reader, size, limit int64) (*eventlog.Body, error)
	// Append promises that ev is in the log, durable on this machine, or says
	// why it is not. The log owns body from here on.
	Append(ev eventlog.Event, body *eventlog.Body) *eventlog.Pending
	// AdmitUrgent says whether there is room for a small event.
	AdmitUrgent(size int64) error
	// Committed returns the last committed seq and its time.
	Committed() (eventlog.Seq, int64)
	// Archived returns the archived watermark.
	Archived() eventlog.Seq
	// WaitArchived returns nil once everything up to seq survives the loss of
	// this machine.
	WaitArchived(ctx context.Context, seq eventlog.Seq) error
	// OpenPayload returns the payloads of a generation that is on this
	// machine, false when it is not. What is read must be verified.
	OpenPayload(ordinal uint64) (r io.ReaderAt, release func(), ok bool, err error)
	// Err returns why the log takes no more events.
	Err() error
}

var _ Log = (*eventlog.Log)(nil)

// Machines is what the application asks of the machine view;
// *projector.MachineView is one.
type Machines interface {
	AccountByName(name string) (eventlog.Seq, bool, error)
	MachineByName(account eventlog.Seq, name string) (eventlog.Seq, bool, error)
	Account(id eventlog.Seq) (projector.Account, bool, error)
	Machine(id eventlog.Seq) (projector.Machine, bool, error)
	// AccountTotals adds up an account's machines, and says as of which event.
	AccountTotals(ctx context.Context, account eventlog.Seq) (projector.Totals, eventlog.Seq, error)
	Locks(ctx context.Context, machine eventlog.Seq) ([]projector.Lock, error)
	Barred(machine eventlog.Seq) (eventlog.Seq, bool, error)
	BarredMachines(ctx context.Context) (map[eventlog.Seq]eventlog.Seq, error)
	Epochs(ctx context.Context) iter.Seq2[projector.Epoch, error]
}

// Blocks is what the application asks of the block view; *projector.BlockView
// is one.
type Blocks interface {
	Live(machine eventlog.Seq, kind eventlog.Kind, name []byte) (projector.BlockRow, bool, error)
	Latest(machine eventlog.Seq, kind eventlog.Kind, name []byte) (projector.BlockRow, bool, error)
	Placement(row projector.BlockRow) (eventlog.Placement, error)
	List(ctx context.Context, machine eventlog.Seq, kind eventlog.Kind, asOf eventlog.Seq) iter.Seq2[projector.BlockRow, error]
}

// Progress tells how far a view is; *projector.Runner is one.
type Progress interface {
	// WaitApplied returns nil once the view includes the event seq, and an
	// error at once when the view has stopped.
	WaitApplied(ctx context.Context, seq eventlog.Seq) error
	// Stopped is closed when the view has stopped; Err then says why.
	Stopped() <-chan struct{}
	Err() error
}

var (
	_ Machines = (*projector.MachineView)(nil)
	_ Blocks   = (*projector.BlockView)(nil)
	_ Progress = (*projector.Runner)(nil)
)

// Archive reads payloads that are not on this machine any more;
// *archiver.Archive is one.
type Archive interface {
	// OpenRange returns length bytes of a shipped object from offset on, or
	// fewer when the object ends before. The caller verifies and closes.
	OpenRange(ctx context.Context, ordinal, offset, length uint64) (io.ReadCloser, error)
}

// Ack says how durable a write is when it is answered.
type Ack uint8

// The ways to answer. The zero Ack is AckCommitPoints.
const (
	AckCommitPoints Ack = iota // what makes a backup count is archived, the rest committed
	AckArchived                // everything is archived
	AckCommitted               // nothing waits for the archive
)
