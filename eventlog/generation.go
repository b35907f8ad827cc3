// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/strandline-project/strandline/internal/durable"
)

// Generation is one WAL directory, which is one archive object in the making:
// `<ordinal>.<attempt>/` with the segment file of a tidwall/wal log (frames),
// a file `payload` (the blocks' bytes, then, when it is closed, footer and
// trailer: the object itself, byte for byte) and a file `closed`, see closedName.
type Generation struct {
	Ordinal uint64 // from 1
	Attempt uint   // 0, or more when an unclosed one was written again
	// Trailer is that of the closed generation's object; nil while it is open.
	Trailer *Trailer

	dir     string
	carried carried // of one that was left unclosed
	stated  bool    // an earlier process closed it, says the file `closed`

	mu      sync.Mutex
	first   Seq      // owned by mu; 0 before the first event
	last    Seq      // owned by mu
	entries []Entry  // owned by mu; nil when they must be read from the footer
	sum     uint32   // owned by mu; CRC32C of the whole object as it was written, when summed
	summed  bool     // owned by mu; this process wrote it
	file    *os.File // owned by mu; for reading payloads, open while there are readers
	readers int      // owned by mu
	dropped bool     // owned by mu; the directory is gone
}

const payloadName = "payload"

func generationName(ordinal uint64, attempt uint) string {
	return fmt.Sprintf("%016d.%04d", ordinal, attempt)
}

// parseGenerationName is the inverse of generationName.
func parseGenerationName(name string) (ordinal uint64, attempt uint, ok bool) {
	if len(name) != 21 || name[16] != '.' {
		return 0, 0, false
	}
	ordinal, err := strconv.ParseUint(name[:16], 10, 64)
	if err != nil || ordinal == 0 {
		return 0, 0, false
	}
	n, err := strconv.ParseUint(name[17:], 10, 16)
	return ordinal, uint(n), err == nil && generationName(ordinal, uint(n)) == name
}

// Path is the payload file: of a closed generation, the object.
func (g *Generation) Path() string { return filepath.Join(g.dir, payloadName) }

// Size is the object's size in bytes; the generation must be closed.
func (g *Generation) Size() int64 {
	return int64(g.Trailer.FooterOffset+g.Trailer.FooterSize) + TrailerSize
}

// String names g for people, with its seqs.
func (g *Generation) String() string {
	first, last := g.Seqs()
	return fmt.Sprintf("generation %d (%s-%s)", g.Ordinal, first, last)
}

// Seqs returns the first and the last seq of g, zero while it has none.
func (g *Generation) Seqs() (first, last Seq) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.first, g.last
}

// expect makes room for about n entries, so that they are not copied again and
// again while they come.
func (g *Generation) expect(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.entries = make([]Entry, 0, n)
}

// extend makes committed entries visible to readers of g.
func (g *Generation) extend(entries []Entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.first == 0 {
		g.first = entries[0].Event.Seq
	}
	g.last = entries[len(entries)-1].Event.Seq
	g.entries = append(g.entries, entries...)
}

