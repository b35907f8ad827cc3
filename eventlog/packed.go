// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
)

// Packed is a footer whose events are not decoded yet: what a recovery, which
// has many of them, hands from core to core, because it is small. Its methods
// may be called by one goroutine at a time.
type Packed struct {
	Trailer *Trailer
	Cleaned []Range // seqs gone from the covered range, ascending
	Horizon Seq     // history below it is incomplete; 0: nothing was ever cleaned
	// Copy says that it was not read from the object itself. What it says of
	// payloads is then held against the events: their checksums make those of
	// the events, and they fill the object. (Views record digests of the events.)
	Copy bool
	// Explain says of what is wrong with an entry where it was read and what to
	// do; nil: nothing is added.
	Explain func(error) error
	// Again reads the footer once more, from where it cannot be wrong by
	// another's fault, when an entry does not decode; nil: there is no such place.
	Again func(context.Context) (*Packed, error)

	entries []byte // of the decompressed footer
	count   uint32
	upto    Seq // the last event to follow; 0: all
}

// OpenFooter decompresses the footer that t describes and checks everything
// but its entries, which are checked as they are decoded. The result shares
// memory with nothing the caller has.
func OpenFooter(t *Trailer, compressed []byte) (*Packed, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	raw, err := decompressFooter(t, compressed)
	if err != nil {
		return nil, err
	}
	counts, err := readFooterHead(t, raw)
	if err != nil {
		return nil, err
	}
	p := &Packed{Trailer: t, Horizon: Seq(binary.LittleEndian.Uint64(raw[16:])), count: counts.entries}
	rest := raw[footerHeadSize:]
	for range counts.cleaned {
		p.Cleaned = append(p.Cleaned, Range{
			First: Seq(binary.LittleEndian.Uint64(rest)), Last: Seq(binary.LittleEndian.Uint64(rest[8:])),
		})
		rest = rest[rangeSize:]
	}
	p.entries = rest
	return p, nil
}

// Events returns how many entries there are.
func (p *Packed) Events() int { return int(p.count) }

// UpTo returns p as it ends with the event last: Follow does not yield what
// lies behind it.
func (p *Packed) UpTo(last Seq) *Packed {
	cut := *p
	cut.upto = last
	return &cut
}

// Upto returns the last event that p is cut at, 0 when it is not.
func (p *Packed) Upto() Seq { return p.upto }

// packedBatch is how many entries Follow decodes at once: they stay in the
// cache of the core that decodes and uses them.
const packedBatch = 128

// Follow yields the entries from the event from on, in small batches that are
// valid until the next one only. What is wrong with an entry is yielded as
// DecodeFooter would return it, last.
func (p *Packed) Follow(ctx context.Context, from Seq) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		batch := Batch{Entries: make([]Entry, 0, min(packedBatch, int(p.count))), Cleaned: p.Cleaned, Horizon: p.Horizon}
		for r := p.reader(); ; {
			more, err := p.fill(&batch, r, from)
			if err != nil && p.Explain != nil {
				err = p.Explain(err)
			}
			if err == nil {
				err = context.Cause(ctx)
			}
			if err != nil {
				yield(Batch{}, err)
				return
			}
			if len(batch.Entries) > 0 && !yield(batch, nil) || !more {
				return
			}
			batch.Cleaned = nil
		}
	}
}

// fill decodes the next entries into batch; false when there are no more.
func (p *Packed) fill(batch *Batch, r *entryReader, from Seq) (more bool, err error) {
	batch.Entries = batch.Entries[:0]
	for r.left > 0 && len(batch.Entries) < cap(batch.Entries) {
		batch.Entries = batch.Entries[:len(batch.Entries)+1]
		e := &batch.Entries[len(batch.Entries)-1]
		*e = Entry{}
		if err := r.next(e); err != nil {
			return false, err
		}
		if p.upto != 0 && e.Event.Seq > p.upto {
			batch.Entries = batch.Entries[:len(batch.Entries)-1]
			return false, nil
		}
		if e.Event.Seq < from {
			batch.Entries = batch.Entries[:len(batch.Entries)-1]
		}
	}
	if r.left == 0 {
		return false, r.end()
	}
	return true, nil
}

func (p *Packed) reader() *entryReader {
	return &entryReader{trailer: p.Trailer, rest: p.entries, left: p.count, cleaned: p.Cleaned, free: footerFirstByte, copy: p.Copy}
}

// entryReader decodes entries one after the other, and checks that they and
// the cleaned ranges together are exactly the seqs that the trailer covers:
// nothing missing, nothing twice, in order.
type entryReader struct {
	trailer *Trailer
	rest    []byte
	left    uint32
	free    uint64 // payloads before it belong to earlier entries
	actor   string // of the entry before
	last    Seq    // covered so far; 0: nothing
	cleaned []Range
	copy    bool // see Packed
}

