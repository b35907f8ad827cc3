// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"
)

// bufferSize is how much of a body one buffer holds: whole chunks, so that a
// checksum never spans two buffers.
const bufferSize = 4 * ChunkSize

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// Bodies of at most ChunkSize whose length is known have a buffer of their own
// kind; the smallest ones are not worth a pool.
var chunks = sync.Pool{New: func() any { return new([ChunkSize]byte) }}

const smallBody = 8 << 10

// Body is one complete block as it came in: hashed, checksummed, held in
// memory while the budget over all requests lasts, else spooled to a file.
// Whoever got it from Receive gives it to Append or calls Release.
type Body struct {
	SHA256   [sha256.Size]byte
	Length   uint64 // bytes
	Checksum uint32 // CRC32C of all of it
	Sums     []byte // CRC32C of each ChunkSize bytes, 4 bytes little-endian each

	memory *memory
	held   int64 // bytes taken from the memory budget
	pooled []*[bufferSize]byte
	chunk  *[ChunkSize]byte // where small lies, unless it is very small
	small  []byte           // the bytes, when they are few and their number was known
	spool  *os.File         // the bytes, when memory was short; unlinked already
}

// What Receive refuses for certain; nothing is kept of such a body.
var (
	ErrTooLarge  = errors.New("the body is larger than allowed")
	ErrShortBody = errors.New("the body ended before its declared length")
)

// memory is the budget for bodies in flight, shared by all requests.
type memory struct {
	mu    sync.Mutex
	free  int64  // owned by mu
	spool string // directory for what does not fit
}

func (m *memory) take(n int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n > m.free {
		return false
	}
	m.free -= n
	return true
}

func (m *memory) give(n int64) {
	m.mu.Lock()
	m.free += n
	m.mu.Unlock()
}

// receive reads a whole body of size bytes (-1: not known) and at most limit.
// Reading errors that are the sender's come back wrapped in ErrShortBody;
// errors of our own spool file do not.
func (m *memory) receive(r io.Reader, size, limit int64) (*Body, error) {
	if size > limit {
		return nil, fmt.Errorf("%w: %d bytes declared, at most %d", ErrTooLarge, size, limit)
	}
	b := &Body{memory: m}
	if err := b.readFrom(r, size, limit); err != nil {
		b.Release()
		return nil, err
	}
	return b, nil
}

func (b *Body) readFrom(r io.Reader, size, limit int64) error {
	sum := sha256.New()
	for done := false; !done; {
		want := bufferSize
		if size >= 0 && size-int64(b.Length) < bufferSize {
			want = int(size - int64(b.Length))
		}
		buf, keep, err := b.buffer(want, size)
		if err != nil {
			return err
		}
		n, err := readFull(r, buf[:want])
		if done, err = b.ended(n, want, size, err); err != nil {
			return err
		}
		b.add(sum, buf[:n])
		if int64(b.Length) > limit {
			return fmt.Errorf("%w: at most %d bytes", ErrTooLarge, limit)
		}
		if err := keep(n); err != nil {
			return err
		}
	}
	sum.Sum(b.SHA256[:0])
	return nil
}

// buffer returns room for want bytes, and what to do when n of them are in.
func (b *Body) buffer(want int, size int64) ([]byte, func(n int) error, error) {
	if size >= 0 && size <= ChunkSize && b.Length == 0 && b.hold(heldFor(size)) {
		b.small = b.smallBuffer(size)
		return b.small, func(int) error { return nil }, nil
	}
	if b.spool == nil && b.hold(bufferSize) {
		buf := buffers.Get().(*[bufferSize]byte)
		b.pooled = append(b.pooled, buf)
		return buf[:], func(int) error { return nil }, nil
	}
	if err := b.openSpool(); err != nil {
		return nil, nil, err
	}
	buf := buffers.Get().(*[bufferSize]byte)
	return buf[:], func(n int) error {
		_, err := b.spool.Write(buf[:n])
		buffers.Put(buf)
		if err != nil {
			return fmt.Errorf("spooling a body: %w", err)
		}
		return nil
	}, nil
}

// heldFor is what a small body takes of the budget.
func heldFor(size int64) int64 {
	if size <= smallBody {
		return size
	}
	return ChunkSize
}