// Checksum returns the CRC32C of the whole object as it is on the disk now. It
// reads all of it, so that what has rotted since it was written is found before
// anybody relies on it: then the error is a *Rot.
func (g *Generation) Checksum() (uint32, error) {
	sum, err := g.sumFile()
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = &Rot{Ordinal: g.Ordinal, Seq: g.Trailer.First, err: fmt.Errorf("%w: the file %s is too short", ErrDamaged, g.Path())}
	}
	if err != nil {
		return 0, fmt.Errorf("summing %s: %w", g, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.summed && g.sum != sum {
		return 0, fmt.Errorf("summing generation %d: %w", g.Ordinal, &Rot{Ordinal: g.Ordinal, Seq: g.first,
			err: fmt.Errorf("%w: footer and trailer have CRC32C %08x with all before them, written was %08x", ErrDamaged, sum, g.sum)})
	}
	return sum, nil
}

// Rot says that a closed generation is not what was written any more.
type Rot struct {
	Ordinal uint64
	Seq     Seq // of the first event whose payload is damaged; of the first event if no payload is
	// Payloads are the events whose payloads are damaged, ascending, if all the
	// rest is as it was written; else nil. Sum is the CRC32C of the object as
	// it is now, for who lets them go.
	Payloads []Seq
	Sum      uint32
	err      error
}

func (r *Rot) Error() string {
	return fmt.Sprintf("generation %d has rotted at seq %s: %v", r.Ordinal, r.Seq, r.err)
}

// Unwrap makes a Rot an ErrDamaged.
func (r *Rot) Unwrap() error { return r.err }

func (g *Generation) sumFile() (uint32, error) {
	f, err := os.Open(g.Path())
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // read only
	payloads, err := updateFrom(0, f, int64(g.Trailer.FooterOffset))
	if err != nil {
		return 0, err
	}
	sum, err := updateFrom(payloads, f, g.Size()-int64(g.Trailer.FooterOffset))
	if err != nil {
		return 0, err
	}
	if whole, err := endsWith(g.Path(), g.Trailer); err != nil {
		return 0, err
	} else if !whole {
		err := fmt.Errorf("%w: footer and trailer in %s are not what was written", ErrDamaged, g.Path())
		return 0, &Rot{Ordinal: g.Ordinal, Seq: g.Trailer.First, err: err}
	}
	if payloads != g.Trailer.PayloadSum {
		return 0, g.findDamage(f, sum)
	}
	return sum, nil
}

// updateFrom returns the checksum of what sum covers and the next n bytes of r.
func updateFrom(sum uint32, r io.Reader, n int64) (uint32, error) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for n > 0 {
		part := buf[:min(n, bufferSize)]
		if _, err := io.ReadFull(r, part); errors.Is(err, io.EOF) {
			return 0, io.ErrUnexpectedEOF // it is n bytes that are wanted
		} else if err != nil {
			return 0, err
		}
		sum = UpdateChecksum(sum, part)
		n -= int64(len(part))
	}
	return sum, nil
}

// findDamage names the events whose payloads in f are not what was written. sum
// is that of all of f.
func (g *Generation) findDamage(f io.ReaderAt, sum uint32) error {
	entries, err := g.Entries()
	if err != nil {
		return err
	}
	rot := &Rot{Ordinal: g.Ordinal, Seq: g.Trailer.First, Sum: sum}
	for i := range entries {
		err := readPlaced(f, entries[i].Placement, func([]byte) error { return nil })
		if err != nil && !errors.Is(err, ErrDamaged) {
			return err
		}
		if err != nil && rot.Payloads == nil {
			rot.Seq = entries[i].Event.Seq
			rot.err = fmt.Errorf("the payload of seq %s: %w", rot.Seq, err)
		}
		if err != nil {
			rot.Payloads = append(rot.Payloads, entries[i].Event.Seq)
		}
	}
	magic := make([]byte, len(ObjectMagic))
	if _, err := f.ReadAt(magic, 0); err != nil {
		return err
	}
	if string(magic) != ObjectMagic {
		rot.Payloads = nil
		rot.err = fmt.Errorf("%w: its first %d bytes are not what was written", ErrDamaged, len(ObjectMagic))
	}
	return rot
}

// Entries returns the generation's entries so far, from memory or, of a
// closed one, from the footer of its file.
func (g *Generation) Entries() ([]Entry, error) {
	g.mu.Lock()
	entries := g.entries
	g.mu.Unlock()
	if entries != nil {
		return entries, nil
	}
	footer, err := readFooter(g.Path(), g.Trailer)
	if err != nil {
		return nil, fmt.Errorf("reading the footer of %s: %w", g, err)
	}
	return footer.Entries, nil
}

// forget drops the entries held in memory, false when none were; Entries
// reads them again.
func (g *Generation) forget() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	had := g.entries != nil
	g.entries = nil
	return had
}

func (g *Generation) closed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Trailer != nil
}

func (g *Generation) lastSeq() Seq {
	_, last := g.Seqs()
	return last
}

// weight is what g counts in the backlog, in bytes: payloads and entries.
func (g *Generation) weight() int64 {
	return int64(g.Trailer.PayloadBytes + g.Trailer.FooterRawSize - footerHeadSize)
}

// gone reports whether g was dropped: then its events are in the archive.
func (g *Generation) gone() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dropped
}

// acquire returns the payloads for reading, false when the generation's
// directory is gone. Each success wants a release.
//
// No file is opened under mu: a disk that does not answer keeps those waiting
// who want its bytes, and nobody who asks for the log's state.
func (g *Generation) acquire() (io.ReaderAt, bool, error) {
	if payloads, gone := g.hold(nil); gone || payloads != nil {
		return payloads, !gone, nil
	}
	f, err := os.Open(g.Path())
	if err != nil && g.gone() { // it was dropped just now, so it is archived
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("opening the payload of %s: %w", g, err)
	}
	payloads, gone := g.hold(f)
	return payloads, !gone, nil
}

