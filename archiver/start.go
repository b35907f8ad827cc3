// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// Start is the one way in: whatever went before, every server goes through
// these steps before it serves.
//
//  1. The caller has locked the state directory and read its WAL. What is to
//     be refused is refused here (check), and views that are empty are built.
//  2. Claim the next epoch. From then on no older server gets anything
//     archived.
//  3. Compare the WAL with the archive; set aside what did not become history.
//  4. Ship the local tail.
//  5. Ship epoch_started as an object of its own, taking in an old server's
//     last word if that came first.
//  6. Bring the views up to the log's end.
//
// When the highest claim was this directory's own and nothing was lost, steps
// 4 and 5 go on behind, in the shipper: the result then carries generations
// that are not archived yet, epoch_started last.
type Start struct {
	Dir      *StateDir
	Archive  *Archive
	WAL      *eventlog.WAL
	Views    Views
	TakeOver bool // take over a log whose last owner was another directory
	// Waivers are what of rot in the WAL is to be let go, see RottenPayload.
	Waivers []Waiver
	Host    string // for the claim
	Now     func() time.Time
	Logger  *slog.Logger

	highest *Claim // before ours
	own     bool   // that one was this directory's
	copied  string // what shows that the directory is a copy of its owner's
	bare    bool   // wal/ has lost what the last server wrote
	claim   *Claim // ours
	end     end    // of the archive

	caughtUp bool // the views hold nothing that was set aside

	taken      uint64 // an ordinal at which a put found other bytes; 0: none did
	takenAgain int    // how often it did again
}

// Views is what a start needs of the projections.
type Views interface {
	// Applied is the last event that every view has applied; 0: none.
	Applied() eventlog.Seq
	// Build builds views that are empty, from the archive, so that as little as
	// possible is left for CatchUp. It comes before the claim, so an event that
	// this build does not know, eventlog.ErrUnknownType, is found in time. What
	// the archive lacks is no error: the local log may have it.
	Build(ctx context.Context) error
	// CatchUp brings every view to the last event of log. A view whose last
	// event log does not hold, or lies in stale (zero: none), is thrown away
	// first and projected again.
	CatchUp(ctx context.Context, log eventlog.History, stale eventlog.Range) error
	// Interrupted returns the machines that held a lock which was stored less
	// than half an hour before the last event applied, by recorded times.
	Interrupted(ctx context.Context) ([]eventlog.Seq, error)
}

// Started is what a start found: how the log goes on.
type Started struct {
	Head        eventlog.Head // of the generations to come
	Last        eventlog.Seq  // epoch_started
	LastTime    int64
	NextOrdinal uint64
	Local       []*eventlog.Generation
	Archived    eventlog.Seq // known to be archived now
	Shipped     uint64       // ordinal of the archive's last object
	Lossy       string       // why this start is lossy, empty when it is not
}

// ErrTakeOver says that the log's last owner was another state directory,
// which may still run.
var ErrTakeOver = errors.New("this log was last served from another state directory")

// end is the last object of the archive.
type end struct {
	ordinal uint64
	last    eventlog.Seq
	clean   bool   // a server ended cleanly with it
	epoch   uint32 // of that server
}

func endOf(t *eventlog.Trailer) end {
	return end{ordinal: t.LastOrdinal, last: t.Last, clean: t.CleanEnd(), epoch: t.Epoch}
}

