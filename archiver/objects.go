// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// ErrHole says that objects are missing from the archive: something that was
// archived is lost. Every error that wraps it is a *HoleError.
var ErrHole = errors.New("objects are missing from the archive")

// HoleError names the ordinals that are missing: First to Last, and the later
// holes. With More there may be others: there are too many, or the store did
// not tell.
type HoleError struct {
	Hole
	Later  []Hole
	More   bool
	Bucket string
}

// Hole is ordinals that are missing, First to Last.
type Hole struct{ First, Last uint64 }

// Error names the ordinals and what to do about them.
func (e *HoleError) Error() string {
	var all strings.Builder
	fmt.Fprintf(&all, "ordinals %d to %d", e.First, e.Last)
	for _, hole := range e.Later {
		fmt.Fprintf(&all, ", %d to %d", hole.First, hole.Last)
	}
	if e.More {
		all.WriteString(" and perhaps more")
	}
	return fmt.Sprintf("%v: %s, the first is %s of %s; restore them from another copy or from earlier versions of the bucket's objects",
		ErrHole, &all, Shipped(e.First).Key(), e.Bucket)
}

// Unwrap returns ErrHole.
func (e *HoleError) Unwrap() error { return ErrHole }

const maxForeign = 100

// Objects lists the objects that cover fromOrdinal and all later ordinals, in
// order. They are dense: what the list lacks, the next one after its end too,
// is asked for by name, and the list read again a few times, because a list can
// lag. Where one stays missing the error is a *HoleError, and the objects before
// the first hole are returned with it. A list that keeps lacking what is there
// by name is ErrOlderState. A run that has an index object was whole once: an
// archive that ends before has a hole.
func (a *Archive) Objects(ctx context.Context, fromOrdinal uint64) ([]ObjectInfo, error) {
	objects, _, err := a.objects(ctx, fromOrdinal)
	return objects, err
}

// objects is Objects, with the index objects of the runs from fromOrdinal's on.
func (a *Archive) objects(ctx context.Context, fromOrdinal uint64) ([]ObjectInfo, []IndexInfo, error) {
	fromOrdinal = max(fromOrdinal, 1)
	indexes, err := a.IndexObjects(ctx, fromOrdinal)
	if err != nil {
		return nil, nil, err
	}
	if n := len(indexes); n > 0 {
		_, last := indexes[n-1].Ordinals()
		a.Expect(last)
	}
	w := &walk{archive: a, list: a.list, next: fromOrdinal}
	objects, err := w.run(ctx)
	if err != nil {
		return objects, indexes, err
	}
	indexes, err = a.laterIndexes(ctx, indexes, objects)
	return objects, indexes, err
}

func compareObjects(x, y ObjectInfo) int {
	return cmp.Or(cmp.Compare(x.First, y.First), cmp.Compare(x.Last, y.Last),
		cmp.Compare(x.Revision, y.Revision), cmp.Compare(x.Size, y.Size))
}

// refuseCleaned refuses objects that only an index object explains, which
// this version does not read, two objects for the same ordinals, one of which
// is not what was archived, and an object listed with two sizes.
func (a *Archive) refuseCleaned(objects []ObjectInfo) error {
	for i, object := range objects {
		if i > 0 && objects[i-1].First == object.First && objects[i-1].Key() != object.Key() {
			why := ErrFormat // a cleaner's, in the place of several
			if objects[i-1].Last == object.Last {
				why = eventlog.ErrDamaged
			}
			return fmt.Errorf("list %v: %w: there are two objects for ordinal %d, %s and %s, of which this version writes and reads the one with revision 0000: `strandline inspect object %d` shows whether that one is whole; then keep a copy of the other elsewhere and remove it from the bucket",
				a.bucket, why, object.First, objects[i-1].Key(), object.Key(), object.First)
		}
		if object.First != object.Last || object.Revision != 0 {
			return fmt.Errorf("list %v: %v was written by a cleaner: %w", a.bucket, object, ErrFormat)
		}
		if i > 0 && objects[i-1].First == object.First {
			return fmt.Errorf("list %v: %v is listed with %d and with %d bytes", a.bucket, object, objects[i-1].Size, object.Size)
		}
	}
	return nil
}

func (a *Archive) lastExpected() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.expected
}

func (a *Archive) noteForeign(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.foreign) < maxForeign {
		a.foreign[key] = struct{}{}
	}
}

// Foreign returns the keys among the log's objects that are nothing Strandline
// wrote, as far as they were seen, sorted, at most a hundred. They are left
// alone and harm nothing, but somebody should know.
func (a *Archive) Foreign() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	keys := make([]string, 0, len(a.foreign))
	for key := range a.foreign {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// Pause waits for d, as between two tries at an archive, or until ctx ends: then
// its cause is the error.
func Pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