// hold counts one more reader of the open file. opened becomes that file, unless
// another reader came first. It returns nil when no file is open.
func (g *Generation) hold(opened *os.File) (payloads io.ReaderAt, gone bool) {
	g.mu.Lock()
	file, gone := g.file, g.dropped && opened == nil
	if file == nil && opened != nil {
		g.file, file, opened = opened, opened, nil
	}
	if file != nil && !gone {
		g.readers++
		payloads = g.payloads(file)
	}
	g.mu.Unlock()
	if opened != nil {
		opened.Close() //nolint:errcheck // read only
	}
	return payloads, gone
}

// payloads is file, with the payloads that frames carry in their places: they
// are durable there, whatever file holds.
func (g *Generation) payloads(file io.ReaderAt) io.ReaderAt {
	if len(g.carried) == 0 {
		return file
	}
	return &carriedPayloads{file, g.carried}
}

func (g *Generation) release() {
	g.mu.Lock()
	var unused *os.File
	if g.readers--; g.readers == 0 {
		unused, g.file = g.file, nil
	}
	g.mu.Unlock()
	if unused != nil {
		unused.Close() //nolint:errcheck // read only
	}
}

// remove deletes the directory. Readers that hold the file go on.
func (g *Generation) remove() error {
	g.mu.Lock()
	g.dropped = true
	g.mu.Unlock()
	if err := durable.RemoveAll(g.dir); err != nil {
		return fmt.Errorf("removing %s: %w", g, err)
	}
	return nil
}

// readTrailer returns what stands at the end of the file at path, if it is a
// trailer that fits the file's size; else nil. Whether it is ours is another
// question, see closedName.
func readTrailer(path string) (*Trailer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err != nil || info.Size() < int64(len(ObjectMagic))+TrailerSize {
		return nil, err
	}
	raw := make([]byte, TrailerSize)
	if _, err := f.ReadAt(raw, info.Size()-TrailerSize); err != nil {
		return nil, err
	}
	trailer, err := DecodeTrailer(raw)
	if err != nil || trailer.Check(info.Size()) != nil {
		return nil, nil //nolint:nilerr // also one of a later version: anybody may have stored it
	}
	return trailer, nil
}

// checkFooter reads the footer's bytes and nothing else: a start looks at many
// generations and needs few.
func checkFooter(path string, trailer *Trailer) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	return sumFooter(f, trailer)
}

func sumFooter(f io.ReaderAt, t *Trailer) error {
	sum, err := updateFrom(0, io.NewSectionReader(f, int64(t.FooterOffset), int64(t.FooterSize)), int64(t.FooterSize))
	if err != nil {
		return err
	}
	if sum != t.FooterSum {
		return fmt.Errorf("%w: the footer of seq %s to %s has CRC32C %08x, its trailer says %08x", ErrDamaged, t.First, t.Last, sum, t.FooterSum)
	}
	return nil
}

func readFooter(path string, trailer *Trailer) (*Footer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	raw := make([]byte, trailer.FooterSize)
	if _, err := f.ReadAt(raw, int64(trailer.FooterOffset)); err != nil {
		return nil, err
	}
	return DecodeFooter(trailer, raw)
}

// readPlaced reads the payload at p from f and checks every chunk.
func readPlaced(f io.ReaderAt, p Placement, each func(chunk []byte) error) error {
	buf := make([]byte, ChunkSize)
	for i := uint64(0); i < Chunks(p.Length); i++ {
		chunk := buf[:min(ChunkSize, p.Length-i*ChunkSize)]
		if _, err := f.ReadAt(chunk, int64(p.Offset+i*ChunkSize)); errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: the file ends within chunk %d", ErrDamaged, i)
		} else if err != nil {
			return err
		}
		if got, want := Checksum(chunk), binary.LittleEndian.Uint32(p.Sums[4*i:]); got != want {
			return fmt.Errorf("%w: chunk %d has CRC32C %08x, its frame says %08x", ErrDamaged, i, got, want)
		}
		if err := each(chunk); err != nil {
			return err
		}
	}
	return nil
}