// next decodes the next entry into e, which must be zero.
func (r *entryReader) next(e *Entry) error {
	t := r.trailer
	e.Event.Actor = r.actor // decoding reuses it when it is the same
	size, err := readEntry(t, r.rest, e)
	if err != nil {
		return fmt.Errorf("%w: entry %d", err, t.Events-r.left)
	}
	r.rest, r.actor = r.rest[size:], e.Event.Actor
	r.left--
	if p := &e.Placement; p.Length > 0 {
		if p.Offset < r.free || p.Offset > t.FooterOffset || p.Length > t.FooterOffset-p.Offset {
			return t.damaged("payload of %v at %d+%d, want it within %d to %d",
				e.Event.Seq, p.Offset, p.Length, r.free, t.FooterOffset)
		}
		if r.copy {
			if err := r.follows(e); err != nil {
				return err
			}
		}
		r.free = p.Offset + p.Length
	}
	seq := e.Event.Seq
	for len(r.cleaned) > 0 && r.cleaned[0].First < seq {
		if err := r.cover(r.cleaned[0]); err != nil {
			return err
		}
		r.cleaned = r.cleaned[1:]
	}
	return r.cover(Range{seq, seq})
}

// follows checks that what a copy says of e's payload is what it must be.
func (r *entryReader) follows(e *Entry) error {
	p := &e.Placement
	if e.Event.Type != BlockStored {
		return r.trailer.damaged("a payload of %v, which stores none", e.Event.Seq)
	}
	if p.Offset != r.free {
		return r.trailer.damaged("payload of %v at %d, the one before ends at %d", e.Event.Seq, p.Offset, r.free)
	}
	if joined := JoinedChecksum(p.Sums, p.Length); joined != e.Event.Checksum {
		return r.trailer.damaged("the checksums of %v's payload make %08x, the event says %08x", e.Event.Seq, joined, e.Event.Checksum)
	}
	return nil
}

// cover checks that covered comes right after all before it.
func (r *entryReader) cover(covered Range) error {
	first, last, t := covered.First, covered.Last, r.trailer
	switch {
	case r.last == 0 && first != t.First, r.last != 0 && !first.Follows(r.last):
		return t.damaged("%v stands after %v: events are missing or out of order", first, r.last)
	case !first.Valid() || last < first || last.Epoch() != first.Epoch():
		return t.damaged("a range %v", covered)
	}
	r.last = last
	return nil
}

// end checks, after the last entry, that nothing is left over or missing.
func (r *entryReader) end() error {
	if len(r.rest) > 0 {
		return r.trailer.damaged("%d bytes after the last entry of the footer", len(r.rest))
	}
	for _, cleaned := range r.cleaned {
		if err := r.cover(cleaned); err != nil {
			return err
		}
	}
	if r.last != r.trailer.Last {
		return r.trailer.damaged("its events end at %v", r.last)
	}
	if r.copy && r.free != r.trailer.FooterOffset {
		return r.trailer.damaged("its payloads end at %d, its footer begins at %d", r.free, r.trailer.FooterOffset)
	}
	return nil
}

// readEntry reads one entry from the start of b and returns its size there.
func readEntry(t *Trailer, b []byte, e *Entry) (int, error) {
	if len(b) < entryHeadSize {
		return 0, t.damaged("the footer ends within an entry")
	}
	le := binary.LittleEndian
	eventSize := uint64(le.Uint32(b))
	p := Placement{Ordinal: t.FirstOrdinal, Offset: le.Uint64(b[4:]), Length: le.Uint64(b[12:])}
	if eventSize == 0 || eventSize > MaxEvent || p.Length > t.PayloadBytes || p.Length == 0 && p.Offset != 0 {
		return 0, t.damaged("an event of %d bytes with a payload at %d+%d", eventSize, p.Offset, p.Length)
	}
	size := entryHeadSize + eventSize + Chunks(p.Length)*footerSumSize
	if size > uint64(len(b)) {
		return 0, t.damaged("the footer ends within an entry")
	}
	e.Raw = b[entryHeadSize : entryHeadSize+eventSize : entryHeadSize+eventSize]
	if err := e.Event.decode(e.Raw); err != nil {
		return 0, fmt.Errorf("%w: %w", t.damaged("an event does not decode"), err)
	}
	if p.Length == 0 {
		return int(size), nil
	}
	p.Sums = b[entryHeadSize+eventSize : size : size]
	if p.Length != e.Event.Length {
		return 0, t.damaged("a payload of %d bytes for %v, whose event says %d", p.Length, e.Event.Seq, e.Event.Length)
	}
	e.Placement = p
	return int(size), nil
}
