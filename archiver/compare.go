// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"fmt"
	"slices"

	"github.com/strandline-project/strandline/eventlog"
)

// compare holds the WAL against the archive, where both have an ordinal, and
// sets aside the local generations that did not become history. Before it
// does, it records that this start is lossy.
func (s *Start) compare(ctx context.Context) error {
	objects, err := s.readEnd(ctx)
	if err != nil {
		return err
	}
	if s.end.epoch > s.claim.Epoch {
		// Behind these events ours would have no place: a later claimer has
		// begun to serve while this one slept.
		return fmt.Errorf("%w: the archive ends with epoch %d, this is epoch %d", ErrFenced, s.end.epoch, s.claim.Epoch)
	}
	known := s.known()
	diverged, err := s.divergence(ctx, objects, s.quarantine)
	if err != nil {
		return err
	}
	reason := s.lossy(known, diverged)
	if damage := s.WAL.Damage(); damage != nil {
		if err := s.checkDamage(); err != nil {
			return err
		}
		reason = fmt.Sprintf("the WAL of this directory is damaged from ordinal %d on (%s)", damage.Ordinal, damage.Reason)
		diverged = lower(diverged, damage.Ordinal)
	}
	if err := s.setAside(reason, diverged); err != nil {
		return err
	}
	if err := s.contiguous(); err != nil {
		return err
	}
	return s.recordEnd()
}

// known is the last ordinal that this directory knows of, 0 for none.
func (s *Start) known() uint64 {
	known := uint64(0)
	if mark := s.Dir.State().Archived; mark != nil {
		known = mark.Ordinal
	}
	if gens := s.WAL.Generations(); len(gens) > 0 {
		known = max(known, gens[len(gens)-1].Ordinal)
	}
	return known
}

// setAside moves the local generations from the ordinal diverged on (0: none)
// out of the WAL, and records before that the start is lossy, why, and which
// seqs are about to go. The record stays until an epoch_started that says so is
// archived: a crash anywhere in between makes the next start lossy.
func (s *Start) setAside(reason string, diverged uint64) error {
	if reason == "" {
		return nil
	}
	var aside []*eventlog.Generation
	for _, g := range s.WAL.Generations() {
		if diverged != 0 && g.Ordinal >= diverged {
			aside = append(aside, g)
		}
	}
	s.Logger.Warn("this start is lossy: events that were acknowledged may be missing", "reason", reason, "set aside", len(aside))
	if err := s.Dir.Update(func(state *State) { state.markLossy(reason, aside...) }); err != nil {
		return err
	}
	if diverged == 0 {
		return nil
	}
	// From here on the next start finds a WAL that ends early, and that it is
	// lossy.
	s.caughtUp = false
	return s.WAL.SetAside(diverged)
}

// lower returns the lesser ordinal; 0 stands for none.
func lower(a, b uint64) uint64 {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// divergence returns the first ordinal at which WAL and archive hold
// different events, 0 for none. It begins at the newest: a generation is
// shipped only when the ones before it are, so where one is equal, all before
// it are. A local copy that is damaged, of events that are equal, is given to
// rotten.
func (s *Start) divergence(ctx context.Context, objects []ObjectInfo, rotten func(*eventlog.Generation) error) (uint64, error) {
	local := map[uint64]*eventlog.Generation{}
	for _, g := range s.WAL.Generations() {
		local[g.Ordinal] = g
	}
	diverged := uint64(0)
	for _, object := range slices.Backward(objects) {
		g := local[object.First]
		if g == nil {
			continue
		}
		equal, err := s.equal(ctx, g, object, rotten)
		if err != nil {
			return 0, err
		}
		if equal {
			break
		}
		diverged = object.First
	}
	return diverged, nil
}

// equal compares a local generation with the object of its ordinal: by their
// trailers, whose checksums cover every byte, or, where the local one is not
// a whole object (any more), event by event.
func (s *Start) equal(ctx context.Context, g *eventlog.Generation, object ObjectInfo, rotten func(*eventlog.Generation) error) (bool, error) {
	trailer, footer, err := s.Archive.Metadata(ctx, object)
	if err != nil {
		return false, err
	}
	if g.Trailer != nil && *g.Trailer == *trailer {
		return true, nil
	}
	entries, err := g.Entries()
	if err != nil {
		return false, err
	}
	if len(entries) != len(footer.Entries) {
		return false, nil
	}
	for i := range entries {
		if string(entries[i].Raw) != string(footer.Entries[i].Raw) {
			return false, nil
		}
	}
	return true, rotten(g)
}

func (s *Start) quarantine(g *eventlog.Generation) error {
	s.Logger.Warn("the local copy of an archived generation is damaged and set aside", "ordinal", g.Ordinal)
	return s.WAL.Quarantine(g)
}

// lossy says why events that were acknowledged may be missing, "" when none
// can be, or when that was recorded with the claim. known is the last ordinal
// that this directory knew of.
func (s *Start) lossy(known, diverged uint64) string {
	switch {
	case diverged != 0:
		return fmt.Sprintf("the WAL of this directory differs from the archive from ordinal %d on", diverged)
	case s.own && s.end.ordinal > known:
		return fmt.Sprintf("the archive goes on to ordinal %d, the WAL of this directory ends at %d", s.end.ordinal, known)
	}
	return ""
}

// contiguous checks that the local tail begins right behind the archive and
// has no gap.
func (s *Start) contiguous() error {
	last, ordinal := s.end.last, s.end.ordinal
	for _, g := range s.WAL.Generations() {
		if g.Ordinal <= s.end.ordinal {
			continue
		}
		first, end := g.Seqs()
		if g.Ordinal != ordinal+1 {
			return fmt.Errorf("%s is the next that this directory's WAL has: %w", g,
				&HoleError{Hole: Hole{ordinal + 1, g.Ordinal - 1}, Bucket: s.Archive.Bucket().String()})
		}
		if !first.Follows(last) {
			return fmt.Errorf("%w: ordinal %d ends at seq %s, %s does not follow it", eventlog.ErrDamaged, ordinal, last, g)
		}
		last, ordinal = end, g.Ordinal
	}
	return nil
}

// recordEnd remembers how far archive and WAL agree: the next start compares
// from there, and an archive that ends before has a hole.
func (s *Start) recordEnd() error {
	return recordArchived(s.Dir, ArchivedMark{Ordinal: s.end.ordinal, Seq: s.end.last})
}