// Run does the steps. What it refuses for good is ErrFenced, ErrTakeOver,
// ErrUnsupported, ErrHole, ErrOtherLog, ErrFormat or eventlog.ErrDamaged; after any other
// error (the archive did not answer, or ErrNotTaken) it may be run again.
func (s *Start) Run(ctx context.Context) (*Started, error) {
	if err := s.check(ctx); err != nil {
		return nil, s.takenButAbsent(err)
	}
	if err := s.checkStore(ctx); err != nil {
		return nil, err
	}
	if err := s.takeEpoch(ctx); err != nil {
		return nil, err
	}
	for {
		if err := s.compare(ctx); err != nil {
			return nil, s.takenButAbsent(err)
		}
		if err := s.WAL.CloseTail(s.Now()); err != nil {
			return nil, err
		}
		if s.own && s.Dir.State().Lossy == nil {
			return s.goOnBehind(ctx)
		}
		started, err := s.shipInFront(ctx)
		if !errors.Is(err, ErrDifferent) {
			return started, err
		}
		// Our tail's place is taken by other bytes: the archive is the truth.
		if err := s.expectTaken(ctx, err); err != nil {
			return nil, err
		}
	}
}

// expectTaken notes that the ordinal behind the known end is taken: from now on
// an archive that ends before it has a hole. A store that said so before, and
// then showed an end before it all the same, is given a pause, and after some
// of them is not believed any more.
func (s *Start) expectTaken(ctx context.Context, cause error) error {
	ordinal := s.end.ordinal + 1
	s.Archive.expectTaken(ordinal)
	if s.taken != ordinal {
		s.taken, s.takenAgain = ordinal, 0
		return nil
	}
	if s.takenAgain == asksAgain {
		return fmt.Errorf("%w: %v says that ordinal %d is taken, and shows the archive without it; find out why, then start again: %w",
			ErrOlderState, s.Archive.Bucket(), ordinal, cause)
	}
	s.takenAgain++
	return Pause(ctx, firstPause<<(s.takenAgain-1))
}

// takenButAbsent says of a hole at an ordinal that the store called taken that it
// is no loss: the store contradicts itself.
func (s *Start) takenButAbsent(err error) error {
	var hole *HoleError
	taken := s.Archive.calledTaken()
	if taken == 0 || !errors.As(err, &hole) || taken < hole.First || taken > hole.Last {
		return err
	}
	return fmt.Errorf("%w: %v says that ordinal %d is taken, and that it is absent; find out why, then start again: %w",
		ErrOlderState, s.Archive.Bucket(), taken, err)
}

// takeEpoch claims the epoch after the highest, and none other: whoever claims
// it first has it. Only a claim that this directory made itself, and that
// landed after its process had gone, is passed over.
func (s *Start) takeEpoch(ctx context.Context) error {
	cause := "start"
	if !s.own {
		cause = "take-over"
	}
	lossy := s.lossyBefore()
	also := func(state *State) {
		if lossy != "" {
			state.markLossy(lossy)
		}
		state.Unwritten = len(s.WAL.Generations()) == 0
	}
	if lossy != "" {
		s.Logger.Warn("this start is lossy: events that were acknowledged may be missing", "reason", lossy)
	}
	for epoch := s.highest.Epoch + 1; ; epoch++ {
		claim, err := newClaim(ctx, s.Dir, s.Archive, epoch, s.Host, cause, also, s.Now(), s.put)
		var taken *takenError
		if errors.As(err, &taken) {
			if state := s.Dir.State(); state.owns(epoch, taken.claim.Writer) {
				continue
			}
		}
		if err != nil {
			return err
		}
		s.claim = claim
		s.Logger.Info("claimed", "epoch", epoch, "cause", cause, "previous", s.highest.String())
		return nil
	}
}

// lossyBefore says why events that were acknowledged may be missing, as far as
// that is known before WAL and archive are compared; "" when they are not.
func (s *Start) lossyBefore() string {
	switch {
	case s.handedOver():
		return ""
	case s.copied != "":
		return "this directory is a copy of the one that last served (" + s.copied + "), which may have acknowledged more"
	case !s.own:
		return "the log was last served from another directory, and that server did not end cleanly"
	case s.bare:
		return s.Dir.Path("wal") + " is lost or empty, and the last server on this directory did not end in order"
	}
	return ""
}

