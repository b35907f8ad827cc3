// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
)

// place is where a block of alice/laptop lies.
func (w *world) place(r Ref) eventlog.Placement {
	w.t.Helper()
	row, ok, err := w.blocks.Live(w.id(laptop), r.Kind, r.Bytes())
	must(w.t, err)
	if !ok {
		w.t.Fatalf("%s is not live", r)
	}
	place, err := w.blocks.Placement(row)
	must(w.t, err)
	return place
}

// damageLocal flips a bit of the block's byte at in this machine's copy.
func (w *world) damageLocal(r Ref, at int) {
	w.t.Helper()
	place := w.place(r)
	for _, g := range w.events.Local() {
		if g.Ordinal != place.Ordinal {
			continue
		}
		f, err := os.OpenFile(g.Path(), os.O_RDWR, 0)
		must(w.t, err)
		var b [1]byte
		_, err = f.ReadAt(b[:], int64(place.Offset)+int64(at))
		must(w.t, err)
		b[0] ^= 1
		_, err = f.WriteAt(b[:], int64(place.Offset)+int64(at))
		must(w.t, err)
		must(w.t, f.Close())
		return
	}
	w.t.Fatalf("generation %d is not here", place.Ordinal)
}

// damageArchived flips a bit of the block's byte at in the archive's copy.
func (w *world) damageArchived(r Ref, at int) {
	place := w.place(r)
	w.bucket.Flip(archiver.Shipped(place.Ordinal).Key(), 8*(int(place.Offset)+at))
}

func (w *world) damageAll(r Ref, at int) {
	w.damageLocal(r, at)
	w.damageArchived(r, at)
}

// dropLocal removes this machine's archived copies, the archive keeps its own.
func (w *world) dropLocal() {
	w.t.Helper()
	for _, g := range w.events.Local() {
		if _, last := g.Seqs(); g.Trailer == nil || last > w.events.Archived() {
			return
		}
		must(w.t, w.events.Drop(g))
	}
}

func TestDamagedBytesAreNeverServed(t *testing.T) {
	const size = 10*eventlog.ChunkSize + 100
	content := bytesOf(1, size)
	r := ref(eventlog.KindData, content)
	cases := []struct {
		name            string
		local, archived int // byte to damage, -1: none
		drop            bool
		offset, length  int64
		good            int // bytes that come before the damage; -1: all is well
	}{
		{"nothing is damaged", -1, -1, false, 0, -1, -1},
		{"the first byte here: the archive's is served", 0, -1, false, 0, -1, -1},
		{"a later byte here: the archive's is served", size - 1, -1, false, 0, -1, -1},
		{"the first byte everywhere", 0, 0, false, 0, -1, 0},
		{"different bytes of one chunk", 0, 1, false, 0, -1, 0},
		{"a later chunk everywhere", size - 1, size - 1, false, 0, -1, 8 * eventlog.ChunkSize},
		{"a chunk here, another in the archive", 0, size - 1, false, 0, -1, -2},
		{"the archive's first byte, nothing is here", -1, 0, true, 0, -1, 0},
		{"the archive's last byte, nothing is here", -1, size - 1, true, 0, -1, 8 * eventlog.ChunkSize},
		{"a range beside the damage, in its chunk", 0, 0, false, 10, 10, 0},
		{"a range clear of the damage", 0, 0, false, eventlog.ChunkSize, 10, -1},
		{"a range across chunks into the damage", 4*eventlog.ChunkSize + 5, 4*eventlog.ChunkSize + 5, false, 4*eventlog.ChunkSize - 1, 2, 0},
		{"a range up to the damaged chunk", eventlog.ChunkSize, eventlog.ChunkSize, false, 0, eventlog.ChunkSize, -1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, Options{Ack: AckArchived})
			must(t, w.put(eventlog.KindData, content))
			if c.local >= 0 {
				w.damageLocal(r, c.local)
			}
			if c.archived >= 0 {
				w.damageArchived(r, c.archived)
			}
			if c.drop {
				w.dropLocal()
			}
			want := content[c.offset:]
			if c.length >= 0 {
				want = want[:c.length]
			}
			got, err := w.readAll(r, c.offset, c.length)
			switch {
			case c.good == -1:
				must(t, err)
			case c.good == -2: // each span has one good copy
				must(t, err)
			default:
				wants(t, err, ErrDamaged)
				want = want[:c.good]
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("%d bytes came, %d of them right", len(got), matching(got, want))
			}
		})
	}
}

