// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"

	"github.com/strandline-project/strandline/eventlog"
)

// A copy of a view is all that its store held at one moment, in the order of
// the keys, so that it can be sent away while the view moves on. All integers
// are big-endian; docs/FORMAT.md has the bytes.
//
//	copyMagic, then chunks:
//	length(4) CRC32C of what follows(4) rows: length of key(uvarint) key length of value(uvarint) value
//	0(4)      CRC32C of what follows(4) number of rows(8)      the end
//
// The first row is the view's state: whose copy it is, of which version, and
// as of which event.
const copyMagic = "SLVC1\r\n\x00"

const (
	copyChunk    = 256 << 10 // bytes after which a chunk is sent
	maxCopyChunk = 16 << 20  // bytes of a chunk that is read
	copyHead     = 8         // bytes before a chunk's rows
	copyEnd      = 8         // bytes of the number of rows
)

// Export writes a copy of the view, as it is now, to w, in chunks of about
// 256 KiB. The view may move meanwhile; memory is that of a chunk.
func (v *View) Export(ctx context.Context, w io.Writer) error {
	err := v.inSnapshot(func(snapshot Snapshot) (err error) {
		cursor, err := snapshot.Range(nil, nil)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, cursor.Close()) }()
		return export(ctx, cursor, w)
	})
	if err != nil {
		return fmt.Errorf("copy the %s view: %w", v.Name(), err)
	}
	return nil
}

func export(ctx context.Context, cursor Cursor, w io.Writer) error {
	if _, err := io.WriteString(w, copyMagic); err != nil {
		return err
	}
	var rows uint64
	chunk := make([]byte, copyHead, copyChunk+copyChunk/4)
	for cursor.Next() {
		chunk = binary.AppendUvarint(chunk, uint64(len(cursor.Key())))
		chunk = append(chunk, cursor.Key()...)
		chunk = binary.AppendUvarint(chunk, uint64(len(cursor.Value())))
		chunk = append(chunk, cursor.Value()...)
		rows++
		if len(chunk) < copyChunk {
			continue
		}
		if err := errors.Join(ctx.Err(), sendChunk(w, chunk, len(chunk)-copyHead)); err != nil {
			return err
		}
		chunk = chunk[:copyHead]
	}
	if err := cursor.Err(); err != nil {
		return err
	}
	if len(chunk) > copyHead {
		if err := sendChunk(w, chunk, len(chunk)-copyHead); err != nil {
			return err
		}
	}
	return sendChunk(w, binary.BigEndian.AppendUint64(chunk[:copyHead], rows), 0)
}

// sendChunk fills in a chunk's head and writes it.
func sendChunk(w io.Writer, chunk []byte, length int) error {
	binary.BigEndian.PutUint32(chunk, uint32(length))
	binary.BigEndian.PutUint32(chunk[4:], eventlog.Checksum(chunk[copyHead:]))
	_, err := w.Write(chunk)
	return err
}

// ErrCopy says that a copy of a view is cut short or damaged.
var ErrCopy = errors.New("the copy of a view is not whole")

// Import makes the view of p in dir, which must not exist, from a copy that
// Export wrote, and returns the event that it stands at. A copy of another
// view or version is ErrUnusable, one that is not whole ErrCopy. After an
// error dir is not there.
func Import(ctx context.Context, engine Engine, dir string, p Projector, r io.Reader) (eventlog.Seq, error) {
	there, err := engine.Exists(dir)
	if err == nil && there {
		err = errors.New("there is one already")
	}
	if err != nil {
		return 0, fmt.Errorf("make the %s view in %s from a copy: %w", p.Name(), dir, err)
	}
	position, err := importInto(ctx, engine, dir, p, r)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("make the %s view in %s from a copy: %w", p.Name(), dir, err), engine.Remove(dir))
	}
	return position, nil
}

func importInto(ctx context.Context, engine Engine, dir string, p Projector, r io.Reader) (_ eventlog.Seq, err error) {
	store, err := engine.Open(dir, Live)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	in := &importer{out: newTableWriter(store, new(atomic.Uint64)), projector: p}
	if err := in.read(ctx, bufio.NewReaderSize(r, copyChunk)); err != nil {
		return 0, errors.Join(err, in.out.finish())
	}
	if err := in.out.finish(); err != nil {
		return 0, err
	}
	return in.state.position, store.Ingest(ctx, in.out.files)
}

