// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sort"
)

// A sorted run is a file of records, the changes of a stretch of the log in
// the order of rows:
//
//	blocks    each: bytes of records u32, CRC32C of them u32, whole records
//	index     for each block: offset u64, first key's size u16, first key
//	trailer   magic "SLRN", version u32, offset of the index u64, records u64,
//	          CRC32C of index and trailer before it u32
//
// All integers are big-endian. It lives as long as one rebuild, on the
// machine that wrote it; another version of the program begins anew.
const (
	runMagic       = "SLRN"
	runVersion     = 1
	runBlock       = 128 << 10 // bytes of records in a block, about
	runTrailerSize = 4 + 4 + 8 + 8 + 4
	runBlockHead   = 4 + 4
	maxRunBlock    = runBlock + maxRecord
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errRun = errors.New("a sorted run of the rebuild is damaged: remove its scratch directory, the rebuild then begins anew")

// runInfo describes a run, so that a rebuild that goes on knows its own.
type runInfo struct {
	File    string `json:"file"` // in the scratch directory
	Size    int64  `json:"size"`
	Records uint64 `json:"records"`
	Sum     uint32 `json:"sum"` // the CRC that its trailer ends with
}

// writeRun writes the records of b, in order, to path. It is not synced; see
// verifyRun.
func writeRun(path string, b *runBuffer) (info runInfo, err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return info, fmt.Errorf("make a sorted run: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	w := &runWriter{out: file, block: make([]byte, runBlockHead, 2*runBlock)}
	b.each(w.add)
	w.finish()
	if w.err != nil {
		return info, fmt.Errorf("write a sorted run: %w", w.err)
	}
	return runInfo{Size: w.offset, Records: b.records, Sum: w.sum}, nil
}

type runWriter struct {
	out     io.Writer
	block   []byte // with room for its head
	index   []byte
	offset  int64
	records uint64
	sum     uint32
	err     error
}

func (w *runWriter) add(record []byte) {
	if len(w.block) == runBlockHead {
		key := recordKey(record)
		w.index = binary.BigEndian.AppendUint64(w.index, uint64(w.offset))
		w.index = binary.BigEndian.AppendUint16(w.index, uint16(len(key)))
		w.index = append(w.index, key...)
	}
	w.block = append(w.block, record...)
	w.records++
	if len(w.block) >= runBlockHead+runBlock {
		w.flush()
	}
}

func (w *runWriter) flush() {
	records := w.block[runBlockHead:]
	if len(records) == 0 {
		return
	}
	binary.BigEndian.PutUint32(w.block, uint32(len(records)))
	binary.BigEndian.PutUint32(w.block[4:], crc32.Checksum(records, castagnoli))
	w.write(w.block)
	w.block = w.block[:runBlockHead]
}

func (w *runWriter) finish() {
	w.flush()
	be := binary.BigEndian
	end := be.AppendUint32(append(w.index, runMagic...), runVersion)
	end = be.AppendUint64(be.AppendUint64(end, uint64(w.offset)), w.records)
	w.sum = crc32.Checksum(end, castagnoli)
	w.write(be.AppendUint32(end, w.sum))
}

func (w *runWriter) write(b []byte) {
	if w.err == nil {
		var n int
		n, w.err = w.out.Write(b)
		w.offset += int64(n)
	}
}

// run is a run opened to be read, in several parts at once.
type run struct {
	file   *os.File
	blocks []runBlockAt
	end    int64 // where the blocks end
	near   markRange
}

type runBlockAt struct {
	offset int64
	first  []byte // key
}

// openRun opens a run and checks that it is the one that info describes.
func openRun(path string, info runInfo) (*run, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open a sorted run: %w", err)
	}
	r := &run{file: file}
	if err := r.load(info); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), file.Close())
	}
	return r, nil
}

func (r *run) load(info runInfo) error {
	stat, err := r.file.Stat()
	if err != nil {
		return fmt.Errorf("open a sorted run: %w", err)
	}
	if stat.Size() != info.Size || info.Size < runTrailerSize {
		return fmt.Errorf("%w: it has %d bytes, %d were written", errRun, stat.Size(), info.Size)
	}
	var trailer [runTrailerSize]byte
	if _, err := r.file.ReadAt(trailer[:], info.Size-runTrailerSize); err != nil {
		return fmt.Errorf("read a sorted run: %w", err)
	}
	be := binary.BigEndian
	r.end = int64(be.Uint64(trailer[8:]))
	if string(trailer[:4]) != runMagic || be.Uint32(trailer[4:]) != runVersion || r.end < 0 || r.end > info.Size-runTrailerSize {
		return fmt.Errorf("%w: no trailer at its end", errRun)
	}
	end := make([]byte, info.Size-r.end)
	if _, err := r.file.ReadAt(end, r.end); err != nil {
		return fmt.Errorf("read a sorted run: %w", err)
	}
	sum := crc32.Checksum(end[:len(end)-4], castagnoli)
	if sum != be.Uint32(trailer[24:]) || sum != info.Sum || be.Uint64(trailer[16:]) != info.Records {
		return fmt.Errorf("%w: its index has the checksum %08x, %08x was written", errRun, sum, info.Sum)
	}
	return r.readIndex(end[:len(end)-runTrailerSize])
}

