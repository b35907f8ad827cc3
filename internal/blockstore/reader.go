// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"sync"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// Stat returns a block's length in bytes.
func (s *Store) Stat(ctx context.Context, p Path, ref Ref) (uint64, error) {
	row, content, err := s.look(p, ref)
	if err != nil {
		return 0, fmt.Errorf("looking for %s of %s: %w", ref, p, err)
	}
	if content != nil {
		return uint64(len(content)), nil
	}
	return row.Length, nil
}

// look returns a block's row, or the content of a lock in memory, which is
// never nil then.
func (s *Store) look(p Path, ref Ref) (row projector.BlockRow, content []byte, err error) {
	if err := s.mayRead(); err != nil {
		return row, nil, err
	}
	m, err := s.find(p)
	if err != nil {
		return row, nil, err
	}
	hidden := false
	if ref.Kind == eventlog.KindLock {
		var ok bool
		content, ok, hidden = s.memory.get(m.id, ref.Name)
		if ok {
			return row, append([]byte{}, content...), nil
		}
	}
	row, live, err := s.opts.Blocks.Live(m.id, ref.Kind, ref.Bytes())
	if err == nil && (!live || hidden) {
		err = s.sure(ErrNotFound)
	}
	return row, nil, err
}

// List returns the machine's blocks of one kind, each once, those of every
// write that was answered included. An error, at once or in the sequence,
// means that the list is not whole.
func (s *Store) List(ctx context.Context, p Path, kind eventlog.Kind) (iter.Seq2[Listed, error], error) {
	if err := s.mayRead(); err != nil {
		return nil, err
	}
	m, err := s.find(p)
	if err == nil {
		err = s.sure(nil) // a stopped view's list may be short
	}
	if err != nil {
		return nil, fmt.Errorf("listing the %s blocks of %s: %w", kind, p, err)
	}
	return func(yield func(Listed, error) bool) {
		var inMemory []Listed
		if kind == eventlog.KindLock {
			inMemory = s.memory.list(m.id)
		}
		for _, one := range inMemory {
			if !yield(one, nil) {
				return
			}
		}
		s.listView(ctx, m, kind, yield)
	}, nil
}

// listView yields what the view has and memory does not replace.
func (s *Store) listView(ctx context.Context, m machine, kind eventlog.Kind, yield func(Listed, error) bool) {
	for row, err := range s.opts.Blocks.List(ctx, m.id, kind, 0) {
		if err != nil {
			yield(Listed{}, fmt.Errorf("listing the %s blocks: %w", kind, err))
			return
		}
		one := Listed{Length: row.Length}
		copy(one.Name[:], row.Name)
		if kind == eventlog.KindLock {
			if _, ok, hidden := s.memory.get(m.id, one.Name); ok || hidden {
				continue
			}
		}
		if !yield(one, nil) {
			return
		}
	}
}

// Part says which bytes of a block of size bytes are wanted: length of them from
// offset on, to the end when length is negative or goes past it. Its error is
// Open's.
type Part func(size int64) (offset, length int64, err error)

// Open returns a part of a block. Every byte is verified before Read hands it
// out, those of the first chunk before Open returns: what fails is ErrDamaged. An
// offset at or after the end is ErrBadRange. The caller closes the reader.
func (s *Store) Open(ctx context.Context, p Path, ref Ref, part Part) (io.ReadCloser, error) {
	row, content, err := s.look(p, ref)
	if content != nil {
		row.Length = uint64(len(content))
	}
	var offset, length int64
	if err == nil {
		offset, length, err = part(int64(row.Length))
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s of %s: %w", ref, p, err)
	}
	if offset < 0 || offset > int64(row.Length) || offset == int64(row.Length) && offset > 0 {
		return nil, fmt.Errorf("opening %s of %s at %d, it has %d bytes: %w", ref, p, offset, row.Length, ErrBadRange)
	}
	if rest := int64(row.Length) - offset; length < 0 || length > rest {
		length = rest
	}
	if content != nil {
		return io.NopCloser(bytes.NewReader(content[offset : offset+length])), nil
	}
	r, err := s.openRow(ctx, row, uint64(offset), length)
	if err != nil {
		return nil, fmt.Errorf("opening %s of %s: %w", ref, p, err)
	}
	return r, nil
}

