// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/strandline-project/strandline/internal/durable"
)

// WAL is what earlier processes left in a state directory's wal folder. It is
// read by our own frame reader and never written; what is still needed is
// written again into new generations (CloseTail).
type WAL struct {
	dir   string // the wal folder
	aside string // where superseded and cut generations go, as evidence
	logID ID

	create files                        // createFiles, or a test's
	sync   func(path string) error      // durable.SyncFile, likewise
	rename func(old, path string) error // durable.Rename, likewise

	gens    []*Generation // ascending, one for each ordinal, closed or with events
	tails   map[*Generation]*tail
	damages []*Damage // ascending
	cuts    []string
	torn    []*Generation // cut down to nothing, or bad copies; kept as evidence
	// unstated are closed, by their frames, and do not state it.
	unstated []*Generation
	copies   uint64 // generations up to this ordinal are copies of archived ones
}

// tail is a generation that was not closed: its events are in its frames.
type tail struct {
	head    Head
	entries []Entry
	torn    bool // bytes were cut, or the end of a closed one is damaged
}

// Bounds is what a start knows of the log from elsewhere.
type Bounds struct {
	// Archived is the ordinal up to which everything is in the archive for
	// good, and Base the last seq of it; both 0 at a log's beginning. What the
	// WAL still has of it are copies: a damaged one is no loss.
	Archived uint64
	Base     Seq
	// Durable is the highest seq that is known to have been committed: a view
	// applied it, or something in the archive names it.
	Durable Seq
}

// Damage says which committed event the WAL has lost.
type Damage struct {
	Ordinal uint64 // the generation that lacks it
	Path    string
	After   Seq // the last good event before it
	Durable Seq // committed, and missing or damaged
	Reason  string
}

func (d *Damage) Error() string {
	return fmt.Sprintf("the WAL is damaged behind seq %s, and events up to %s were committed: generation %d, %s: %s. "+
		"Nothing was changed. If the archive is whole, `strandline recover --data NEWDIR --archive ...` rebuilds everything that was archived; keep this directory for salvage",
		d.After, d.Durable, d.Ordinal, d.Path, d.Reason)
}

// Unwrap makes a Damage an ErrDamaged.
func (d *Damage) Unwrap() error { return ErrDamaged }

// maxTorn is the most bytes of frames that a torn tail may have: a batch in
// flight cannot have written more.
const maxTorn = 64 << 20

// ReadWAL reads the wal folder dir. Torn tails are cut (in memory; the files
// stay as they are), and empty directories that were prepared ahead are
// ignored. Damage is no error here, see Damage: where it lies, the archive may
// have the events. An error means that the folder is not a WAL of this log.
func ReadWAL(dir, aside string, logID ID, bounds Bounds) (*WAL, error) {
	w := &WAL{
		dir: dir, aside: aside, logID: logID, tails: map[*Generation]*tail{}, copies: bounds.Archived,
		create: createFiles, sync: durable.SyncFile, rename: durable.Rename,
	}
	byOrdinal, err := w.scan()
	if err != nil {
		return nil, err
	}
	r := walReader{w: w, last: bounds.Base, durable: bounds.Durable}
	copies := true
	for _, attempts := range byOrdinal {
		if copies && attempts[0].Ordinal > bounds.Archived {
			r.last, copies = max(r.last, bounds.Base), false // whatever copies there are
		}
		if err := r.load(attempts); err != nil {
			return nil, err
		}
	}
	r.last = max(r.last, bounds.Base)
	r.judge()
	return w, nil
}

// scan lists the generation directories: for each ordinal its attempts, the
// highest first.
func (w *WAL) scan() ([][]*Generation, error) {
	entries, err := os.ReadDir(w.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the WAL: %w", err)
	}
	var gens [][]*Generation
	for _, entry := range entries { // sorted by name: by ordinal, then attempt
		ordinal, attempt, ok := parseGenerationName(entry.Name())
		if !ok || !entry.IsDir() {
			return nil, fmt.Errorf("reading the WAL: %s is no generation; move it away if you know what it is", filepath.Join(w.dir, entry.Name()))
		}
		g := &Generation{Ordinal: ordinal, Attempt: attempt, dir: filepath.Join(w.dir, entry.Name())}
		if n := len(gens); n > 0 && gens[n-1][0].Ordinal == ordinal {
			gens[n-1] = slices.Insert(gens[n-1], 0, g)
		} else {
			gens = append(gens, []*Generation{g})
		}
	}
	return gens, nil
}

// judge tells torn tails from damage, now that all witnesses are known: a bad
// frame at or below a seq that is known to be durable is damage.
func (r *walReader) judge() {
	for _, s := range r.suspect {
		switch {
		case s.certain || s.after < r.durable:
			r.damage(s.gen.Ordinal, s.gen.dir, s.after, s.reason)
		case s.rest > maxTorn:
			r.damage(s.gen.Ordinal, s.gen.dir, s.after,
				fmt.Sprintf("%d bytes are bad, more than one batch can have written (%s)", s.rest, s.reason))
		default:
			r.w.cuts = append(r.w.cuts, fmt.Sprintf("%s: %d bytes behind seq %s are left out, because nothing says that they were committed (%s)",
				s.gen.dir, s.rest, s.after, s.reason))
		}
	}
	if len(r.w.damages) > 0 || r.last >= r.durable {
		return
	}
	// Every frame is good, and yet something knows of later events.
	ordinal := r.w.copies + 1
	if n := len(r.w.gens); n > 0 && r.w.gens[n-1].Ordinal >= ordinal-1 {
		ordinal = r.w.gens[n-1].Ordinal
		if r.w.gens[n-1].closed() {
			ordinal++
		}
	}
	r.damage(ordinal, r.w.dir, r.last, "the WAL ends there")
}

func (r *walReader) damage(ordinal uint64, path string, after Seq, reason string) {
	r.w.damages = append(r.w.damages, &Damage{Ordinal: ordinal, Path: path, After: after, Durable: max(r.durable, after), Reason: reason})
}

// Damage returns what committed events the WAL lacks, the lowest first, nil
// when it is whole.
func (w *WAL) Damage() *Damage {
	if len(w.damages) == 0 {
		return nil
	}
	return w.damages[0]
}

// Cuts describes the torn tails that were cut, for the log of the start.
func (w *WAL) Cuts() []string { return w.cuts }

// Generations returns what the WAL holds, ascending by ordinal; unclosed ones
// have no Trailer.
func (w *WAL) Generations() []*Generation { return slices.Clone(w.gens) }

// Last returns the last event's seq and time, zero for an empty WAL.
func (w *WAL) Last() (Seq, int64, error) {
	if len(w.gens) == 0 {
		return 0, 0, nil
	}
	g := w.gens[len(w.gens)-1]
	entries, err := g.Entries()
	if err != nil {
		return 0, 0, err
	}
	last := &entries[len(entries)-1].Event
	return last.Seq, last.Time, nil
}
