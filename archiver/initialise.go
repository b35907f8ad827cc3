// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// Initialise makes bucket the archive of dir's new log: strandline.json, the
// claim of epoch 1, and the first object with the events 1.1 and 1.2. An
// archive is never empty. It may be repeated after a crash and goes on where
// it stopped; on a ready directory it does nothing.
func Initialise(ctx context.Context, dir *StateDir, bucket Bucket, host string, now time.Time) error {
	state := dir.State()
	switch state.Phase {
	case PhaseReady:
		return nil
	case PhaseRecovering:
		return errors.New("this state directory is being recovered; finish `strandline recover` instead")
	case PhaseInitialising:
	default:
		return fmt.Errorf("a state directory in phase %q, which this build does not know", state.Phase)
	}
	archive := At(bucket, state.LogID)
	// Before anything is put: the claims of another log, whose strandline.json
	// may be gone, are to stay alone.
	if _, err := archive.HighestClaim(ctx); err != nil {
		return err
	}
	if err := Init(ctx, bucket, state.LogID, now); err != nil {
		return err
	}
	claim, err := firstClaim(ctx, dir, archive, host, now)
	if err != nil {
		return err
	}
	g, err := firstGeneration(dir, claim, now)
	if err != nil {
		return err
	}
	body, err := dir.bodyOf(g)
	if err != nil {
		return err
	}
	if err := PutEqual(ctx, bucket, Shipped(g.Ordinal).Key(), body); err != nil {
		return err
	}
	if err := archive.stillOurs(ctx, claim.Epoch); err != nil {
		return err
	}
	return dir.Update(func(state *State) {
		state.Phase, state.Clean = PhaseReady, true
		state.Archived = &ArchivedMark{Ordinal: g.Ordinal, Seq: g.Trailer.Last}
	})
}

// CheckVacant says whether bucket may become the archive of the log own, or is
// it already: nothing of another log is there. own is the zero id for a log
// that has none yet. It only reads. What another log's archive has lost of its
// names does not make it vacant.
func CheckVacant(ctx context.Context, bucket Bucket, own eventlog.ID) error {
	if err := checkManifest(ctx, bucket, own); err != nil {
		return err
	}
	if _, err := At(bucket, own).HighestClaim(ctx); err != nil {
		return err
	}
	if own != (eventlog.ID{}) {
		return nil
	}
	return checkNoObject(ctx, bucket)
}

// checkManifest refuses another log's strandline.json. That there is none is
// the usual answer, and asked once.
func checkManifest(ctx context.Context, bucket Bucket, own eventlog.ID) error {
	there, err := exists(ctx, bucket, ManifestKey)
	if err != nil || !there {
		return err
	}
	found, err := readManifest(ctx, bucket)
	if err == nil && found.LogID != own {
		err = fmt.Errorf("%v: %w: %v, created %v; choose another prefix or directory", bucket, ErrOtherLog, found.LogID, found.Created.Format(time.RFC3339))
	}
	return err
}

// checkNoObject refuses a bucket with objects of a log. A list may lag, so the
// first object is asked for by name, too.
func checkNoObject(ctx context.Context, bucket Bucket) error {
	refuse := func(key string) error {
		return permanent(fmt.Errorf("%v: %w: it holds %s; choose another prefix or directory", bucket, ErrOtherLog, key))
	}
	return retry(ctx, readLimit, func() error {
		for info, err := range bucket.List(ctx, LogPrefix, "") {
			if err != nil {
				return fmt.Errorf("list %v: %w", bucket, err)
			}
			return refuse(info.Key)
		}
		there, err := exists(ctx, bucket, Shipped(1).Key())
		if err == nil && there {
			err = refuse(Shipped(1).Key())
		}
		return err
	})
}

// firstClaim claims epoch 1, or finds that an earlier try did.
func firstClaim(ctx context.Context, dir *StateDir, archive *Archive, host string, now time.Time) (*Claim, error) {
	highest, err := archive.HighestClaim(ctx)
	if err != nil {
		return nil, err
	}
	if highest == nil {
		return newClaim(ctx, dir, archive, 1, host, "init", func(*State) {}, now, PutEqual)
	}
	state := dir.State()
	if highest.Epoch != 1 || !state.owns(1, highest.Writer) {
		return nil, fmt.Errorf("%w: %s", ErrFenced, highest)
	}
	return highest, nil
}

// firstGeneration makes the generation of ordinal 1, or finds the one that an
// earlier try made.
func firstGeneration(dir *StateDir, claim *Claim, now time.Time) (*eventlog.Generation, error) {
	wal, err := eventlog.ReadWAL(dir.Path("wal"), dir.Path("aside"), claim.LogID, eventlog.Bounds{})
	if err != nil {
		return nil, err
	}
	if err := wal.CloseTail(now); err != nil {
		return nil, err
	}
	if gens := wal.Generations(); len(gens) > 0 {
		return gens[0], nil
	}
	events := []eventlog.Event{
		{Seq: eventlog.FirstSeq, Time: now.UnixNano(), Type: eventlog.EpochStarted, Actor: "server", Writer: claim.Writer, Host: claim.Host, Cause: claim.Cause},
		{Seq: eventlog.FirstSeq.Next(), Time: now.UnixNano(), Type: eventlog.LogCreated, Actor: "server", LogID: claim.LogID, Format: FormatVersion},
	}
	head := eventlog.Head{LogID: claim.LogID, Writer: claim.Writer, Epoch: claim.Epoch, Ordinal: 1}
	return wal.WriteAlone(head, events, now)
}