// openRow opens a part of a stored block; the range lies within it.
func (s *Store) openRow(ctx context.Context, row projector.BlockRow, offset uint64, length int64) (io.ReadCloser, error) {
	if length == 0 {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	place, err := s.opts.Blocks.Placement(row)
	if err != nil {
		return nil, fmt.Errorf("finding its bytes: %w", err)
	}
	if place.Length != row.Length || uint64(len(place.Sums)) != 4*eventlog.Chunks(place.Length) {
		return nil, fmt.Errorf("%w: a placement of %d bytes with %d checksums for a block of %d", ErrDamaged, place.Length, len(place.Sums)/4, row.Length)
	}
	r := &blockReader{ctx: ctx, s: s, place: place, at: offset, end: offset + uint64(length)}
	r.open()
	if err := r.fill(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// readSpan is how many bytes are read and verified at once: whole chunks.
const readSpan = 4 * eventlog.ChunkSize

// spans hold what readers have verified and not handed out yet.
var spans = sync.Pool{New: func() any { b := make([]byte, readSpan); return &b }}

// blockReader reads a part of a payload, span by span: from this machine's
// copy, or, when it has none or not the right bytes, from the archive's. It
// belongs to one goroutine.
type blockReader struct {
	ctx     context.Context
	s       *Store
	place   eventlog.Placement
	local   io.ReaderAt // this machine's copy, nil when there is none
	release func()      // of local
	// unopened is why this machine's copy, which is there, could not be opened;
	// nil when it was, or when there is none.
	unopened error
	at       uint64 // next byte of the payload to hand out or to read
	end      uint64
	wanted   uint64  // how far the archive is read ahead; 0: it was not asked yet
	ready    []byte  // verified bytes from at on
	buffer   *[]byte // of spans; nil before the first and after Close
	err      error
}

// open opens this machine's copy. One that cannot be opened is left to the
// archive's to heal: readVerified says what becomes of the reader without both.
func (r *blockReader) open() {
	file, release, ok, err := r.s.opts.Log.OpenPayload(r.place.Ordinal)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.s.log.Error("a payload file has vanished from this machine; reading the archive's", "ordinal", r.place.Ordinal, "err", err)
	case err != nil:
		r.unopened = err
		r.s.log.Error("a payload file of this machine cannot be opened; reading the archive's", "ordinal", r.place.Ordinal, "err", err)
	case ok:
		r.local, r.release = file, release
	}
}

// Read hands out verified bytes.
func (r *blockReader) Read(p []byte) (int, error) {
	if err := r.await(); err != nil {
		return 0, err
	}
	n := copy(p, r.ready)
	r.pass(n)
	return n, nil
}

// WriteTo hands out all verified bytes that are left, span by span. It spares
// io.Copy a buffer.
func (r *blockReader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		if err := r.await(); err == io.EOF {
			return written, nil
		} else if err != nil {
			return written, err
		}
		n, err := w.Write(r.ready)
		r.pass(n)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
}

// await makes sure that bytes are ready.
func (r *blockReader) await() error {
	if len(r.ready) > 0 {
		return nil
	}
	if r.err == nil {
		r.err = r.fill()
	}
	return r.err
}

// pass notes that n of the ready bytes were handed out.
func (r *blockReader) pass(n int) {
	r.ready = r.ready[n:]
	r.at += uint64(n)
}

var errReaderClosed = errors.New("the block's reader is closed")

// Close ends the reader.
func (r *blockReader) Close() error {
	if r.release != nil {
		r.release()
	}
	if r.buffer != nil {
		spans.Put(r.buffer)
	}
	r.local, r.release = nil, nil
	r.err, r.ready, r.buffer = errReaderClosed, nil, nil
	return nil
}

// fill reads and verifies the chunks from at on.
func (r *blockReader) fill() error {
	if r.at >= r.end {
		return io.EOF
	}
	if err := r.ctx.Err(); err != nil {
		return fmt.Errorf("reading a block: %w", context.Cause(r.ctx))
	}
	first := r.at - r.at%eventlog.ChunkSize
	last := min(first+readSpan, r.end)
	last = min(last+(eventlog.ChunkSize-last%eventlog.ChunkSize)%eventlog.ChunkSize, r.place.Length)
	if r.buffer == nil {
		r.buffer = spans.Get().(*[]byte)
	}
	span := (*r.buffer)[:last-first]
	if err := r.readVerified(first, span); err != nil {
		return err
	}
	r.ready = span[r.at-first : min(last, r.end)-first]
	return nil
}

// readVerified reads the chunks from the payload's offset first on into span.
func (r *blockReader) readVerified(first uint64, span []byte) error {
	var localErr error
	if r.local != nil {
		if localErr = r.readLocal(first, span); localErr == nil {
			return nil
		}
		r.s.log.Error("a payload on this machine is damaged; reading the archive's",
			"ordinal", r.place.Ordinal, "offset", r.place.Offset+first, "err", localErr)
	}
	if r.wanted == 0 {
		r.wanted = r.s.pages.follow(r.place, r.at, r.end)
	}
	err := r.s.pages.read(r.ctx, r.place, first, span, r.wanted)
	switch {
	case errors.Is(err, ErrDamaged) && r.unopened != nil: // the copy here may be whole
		return &Unavailable{Reason: "the block cannot be opened now: a retry may succeed", RetryAfter: retrySoon, Err: errors.Join(r.unopened, err)}
	case errors.Is(err, ErrDamaged):
		r.s.pages.noteDamaged(r.place)
		return errors.Join(err, localErr)
	}
	return err
}

func (r *blockReader) readLocal(first uint64, span []byte) error {
	if _, err := r.local.ReadAt(span, int64(r.place.Offset+first)); err != nil {
		return fmt.Errorf("%w: reading generation %d: %w", ErrDamaged, r.place.Ordinal, err)
	}
	return verify(r.place, first, span)
}

// verify checks whole chunks of a payload, from its offset first on.
func verify(place eventlog.Placement, first uint64, span []byte) error {
	for chunk := first / eventlog.ChunkSize; len(span) > 0; chunk++ {
		n := min(len(span), eventlog.ChunkSize)
		if eventlog.Checksum(span[:n]) != binary.LittleEndian.Uint32(place.Sums[4*chunk:]) {
			return fmt.Errorf("%w: ordinal %d, bytes %d to %d", ErrDamaged, place.Ordinal,
				place.Offset+chunk*eventlog.ChunkSize, place.Offset+chunk*eventlog.ChunkSize+uint64(n))
		}
		span = span[n:]
	}
	return nil
}
