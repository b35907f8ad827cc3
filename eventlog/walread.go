// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// This file reads generations: each by what it states, or by its frames.

// walReader reads generations in ordinal order.
type walReader struct {
	w       *WAL
	last    Seq // of the generations read so far
	durable Seq // the highest seq that anything says is committed
	suspect []suspect
}

// suspect is a place behind which a generation's frames end badly, or events
// are missing between two generations.
type suspect struct {
	gen     *Generation
	after   Seq
	reason  string
	rest    int64 // bytes that are no frames
	certain bool  // no crash leaves this
}

// load picks the attempt that counts, the highest that states that it is
// closed, else the lowest that holds anything, and takes in its events. (A copy
// that was under way when the power went may look closed without stating it;
// what it is a copy of is still there then, and lower.)
func (r *walReader) load(attempts []*Generation) error {
	for _, g := range attempts {
		if err := r.loadClosed(g); err != nil {
			return err
		}
		if g.closed() {
			r.add(g)
			return nil
		}
	}
	archived := attempts[0].Ordinal <= r.w.copies
	for _, g := range slices.Backward(attempts) {
		load := r.loadFrames
		if archived {
			load = r.loadCopy
		}
		found, err := load(g)
		if err != nil {
			return err
		}
		if found {
			r.add(g)
			return nil
		}
	}
	if archived {
		r.w.dropCopy(attempts)
	}
	return nil
}

// dropCopy leaves out an archived generation of which no whole copy is at
// hand: a crash cut its removal short, or it has rotted.
func (w *WAL) dropCopy(attempts []*Generation) {
	for _, g := range attempts {
		_, noPayload := os.Lstat(g.Path())
		_, noFrames := os.Lstat(g.segmentPath())
		if noPayload != nil || noFrames != nil {
			continue // half removed: the rest goes with the leftovers
		}
		w.torn = append(w.torn, g)
		w.cuts = append(w.cuts, g.dir+": this copy of an archived generation is damaged; it is set aside, and read from the archive")
	}
}

// add takes g in. Where an ordinal is missing before it, the archive must have
// it (see the start); where it goes on too late, events are missing, either at
// the bad end of the generation before or for no reason that a crash can give.
func (r *walReader) add(g *Generation) {
	first, last := g.Seqs()
	if n := len(r.w.gens); n > 0 && r.w.gens[n-1].Ordinal == g.Ordinal-1 && !first.Follows(r.last) {
		r.durable = max(r.durable, first)
		if !slices.ContainsFunc(r.suspect, func(s suspect) bool { return s.gen == r.w.gens[n-1] }) {
			r.suspect = append(r.suspect, suspect{gen: g, after: r.last, reason: "the next event is " + first.String(), certain: true})
		}
	}
	r.w.gens = append(r.w.gens, g)
	r.last = last
}

// loadClosed takes g in if it states that it is closed, and is as it states.
// Of its frames, which nobody needs then, nothing is read: a start looks at
// many generations.
func (r *walReader) loadClosed(g *Generation) error {
	trailer, err := readClosed(g.dir)
	if err != nil || trailer == nil {
		return err
	}
	if trailer.LogID != r.w.logID {
		return fmt.Errorf("%s belongs to log %s, not to %s", g.dir, trailer.LogID, r.w.logID)
	}
	if trailer.FirstOrdinal != g.Ordinal || trailer.LastOrdinal != g.Ordinal {
		return fmt.Errorf("%w: %s holds the object of ordinal %d", ErrDamaged, g.dir, trailer.FirstOrdinal)
	}
	r.durable = max(r.durable, trailer.Last)
	whole, err := endsWith(g.Path(), trailer)
	if err != nil {
		return fmt.Errorf("reading %s: %w", g.Path(), err)
	}
	g.stated = true
	if whole { // if not, its frames may still be good; if they are not either, they are judged
		g.Trailer, g.first, g.last = trailer, trailer.First, trailer.Last
	}
	return nil
}

// loadFrames reads the frames of a generation that does not state that it is
// closed, or is not as it states; found is false when it holds no event.
func (r *walReader) loadFrames(g *Generation) (found bool, err error) {
	s, err := g.readFrames()
	if err != nil {
		return false, err
	}
	if s == nil {
		s = &segment{whole: true}
	}
	t, err := r.takeIn(g, s)
	if err != nil {
		return false, err
	}
	r.durable = max(r.durable, s.later)
	if !s.whole {
		after := r.last
		if len(t.entries) > 0 {
			after = t.entries[len(t.entries)-1].Event.Seq
		}
		t.torn = true
		r.suspect = append(r.suspect, suspect{gen: g, after: after, reason: s.bad.Error(), rest: s.rest})
	}
	if len(t.entries) == 0 {
		return false, r.cutEmpty(g, s)
	}
	g.carried = carriedBy(s)
	g.first, g.last = t.entries[0].Event.Seq, t.entries[len(t.entries)-1].Event.Seq
	if s.whole {
		if done, err := r.closeByFrames(g, t); done || err != nil {
			return true, err
		}
	}
	g.entries = t.entries
	r.w.tails[g] = t
	return true, nil
}

