// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
)

// Mode is what a server does now.
type Mode string

// The modes.
const (
	ModeStarting   Mode = "starting"   // between its lock and its first answer
	ModeServing    Mode = "serving"    // reads and writes
	ModeHold       Mode = "hold"       // reads; writes get 503 until it is released
	ModeReadOnly   Mode = "read-only"  // reads and locks, by policy
	ModeRecovering Mode = "recovering" // builds its state from the archive
	ModeStandby    Mode = "standby"    // follows the archive, reads only
	ModeFenced     Mode = "fenced"     // another server owns the log
	ModePoisoned   Mode = "poisoned"   // a write or sync failed; reads only until it is started again
	ModeStopping   Mode = "stopping"   // ships what is left
)

// Status is all that the server says about itself: the answer of
// GET /api/status, and what `strandline status` prints. A seq that is not
// known is absent, never 0.
type Status struct {
	Version string    `json:"version"` // of the program
	Time    time.Time `json:"time"`    // when this was true, by the server's clock
	Started time.Time `json:"started"` // of the process
	// Uptime is how long the process has run, whatever was done to the clock.
	Uptime float64 `json:"uptime_seconds"`
	Mode   Mode    `json:"mode"`
	Ready  bool    `json:"ready"`            // clients are answered
	Reason string  `json:"reason,omitempty"` // for any mode but serving: why, and until when

	LogID    eventlog.ID `json:"log_id,omitzero"`
	Epoch    uint32      `json:"epoch,omitempty"`     // own; 0: none claimed
	Writer   eventlog.ID `json:"writer,omitzero"`     // own, of that epoch's claim
	Owner    string      `json:"owner,omitempty"`     // when fenced: who owns the log now
	Archive  string      `json:"archive,omitempty"`   // where, without credentials
	StateDir string      `json:"state_dir,omitempty"` //
	Listen   string      `json:"listen,omitempty"`    // of the client door
	Policy   string      `json:"policy,omitempty"`    // what clients may do, and what answers wait for
	Lossy    bool        `json:"lossy,omitempty"`     // this start may have lost something acknowledged
	// LossyReason says why.
	LossyReason string `json:"lossy_reason,omitempty"`

	Committed  *Mark   `json:"committed,omitempty"`   // fsynced on this machine
	Archived   *Mark   `json:"archived,omitempty"`    // in the bucket, and the bucket still ours
	ArchiveLag Lag     `json:"archive_lag"`           // between the two
	Views      []View  `json:"views,omitempty"`       // applied
	Backlog    Backlog `json:"backlog"`               // what the archive lacks
	LastUpload *Upload `json:"last_upload,omitempty"` // nil: none tried yet
	// Checkpoint is the newest one of the views in the archive; nil: none is
	// known.
	Checkpoint *Checkpoint `json:"checkpoint,omitempty"`

	Feed     Feed               `json:"feed"`
	Progress *progress.Snapshot `json:"progress,omitempty"` // of a start or recovery that runs
	Drill    *Drill             `json:"drill,omitempty"`    // nil: none was done, and none is scheduled
	Barred   []Barred           `json:"barred,omitempty"`
	Warnings []string           `json:"warnings,omitempty"`
	Stopped  string             `json:"stopped,omitempty"` // the error that poisoned the log or fenced the server
	Notes    []string           `json:"notes,omitempty"`   // what an operator should know and cannot change, NotePrune say
	Next     []string           `json:"next,omitempty"`    // what is safe to do now, in order
}

// NotePrune is true until history is cleaned.
const NotePrune = "a prune frees nothing in the bucket yet: deleted blocks stay in the archive"

// Mark is a watermark: an event, and when it happened.
type Mark struct {
	Seq  eventlog.Seq `json:"seq"`
	At   string       `json:"at"`            // seq as people write it
	Time time.Time    `json:"time,omitzero"` // of the event
}

// MarkAt returns the watermark at seq, whose event has that time in
// nanoseconds since 1970; nil for seq 0, which is no event's.
func MarkAt(seq eventlog.Seq, ns int64) *Mark {
	if seq == 0 {
		return nil
	}
	mark := &Mark{Seq: seq, At: seq.String()}
	if ns != 0 {
		mark.Time = time.Unix(0, ns).UTC()
	}
	return mark
}

// Lag is the difference of two watermarks.
type Lag struct {
	Events  uint64  `json:"events"`
	Seconds float64 `json:"seconds"` // age of the oldest of those events; 0 for none
}

// View is one view's applied watermark.
type View struct {
	Name    string `json:"name"`
	Version uint32 `json:"version"`
	Applied *Mark  `json:"applied,omitempty"`
	Digest  string `json:"digest,omitempty"`  // of its rows as of applied, hexadecimal
	Lag     Lag    `json:"lag"`               // behind committed
	Stopped string `json:"stopped,omitempty"` // the violation or error that stopped it
}

// Backlog is what lies on this disk and is not archived.
type Backlog struct {
	Bytes       uint64 `json:"bytes"`
	Limit       uint64 `json:"limit,omitempty"` // bytes; writes wait beyond it
	Generations int    `json:"generations"`
}

// Upload is the last thing the server did to the archive.
type Upload struct {
	Ordinal uint64    `json:"ordinal,omitempty"` // of the object
	Time    time.Time `json:"time"`
	Error   string    `json:"error,omitempty"` // "": it is archived
}

// Checkpoint is a copy of the views in the archive, and what became of the last
// try to take one.
type Checkpoint struct {
	Seq      eventlog.Seq `json:"seq,omitempty"`   // 0: there is none
	At       string       `json:"at,omitempty"`    // seq as people write it
	Time     time.Time    `json:"time,omitzero"`   // when it was taken
	Bytes    uint64       `json:"bytes,omitempty"` // of its files
	Uploaded uint64       `json:"uploaded_bytes"`  // for all checkpoints, since the start
	Error    string       `json:"error,omitempty"` // why the last try failed
}

// Feed is the state of NATS.
type Feed struct {
	Server    string `json:"server"` // "embedded", or its URL without credentials
	Addr      string `json:"addr,omitempty"`
	Connected bool   `json:"connected"`
	Published uint64 `json:"published"` // events, since the start
	Dropped   uint64 `json:"dropped"`
	Refused   uint64 `json:"refused"` // messages to the views that could not be read
}

// Barred is a machine whose writes are refused because its session was cut off
// by a loss.
type Barred struct {
	Machine string       `json:"machine"` // as account/machine
	ID      eventlog.Seq `json:"id"`
	Since   eventlog.Seq `json:"since"` // the epoch_started that barred it
	Reason  string       `json:"reason"`
	Until   time.Time    `json:"until,omitzero"` // when the server deletes the old locks by itself: then the next lock ends the bar
}
