// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
)

// inputs is what a recovery is made from, found by its first phase. No field
// is ever zero: what is not known refuses. (The recovery of the outage that
// this server answers was resumed with a highest seq that had never been set.)
type inputs struct {
	Version     int          `json:"version"`
	LogID       eventlog.ID  `json:"log_id"`
	Objects     int          `json:"objects"`
	Bytes       int64        `json:"bytes"`
	LastOrdinal uint64       `json:"last_ordinal"`
	ArchiveEnd  eventlog.Seq `json:"archive_end"` // last seq that the archive covers
	EndSum      string       `json:"end_sha256"`  // of the last object's trailer
	Clean       bool         `json:"clean_end"`
	Upto        eventlog.Seq `json:"up_to"`           // last event that the state includes
	Until       eventlog.Seq `json:"until,omitempty"` // what was asked for; absent: the end
	Full        bool         `json:"full,omitempty"`  // no checkpoint was to be begun from
}

const (
	inputsName    = "inputs.json"
	inputsVersion = 1
)

// String names the inputs, so that other ones have another name.
func (in *inputs) String() string { return fmt.Sprintf("log %s up to %s", in.LogID, in.Upto) }

// look asks the archive for the inputs of a recovery up to until, 0 for its
// end. What claims say of the end is taken in: an archive that ends before has
// lost something. The objects are those listed.
func look(ctx context.Context, archive *archiver.Archive, until eventlog.Seq) (in *inputs, objects []archiver.ObjectInfo, err error) {
	if _, err := archive.HighestClaim(ctx); err != nil {
		return nil, nil, err
	}
	if objects, err = archive.Objects(ctx, 1); err != nil {
		return nil, nil, err
	}
	if len(objects) == 0 {
		return nil, nil, fmt.Errorf("%w: there is no object at all", archiver.ErrHole)
	}
	trailer, err := archive.Trailer(ctx, objects[len(objects)-1])
	if err != nil {
		return nil, nil, err
	}
	in = &inputs{Version: inputsVersion, LogID: archive.LogID(), Objects: len(objects), LastOrdinal: trailer.LastOrdinal,
		ArchiveEnd: trailer.Last, EndSum: trailerSum(trailer), Clean: trailer.CleanEnd(), Upto: trailer.Last, Until: until}
	for _, object := range objects {
		in.Bytes += object.Size
	}
	if until != 0 {
		in.Upto = until
		err = exists(ctx, archive, until, trailer.Last)
	}
	return in, objects, err
}

// trailerSum tells an object from another of the same name: a trailer states
// the checksums of footer and payloads.
func trailerSum(t *eventlog.Trailer) string {
	sum := sha256.Sum256(eventlog.AppendTrailer(nil, t))
	return hex.EncodeToString(sum[:])
}

var errNoEvent = errors.New("there is no event")

// exists checks that the archive has the event seq.
func exists(ctx context.Context, archive *archiver.Archive, seq, end eventlog.Seq) error {
	if seq > end {
		return fmt.Errorf("%w %s: the archive ends at %s", errNoEvent, seq, end)
	}
	for batch, err := range archive.Follow(ctx, seq) {
		if err != nil {
			return err
		}
		if next := batch.Entries[0].Event.Seq; next != seq {
			return fmt.Errorf("%w %s: the next one is %s", errNoEvent, seq, next)
		}
		return nil
	}
	return fmt.Errorf("%w %s", errNoEvent, seq)
}

// store writes the inputs to path, atomically.
func (in *inputs) store(path string) error { return writeNote(path, in) }

// loadInputs reads what store wrote, nil when there is none.
func loadInputs(path string) (*inputs, error) {
	var in inputs
	if found, err := readNote(path, &in); err != nil || !found {
		return nil, err
	}
	return &in, in.check(path)
}

// check refuses inputs of another version, and such as are not known.
func (in *inputs) check(path string) error {
	switch {
	case in.Version != inputsVersion:
		return fmt.Errorf("%s: another version of this program began the recovery (%d, this one writes %d): remove the directory and recover again", path, in.Version, inputsVersion)
	case in.LogID == eventlog.ID{}, in.Objects == 0, in.LastOrdinal == 0, in.EndSum == "", !in.ArchiveEnd.Valid(), !in.Upto.Valid(), in.Upto > in.ArchiveEnd:
		return fmt.Errorf("%s: %w (something in it is not known)", path, errNote)
	}
	return nil
}

// match refuses to go on with another recovery than the one that was begun.
func (in *inputs) match(log eventlog.ID, until eventlog.Seq, full bool) error {
	switch {
	case in.LogID != log:
		return fmt.Errorf("the directory is being recovered from %w, %s; name a new directory", archiver.ErrOtherLog, in.LogID)
	case in.Until != until:
		return fmt.Errorf("the directory is being recovered up to event %s; ask for the same, or name a new directory", in.Upto)
	case in.Full && !full:
		return errors.New("the directory is being recovered from the first event, as it was asked for (--full); ask for the same, or name a new directory")
	case !in.Full && full:
		return errors.New("the directory is being recovered from a checkpoint if one is any good, not in full; go on without --full, or name a new directory")
	}
	return nil
}
