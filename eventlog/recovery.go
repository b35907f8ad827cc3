// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Recovery is how views were built from the archive alone: what a
// recovery_completed says of the recovery that the state began with, and a
// drill_completed of the recovery that was practised. Times have nanoseconds,
// in UTC; the zero time is one that is not known.
type Recovery struct {
	Began         time.Time `json:"began,omitzero"`           // of the first run, when it was interrupted
	Ended         time.Time `json:"ended,omitzero"`           // views up and verified
	Upto          Seq       `json:"up_to,omitempty"`          // the last event that the views include
	Objects       uint64    `json:"objects,omitempty"`        // of the archive
	Bytes         uint64    `json:"bytes,omitempty"`          // of all of them
	Events        uint64    `json:"events,omitempty"`         // projected by the run that ended it
	Checkpoint    string    `json:"checkpoint,omitempty"`     // name of the one it began from; "": from the first event
	CheckpointSeq Seq       `json:"checkpoint_seq,omitempty"` // the last event in it
	Compared      uint64    `json:"compared,omitempty"`       // recorded digests, of all views, and equal
	Skipped       uint64    `json:"skipped,omitempty"`        // recorded digests that could not be compared
	Phases        []Phase   `json:"phases,omitempty"`         // in the order of their begin, at most MaxPhases
}

// Phase is one phase of a recovery or drill.
type Phase struct {
	Name   string    `json:"name"`
	Began  time.Time `json:"began,omitzero"`
	Ended  time.Time `json:"ended,omitzero"`   // zero: it was broken off, a later run did it again
	Done   uint64    `json:"done,omitempty"`   // units: objects, rows, blocks, as the name says
	Events uint64    `json:"events,omitempty"` // that went through, where the units are others
	Bytes  uint64    `json:"bytes,omitempty"`  // read from the archive
}

// Drill is what a drill_completed says beside the Recovery that was practised.
type Drill struct {
	Verdict Verdict   `json:"verdict"`
	Reason  string    `json:"reason,omitempty"` // why it failed
	Mode    string    `json:"mode"`             // asked for: "full", "checkpoint"
	Began   time.Time `json:"began,omitzero"`
	Ended   time.Time `json:"ended,omitzero"` // everything compared and read back

	// RTO is the time from nothing to views that are up and verified, measured
	// under the drill's limits: a recovery, which has none, is faster. 0: it
	// did not come that far.
	RTO  time.Duration `json:"rto_ns,omitempty"`
	Rate uint64        `json:"rate,omitempty"` // bytes a second that might be read from the archive; 0: without a limit

	Live      Seq    `json:"live,omitempty"`        // the event as of which the live views' rows were compared; 0: there were none
	Blocks    uint64 `json:"blocks,omitempty"`      // read back and found whole
	BlockSize uint64 `json:"block_bytes,omitempty"` // bytes of them
	Machine   Seq    `json:"machine,omitempty"`     // whose blocks were read back one and all, as far as the cap allows
}

// Verdict is how a drill ended. The names are part of the wire format.
type Verdict string

// The verdicts that are events. A drill that could not be done (no answer from
// the store, too little disk, stopped) found nothing out, and is none.
const (
	DrillPassed Verdict = "passed" // what the archive gives is what it should be
	DrillFailed Verdict = "failed" // something is missing, damaged or different
)

// MaxPhases is the most phases that an event tells of.
const MaxPhases = 256

func appendRecovery(b []byte, r *Recovery) []byte {
	b = appendTime(b, 1, r.Began)
	b = appendTime(b, 2, r.Ended)
	b = appendVarint(b, 3, uint64(r.Upto))
	b = appendVarint(b, 4, r.Objects)
	b = appendVarint(b, 5, r.Bytes)
	b = appendVarint(b, 6, r.Events)
	b = appendText(b, 7, r.Checkpoint)
	b = appendVarint(b, 8, uint64(r.CheckpointSeq))
	b = appendVarint(b, 9, r.Compared)
	b = appendVarint(b, 10, r.Skipped)
	for i := range r.Phases {
		b = protowire.AppendTag(b, 11, protowire.BytesType)
		b = protowire.AppendBytes(b, appendPhase(nil, &r.Phases[i]))
	}
	return b
}

func appendPhase(b []byte, p *Phase) []byte {
	b = appendText(b, 1, p.Name)
	b = appendTime(b, 2, p.Began)
	b = appendTime(b, 3, p.Ended)
	b = appendVarint(b, 4, p.Done)
	b = appendVarint(b, 5, p.Events)
	return appendVarint(b, 6, p.Bytes)
}

