// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/strandline-project/strandline/internal/durable"
	"github.com/tidwall/wal"
)

// frameLog is what the committer needs of tidwall/wal: append a batch and
// fsync it, and close. Everything else of the library stays unused.
type frameLog interface {
	WriteBatch(*wal.Batch) error
	Close() error
}

// payloadFile is what writer, committer and closer need of the payload file,
// and of the file beside it that says when it is an object.
type payloadFile interface {
	io.Writer
	Sync() error // as fdatasync
	// MarkClosed makes trailer the content of the file `closed`, durably.
	MarkClosed(trailer []byte) error
	Close() error
}

// files makes a generation's files durable and empty; a test puts one with
// faults in its place.
type files func(dir string) (frameLog, payloadFile, error)

// openGeneration is a generation being written. The writer owns its payload and
// the committer its frames, until both are through with it; then the closer
// owns all of it.
type openGeneration struct {
	*Generation
	head   Head
	secret uint64 // of its frames

	payload  payloadFile // synced by the committer, and when it is closed
	size     uint64      // bytes in payload
	sumSoFar uint32      // CRC32C of those
	began    time.Time   // when the first event came
	clean    bool        // its object shall carry the clean-end flag

	frames  frameLog
	batch   wal.Batch
	batched int    // bytes in batch
	index   uint64 // of the last entry in frames
	events  int    // committed
	carries bool   // frames carry payloads, which in payload are not synced
}

// payloadDisk is a payload file on disk. Its Sync leaves out what reading it
// back does not need, such as its times, and it lets the disk begin with large
// payloads before they are synced. Both may run at once.
type payloadDisk struct {
	*os.File
	closed  *os.File // `closed`: open from the beginning, because a moment without descriptors must not stop a close
	end     int64    // of the file; owned by whoever writes
	started int64    // up to here the disk was told to begin; likewise
}

// writebackStep is how many bytes are worth telling the disk about.
const writebackStep = 2 << 20

func (f *payloadDisk) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.end += int64(n)
	if f.end-f.started >= writebackStep {
		durable.StartWriteback(f.File, f.started, f.end-f.started)
		f.started = f.end
	}
	return n, err
}

func (f *payloadDisk) Sync() error { return durable.SyncData(f.File) }

func (f *payloadDisk) MarkClosed(trailer []byte) error {
	if _, err := f.closed.WriteAt(trailer, 0); err != nil {
		return err
	}
	return durable.SyncData(f.closed)
}

func (f *payloadDisk) Close() error { return errors.Join(f.File.Close(), f.closed.Close()) }

// createFiles makes dir, which must not exist, an empty tidwall/wal log in it,
// a payload file that holds the object's magic, and an empty file `closed`.
// Nothing is lost by a crash here: the directory holds no event and the next
// start removes it.
func createFiles(dir string) (frameLog, payloadFile, error) {
	if err := durable.Mkdir(filepath.Dir(dir), 0o700); err != nil {
		return nil, nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, nil, err
	}
	if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, nil, err
	}
	frames, err := wal.Open(dir, &wal.Options{
		SegmentSize: 1 << 40, SegmentCacheSize: 1, AllowEmpty: true, DirPerms: 0o700, FilePerms: 0o600,
	})
	if err != nil {
		return nil, nil, err
	}
	payload, err := createPayload(dir)
	if err != nil {
		return nil, nil, errors.Join(err, frames.Close())
	}
	// The library never syncs a directory: file, payload, then the directory.
	err = errors.Join(payload.Sync(), payload.closed.Sync(), durable.SyncFile(filepath.Join(dir, segmentName)), durable.SyncDir(dir))
	if err != nil {
		return nil, nil, errors.Join(err, frames.Close(), payload.Close())
	}
	return frames, payload, nil
}

