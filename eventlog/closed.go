// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/strandline-project/strandline/internal/durable"
)

// How is a closed generation told from one whose last block looks like an end?
// The payload file is a client's to fill: a block may be a footer and a trailer,
// with every number right that a client can know. So nothing is believed because
// of what stands there. Two things are:
//
//   - the file `closed`, in which no client's byte can stand. It holds the
//     trailer once more, from the moment on at which the generation is closed.
//   - the frames, whose lengths come from the frames before them. A generation
//     without the file (an earlier build closed it, or a crash came in between)
//     is closed if its frames are all good, and footer and trailer say exactly
//     what they say. Who made them does not matter then.
const closedName = "closed"

// readClosed returns the trailer in the file `closed` of a generation's
// directory, nil when the generation does not state that it is closed.
// ErrObjectVersion means what it says: none but a later build wrote it.
func readClosed(dir string) (*Trailer, error) {
	raw, err := os.ReadFile(filepath.Join(dir, closedName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading whether a generation is closed: %w", err)
	}
	trailer, err := DecodeTrailer(raw)
	if errors.Is(err, ErrObjectVersion) {
		return nil, fmt.Errorf("reading %s: %w", filepath.Join(dir, closedName), err)
	}
	if err != nil {
		return nil, nil //nolint:nilerr // empty while it is open; the frames are asked
	}
	return trailer, nil
}

// writeClosed states that the generation in dir, which is synced, is closed.
func writeClosed(dir string, t *Trailer) error {
	f, err := os.OpenFile(filepath.Join(dir, closedName), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(AppendTrailer(nil, t), 0)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), durable.SyncDir(dir))
}

// endsWith reports whether the object at path ends with a whole footer and the
// trailer t. An error means that it is not known.
func endsWith(path string, t *Trailer) (bool, error) {
	found, err := readTrailer(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || found == nil || *found != *t {
		return false, err
	}
	if err := checkFooter(path, t); errors.Is(err, ErrDamaged) || errors.Is(err, io.ErrUnexpectedEOF) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, nil
}

// closedByFrames returns the trailer of g's payload file if it and the footer
// say exactly what t, which was read from whole frames, says; else nil.
func (t *tail) closedByFrames(g *Generation) (*Trailer, error) {
	want, ok := t.trailer(g.Ordinal)
	if !ok {
		return nil, nil
	}
	found, err := readTrailer(g.Path())
	if err != nil || found == nil {
		return nil, err
	}
	// What frames do not say. The footer is checked by its content, and a time
	// is no harm if a server can have closed the generation then.
	want.FooterSize, want.FooterSum, want.Flags, want.ClosedAt = found.FooterSize, found.FooterSum, found.Flags, found.ClosedAt
	if *found != *want || found.ClosedAt < t.entries[len(t.entries)-1].Event.Time || found.ClosedAt > time.Now().UnixNano() {
		return nil, nil
	}
	same, err := t.sameFooter(g.Path(), found)
	if err == nil && same {
		same, err = sameCarried(g)
	}
	if err != nil || !same {
		return nil, err
	}
	return found, nil
}

// trailer returns what a trailer must say of the events in t; ok is false when
// their payloads do not stand one behind the other, which ours do.
func (t *tail) trailer(ordinal uint64) (want *Trailer, ok bool) {
	want = &Trailer{
		LogID: t.head.LogID, Epoch: t.head.Epoch, Writer: t.head.Writer, FirstOrdinal: ordinal, LastOrdinal: ordinal,
		First: t.entries[0].Event.Seq, Last: t.entries[len(t.entries)-1].Event.Seq, Events: uint32(len(t.entries)),
		PayloadSum: Checksum([]byte(ObjectMagic)), FooterOffset: uint64(len(ObjectMagic)), FooterRawSize: footerHeadSize,
	}
	for i := range t.entries {
		p := t.entries[i].Placement
		want.FooterRawSize += uint64(FooterEntrySize(&t.entries[i]))
		if p.Length == 0 {
			continue
		}
		if p.Offset != want.FooterOffset {
			return nil, false
		}
		want.FooterOffset += p.Length
		want.PayloadSum = appendedChecksum(want.PayloadSum, JoinedChecksum(p.Sums, p.Length), p.Length)
	}
	want.PayloadBytes = want.FooterOffset - uint64(len(ObjectMagic))
	return want, true
}

// sameFooter reports whether the footer at path that found describes holds the
// entries of t and nothing else.
func (t *tail) sameFooter(path string, found *Trailer) (bool, error) {
	footer, err := readFooter(path, found)
	if errors.Is(err, ErrObjectDamaged) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if len(footer.Entries) != len(t.entries) || len(footer.Cleaned) > 0 || footer.Horizon != 0 {
		return false, nil
	}
	for i := range t.entries {
		a, b := &t.entries[i], &footer.Entries[i]
		if !bytes.Equal(a.Raw, b.Raw) || a.Placement.Length != b.Placement.Length ||
			footerOffset(&a.Placement) != footerOffset(&b.Placement) || !bytes.Equal(a.Placement.Sums, b.Placement.Sums) {
			return false, nil
		}
	}
	return true, nil
}

// sameCarried reports whether the payloads that g's frames carry stand in its
// payload file, too: there they are synced only when it is closed.
func sameCarried(g *Generation) (bool, error) {
	f, err := os.Open(g.Path())
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // read only
	buf := make([]byte, maxCarried)
	for _, p := range g.carried {
		got := buf[:len(p.bytes)]
		if _, err := f.ReadAt(got, int64(p.offset)); err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if !bytes.Equal(got, p.bytes) {
			return false, nil
		}
	}
	return true, nil
}
