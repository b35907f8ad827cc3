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

// bufferSize is how much of a body one buffer holds.
const bufferSize = 4 * ChunkSize

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// A body that memory has no room for passes through a small buffer into its
// spool file. It keeps the buffer while its client sends nothing, so there is
// a bound on such bodies: with it, bodies in flight take BodyMemory and 16 MiB.
const (
	spoolBuffer = 16 << 10
	maxSpooling = 1024
)

var spoolBuffers = sync.Pool{New: func() any { return new([spoolBuffer]byte) }}

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
	room   *admission // on the disk and in the backlog, until commit or Release
	held   int64      // bytes taken from the memory budget
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
	mu       sync.Mutex
	free     int64  // owned by mu
	spooling int    // owned by mu; bodies that pass through a spool buffer now
	spool    string // directory for what does not fit
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

// startSpooling says whether one more body may hold a spool buffer.
func (m *memory) startSpooling() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.spooling == maxSpooling {
		return false
	}
	m.spooling++
	return true
}

func (m *memory) endSpooling() {
	m.mu.Lock()
	m.spooling--
	m.mu.Unlock()
}

// receive reads a whole body of size bytes (-1: not known) and at most limit
// into the room that it was promised. Reading errors that are the sender's
// come back wrapped in ErrShortBody; errors of our own spool file do not.
func (m *memory) receive(r io.Reader, size, limit int64, room *admission) (*Body, error) {
	b := &Body{memory: m, room: room}
	if err := b.readFrom(r, size, limit); err != nil {
		b.Release()
		return nil, err
	}
	return b, nil
}

func (b *Body) readFrom(r io.Reader, size, limit int64) error {
	if size > limit {
		return fmt.Errorf("%w: %d bytes declared, at most %d", ErrTooLarge, size, limit)
	}
	sum := sha256.New()
	for {
		piece, inMemory := b.nextBuffer(size)
		if !inMemory {
			return b.spoolFrom(r, sum, size, limit)
		}
		_, done, err := b.read(r, sum, piece, size, limit)
		if err != nil {
			return err
		}
		if err := b.room.reach(int64(b.Length)); err != nil {
			return fmt.Errorf("after %d bytes: %w", b.Length, err)
		}
		if done {
			b.complete(sum)
			return nil
		}
	}
}

// read reads the next piece of the body and says whether it was the last.
func (b *Body) read(r io.Reader, sum hash.Hash, piece []byte, size, limit int64) (n int, done bool, err error) {
	n, err = readFull(r, piece)
	if done, err = b.ended(n, len(piece), size, err); err != nil {
		return n, false, err
	}
	b.add(sum, piece[:n])
	if int64(b.Length) > limit {
		return n, false, fmt.Errorf("%w: at most %d bytes", ErrTooLarge, limit)
	}
	return n, done, nil
}

// nextBuffer returns memory for the next piece of the body, false when there
// is none left in the budget.
func (b *Body) nextBuffer(size int64) ([]byte, bool) {
	if size >= 0 && size <= ChunkSize && b.hold(heldFor(size)) {
		b.small = b.smallBuffer(size)
		return b.small, true
	}
	if !b.hold(bufferSize) {
		return nil, false
	}
	buf := buffers.Get().(*[bufferSize]byte)
	b.pooled = append(b.pooled, buf)
	return b.upTo(buf[:], size), true
}

// upTo cuts buf to what is still to come of a body of size bytes.
func (b *Body) upTo(buf []byte, size int64) []byte {
	if left := size - int64(b.Length); size >= 0 && left < int64(len(buf)) {
		return buf[:left]
	}
	return buf
}