// importer takes in a copy.
type importer struct {
	out       *tableWriter
	projector Projector
	state     state
	rows      uint64
	last      []byte // key
	chunk     []byte
}

func (in *importer) read(ctx context.Context, r io.Reader) error {
	var magic [len(copyMagic)]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil || string(magic[:]) != copyMagic {
		return errors.Join(fmt.Errorf("%w: it does not begin like one", ErrCopy), err)
	}
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		last, err := in.readChunk(r)
		if err != nil {
			return err
		}
		if last {
			return in.end()
		}
		for rest := in.chunk; len(rest) > 0; {
			if rest, err = in.row(rest); err != nil {
				return err
			}
		}
	}
}

// readChunk reads the next chunk; last says that it is the number of rows.
func (in *importer) readChunk(r io.Reader) (last bool, err error) {
	var head [copyHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return false, fmt.Errorf("%w: it breaks off after %d rows: %w", ErrCopy, in.rows, err)
	}
	length, sum := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[4:])
	if length > maxCopyChunk {
		return false, fmt.Errorf("%w: a chunk of %d bytes, more than %d", ErrCopy, length, maxCopyChunk)
	}
	size := int(length)
	if size == 0 {
		size = copyEnd
	}
	if cap(in.chunk) < size {
		in.chunk = make([]byte, size)
	}
	in.chunk = in.chunk[:size]
	if _, err := io.ReadFull(r, in.chunk); err != nil {
		return false, fmt.Errorf("%w: it breaks off after %d rows: %w", ErrCopy, in.rows, err)
	}
	if eventlog.Checksum(in.chunk) != sum {
		return false, fmt.Errorf("%w: a wrong checksum after %d rows", ErrCopy, in.rows)
	}
	return length == 0, nil
}

// row takes in the first row of a chunk and returns the rest.
func (in *importer) row(chunk []byte) ([]byte, error) {
	key, rest, ok := cutBytes(chunk)
	value, rest, whole := cutBytes(rest)
	switch {
	case !ok || !whole:
		return nil, fmt.Errorf("%w: row %d does not fit its chunk", ErrCopy, in.rows+1)
	case in.rows == 0 && !bytes.Equal(key, stateKey):
		return nil, fmt.Errorf("%w: it does not begin with the view's state", ErrCopy)
	case in.rows == 0:
		if err := in.state.decode(value, in.projector.Name(), in.projector.Version()); err != nil {
			return nil, err
		}
	case bytes.Compare(in.last, key) >= 0:
		return nil, fmt.Errorf("%w: the key of row %d does not ascend", ErrCopy, in.rows+1)
	}
	in.rows++
	in.last = append(in.last[:0], key...)
	return rest, in.out.set(key, value)
}

// end checks the number of rows, which the last chunk states.
func (in *importer) end() error {
	if stated := binary.BigEndian.Uint64(in.chunk); stated != in.rows || in.rows == 0 {
		return fmt.Errorf("%w: it has %d rows, and states %d", ErrCopy, in.rows, stated)
	}
	return nil
}

// cutBytes cuts what begins with its length off the front of b.
func cutBytes(b []byte) (head, rest []byte, ok bool) {
	length, n := binary.Uvarint(b)
	if n <= 0 || length > uint64(len(b)-n) {
		return nil, nil, false
	}
	end := n + int(length)
	return b[n:end:end], b[end:], true
}

// Copy makes a copy of the view in from, which nobody writes to, in the
// directory to, which must not exist. Nothing in from is changed.
func Copy(ctx context.Context, engine Engine, from, to string, p Projector, log *slog.Logger) (_ eventlog.Seq, err error) {
	view, err := Open(engine, from, p, ReadOnly, log)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	in, out := io.Pipe()
	exported := make(chan error, 1)
	go func() {
		err := view.Export(ctx, out)
		out.CloseWithError(err) // a nil error is the end
		exported <- err
	}()
	position, err := Import(ctx, engine, to, p, in)
	in.CloseWithError(err) // what is still being written ends, and nobody waits for it
	return position, errors.Join(err, exportError(err, <-exported))
}

// exportError leaves out an export that failed only because nobody took it.
func exportError(imported, exported error) error {
	if imported != nil && errors.Is(exported, imported) {
		return nil
	}
	return exported
}