func (r *run) readIndex(index []byte) error {
	for len(index) > 0 {
		if len(index) < 10 || int(binary.BigEndian.Uint16(index[8:])) > len(index)-10 {
			return fmt.Errorf("%w: its index ends early", errRun)
		}
		n := 10 + int(binary.BigEndian.Uint16(index[8:]))
		r.blocks = append(r.blocks, runBlockAt{int64(binary.BigEndian.Uint64(index)), index[10:n:n]})
		index = index[n:]
	}
	return nil
}

// verifyRun reads a whole run and checks every checksum.
func verifyRun(path string, info runInfo) (err error) {
	r, err := openRun(path, info)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	c := r.cursor(nil, nil)
	var records uint64
	for c.advance() {
		records++
	}
	if c.err == nil && records != info.Records {
		c.err = fmt.Errorf("%w: it has %d records, %d were written", errRun, records, info.Records)
	}
	return c.err
}

func (r *run) close() error { return r.file.Close() }

// cursor returns a reader of the records with from <= key < to; nil is
// either end. It stands before the first.
func (r *run) cursor(from, to []byte) *runCursor {
	first := 0
	if from != nil { // the block before the first that begins above from may hold the beginning
		first = max(0, sort.Search(len(r.blocks), func(i int) bool { return bytes.Compare(r.blocks[i].first, from) >= 0 })-1)
	}
	return &runCursor{run: r, next: first, from: from, to: to}
}

// runCursor reads the records of a range of keys, in order.
type runCursor struct {
	run      *run
	next     int // block
	from, to []byte
	block    []byte // what is left of the present one
	buf      []byte
	record   record
	head     [3]uint64 // of the record's key, see heads
	err      error
}

// heads returns the first 24 bytes of a key as numbers: most keys are told
// apart by them.
func heads(key []byte) [3]uint64 {
	if len(key) >= 24 {
		be := binary.BigEndian
		return [3]uint64{be.Uint64(key), be.Uint64(key[8:]), be.Uint64(key[16:])}
	}
	return [3]uint64{leading(key), leading(key[min(len(key), 8):]), leading(key[min(len(key), 16):])}
}

// compareKeys compares the keys of the records that two cursors stand on.
func (c *runCursor) compareKeys(other *runCursor) int {
	for i, head := range c.head {
		if head != other.head[i] {
			return cmp.Compare(head, other.head[i])
		}
	}
	return bytes.Compare(c.record.key, other.record.key)
}

// advance reads the next record; false at the end and on an error.
func (c *runCursor) advance() bool {
	for c.err == nil {
		for len(c.block) == 0 {
			if !c.load() {
				return false
			}
		}
		var n int
		if n, c.err = splitRecord(c.block, &c.record); c.err != nil {
			return false
		}
		c.block = c.block[n:]
		if c.from != nil && bytes.Compare(c.record.key, c.from) < 0 {
			continue
		}
		c.from = nil
		c.head = heads(c.record.key)
		return c.to == nil || bytes.Compare(c.record.key, c.to) < 0
	}
	return false
}

func (c *runCursor) load() bool {
	if c.next == len(c.run.blocks) {
		return false
	}
	at := c.run.blocks[c.next]
	end := c.run.end
	if c.next+1 < len(c.run.blocks) {
		end = c.run.blocks[c.next+1].offset
	}
	if c.to != nil && bytes.Compare(at.first, c.to) >= 0 {
		return false
	}
	c.next++
	size := end - at.offset
	if size < runBlockHead || size > maxRunBlock+runBlockHead {
		c.err = fmt.Errorf("%w: a block of %d bytes", errRun, size)
		return false
	}
	if int64(cap(c.buf)) < size {
		c.buf = make([]byte, size)
	}
	c.buf = c.buf[:size]
	if _, err := c.run.file.ReadAt(c.buf, at.offset); err != nil && !errors.Is(err, io.EOF) {
		c.err = fmt.Errorf("read a sorted run: %w", err)
		return false
	}
	c.block = c.buf[runBlockHead:]
	if int64(binary.BigEndian.Uint32(c.buf)) != size-runBlockHead || crc32.Checksum(c.block, castagnoli) != binary.BigEndian.Uint32(c.buf[4:]) {
		c.err = fmt.Errorf("%w: the checksum of its block at byte %d is wrong", errRun, at.offset)
		return false
	}
	return true
}