// createPayload makes the payload file of dir, and `closed` beside it.
func createPayload(dir string) (*payloadDisk, error) {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	payload, err := os.OpenFile(filepath.Join(dir, payloadName), flags, 0o600)
	if err != nil {
		return nil, err
	}
	closed, err := os.OpenFile(filepath.Join(dir, closedName), flags, 0o600)
	if err != nil {
		return nil, errors.Join(err, payload.Close())
	}
	f := &payloadDisk{File: payload, closed: closed}
	if _, err := f.Write([]byte(ObjectMagic)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// newGeneration prepares the directory of a generation; head.Ordinal is its
// ordinal.
func newGeneration(walDir string, head Head, attempt uint, create files) (*openGeneration, error) {
	g := &Generation{Ordinal: head.Ordinal, Attempt: attempt, dir: filepath.Join(walDir, generationName(head.Ordinal, attempt))}
	frames, payload, err := create(g.dir)
	if err != nil {
		return nil, fmt.Errorf("preparing generation %d in %s: %w", head.Ordinal, g.dir, err)
	}
	return &openGeneration{
		Generation: g, head: head, secret: newSecret(), frames: frames, payload: payload,
		size: uint64(len(ObjectMagic)), sumSoFar: Checksum([]byte(ObjectMagic)),
	}, nil
}

// newSecret returns what the frames of one generation have in common; a test's
// in the test of its bytes.
var newSecret = func() uint64 {
	var b [secretSize]byte
	for binary.LittleEndian.Uint64(b[:]) == 0 {
		rand.Read(b[:]) //nolint:errcheck // never fails: it ends the program instead
	}
	return binary.LittleEndian.Uint64(b[:])
}

// add counts a body that was appended to the payload file, byte for byte as it was
// received: its checksum is that of then.
func (g *openGeneration) add(b *Body) {
	g.size += b.Length
	g.sumSoFar = appendedChecksum(g.sumSoFar, b.Checksum, b.Length)
}

// addFrame appends one frame to the batch that the next sync writes; the
// first of a generation is preceded by its head.
func (g *openGeneration) addFrame(scratch []byte, f *frame) []byte {
	if g.index == 0 && f.flags != frameHead {
		head := frame{flags: frameHead, seq: f.seq, durable: f.durable, body: appendHead(nil, &g.head)}
		scratch = g.addFrame(scratch, &head)
	}
	g.index++
	f.secret = g.secret
	g.batched += f.size()
	g.carries = g.carries || len(f.payload) > 0
	scratch = appendFrame(scratch[:0], f)
	g.batch.Write(g.index, scratch) // copies
	return scratch
}

// sync writes the batch of frames and fsyncs it.
func (g *openGeneration) sync() error {
	err := g.frames.WriteBatch(&g.batch) // clears the batch
	if err != nil {
		return fmt.Errorf("writing frames of generation %d: %w", g.Ordinal, err)
	}
	if g.batched > keptBatch {
		g.batch = wal.Batch{}
	}
	g.batched = 0
	return nil
}

// keptBatch is the size of a batch of frames whose memory is kept for the
// next one.
const keptBatch = 4 << 20

// close turns the generation into its object: footer and trailer go behind
// the payloads, and `closed` says so. No name changes, and no file is opened.
//
// A crash before the last sync leaves an unclosed generation, whose events
// are all in its frames, and the next start writes it again under a new attempt;
// or footer and trailer are there, say what the frames say, and that is as
// good (closedByFrames). After it the file is the object and never changes.
func (g *openGeneration) close(now time.Time) error {
	trailer, tail := g.metadata(now)
	var err error
	if g.carries {
		err = g.payload.Sync()
	}
	if err == nil {
		_, err = g.payload.Write(tail)
	}
	if err == nil {
		err = g.payload.Sync()
	}
	if err == nil { // only now: it is believed without a look at payloads or frames
		err = g.payload.MarkClosed(tail[len(tail)-TrailerSize:])
	}
	// CLOSED, if there was no error.
	if err = errors.Join(err, g.abandon()); err != nil {
		return fmt.Errorf("closing generation %d: %w", g.Ordinal, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sum, g.summed = UpdateChecksum(g.sumSoFar, tail), true
	g.Trailer = trailer
	return nil
}

// metadata returns the trailer of the generation's object, and footer and
// trailer as bytes.
func (g *openGeneration) metadata(now time.Time) (*Trailer, []byte) {
	g.mu.Lock()
	first, last, entries := g.first, g.last, g.entries // all of them: only closed ones forget
	g.mu.Unlock()
	trailer := &Trailer{
		LogID: g.head.LogID, Epoch: g.head.Epoch, Writer: g.head.Writer,
		FirstOrdinal: g.Ordinal, LastOrdinal: g.Ordinal, First: first, Last: last,
		PayloadBytes: g.size - uint64(len(ObjectMagic)), PayloadSum: g.sumSoFar, ClosedAt: now.UnixNano(),
	}
	if g.clean {
		trailer.Flags |= FlagCleanEnd
	}
	return trailer, AppendMetadata(nil, trailer, entries, nil, 0)
}

// abandon closes the files as they are, without making an object: the next
// start writes the generation again from its frames. (After a failed sync the
// library leaves its file open; the process takes no more writes then.)
func (g *openGeneration) abandon() error {
	return errors.Join(g.payload.Close(), g.frames.Close())
}
