// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Limits of one event; a decoder refuses what is over them before it
// allocates anything.
const (
	MaxEvent     = 1 << 20 // encoded bytes
	MaxBlockName = 64      // bytes
	MaxName      = 1 << 10 // bytes of any text field
)

// Field numbers of event.proto.
const (
	fieldSeq, fieldTime, fieldType, fieldAccount, fieldMachine, fieldTransaction, fieldActor = 1, 2, 3, 4, 5, 6, 7

	fieldName, fieldKind, fieldBlock, fieldLength, fieldChecksum, fieldReuses, fieldUndoes = 8, 9, 10, 11, 12, 13, 14

	fieldWriter, fieldHost, fieldCause, fieldPrevious, fieldLossy, fieldBarred = 17, 18, 19, 21, 22, 23
	fieldLogID, fieldFormat, fieldFrom, fieldTo, fieldViews                    = 24, 25, 26, 27, 28
	fieldRecovery, fieldDrill                                                  = 29, 30
)

// AppendEvent appends the wire form of e to b: the fields in the order of
// their numbers, zero values left out, unknown ones last. The same event has
// the same bytes always. It allocates only to grow b.
func AppendEvent(b []byte, e *Event) []byte {
	b = appendVarint(b, fieldSeq, uint64(e.Seq))
	if e.Time != 0 {
		b = protowire.AppendTag(b, fieldTime, protowire.Fixed64Type)
		b = protowire.AppendFixed64(b, uint64(e.Time))
	}
	b = appendVarint(b, fieldType, uint64(e.Type))
	b = appendVarint(b, fieldAccount, uint64(e.Account))
	b = appendVarint(b, fieldMachine, uint64(e.Machine))
	b = appendVarint(b, fieldTransaction, uint64(e.Transaction))
	b = appendText(b, fieldActor, e.Actor)
	b = appendText(b, fieldName, e.Name)
	b = appendVarint(b, fieldKind, uint64(e.Kind))
	b = appendBytes(b, fieldBlock, e.Block)
	b = appendVarint(b, fieldLength, e.Length)
	if e.Checksum != 0 {
		b = protowire.AppendTag(b, fieldChecksum, protowire.Fixed32Type)
		b = protowire.AppendFixed32(b, e.Checksum)
	}
	b = appendVarint(b, fieldReuses, uint64(e.Reuses))
	b = appendVarint(b, fieldUndoes, uint64(e.Undoes))
	if e.Type != BlockStored && e.Type != BlockDeleted {
		b = appendRare(b, e)
	}
	return append(b, e.Unknown...)
}

func appendRare(b []byte, e *Event) []byte {
	b = appendID(b, fieldWriter, e.Writer)
	b = appendText(b, fieldHost, e.Host)
	b = appendText(b, fieldCause, e.Cause)
	b = appendVarint(b, fieldPrevious, uint64(e.Previous))
	b = appendVarint(b, fieldLossy, protowire.EncodeBool(e.Lossy))
	if len(e.Barred) > 0 {
		var packed []byte
		for _, machine := range e.Barred {
			packed = protowire.AppendVarint(packed, uint64(machine))
		}
		b = appendBytes(b, fieldBarred, packed)
	}
	b = appendID(b, fieldLogID, e.LogID)
	b = appendVarint(b, fieldFormat, uint64(e.Format))
	b = appendVarint(b, fieldFrom, uint64(e.From))
	b = appendVarint(b, fieldTo, uint64(e.To))
	for i := range e.Views {
		b = protowire.AppendTag(b, fieldViews, protowire.BytesType)
		b = protowire.AppendBytes(b, appendViewState(nil, &e.Views[i]))
	}
	if e.Recovery != nil {
		b = protowire.AppendTag(b, fieldRecovery, protowire.BytesType)
		b = protowire.AppendBytes(b, appendRecovery(nil, e.Recovery))
	}
	if e.Drill != nil {
		b = protowire.AppendTag(b, fieldDrill, protowire.BytesType)
		b = protowire.AppendBytes(b, appendDrill(nil, e.Drill))
	}
	return b
}

func appendViewState(b []byte, v *ViewState) []byte {
	b = appendText(b, 1, v.Name)
	b = appendVarint(b, 2, uint64(v.Version))
	b = appendBytes(b, 3, v.Digest[:])
	return appendVarint(b, 4, uint64(v.AsOf))
}