func appendDrill(b []byte, d *Drill) []byte {
	b = appendText(b, 1, string(d.Verdict))
	b = appendText(b, 2, d.Reason)
	b = appendText(b, 3, d.Mode)
	b = appendTime(b, 4, d.Began)
	b = appendTime(b, 5, d.Ended)
	b = appendVarint(b, 6, uint64(d.RTO))
	b = appendVarint(b, 7, d.Rate)
	b = appendVarint(b, 8, uint64(d.Live))
	b = appendVarint(b, 9, d.Blocks)
	b = appendVarint(b, 10, d.BlockSize)
	return appendVarint(b, 11, uint64(d.Machine))
}

// appendTime appends nanoseconds since 1970; nothing for the zero time.
func appendTime(b []byte, field protowire.Number, t time.Time) []byte {
	if t.IsZero() || t.UnixNano() == 0 {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.Fixed64Type)
	return protowire.AppendFixed64(b, uint64(t.UnixNano()))
}

// message is a part of an event with fields of its own.
type message interface {
	setVarint(field protowire.Number, v uint64)
	setTime(field protowire.Number, t time.Time)
	setBytes(field protowire.Number, v []byte) error
}

// decodeMessage reads b into m. Fields of later versions are passed over: what
// is kept of an event is its wire form.
func decodeMessage(b []byte, m message) error {
	for len(b) > 0 {
		field, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return wireError(n)
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(field, wire, b)
		if size < 0 {
			return wireError(size)
		}
		switch wire {
		case protowire.VarintType:
			v, _ := protowire.ConsumeVarint(b)
			m.setVarint(field, v)
		case protowire.Fixed64Type:
			v, _ := protowire.ConsumeFixed64(b)
			if v != 0 {
				m.setTime(field, time.Unix(0, int64(v)).UTC())
			}
		case protowire.BytesType:
			v, _ := protowire.ConsumeBytes(b)
			if err := m.setBytes(field, v); err != nil {
				return err
			}
		}
		b = b[size:]
	}
	return nil
}

func (r *Recovery) setVarint(field protowire.Number, v uint64) {
	switch field {
	case 3:
		r.Upto = Seq(v)
	case 4:
		r.Objects = v
	case 5:
		r.Bytes = v
	case 6:
		r.Events = v
	case 8:
		r.CheckpointSeq = Seq(v)
	case 9:
		r.Compared = v
	case 10:
		r.Skipped = v
	}
}

func (r *Recovery) setTime(field protowire.Number, t time.Time) {
	switch field {
	case 1:
		r.Began = t
	case 2:
		r.Ended = t
	}
}

func (r *Recovery) setBytes(field protowire.Number, v []byte) error {
	switch field {
	case 7:
		return setText(&r.Checkpoint, v)
	case 11:
		if len(r.Phases) == MaxPhases {
			return fmt.Errorf("more than %d phases", MaxPhases)
		}
		var p Phase
		if err := decodeMessage(v, &p); err != nil {
			return err
		}
		r.Phases = append(r.Phases, p)
	}
	return nil
}

func (p *Phase) setVarint(field protowire.Number, v uint64) {
	switch field {
	case 4:
		p.Done = v
	case 5:
		p.Events = v
	case 6:
		p.Bytes = v
	}
}

func (p *Phase) setTime(field protowire.Number, t time.Time) {
	switch field {
	case 2:
		p.Began = t
	case 3:
		p.Ended = t
	}
}

func (p *Phase) setBytes(field protowire.Number, v []byte) error {
	if field == 1 {
		return setText(&p.Name, v)
	}
	return nil
}

func (d *Drill) setVarint(field protowire.Number, v uint64) {
	switch field {
	case 6:
		d.RTO = time.Duration(v)
	case 7:
		d.Rate = v
	case 8:
		d.Live = Seq(v)
	case 9:
		d.Blocks = v
	case 10:
		d.BlockSize = v
	case 11:
		d.Machine = Seq(v)
	}
}

func (d *Drill) setTime(field protowire.Number, t time.Time) {
	switch field {
	case 4:
		d.Began = t
	case 5:
		d.Ended = t
	}
}

func (d *Drill) setBytes(field protowire.Number, v []byte) error {
	switch field {
	case 1:
		return setText((*string)(&d.Verdict), v)
	case 2:
		return setText(&d.Reason, v)
	case 3:
		return setText(&d.Mode, v)
	}
	return nil
}