func (b *Body) smallBuffer(size int64) []byte {
	if size <= smallBody {
		return make([]byte, size)
	}
	b.chunk = chunks.Get().(*[ChunkSize]byte)
	return b.chunk[:size]
}

func (b *Body) hold(n int64) bool {
	if !b.memory.take(n) {
		return false
	}
	b.held += n
	return true
}

// openSpool makes the spool file, without a name. What is in memory so far
// stays there: a body is its buffers, then its spool file.
func (b *Body) openSpool() error {
	if b.spool != nil {
		return nil
	}
	f, err := os.CreateTemp(b.memory.spool, "body-*")
	if err != nil {
		return fmt.Errorf("spooling a body: %w", err)
	}
	b.spool = f
	if err := os.Remove(f.Name()); err != nil {
		return fmt.Errorf("spooling a body: %w", err)
	}
	return nil
}

// ended tells from the n bytes read, with err, whether the body is complete.
func (b *Body) ended(n, want int, size int64, err error) (bool, error) {
	known := size >= 0
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return false, fmt.Errorf("%w: after %d bytes: %w", ErrShortBody, b.Length+uint64(n), err)
	case known && n < want:
		return false, fmt.Errorf("%w: %d of %d bytes", ErrShortBody, b.Length+uint64(n), size)
	case known:
		return int64(b.Length)+int64(n) == size, nil
	}
	return n < want, nil
}

func (b *Body) add(sum hash.Hash, p []byte) {
	sum.Write(p) //nolint:errcheck // a hash never fails
	b.Checksum = UpdateChecksum(b.Checksum, p)
	b.Length += uint64(len(p))
	for ; len(p) > 0; p = p[min(len(p), ChunkSize):] {
		b.Sums = binary.LittleEndian.AppendUint32(b.Sums, Checksum(p[:min(len(p), ChunkSize)]))
	}
}

// readFull reads until buf is full or the reader ends. Unlike io.ReadFull it
// keeps a clean end (io.EOF) apart from a reader that says itself that its
// data was cut short (io.ErrUnexpectedEOF).
func readFull(r io.Reader, buf []byte) (int, error) {
	n := 0
	for n < len(buf) {
		m, err := r.Read(buf[n:])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// writeTo copies the body to w, in order.
func (b *Body) writeTo(w io.Writer) error {
	if _, err := w.Write(b.small); err != nil {
		return err
	}
	left := b.Length - uint64(len(b.small))
	for _, buf := range b.pooled {
		n := min(left, bufferSize)
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		left -= n
	}
	if left == 0 {
		return nil
	}
	_, err := io.Copy(w, io.NewSectionReader(b.spool, 0, int64(left)))
	return err
}

// Release gives the body's memory back; it may be called more than once.
func (b *Body) Release() {
	if b == nil {
		return
	}
	for _, buf := range b.pooled {
		buffers.Put(buf)
	}
	if b.chunk != nil {
		chunks.Put(b.chunk)
	}
	b.pooled, b.chunk, b.small = nil, nil, nil
	if b.spool != nil {
		b.spool.Close() //nolint:errcheck // an unlinked file that nobody reads again
		b.spool = nil
	}
	b.memory.give(b.held)
	b.held = 0
}

// Receive reads a whole body of size bytes (-1: not known), at most limit,
// and hashes it on the way. It waits where the log's limits want ingest
// slowed down, and refuses when the log cannot take it: ErrBacklog,
// ErrDiskFull, or the error that stopped the log. The caller owns the Body.
func (l *Log) Receive(ctx context.Context, r io.Reader, size, limit int64) (*Body, error) {
	if err := l.admit(size, false); err != nil {
		return nil, err
	}
	paced, done := l.limits.pace(ctx, r)
	defer done()
	return l.memory.receive(paced, size, min(limit, MaxPayload))
}

// ReceiveUrgent is Receive for a lock's body: it may use the reserve under the
// disk floor, does not count against the backlog, and is not slowed down.
func (l *Log) ReceiveUrgent(r io.Reader, size, limit int64) (*Body, error) {
	if err := l.admit(size, true); err != nil {
		return nil, err
	}
	return l.memory.receive(r, size, min(limit, MaxPayload))
}

func (l *Log) admit(size int64, urgent bool) error {
	if err := l.Err(); err != nil {
		return err
	}
	return l.limits.admit(max(size, 0), urgent)
}
