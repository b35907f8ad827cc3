// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// eventJSON is the JSON form of an Event: seqs as integers (exact in any
// reader below 2^53, that is for the first two million epochs) and the
// event's own once more as people write it; types and kinds by name; names of
// blocks, checksums and digests in hexadecimal; fields that a type does not
// use left out. It is for people and scripts: the wire form is what is kept.
type eventJSON struct {
	Seq         Seq       `json:"seq"`
	At          string    `json:"at"` // seq as 7.1234
	Time        time.Time `json:"time"`
	Type        string    `json:"type"`
	Account     Seq       `json:"account,omitempty"`
	Machine     Seq       `json:"machine,omitempty"`
	Transaction Seq       `json:"transaction,omitempty"`
	Actor       string    `json:"actor,omitempty"`

	Name *string `json:"name,omitempty"` // kept when empty: a machine may have the empty name

	Kind     string  `json:"kind,omitempty"`
	Block    hexText `json:"block,omitempty"`
	Length   *uint64 `json:"length,omitempty"` // bytes
	Checksum string  `json:"crc32c,omitempty"` // 8 hexadecimal digits
	Reuses   Seq     `json:"reuses,omitempty"`
	Undoes   Seq     `json:"undoes,omitempty"`

	Writer   ID              `json:"writer,omitzero"`
	Host     string          `json:"host,omitempty"`
	Cause    string          `json:"cause,omitempty"`
	Previous Seq             `json:"previous,omitempty"`
	Lossy    bool            `json:"lossy,omitempty"`
	Barred   []Seq           `json:"barred,omitempty"`
	LogID    ID              `json:"log_id,omitzero"`
	Format   uint32          `json:"format,omitempty"`
	From     Seq             `json:"from,omitempty"`
	To       Seq             `json:"to,omitempty"`
	Views    []viewStateJSON `json:"views,omitempty"`
	Recovery *Recovery       `json:"recovery,omitempty"`
	Drill    *Drill          `json:"drill,omitempty"`

	Unknown hexText `json:"unknown,omitempty"` // wire form of fields of later versions
}

type viewStateJSON struct {
	Name    string  `json:"name"`
	Version uint32  `json:"version"`
	Digest  hexText `json:"digest"`
	AsOf    Seq     `json:"as_of"`
}

// hexText is bytes that print in hexadecimal.
type hexText []byte

func (h hexText) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

func (h *hexText) UnmarshalText(text []byte) error {
	decoded, err := hex.AppendDecode(nil, text)
	if err != nil {
		return fmt.Errorf("hexadecimal text %q: %w", text, err)
	}
	*h = decoded
	return nil
}

// MarshalJSON returns the event as one JSON object: seq and time of every
// event, and of the other fields those that its type uses.
func (e Event) MarshalJSON() ([]byte, error) {
	out := eventJSON{
		Seq: e.Seq, At: e.Seq.String(), Time: time.Unix(0, e.Time).UTC(), Type: e.Type.String(),
		Account: e.Account, Machine: e.Machine, Transaction: e.Transaction, Actor: e.Actor,
		Block: e.Block, Reuses: e.Reuses, Undoes: e.Undoes,
		Writer: e.Writer, Host: e.Host, Cause: e.Cause, Previous: e.Previous, Lossy: e.Lossy, Barred: e.Barred,
		LogID: e.LogID, Format: e.Format, From: e.From, To: e.To, Recovery: e.Recovery, Drill: e.Drill, Unknown: e.Unknown,
	}
	ofBlock := e.Type == BlockStored || e.Type == BlockDeleted
	if ofBlock || e.Length != 0 || e.Checksum != 0 {
		out.Length, out.Checksum = &e.Length, fmt.Sprintf("%08x", e.Checksum)
	}
	if e.Kind != 0 {
		out.Kind = e.Kind.String()
	}
	named := e.Type == AccountOpened || e.Type == MachineRegistered || e.Type == MachineReowned
	if named || e.Name != "" {
		out.Name = &e.Name
	}
	for _, v := range e.Views {
		out.Views = append(out.Views, viewStateJSON{v.Name, v.Version, v.Digest[:], v.AsOf})
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON writes. Fields of the JSON that are not
// known are ignored; a type or kind that has no name here must be written as
// MarshalJSON does, "type_99".
func (e *Event) UnmarshalJSON(data []byte) error {
	var in eventJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return fmt.Errorf("event in JSON: %w", err)
	}
	decoded := Event{
		Seq: in.Seq, Account: in.Account, Machine: in.Machine, Transaction: in.Transaction, Actor: in.Actor,
		Block: in.Block, Reuses: in.Reuses, Undoes: in.Undoes,
		Writer: in.Writer, Host: in.Host, Cause: in.Cause, Previous: in.Previous, Lossy: in.Lossy, Barred: in.Barred,
		LogID: in.LogID, Format: in.Format, From: in.From, To: in.To, Recovery: in.Recovery, Drill: in.Drill, Unknown: in.Unknown,
	}
	if !in.Time.IsZero() {
		decoded.Time = in.Time.UnixNano()
	}
	if err := decoded.readNamed(&in); err != nil {
		return fmt.Errorf("event %s in JSON: %w", in.Seq, err)
	}
	*e = decoded
	return nil
}

// readNamed reads the fields that JSON has in another form than Event.
func (e *Event) readNamed(in *eventJSON) (err error) {
	if e.Type, err = parseNamed[Type](in.Type, "type_", typeNames[:]); err != nil {
		return err
	}
	if in.Kind != "" {
		if e.Kind, err = parseNamed[Kind](in.Kind, "kind_", kindNames[:]); err != nil {
			return err
		}
	}
	if in.Checksum != "" {
		sum, err := strconv.ParseUint(in.Checksum, 16, 32)
		if err != nil {
			return fmt.Errorf("crc32c %q: want 8 hexadecimal digits", in.Checksum)
		}
		e.Checksum = uint32(sum)
	}
	if in.Length != nil {
		e.Length = *in.Length
	}
	if in.Name != nil {
		e.Name = *in.Name
	}
	for _, v := range in.Views {
		if len(v.Digest) != len(ViewState{}.Digest) {
			return fmt.Errorf("view %q: a digest of %d bytes, want %d", v.Name, len(v.Digest), len(ViewState{}.Digest))
		}
		e.Views = append(e.Views, ViewState{v.Name, v.Version, [32]byte(v.Digest), v.AsOf})
	}
	return nil
}

// parseNamed reads the name of a type or kind, or the prefix and number that
// stand for one without a name.
func parseNamed[T ~uint32](text, prefix string, names []string) (T, error) {
	if i := slices.Index(names, text); i > 0 && text != "" {
		return T(i), nil
	}
	if len(text) > len(prefix) && text[:len(prefix)] == prefix {
		if n, err := strconv.ParseUint(text[len(prefix):], 10, 32); err == nil {
			return T(n), nil
		}
	}
	return 0, fmt.Errorf("%q is no name of a %s", text, prefix[:len(prefix)-1])
}
