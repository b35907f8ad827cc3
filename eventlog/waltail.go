// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/strandline-project/strandline/internal/durable"
)

// This file is what a start does with a WAL that it has read: set aside what
// did not become history, close the tail, write the epoch's first event.

// SetAside moves every generation directory from the given ordinal on out of
// the WAL, into a folder of its own under aside, for salvage, and with it the
// damage that lies there. The caller has made durable that this start is
// lossy, if it is. A crash in the middle leaves the rest to the next start.
func (w *WAL) SetAside(from uint64) error {
	byOrdinal, err := w.scan()
	if err != nil {
		return err
	}
	for _, attempts := range slices.Backward(byOrdinal) { // newest first: what stays is always contiguous
		if attempts[0].Ordinal < from {
			break
		}
		if err := w.moveAllAside(attempts); err != nil {
			return err
		}
	}
	w.gens = slices.DeleteFunc(w.gens, func(g *Generation) bool { return g.Ordinal >= from })
	w.damages = slices.DeleteFunc(w.damages, func(d *Damage) bool { return d.Ordinal >= from })
	return nil
}

// Quarantine moves one generation out of the WAL whose events the archive
// holds, when its own copy is damaged. Later ones stay.
func (w *WAL) Quarantine(g *Generation) error {
	byOrdinal, err := w.scan()
	if err != nil {
		return err
	}
	for _, attempts := range byOrdinal {
		if attempts[0].Ordinal != g.Ordinal {
			continue
		}
		if err := w.moveAllAside(attempts); err != nil {
			return err
		}
	}
	w.gens = slices.DeleteFunc(w.gens, func(other *Generation) bool { return other == g })
	w.damages = slices.DeleteFunc(w.damages, func(d *Damage) bool { return d.Ordinal == g.Ordinal })
	return nil
}

// moveAllAside moves the attempts of one ordinal, the one that counts last: a
// crash in the middle must not make another one count.
func (w *WAL) moveAllAside(attempts []*Generation) error {
	counts := func(g *Generation) bool {
		return slices.ContainsFunc(w.gens, func(other *Generation) bool { return other.dir == g.dir })
	}
	for _, last := range []bool{false, true} {
		for _, g := range attempts {
			if counts(g) != last {
				continue
			}
			if err := w.moveAside(g); err != nil {
				return err
			}
		}
	}
	return nil
}

// moveAside keeps g for salvage: nothing removes it from there.
func (w *WAL) moveAside(g *Generation) error { return w.moveTo(g, filepath.Base(g.dir)+"-") }

// moveCut keeps g, of which bytes were left out or a copy is at hand, as evidence
// for a while, see boundCuts.
func (w *WAL) moveCut(g *Generation) error { return w.moveTo(g, filepath.Base(g.dir)+cutMark) }

// moveTo moves g aside, under the first free number behind name.
func (w *WAL) moveTo(g *Generation, name string) error {
	if err := durable.Mkdir(w.aside, 0o700); err != nil {
		return fmt.Errorf("setting %s aside: %w", g, err)
	}
	for n := 0; ; n++ {
		target := filepath.Join(w.aside, name+strconv.Itoa(n))
		if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
			if err != nil {
				return fmt.Errorf("setting %s aside: %w", g, err)
			}
			continue
		}
		if err := w.rename(g.dir, target); err != nil {
			return fmt.Errorf("setting %s aside: %w", g, err)
		}
		w.torn = slices.DeleteFunc(w.torn, func(other *Generation) bool { return other.dir == g.dir })
		return nil
	}
}

// ErrUnknownType says that this build has no meaning for an event: a later
// version wrote it.
var ErrUnknownType = errors.New("an event of a type that this build does not know; start the version that wrote it")

// CheckTail finds, without changing anything, what would only show when the
// generations after the given ordinal are closed and projected: a rotten
// payload in an unclosed one (ErrDamaged, with its seq), an event that this
// build does not understand (ErrUnknownType).
func (w *WAL) CheckTail(after uint64) error {
	for _, g := range w.gens {
		if g.Ordinal <= after {
			continue
		}
		entries, err := g.Entries()
		if err != nil {
			return err
		}
		for i := range entries {
			if ev := &entries[i].Event; !ev.Type.Emitted() {
				return fmt.Errorf("seq %s of %s: %w: %s", ev.Seq, g, ErrUnknownType, ev.Type)
			}
		}
		if w.tails[g] == nil {
			continue // closed: its payloads are not read again
		}
		if err := checkPayloads(g, entries); err != nil {
			return fmt.Errorf("%s: %w", g, err)
		}
	}
	return nil
}

