// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Rules checks an event in commit order, in the writer, before it has a
// place in the log: known account, known machine, open transaction. An event
// that recovery would refuse is never written.
type Rules interface {
	// Admit returns an error to refuse ev; with nil, ev (whose Seq and ids are
	// set) is in the log as far as later calls are concerned.
	Admit(ev *Event) error
}

// Observer hears of what the log does, for metrics. Its methods must not
// block.
type Observer interface {
	Synced(payload, frames time.Duration) // of one batch; payload is 0 when it had none
	BatchCommitted(events int, bytes int64)
}

// Options of Open. Dir, Head, Last and NextOrdinal come out of the start
// procedure; see archiver.
type Options struct {
	Dir         string        // the state directory's wal folder
	Spool       string        // folder for bodies that memory has no room for; emptied by Open
	Head        Head          // of the generations to come; Ordinal is ignored
	Last        Seq           // the last event that counts
	LastTime    int64         // its time
	NextOrdinal uint64        // of the next generation
	Local       []*Generation // closed generations at hand, ascending; the log owns them from here on
	Archived    Seq           // watermark known now; events up to it are in History
	History     History       // what Local does not hold
	Rules       Rules
	Limits      Limits
	Observer    Observer     // may be nil
	Logger      *slog.Logger // nil: slog.Default()
	// Wall is what the wall clock shows at a moment: the time of an event that
	// is taken then. nil: that moment's.
	Wall func(time.Time) time.Time

	// Cut-off points of a generation; zero means the default.
	MaxPayload uint64        // 64 MiB
	MaxEvents  int           // 65,536, which is also the most
	MaxAge     time.Duration // 5 s

	files      files // createFiles, or a test's
	lockThread bool  // keep writer and committer on OS threads of their own, for tests that count its system calls
}

const maxEvents = 1 << 16

func (o *Options) setDefaults() {
	if o.MaxPayload == 0 {
		o.MaxPayload = 64 << 20
	}
	if o.MaxEvents == 0 || o.MaxEvents > maxEvents {
		o.MaxEvents = maxEvents
	}
	if o.MaxAge == 0 {
		o.MaxAge = 5 * time.Second
	}
	if o.files == nil {
		o.files = createFiles
	}
	if o.Wall == nil {
		o.Wall = func(now time.Time) time.Time { return now }
	}
	if o.Observer == nil {
		o.Observer = silent{}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// check refuses what would write a log that no start could read.
func (o *Options) check() error {
	switch {
	case o.Head.Epoch == 0 || o.Head.LogID == ID{} || o.Head.Writer == ID{}:
		return fmt.Errorf("opening the log: no epoch, log or writer in %+v", o.Head)
	case o.Last.Epoch() > o.Head.Epoch:
		return fmt.Errorf("opening the log: epoch %d lies before the last event, %s", o.Head.Epoch, o.Last)
	case o.NextOrdinal == 0:
		return errors.New("opening the log: ordinals begin at 1")
	}
	for _, g := range o.Local {
		if g.Trailer == nil {
			return fmt.Errorf("opening the log: %s was not closed; see WAL.CloseTail", g)
		}
	}
	return nil
}

type silent struct{}

func (silent) Synced(time.Duration, time.Duration) {}
func (silent) BatchCommitted(int, int64)           {}