// readAll returns what comes before the error, too.
func (w *world) readAll(r Ref, offset, length int64) ([]byte, error) {
	body, err := w.Open(context.Background(), laptop, r, bytesFrom(offset, length))
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

// copied reads a part of a block of alice/laptop span by span, after a first
// read of some bytes, as the REST door does.
func (w *world) copied(r Ref, offset, length int64) []byte {
	w.t.Helper()
	body, err := w.Open(w.t.Context(), laptop, r, bytesFrom(offset, length))
	must(w.t, err)
	var all bytes.Buffer
	if _, err := io.CopyN(&all, body, 100); err != io.EOF {
		must(w.t, err)
	}
	_, err = io.Copy(&all, body)
	must(w.t, errors.Join(err, body.Close()))
	if _, err := io.Copy(io.Discard, body); length != 0 && !errors.Is(err, errReaderClosed) {
		w.t.Errorf("copied after Close: %v", err)
	}
	return all.Bytes()
}

func matching(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

func TestRangesFromHereAndFromTheArchive(t *testing.T) {
	w := newWorld(t, Options{Ack: AckArchived})
	must(t, w.put(eventlog.KindData, bytesOf(9, 12_345))) // so that nothing is aligned
	const size = 3*pageSize + 777
	content := bytesOf(1, size)
	r := ref(eventlog.KindData, content)
	must(t, w.put(eventlog.KindData, content))
	ranges := [][2]int64{
		{0, -1}, {0, 1}, {size - 1, 1}, {size - 1, -1}, {size - 1, 100}, {1, size}, {eventlog.ChunkSize - 1, 2},
		{eventlog.ChunkSize, eventlog.ChunkSize}, {pageSize - 1, 2}, {pageSize, pageSize}, {100, 2 * pageSize}, {5, 0},
	}
	check := func(t *testing.T) {
		for _, rg := range ranges {
			t.Run(fmt.Sprint(rg), func(t *testing.T) {
				want := content[rg[0]:]
				if rg[1] >= 0 {
					want = want[:min(rg[1], int64(len(want)))]
				}
				got, err := w.read(laptop, r, rg[0], rg[1])
				must(t, err)
				if !bytes.Equal(got, want) {
					t.Fatalf("%d bytes, want %d, %d of them right", len(got), len(want), matching(got, want))
				}
				if copied := w.copied(r, rg[0], rg[1]); !bytes.Equal(copied, want) {
					t.Fatalf("%d bytes were copied, want %d, %d of them right", len(copied), len(want), matching(copied, want))
				}
			})
		}
		for _, offset := range []int64{-1, size, size + 1} {
			_, err := w.Open(t.Context(), laptop, r, bytesFrom(offset, -1))
			wants(t, err, ErrBadRange)
		}
	}
	t.Run("here", check)
	w.dropLocal()
	t.Run("archive", check)
}

// A payload file that is gone, or cannot be opened or read, costs nothing while
// the archive has it. Before that the answer is an error, at once, and one that
// may pass is told apart from damage.
func TestAPayloadFileThatCannotBeOpenedIsReadFromTheArchive(t *testing.T) {
	content := bytesOf(2, eventlog.ChunkSize+100)
	r := ref(eventlog.KindData, content)
	for _, file := range []struct {
		name  string
		spoil func(path string) error // the file was moved away
		lost  bool                    // what was here is known to be gone
	}{
		{"gone", func(string) error { return nil }, true},
		{"not to be opened", func(path string) error { return os.Symlink(path, path) }, false}, // a loop, which stops root, too
		{"not to be read", func(path string) error { return os.Mkdir(path, 0o700) }, true},
		{"cut short", func(path string) error { return os.WriteFile(path, nil, 0o600) }, true},
	} {
		for _, archived := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, archived %v", file.name, archived), func(t *testing.T) {
				ack := AckArchived
				if !archived {
					ack = AckCommitted
				}
				w := newWorld(t, Options{Ack: ack})
				if !archived {
					w.away.shut()
				}
				must(t, w.put(eventlog.KindData, content))
				path := w.payloadOf(r)
				must(t, os.Rename(path, path+".away"))
				must(t, file.spoil(path))
				got, err := w.readAll(r, 0, -1)
				var unavailable *Unavailable
				switch {
				case archived:
					must(t, err)
					if !bytes.Equal(got, content) {
						t.Error("the archive's copy is not what came")
					}
				case file.lost:
					wants(t, err, ErrDamaged)
				case !errors.As(err, &unavailable):
					t.Errorf("reading gives %v, want that a retry may succeed", err)
				}
				must(t, os.RemoveAll(path))
				must(t, os.Rename(path+".away", path))
				if got, err := w.readAll(r, 0, -1); err != nil || !bytes.Equal(got, content) {
					t.Errorf("with the file back: %v", err)
				}
				if !archived {
					w.away.lift()
				}
			})
		}
	}
}

// payloadOf is the path of the file in which the block lies.
func (w *world) payloadOf(r Ref) string {
	w.t.Helper()
	place := w.place(r)
	for _, g := range w.events.Local() {
		if g.Ordinal == place.Ordinal {
			return g.Path()
		}
	}
	w.t.Fatalf("generation %d is not here", place.Ordinal)
	return ""
}