// checkPayloads reads the payloads of an unclosed generation, each chunk
// checked.
func checkPayloads(g *Generation, entries []Entry) error {
	f, err := os.Open(g.Path())
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	for i := range entries {
		if err := readPlaced(g.payloads(f), entries[i].Placement, func([]byte) error { return nil }); err != nil {
			return fmt.Errorf("the payload of seq %s: %w", entries[i].Event.Seq, err)
		}
	}
	return nil
}

// CloseTail makes every generation that an earlier process left unclosed into
// a closed one: its events and payloads are copied, each chunk checked, into
// a fresh directory of the next attempt, which is then closed. So what was
// only in the page cache after a failed sync is written anew before it counts.
// Closed generations that are not archived are synced again, and leftovers of earlier attempts and
// prepared directories go. The WAL must not be damaged; that a payload is
// shows only here, as ErrDamaged with its seq.
func (w *WAL) CloseTail(now time.Time) error {
	if d := w.Damage(); d != nil {
		return d
	}
	for i, g := range w.gens {
		t := w.tails[g]
		if t == nil {
			if err := w.confirm(g); err != nil {
				return err
			}
			continue
		}
		closed, err := w.rewrite(g, t, now)
		if err != nil {
			return fmt.Errorf("writing %s again: %w", g, err)
		}
		// REPLACED. A crash before the close leaves g and a copy that does not
		// count, after it both, and the closed one counts.
		w.gens[i] = closed
		delete(w.tails, g)
		if t.torn {
			if err := w.moveCut(g); err != nil {
				return err
			}
		}
	}
	for _, g := range slices.Clone(w.torn) {
		if err := w.moveCut(g); err != nil {
			return err
		}
	}
	if err := boundCuts(w.aside); err != nil {
		return err
	}
	return w.removeLeftovers()
}

// confirm syncs a closed generation that an earlier process wrote: its files and
// the names that lead to them. It makes it state that it is closed, if it does not
// yet. It does neither to one that the archive has, and that states it.
func (w *WAL) confirm(g *Generation) error {
	stated := !slices.Contains(w.unstated, g)
	if stated && g.Ordinal <= w.copies {
		return nil
	}
	paths := []string{g.Path(), filepath.Join(g.dir, closedName), g.dir, w.dir}
	if !stated {
		paths = slices.Delete(paths, 1, 2)
	}
	for _, path := range paths {
		if err := w.sync(path); err != nil {
			return fmt.Errorf("syncing %s again: %w", g, err)
		}
	}
	if stated {
		return nil
	}
	if err := writeClosed(g.dir, g.Trailer); err != nil {
		return fmt.Errorf("stating that %s is closed: %w", g, err)
	}
	w.unstated = slices.DeleteFunc(w.unstated, func(other *Generation) bool { return other == g })
	return nil
}

// rewrite copies g under the first attempt number that has no directory.
func (w *WAL) rewrite(g *Generation, t *tail, now time.Time) (*Generation, error) {
	source, err := os.Open(g.Path())
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	defer source.Close() //nolint:errcheck // read only
	attempt, err := w.freeAttempt(g)
	if err != nil {
		return nil, err
	}
	out, err := newGeneration(w.dir, t.head, attempt, w.create)
	if err != nil {
		return nil, err
	}
	err = out.copyPayloads(g.payloads(source), t.entries)
	if err == nil {
		// Before any frame names them, and before a trailer stands behind them: a
		// crash from here on leaves none of both, or bytes that are there.
		err = out.payload.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, out.abandon())
	}
	return out.writeAll(t.entries, now)
}

