// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"fmt"

	"github.com/strandline-project/strandline/archiver"
)

// goOn asks for the archive's end once more, before what was built is verified
// and said to be done, and projects what has come since: a server that still
// runs archived it, or a store that answered with an older state had not shown
// it. It does so once: a server that goes on archiving is not raced.
func (r *recovery) goOn(ctx context.Context) error {
	if r.Until != 0 {
		return nil
	}
	now, objects, err := r.lookAgain(ctx)
	if err != nil {
		return fmt.Errorf("%w: ask for the archive's end once more: %w", errElsewhere, err)
	}
	if now == nil {
		return nil
	}
	r.Log.Info("the archive has gone on since the recovery began; what came is taken in", "from_ordinal", r.inputs.LastOrdinal+1, "to_ordinal", now.LastOrdinal)
	if r.beginning.From == nil {
		// A crash before this line leaves views that are whole up to the end that
		// the inputs name; after it the next run goes on from where they stand.
		r.beginning.Built = true
		if err := writeNote(r.beginningPath(), &r.beginning); err != nil {
			return fmt.Errorf("%w: %w", errElsewhere, err)
		}
	}
	// A crash before this line leaves a recovery up to the end of before, after it
	// one up to the end of now whose tail is missing.
	if err := now.store(r.inputsPath()); err != nil {
		return fmt.Errorf("%w: %w", errElsewhere, err)
	}
	r.take(now, append(r.objects, objects...))
	return r.projectTail(ctx)
}

// lookAgain returns what the inputs are now, and the objects that are new; nil
// when the archive still ends where it did.
func (r *recovery) lookAgain(ctx context.Context) (*inputs, []archiver.ObjectInfo, error) {
	r.Archive.Expect(r.inputs.LastOrdinal)
	objects, err := r.Archive.Objects(ctx, r.inputs.LastOrdinal+1)
	if err != nil || len(objects) == 0 {
		return nil, nil, err
	}
	trailer, err := r.Archive.Trailer(ctx, objects[len(objects)-1])
	if err != nil {
		return nil, nil, err
	}
	now := *r.inputs
	now.Objects += len(objects)
	now.LastOrdinal, now.ArchiveEnd, now.Upto = trailer.LastOrdinal, trailer.Last, trailer.Last
	now.EndSum, now.Clean = trailerSum(trailer), trailer.CleanEnd()
	for _, object := range objects {
		now.Bytes += object.Size
	}
	return &now, objects, nil
}

// take makes found what is built.
func (r *recovery) take(found *inputs, objects []archiver.ObjectInfo) {
	r.inputs, r.objects = found, objects
	r.result.Objects, r.result.Bytes, r.result.LastOrdinal = found.Objects, found.Bytes, found.LastOrdinal
	r.result.ArchiveEnd, r.result.Clean, r.result.Last = found.ArchiveEnd, found.Clean, found.Upto
}