// spoolFrom reads the rest of the body into a spool file.
func (b *Body) spoolFrom(r io.Reader, sum hash.Hash, size, limit int64) error {
	if !b.memory.startSpooling() {
		return fmt.Errorf("%w: %d pass through the spool folder", ErrTooMany, maxSpooling)
	}
	defer b.memory.endSpooling()
	if err := b.room.reachSpool(size - int64(b.Length)); err != nil {
		return fmt.Errorf("spooling a body of %d bytes: %w", size, err)
	}
	if err := b.openSpool(); err != nil {
		return err
	}
	buf := spoolBuffers.Get().(*[spoolBuffer]byte)
	defer spoolBuffers.Put(buf)
	for done := false; !done; {
		var n int
		var err error
		if n, done, err = b.read(r, sum, b.upTo(buf[:], size), size, limit); err != nil {
			return err
		}
		if err := b.writeSpool(buf[:n]); err != nil {
			return fmt.Errorf("spooling a body after %d bytes: %w", b.Length, err)
		}
	}
	b.complete(sum)
	return nil
}

// writeSpool appends p to the spool file once it has room there, and in the
// payload to come.
func (b *Body) writeSpool(p []byte) error {
	if err := b.room.reach(int64(b.Length)); err != nil {
		return err
	}
	if err := b.room.reachSpool(int64(len(p))); err != nil {
		return err
	}
	b.room.spools(int64(len(p)))
	_, err := b.spool.Write(p)
	return err
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

// add takes p, which may begin and end anywhere, into sums and length.
func (b *Body) add(sum hash.Hash, p []byte) {
	sum.Write(p) //nolint:errcheck // a hash never fails
	for len(p) > 0 {
		at := b.Length % ChunkSize
		if at == 0 {
			b.Sums = append(b.Sums, 0, 0, 0, 0) // of no bytes
		}
		piece := p[:min(uint64(len(p)), ChunkSize-at)]
		last := b.Sums[len(b.Sums)-4:]
		binary.LittleEndian.PutUint32(last, UpdateChecksum(binary.LittleEndian.Uint32(last), piece))
		b.Length += uint64(len(piece))
		p = p[len(piece):]
	}
}

// complete sets what is known when all has come.
func (b *Body) complete(sum hash.Hash) {
	sum.Sum(b.SHA256[:0])
	b.Checksum = JoinedChecksum(b.Sums, b.Length) // each byte is summed once
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
	_, err := io.CopyN(w, io.NewSectionReader(b.spool, 0, int64(left)), int64(left)) // fewer are an error
	return err
}

// carried returns the bytes of a body that its frame is to carry; nil when it
// is too large for that, or spooled. They are b's until Release.
func (b *Body) carried() []byte {
	switch {
	case b == nil || b.Length > maxCarried || b.spool != nil:
		return nil
	case len(b.pooled) > 0: // one is more than it needs
		return b.pooled[0][:b.Length]
	}
	return b.small
}

// Release gives the body's memory and its room on the disk back; it may be
// called more than once.
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
	b.room.giveBack()
}

// Receive reads a whole body of size bytes (-1: not known), at most limit,
// and hashes it on the way. It waits where the log's limits want ingest
// slowed down, and refuses when the log cannot take it: ErrBacklog,
// ErrDiskFull, ErrTooMany, or the error that stopped the log. The caller owns
// the Body.
func (l *Log) Receive(ctx context.Context, r io.Reader, size, limit int64) (*Body, error) {
	room, err := l.admit(size, false)
	if err != nil {
		return nil, err
	}
	paced, done := l.limits.pace(ctx, r)
	defer done()
	return l.memory.receive(paced, size, min(limit, MaxPayload), room)
}

// ReceiveUrgent is Receive for a lock's body: it may use the reserve under the
// disk floor, does not count against the backlog, and is not slowed down.
func (l *Log) ReceiveUrgent(r io.Reader, size, limit int64) (*Body, error) {
	room, err := l.admit(size, true)
	if err != nil {
		return nil, err
	}
	return l.memory.receive(r, size, min(limit, MaxPayload), room)
}

func (l *Log) admit(size int64, urgent bool) (*admission, error) {
	if err := l.Err(); err != nil {
		return nil, err
	}
	return l.limits.admit(max(size, 0), urgent)
}
