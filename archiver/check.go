// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/strandline-project/strandline/eventlog"
)

// Check is what CheckObject found out about an object.
type Check struct {
	Trailer *eventlog.Trailer
	Footer  *eventlog.Footer
	Damaged []Damage // payloads that are not what they were, in order
}

// Damage is a payload that does not match its checksums.
type Damage struct {
	Seq       eventlog.Seq
	Placement eventlog.Placement
	Chunk     int // the first bad one, counted from 0
}

// CheckObject reads all of an object, payloads included, and compares every
// byte with the checksums, again when they do not match. A damaged footer or trailer is an error; damaged
// payloads are listed in the Check, and when the bytes between them are
// damaged too that is an error beside it.
func (a *Archive) CheckObject(ctx context.Context, object ObjectInfo) (*Check, error) {
	trailer, c, err := a.ownMetadata(ctx, object, tailSize, true, func(*eventlog.Trailer) error { return nil })
	if err != nil {
		return nil, err
	}
	check := &Check{Trailer: trailer, Footer: c.footer}
	err = AskAgain(ctx, contradicts, func() error {
		return retry(ctx, readLimit, func() error { return a.checkPayloads(ctx, object, check) })
	})
	var bad *badPayloads
	switch {
	case errors.As(err, &bad) && len(check.Damaged) > 0 && bad.sum == trailer.PayloadSum:
		return check, nil // the list says it
	case errors.Is(err, eventlog.ErrObjectDamaged), errors.Is(err, ErrNotFound):
		return check, a.objectError(object, err)
	case err != nil:
		return check, fmt.Errorf("read the payloads of %v in %v: %w", object, a.bucket, err)
	}
	return check, nil
}

// checkPayloads reads the object up to its footer once.
func (a *Archive) checkPayloads(ctx context.Context, object ObjectInfo, check *Check) error {
	check.Damaged = nil
	r, err := a.bucket.GetRange(ctx, object.Key(), 0, int64(check.Trailer.FooterOffset))
	if err != nil {
		return err
	}
	sum, err := check.readPayloads(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if sum != check.Trailer.PayloadSum || len(check.Damaged) > 0 {
		return permanent(&badPayloads{sum, check.Trailer.PayloadSum})
	}
	return nil
}

// badPayloads says that bytes before the footer are not what was stored: it is
// eventlog.ErrObjectDamaged.
type badPayloads struct{ sum, want uint32 }

func (e *badPayloads) Error() string {
	return fmt.Sprintf("%v: the checksum of magic and payloads is %08x, the trailer says %08x", eventlog.ErrObjectDamaged, e.sum, e.want)
}

func (e *badPayloads) Unwrap() error { return eventlog.ErrObjectDamaged }

// readPayloads reads r, the object up to its footer, in one pass, and returns
// the checksum of all of it.
func (c *Check) readPayloads(r io.Reader) (uint32, error) {
	const bufferSize = 1 << 20
	p := &payloadReader{r: bufio.NewReaderSize(r, bufferSize), buffer: make([]byte, eventlog.ChunkSize)}
	for i := range c.Footer.Entries {
		entry := &c.Footer.Entries[i]
		if entry.Placement.Length == 0 {
			continue
		}
		if err := p.skipTo(entry.Placement.Offset); err != nil {
			return 0, err
		}
		bad, err := p.firstBad(entry.Placement)
		if err != nil {
			return 0, err
		}
		if bad >= 0 {
			c.Damaged = append(c.Damaged, Damage{Seq: entry.Event.Seq, Placement: entry.Placement, Chunk: bad})
		}
	}
	if err := p.skipTo(c.Trailer.FooterOffset); err != nil {
		return 0, err
	}
	return p.sum, nil
}

// payloadReader reads an object from its start and sums what it reads.
type payloadReader struct {
	r      io.Reader
	at     uint64
	sum    uint32
	buffer []byte // of one chunk
}

// next returns the next n bytes, at most a chunk, valid until the next call.
func (p *payloadReader) next(n uint64) ([]byte, error) {
	data := p.buffer[:min(n, uint64(len(p.buffer)))]
	if _, err := io.ReadFull(p.r, data); err != nil {
		return nil, fmt.Errorf("at byte %d: %w", p.at, err)
	}
	p.at += uint64(len(data))
	p.sum = eventlog.UpdateChecksum(p.sum, data)
	return data, nil
}

func (p *payloadReader) skipTo(offset uint64) error {
	for p.at < offset {
		if _, err := p.next(offset - p.at); err != nil {
			return err
		}
	}
	return nil
}

// firstBad reads the payload that placement describes and returns its first
// chunk that does not match, -1 when all do.
func (p *payloadReader) firstBad(placement eventlog.Placement) (int, error) {
	bad := -1
	for chunk := range eventlog.Chunks(placement.Length) {
		data, err := p.next(min(eventlog.ChunkSize, placement.Length-chunk*eventlog.ChunkSize))
		if err != nil {
			return bad, err
		}
		want := binary.LittleEndian.Uint32(placement.Sums[4*chunk:])
		if bad < 0 && eventlog.Checksum(data) != want {
			bad = int(chunk)
		}
	}
	return bad, nil
}