func appendVarint(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func appendText(b []byte, field protowire.Number, v string) []byte {
	if v == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func appendID(b []byte, field protowire.Number, id ID) []byte {
	if id == (ID{}) {
		return b
	}
	return appendBytes(b, field, id[:])
}

var errWire = errors.New("not an event's wire form")

// DecodeEvent reads the wire form raw into e, over whatever e held. Block and
// Unknown share raw's memory. It checks the form and the limits, not whether
// the fields make sense together; that is for whoever applies it. An Actor equal to the one
// e held before is reused, so decoding a run of block events into one Event
// does not allocate.
func DecodeEvent(raw []byte, e *Event) error {
	if len(raw) > MaxEvent {
		return fmt.Errorf("%w: %d bytes, more than %d", errWire, len(raw), MaxEvent)
	}
	*e = Event{Actor: e.Actor}
	return e.decode(raw)
}

// decode reads raw into e, in which nothing but the Actor may be set.
func (e *Event) decode(raw []byte) error {
	size, actor := e.decodeCommon(raw)
	for rest := raw[size:]; len(rest) > 0; {
		field, wire, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return fmt.Errorf("%w: at byte %d: %w", errWire, len(raw)-len(rest), protowire.ParseError(n))
		}
		size, err := e.decodeField(field, wire, rest[n:])
		if err != nil {
			return fmt.Errorf("%w: field %d at byte %d: %w", errWire, field, len(raw)-len(rest), err)
		}
		if size < 0 { // not known to this version
			if size = protowire.ConsumeFieldValue(field, wire, rest[n:]); size < 0 {
				return fmt.Errorf("%w: field %d at byte %d: %w", errWire, field, len(raw)-len(rest), protowire.ParseError(size))
			}
			e.keepUnknown(raw, rest, n+size)
		}
		actor = actor || field == fieldActor
		rest = rest[n+size:]
	}
	if !actor {
		e.Actor = ""
	}
	return nil
}

// Tags of the fields that a block's event has, each one byte.
const (
	tagSeq      = fieldSeq<<3 | byte(protowire.VarintType)
	tagTime     = fieldTime<<3 | byte(protowire.Fixed64Type)
	tagType     = fieldType<<3 | byte(protowire.VarintType)
	tagAccount  = fieldAccount<<3 | byte(protowire.VarintType)
	tagMachine  = fieldMachine<<3 | byte(protowire.VarintType)
	tagActor    = fieldActor<<3 | byte(protowire.BytesType)
	tagKind     = fieldKind<<3 | byte(protowire.VarintType)
	tagBlock    = fieldBlock<<3 | byte(protowire.BytesType)
	tagLength   = fieldLength<<3 | byte(protowire.VarintType)
	tagChecksum = fieldChecksum<<3 | byte(protowire.Fixed32Type)
	tagReuses   = fieldReuses<<3 | byte(protowire.VarintType)
	tagUndoes   = fieldUndoes<<3 | byte(protowire.VarintType)
)

// decodeCommon reads the fields of block events from raw's beginning, as far
// as they are nothing out of the ordinary, and returns how many bytes they
// take. It does what decodeField does, for nearly all events, in a fraction of
// the time; what it leaves, decodeField reads or refuses.
func (e *Event) decodeCommon(raw []byte) (size int, actor bool) {
	for size < len(raw) {
		rest := raw[size+1:]
		var n int
		switch tag := raw[size]; tag {
		case tagTime:
			if n = 8; len(rest) >= n {
				e.Time = int64(binary.LittleEndian.Uint64(rest))
			}
		case tagChecksum:
			if n = 4; len(rest) >= n {
				e.Checksum = binary.LittleEndian.Uint32(rest)
			}
		case tagActor, tagBlock:
			if len(rest) == 0 || rest[0] > MaxBlockName || int(rest[0]) >= len(rest) {
				return size, actor
			}
			n = 1 + int(rest[0])
			if value := rest[1:n:n]; tag == tagBlock {
				e.Block = value
			} else if actor = true; e.Actor != string(value) {
				e.Actor = string(value)
			}
		default:
			if n = e.decodeCommonVarint(tag, rest); n <= 0 {
				return size, actor
			}
		}
		if n > len(rest) {
			return size, actor
		}
		size += 1 + n
	}
	return size, actor
}

// decodeCommonVarint returns the value's size, 0 or less when it was not read.
func (e *Event) decodeCommonVarint(tag byte, b []byte) int {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return n
	}
	switch tag {
	case tagSeq:
		e.Seq = Seq(v)
	case tagType:
		e.Type = Type(v)
	case tagAccount:
		e.Account = Seq(v)
	case tagMachine:
		e.Machine = Seq(v)
	case tagKind:
		e.Kind = Kind(v)
	case tagLength:
		e.Length = v
	case tagReuses:
		e.Reuses = Seq(v)
	case tagUndoes:
		e.Undoes = Seq(v)
	default:
		return 0
	}
	return n
}

// keepUnknown keeps the first n bytes of rest. Adjacent unknown fields go on
// sharing raw; others are joined in a copy.
func (e *Event) keepUnknown(raw, rest []byte, n int) {
	start := len(raw) - len(rest)
	if e.Unknown == nil {
		e.Unknown = raw[start : start+n : start+n]
		return
	}
	e.Unknown = append(e.Unknown, rest[:n]...)
}

// decodeField reads the value of one field from the start of b and returns
// its size, -1 when the field is not known.
func (e *Event) decodeField(field protowire.Number, wire protowire.Type, b []byte) (int, error) {
	switch wire {
	case protowire.VarintType:
		return e.decodeVarint(field, b)
	case protowire.BytesType:
		return e.decodeBytes(field, b)
	case protowire.Fixed64Type:
		if field != fieldTime {
			return -1, nil
		}
		v, n := protowire.ConsumeFixed64(b)
		e.Time = int64(v)
		return n, wireError(n)
	case protowire.Fixed32Type:
		if field != fieldChecksum {
			return -1, nil
		}
		v, n := protowire.ConsumeFixed32(b)
		e.Checksum = v
		return n, wireError(n)
	}
	return -1, nil
}