// goOnBehind starts the epoch in the local WAL; the shipper ships the tail and
// then epoch_started, and nothing of the new epoch counts as archived before.
func (s *Start) goOnBehind(ctx context.Context) (*Started, error) {
	if err := s.catchUp(ctx); err != nil {
		return nil, err
	}
	event, g, err := s.startEpoch(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.catchUp(ctx); err != nil {
		return nil, err
	}
	return s.started(event, g), nil
}

// shipInFront ships the tail and epoch_started before anything is served.
func (s *Start) shipInFront(ctx context.Context) (*Started, error) {
	for _, g := range s.WAL.Generations() {
		if g.Ordinal <= s.end.ordinal {
			continue
		}
		if err := s.ship(ctx, g); err != nil {
			return nil, err
		}
	}
	for {
		if err := s.catchUp(ctx); err != nil {
			return nil, err
		}
		event, g, err := s.startEpoch(ctx)
		if err != nil {
			return nil, err
		}
		// The commit point of a take-over: before it the log ends with the old
		// server's events, after it with ours.
		err = s.ship(ctx, g)
		if err == nil {
			return s.confirm(ctx, event, g)
		}
		if !errors.Is(err, ErrDifferent) {
			return nil, err
		}
		if err := s.takeIn(ctx, g); err != nil {
			return nil, err
		}
	}
}

// ship makes g visible and moves the known end of the archive over it.
func (s *Start) ship(ctx context.Context, g *eventlog.Generation) error {
	body, err := s.Dir.bodyOf(g)
	if err != nil {
		return err
	}
	if err := s.put(ctx, s.Archive.Bucket(), Shipped(g.Ordinal).Key(), body); err != nil {
		return err
	}
	s.end = endOf(g.Trailer)
	return nil
}

// put is PutEqual for one start: a bucket that is read and takes nothing must
// not keep reads waiting for ever. What was tried is told each time.
func (s *Start) put(ctx context.Context, bucket Bucket, key string, body Body) error {
	return putEqual(ctx, bucket, key, body, readLimit, func(err error) {
		s.Logger.Warn("the archive does not take an object of this start; trying again", "key", key, "limit", readLimit, "error", err)
	})
}

// takeIn makes room for the old server's last word: an object that it put at
// our ordinal before it saw our claim.
func (s *Start) takeIn(ctx context.Context, g *eventlog.Generation) error {
	object := Shipped(g.Ordinal)
	err := AskAgain(ctx, contradicts, func() error {
		return retry(ctx, readLimit, func() error {
			info, err := s.Archive.Bucket().Head(ctx, object.Key())
			object.Size = info.Size
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("read the object that took our place: %w", olderIfAbsent(err))
	}
	trailer, err := s.Archive.Trailer(ctx, object)
	if err != nil {
		return err
	}
	if trailer.Epoch >= s.claim.Epoch {
		return fmt.Errorf("%w: %s was put by epoch %d, this is epoch %d", ErrFenced, object, trailer.Epoch, s.claim.Epoch)
	}
	s.Logger.Info("taking in the old server's last word", "ordinal", g.Ordinal, "epoch", trailer.Epoch, "last", trailer.Last)
	if s.Dir.State().Lossy == nil { // whoever put it was at work, and may have acknowledged more
		err := s.Dir.Update(func(state *State) { state.markLossy("an old server was still at work") })
		if err != nil {
			return err
		}
	}
	// A crash before this line leaves our generation in the WAL, and the next
	// start finds that it is not history.
	if err := s.WAL.Discard(g); err != nil {
		return err
	}
	s.end = endOf(trailer)
	return nil
}

// confirm makes sure that nobody claimed a later epoch before epoch_started
// became visible, and records what is archived now. A lossy start is told.
func (s *Start) confirm(ctx context.Context, event *eventlog.Event, g *eventlog.Generation) (*Started, error) {
	err := retry(ctx, readLimit, func() error {
		err := s.Archive.stillOurs(ctx, s.claim.Epoch)
		if errors.Is(err, ErrFenced) {
			return permanent(err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	started := s.started(event, g)
	if mark := s.Dir.State().Lossy; mark != nil {
		started.Lossy = mark.Reason
	}
	// Before this line a crash makes the next start lossy once more; after it
	// the loss is part of history.
	err = s.Dir.Update(func(state *State) {
		state.Lossy = nil
		state.Archived = &ArchivedMark{Ordinal: g.Ordinal, Seq: event.Seq}
	})
	if err != nil {
		return nil, err
	}
	return started, s.catchUp(ctx)
}

// startEpoch writes epoch_started into a generation of its own, right behind
// the log's end.
func (s *Start) startEpoch(ctx context.Context) (*eventlog.Event, *eventlog.Generation, error) {
	last, ordinal := s.end.last, s.end.ordinal
	if gens := s.WAL.Generations(); len(gens) > 0 && gens[len(gens)-1].Ordinal > ordinal {
		g := gens[len(gens)-1]
		_, last = g.Seqs()
		ordinal = g.Ordinal
	}
	event := &eventlog.Event{
		Seq: eventlog.MakeSeq(s.claim.Epoch, 1), Time: s.Now().UnixNano(), Type: eventlog.EpochStarted, Actor: "server",
		Writer: s.claim.Writer, Host: s.claim.Host, Cause: s.claim.Cause, Previous: last,
	}
	if s.Dir.State().Lossy != nil {
		barred, err := s.Views.Interrupted(ctx)
		if err != nil {
			return nil, nil, err
		}
		event.Lossy, event.Barred = true, barred
	}
	head := eventlog.Head{LogID: s.Archive.LogID(), Writer: s.claim.Writer, Epoch: s.claim.Epoch, Ordinal: ordinal + 1}
	g, err := s.WAL.WriteAlone(head, []eventlog.Event{*event}, s.Now())
	if err == nil && s.Dir.State().Unwritten {
		// Before this line the WAL may be empty for good reason; after it, and
		// before anything is acknowledged, an empty one is a loss.
		err = s.Dir.Update(func(state *State) { state.Unwritten = false })
	}
	return event, g, err
}

func (s *Start) started(event *eventlog.Event, g *eventlog.Generation) *Started {
	return &Started{
		Head: eventlog.Head{LogID: s.Archive.LogID(), Writer: s.claim.Writer, Epoch: s.claim.Epoch},
		Last: event.Seq, LastTime: event.Time, NextOrdinal: g.Ordinal + 1,
		Local: s.WAL.Generations(), Archived: s.end.last, Shipped: s.end.ordinal,
	}
}

// catchUp brings the views to the end of archive and WAL together.
func (s *Start) catchUp(ctx context.Context) error {
	log, err := s.WAL.Reader(s.Archive, s.end.last, eventlog.ErrClosed)
	if err != nil {
		return err
	}
	var stale eventlog.Range
	if mark := s.Dir.State().Lossy; mark != nil && !s.caughtUp {
		stale = mark.SetAside
	}
	if err := s.Views.CatchUp(ctx, readTo{log}, stale); err != nil {
		return err
	}
	s.caughtUp = true // what the views hold from here on is this log's
	return nil
}

// readTo makes a log that stands still a History.
type readTo struct{ log *eventlog.Log }

func (r readTo) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return r.log.ReadTo(ctx, from)
}

// Standing returns the log of a server that does not run: the archive up to
// its end now, then the local generations of wal behind it.
func Standing(ctx context.Context, archive *Archive, wal *eventlog.WAL) (eventlog.History, error) {
	objects, err := archive.Objects(ctx, 1)
	if err != nil {
		return nil, err
	}
	var last eventlog.Seq
	if len(objects) > 0 {
		trailer, err := archive.Trailer(ctx, objects[len(objects)-1])
		if err != nil {
			return nil, err
		}
		last = trailer.Last
	}
	log, err := wal.Reader(archive, last, eventlog.ErrClosed)
	if err != nil {
		return nil, err
	}
	return readTo{log}, nil
}
