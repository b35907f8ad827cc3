// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"errors"
	"fmt"

	"github.com/strandline-project/strandline/eventlog"
)

// This file is what a start refuses before it claims anything.

// check refuses before anything is claimed: what is not ours to take, what
// has lost its claims, and a damaged WAL whose events the archive does not have
// either.
func (s *Start) check(ctx context.Context) error {
	if state := s.Dir.State(); state.Phase != PhaseReady {
		return fmt.Errorf("this state directory is %s; finish `strandline init` or `strandline recover` first", state.Phase)
	}
	if state := s.Dir.State(); state.AsOf != 0 {
		return fmt.Errorf("this state directory holds the state as of event %s, for looking: serve it with --hold, or recover again without --until", state.AsOf)
	}
	if err := s.readClaims(ctx); err != nil {
		return err
	}
	objects, err := s.readEnd(ctx)
	if err != nil {
		return err
	}
	if err := s.checkMark(ctx, objects[0]); err != nil {
		return err
	}
	if s.issued() > s.highest.Epoch { // another server may have claimed and shipped in between
		if err := s.readClaims(ctx); err != nil {
			return err
		}
	}
	if err := s.checkDamage(); err != nil {
		return err
	}
	if err := s.checkTail(ctx, objects); err != nil {
		return err
	}
	if s.own || s.handedOver() || s.TakeOver {
		if err := s.Views.Build(ctx); err != nil {
			return err
		}
		return s.checkUnapplied(ctx)
	}
	if s.copied != "" {
		return fmt.Errorf("%w: %s. This one is a copy of it: %s. To move a directory, start the server where it was, stop it in order, and move the directory then. "+
			"If the original is gone for good, or will never be started again, start with --take-over: what it acknowledged and this copy lacks is lost",
			ErrTakeOver, s.highest, s.copied)
	}
	return fmt.Errorf("%w: %s. If that server is gone for good, or will never be started again, start with --take-over: "+
		"what it acknowledged and did not archive is lost to this one", ErrTakeOver, s.highest)
}

// checkMark refuses an archive in which the last object that this directory
// knows is not the one that it was: what is archived never changes.
func (s *Start) checkMark(ctx context.Context, first ObjectInfo) error {
	mark := s.Dir.State().Archived
	if mark == nil || first.First != mark.Ordinal {
		return nil
	}
	trailer, err := s.Archive.Trailer(ctx, first)
	if err != nil {
		return err
	}
	if trailer.Last != mark.Seq {
		return fmt.Errorf("%w: it ends with seq %s, it ended with %s: %w", eventlog.ErrObjectDamaged, trailer.Last, mark.Seq, s.Archive.alarm(first.Key()))
	}
	return nil
}

// errClaimsGone says that a claim is absent that must be there.
var errClaimsGone = fmt.Errorf("%w: claims are gone", eventlog.ErrDamaged)

// readClaims finds out who owns the log. Every epoch of which an event is known
// was claimed: claims that lack it are asked for again.
func (s *Start) readClaims(ctx context.Context) error {
	var highest *Claim
	err := AskAgain(ctx, func(err error) bool { return errors.Is(err, errClaimsGone) }, func() (err error) {
		highest, err = s.Archive.HighestClaim(ctx)
		if epoch := max(s.issued(), 1); err == nil && (highest == nil || highest.Epoch < epoch) {
			err = fmt.Errorf("%w: there are events of epoch %d, but the claim %s of %v is absent; restore it from another copy or an earlier version of the object",
				errClaimsGone, epoch, EpochKey(epoch), s.Archive.Bucket())
		}
		return err
	})
	if err != nil {
		return err
	}
	state := s.Dir.State()
	s.highest, s.own, s.copied = highest, state.owns(highest.Epoch, highest.Writer), ""
	if s.own {
		s.copied = s.Dir.Copied()
		s.own = s.copied == "" // its claims are the original's, which may still serve
	}
	s.bare = !state.Clean && !state.Unwritten && s.WAL.Bare()
	return nil
}

// issued is the highest epoch of which archive or WAL have an event. Its claim
// was there before: without it the epoch would issue the same seqs again.
func (s *Start) issued() uint32 {
	epoch := max(s.end.epoch, s.end.last.Epoch())
	if gens := s.WAL.Generations(); len(gens) > 0 {
		_, last := gens[len(gens)-1].Seqs()
		epoch = max(epoch, last.Epoch())
	}
	return epoch
}

// checkDamage refuses a damaged WAL unless the archive reaches beyond
// everything that it held.
func (s *Start) checkDamage() error {
	damage := s.WAL.Damage()
	if damage == nil {
		return nil
	}
	held := max(damage.Durable, damage.After)
	if gens := s.WAL.Generations(); len(gens) > 0 {
		_, last := gens[len(gens)-1].Seqs()
		held = max(held, last)
	}
	if s.end.last < held {
		return damage
	}
	return nil
}

// checkTail refuses what the steps after the claim would refuse of the local
// tail: a gap between it and the archive, rot in it, an event that this
// build does not know. A WAL that is about to be set aside has no such tail.
func (s *Start) checkTail(ctx context.Context, objects []ObjectInfo) error {
	if s.WAL.Damage() != nil {
		return nil //nolint:nilerr // the damage is judged elsewhere
	}
	refusal := s.contiguous()
	if refusal == nil {
		refusal = s.WAL.CheckTail(s.end.ordinal)
	}
	if refusal == nil {
		refusal = s.checkRot()
	}
	if refusal == nil {
		return nil
	}
	diverged, err := s.divergence(ctx, objects, func(*eventlog.Generation) error { return nil })
	if err != nil {
		return err
	}
	if diverged != 0 {
		return nil
	}
	return refusal
}

// checkUnapplied refuses an archive in which an event that the views have yet to
// apply is none that this build knows. Usually they have applied all but the
// last few. An object that is damaged or missing is not judged here: the views
// may have its events from the WAL.
func (s *Start) checkUnapplied(ctx context.Context) error {
	from := eventlog.FirstSeq
	if applied := s.Views.Applied(); applied != 0 {
		from = applied.Next()
	}
	for batch, err := range s.Archive.Follow(ctx, from) {
		if errors.Is(err, eventlog.ErrObjectDamaged) || errors.Is(err, ErrHole) || errors.Is(err, eventlog.ErrCleaned) {
			return nil
		}
		if err != nil {
			return err
		}
		for i := range batch.Entries {
			if ev := &batch.Entries[i].Event; !ev.Type.Emitted() {
				return fmt.Errorf("seq %s of %v: %w: %s", ev.Seq, s.Archive.Bucket(), eventlog.ErrUnknownType, ev.Type)
			}
		}
	}
	return nil
}

// handedOver reports whether the server with the highest claim ended cleanly:
// then it has archived all that it ever acknowledged. A clean end of an older
// epoch says nothing, because the last claimer may have served since.
func (s *Start) handedOver() bool { return s.end.clean && s.end.epoch == s.highest.Epoch }

// readEnd lists the archive from the last ordinal known on.
func (s *Start) readEnd(ctx context.Context) ([]ObjectInfo, error) {
	from := uint64(1)
	if mark := s.Dir.State().Archived; mark != nil {
		from = mark.Ordinal
	}
	s.Archive.Expect(from) // an archive is never empty
	objects, err := s.Archive.Objects(ctx, from)
	if err != nil {
		return nil, err
	}
	trailer, err := s.Archive.Trailer(ctx, objects[len(objects)-1])
	if err != nil {
		return nil, err
	}
	s.end = endOf(trailer)
	return objects, nil
}