func (e *Event) decodeVarint(field protowire.Number, b []byte) (int, error) {
	v, n := protowire.ConsumeVarint(b)
	if n < 0 {
		return n, wireError(n)
	}
	switch field {
	case fieldSeq:
		e.Seq = Seq(v)
	case fieldType:
		e.Type = Type(v)
	case fieldAccount:
		e.Account = Seq(v)
	case fieldMachine:
		e.Machine = Seq(v)
	case fieldTransaction:
		e.Transaction = Seq(v)
	case fieldKind:
		e.Kind = Kind(v)
	case fieldLength:
		e.Length = v
	case fieldReuses:
		e.Reuses = Seq(v)
	case fieldUndoes:
		e.Undoes = Seq(v)
	case fieldPrevious:
		e.Previous = Seq(v)
	case fieldLossy:
		e.Lossy = protowire.DecodeBool(v)
	case fieldFormat:
		e.Format = uint32(v)
	case fieldFrom:
		e.From = Seq(v)
	case fieldTo:
		e.To = Seq(v)
	default:
		return -1, nil
	}
	return n, nil
}

func (e *Event) decodeBytes(field protowire.Number, b []byte) (int, error) {
	v, n := protowire.ConsumeBytes(b)
	if n < 0 {
		return n, wireError(n)
	}
	var err error
	switch field {
	case fieldActor:
		err = setText(&e.Actor, v)
	case fieldName:
		err = setText(&e.Name, v)
	case fieldBlock:
		if len(v) > MaxBlockName {
			err = fmt.Errorf("a block's name of %d bytes, more than %d", len(v), MaxBlockName)
		}
		e.Block = v
	case fieldWriter:
		err = setID(&e.Writer, v)
	case fieldHost:
		err = setText(&e.Host, v)
	case fieldCause:
		err = setText(&e.Cause, v)
	case fieldBarred:
		e.Barred, err = decodeSeqs(e.Barred, v)
	case fieldLogID:
		err = setID(&e.LogID, v)
	case fieldViews:
		var view ViewState
		view, err = decodeViewState(v)
		e.Views = append(e.Views, view)
	case fieldRecovery:
		e.Recovery = &Recovery{}
		err = decodeMessage(v, e.Recovery)
	case fieldDrill:
		e.Drill = &Drill{}
		err = decodeMessage(v, e.Drill)
	default:
		return -1, nil
	}
	return n, err
}

func decodeSeqs(seqs []Seq, b []byte) ([]Seq, error) {
	for len(b) > 0 {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return nil, wireError(n)
		}
		seqs, b = append(seqs, Seq(v)), b[n:]
	}
	return seqs, nil
}

func decodeViewState(b []byte) (ViewState, error) {
	var view ViewState
	for len(b) > 0 {
		field, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return view, wireError(n)
		}
		size := protowire.ConsumeFieldValue(field, wire, b[n:])
		if size < 0 {
			return view, wireError(size)
		}
		value := b[n : n+size]
		b = b[n+size:]
		if err := view.decodeField(field, wire, value); err != nil {
			return view, err
		}
	}
	return view, nil
}

// decodeField reads one whole field value; fields of later versions are
// passed over, because a state_recorded is only ever compared, never copied
// from its decoded form.
func (v *ViewState) decodeField(field protowire.Number, wire protowire.Type, value []byte) error {
	switch {
	case field == 1 && wire == protowire.BytesType:
		text, _ := protowire.ConsumeBytes(value)
		return setText(&v.Name, text)
	case field == 2 && wire == protowire.VarintType:
		n, _ := protowire.ConsumeVarint(value)
		v.Version = uint32(n)
	case field == 3 && wire == protowire.BytesType:
		digest, _ := protowire.ConsumeBytes(value)
		if len(digest) != len(v.Digest) {
			return fmt.Errorf("a digest of %d bytes, want %d", len(digest), len(v.Digest))
		}
		copy(v.Digest[:], digest)
	case field == 4 && wire == protowire.VarintType:
		n, _ := protowire.ConsumeVarint(value)
		v.AsOf = Seq(n)
	}
	return nil
}

func setText(field *string, v []byte) error {
	if len(v) > MaxName {
		return fmt.Errorf("a text of %d bytes, more than %d", len(v), MaxName)
	}
	if *field != string(v) {
		*field = string(v)
	}
	return nil
}

func setID(field *ID, v []byte) error {
	if len(v) != len(field) {
		return fmt.Errorf("an identity of %d bytes, want %d", len(v), len(field))
	}
	copy(field[:], v)
	return nil
}

func wireError(n int) error {
	if n < 0 {
		return protowire.ParseError(n)
	}
	return nil
}