func (w *WAL) freeAttempt(g *Generation) (uint, error) {
	for attempt := g.Attempt + 1; ; attempt++ {
		_, err := os.Lstat(filepath.Join(w.dir, generationName(g.Ordinal, attempt)))
		if errors.Is(err, fs.ErrNotExist) {
			return attempt, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// copyPayloads copies the payloads of entries, which lie in source one after
// another as the writer put them.
func (g *openGeneration) copyPayloads(source io.ReaderAt, entries []Entry) error {
	for i := range entries {
		p := entries[i].Placement
		if p.Length == 0 {
			continue
		}
		if p.Offset != g.size {
			return fmt.Errorf("%w: the payload of seq %s lies at %d, want %d", ErrDamaged, entries[i].Event.Seq, p.Offset, g.size)
		}
		err := readPlaced(source, p, func(chunk []byte) error {
			g.sumSoFar = UpdateChecksum(g.sumSoFar, chunk)
			_, err := g.payload.Write(chunk)
			return err
		})
		if err != nil {
			return fmt.Errorf("the payload of seq %s: %w", entries[i].Event.Seq, err)
		}
		g.size += p.Length
	}
	return nil
}

// writeAll makes g, which holds the payloads of entries already, synced, a closed
// generation of exactly these entries. It writes their frames too, for whoever
// finds that footer or trailer have rotted.
func (g *openGeneration) writeAll(entries []Entry, now time.Time) (*Generation, error) {
	g.extend(entries)
	var scratch []byte
	for i := range entries {
		e := &entries[i]
		f := frame{
			flags: frameEvent, seq: e.Event.Seq,
			offset: e.Placement.Offset, length: e.Placement.Length, body: e.Raw, sums: e.Placement.Sums,
		}
		scratch = g.addFrame(scratch, &f)
	}
	if err := g.sync(); err != nil {
		return nil, errors.Join(err, g.abandon())
	}
	if err := g.close(now); err != nil {
		return nil, err
	}
	return g.Generation, nil
}

// removeLeftovers removes every directory of the WAL but those that count.
func (w *WAL) removeLeftovers() error {
	keep := map[string]bool{}
	for _, g := range w.gens {
		keep[filepath.Base(g.dir)] = true
	}
	entries, err := os.ReadDir(w.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return durable.Mkdir(w.dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("reading the WAL: %w", err)
	}
	for _, entry := range entries {
		if keep[entry.Name()] {
			continue
		}
		if err := durable.RemoveAll(filepath.Join(w.dir, entry.Name())); err != nil {
			return fmt.Errorf("removing a leftover generation: %w", err)
		}
	}
	return nil
}

// WriteAlone makes a closed generation that holds just the given events, which
// have no payloads and carry their seqs already: the first of a log, or the
// one in which an epoch starts. A generation of the same ordinal must not
// exist. Its events are committed when this returns.
func (w *WAL) WriteAlone(head Head, events []Event, now time.Time) (*Generation, error) {
	out, err := newGeneration(w.dir, head, 0, w.create)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, len(events))
	for i := range events {
		entries[i] = Entry{Event: events[i], Raw: AppendEvent(nil, &events[i])}
	}
	g, err := out.writeAll(entries, now)
	if err != nil {
		return nil, fmt.Errorf("writing generation %d: %w", head.Ordinal, err)
	}
	w.gens = append(w.gens, g)
	return g, nil
}

// Discard removes a generation that WriteAlone made and that never became
// visible to anyone: its place in the archive was taken by the last word of
// an older server.
func (w *WAL) Discard(g *Generation) error {
	w.gens = slices.DeleteFunc(w.gens, func(other *Generation) bool { return other == g })
	return g.remove()
}

// Bare reports whether the WAL holds nothing of what was ever written to it: no
// event, and no copy of what is archived, not even a bad one.
func (w *WAL) Bare() bool {
	return len(w.gens) == 0 && !slices.ContainsFunc(w.torn, func(g *Generation) bool { return g.Ordinal <= w.copies })
}

// Reader returns a log that can be read up to last, or to the WAL's own end
// when that is later, events and payloads, but takes none: every append fails
// with reason. It serves the views while a server starts, and reads where
// nothing may be written.
func (w *WAL) Reader(history History, last Seq, reason error) (*Log, error) {
	end, endTime, err := w.Last()
	if err != nil {
		return nil, err
	}
	return &Log{
		opts: Options{History: history}, limits: newLimits(Limits{}, w.dir), memory: &memory{},
		changed: make(chan struct{}), wake: make(chan struct{}, 1), err: reason, ended: true,
		gens: slices.Clone(w.gens), committed: max(last, end), committedTime: endTime,
	}, nil
}