// cutEmpty leaves out a generation without an event. One with no frame and with
// a payload file of just its magic, or less, was prepared ahead and goes without
// a word. Another one is kept as evidence: its payloads were written ahead of
// their frames, or its frames are gone.
func (r *walReader) cutEmpty(g *Generation, s *segment) error {
	size, err := payloadSize(g)
	if err != nil {
		return err
	}
	if len(s.frames) == 0 && s.whole && size <= int64(len(ObjectMagic)) {
		return nil
	}
	r.w.torn = append(r.w.torn, g)
	if s.whole { // else the bad frame is judged
		r.w.cuts = append(r.w.cuts, fmt.Sprintf("%s: %d bytes of payload without any frame are left out, because nothing says that they were committed",
			g.dir, max(0, size-int64(len(ObjectMagic)))))
	}
	return nil
}

// payloadSize returns the size of g's payload file, 0 when there is none.
func payloadSize(g *Generation) (int64, error) {
	info, err := os.Stat(g.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the payload of generation %d: %w", g.Ordinal, err)
	}
	return info.Size(), nil
}

// closeByFrames makes g a closed generation if its payload file is the object
// of its frames, which are whole. What stands behind their payloads in another
// one is cut.
func (r *walReader) closeByFrames(g *Generation, t *tail) (done bool, err error) {
	trailer, err := t.closedByFrames(g)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("reading %s: %w", g.Path(), err)
	}
	if trailer != nil {
		g.Trailer, g.carried = trailer, nil
		r.w.unstated = append(r.w.unstated, g)
		return true, nil
	}
	return false, r.cutPayload(g, t)
}

// loadCopy takes in a copy of an archived generation if it is closed. Nothing
// is learnt from one that is not.
func (r *walReader) loadCopy(g *Generation) (found bool, err error) {
	s, err := g.readFrames()
	if err != nil || s == nil || !s.whole {
		return false, err
	}
	t, err := r.takeIn(g, s)
	if err != nil || len(t.entries) == 0 {
		return false, ignoreDamage(err)
	}
	g.carried = carriedBy(s)
	trailer, err := t.closedByFrames(g)
	g.carried = nil
	if errors.Is(err, fs.ErrNotExist) || trailer == nil && err == nil {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", g.Path(), err)
	}
	g.Trailer, g.first, g.last = trailer, trailer.First, trailer.Last
	r.w.unstated = append(r.w.unstated, g)
	return true, nil
}

func ignoreDamage(err error) error {
	if errors.Is(err, ErrDamaged) {
		return nil
	}
	return err
}

// readFrames reads g's segment file, nil when there is none.
func (g *Generation) readFrames() (*segment, error) {
	data, err := os.ReadFile(g.segmentPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the frames of generation %d: %w", g.Ordinal, err)
	}
	s := readSegment(data)
	if errors.Is(s.bad, errFrameVersion) {
		return nil, fmt.Errorf("reading %s: %w", g.segmentPath(), s.bad)
	}
	return &s, nil
}

func (g *Generation) segmentPath() string { return filepath.Join(g.dir, segmentName) }

// cutPayload says what stands behind the payloads of g's frames, which are
// whole, and keeps it as evidence: bytes that were written ahead of their
// frames, or a footer that a crash or rot has spoilt.
func (r *walReader) cutPayload(g *Generation, t *tail) error {
	size, err := payloadSize(g) // if it is gone, CheckTail says whether that is a loss
	if err != nil {
		return err
	}
	end := int64(len(ObjectMagic))
	for i := range t.entries {
		if p := t.entries[i].Placement; p.Length > 0 {
			end = int64(p.Offset + p.Length)
		}
	}
	switch rest := size - end; {
	case g.stated:
		t.torn = true
		r.w.cuts = append(r.w.cuts, fmt.Sprintf("%s: the end of this closed generation is damaged; it is written again from its frames, which are whole", g.dir))
	case rest > 0:
		t.torn = true
		r.w.cuts = append(r.w.cuts, fmt.Sprintf("%s: %d bytes behind the payload of seq %s are left out, because nothing says that they were committed",
			g.dir, rest, g.last))
	}
	return nil
}

// takeIn decodes the good frames.
func (r *walReader) takeIn(g *Generation, s *segment) (*tail, error) {
	t := &tail{}
	for i := range s.frames {
		f := &s.frames[i]
		r.durable = max(r.durable, f.durable)
		switch f.flags {
		case frameHead:
			t.head = decodeHead(f.body)
			if t.head.LogID != r.w.logID {
				return nil, fmt.Errorf("%s belongs to log %s, not to %s", g.dir, t.head.LogID, r.w.logID)
			}
			if t.head.Ordinal != g.Ordinal {
				return nil, fmt.Errorf("%w: %s holds the frames of ordinal %d", ErrDamaged, g.dir, t.head.Ordinal)
			}
		case frameEvent:
			e, err := f.entry(g.Ordinal)
			if err != nil {
				return nil, err
			}
			t.entries = append(t.entries, e)
		}
	}
	return t, nil
}

// entry is the event of f as the log keeps it. Frames are checked against
// each other by then; this checks a frame against its event.
func (f *frame) entry(ordinal uint64) (Entry, error) {
	e := Entry{Raw: f.body}
	if err := DecodeEvent(f.body, &e.Event); err != nil {
		return e, fmt.Errorf("%w: the frame of seq %s is whole, its event is not: %w", ErrDamaged, f.seq, err)
	}
	if e.Event.Seq != f.seq || f.length > 0 && f.length != e.Event.Length {
		return e, fmt.Errorf("%w: the frame of seq %s with a payload of %d bytes holds event %s, which says %d",
			ErrDamaged, f.seq, f.length, e.Event.Seq, e.Event.Length)
	}
	if f.length > 0 {
		e.Placement = Placement{Ordinal: ordinal, Offset: f.offset, Length: f.length, Sums: f.sums}
	}
	return e, nil
}
