// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// The disk that a recovery takes while it runs, sorted runs and views together:
// so much for each event, and the metadata's bytes, as stored, so many times.
// The checksums of a payload, 4 bytes for each 64 KiB, are most of a large
// block's metadata, and go into a run, and into a row, as they are. Of a
// million events of small blocks 164 bytes for each were measured.
const (
	eventBytes    = 100
	metadataTimes = 3
)

// disk is about what a recovery of so many events takes while it runs.
func disk(events uint64, cost archiver.Cost) uint64 {
	return events*eventBytes + cost.Metadata*metadataTimes
}

// Disk returns about how many bytes of disk the views of all events of an
// archive take while they are built, less what the leftovers take that are
// removed before.
func Disk(ctx context.Context, archive *archiver.Archive, leftovers ...string) (uint64, error) {
	objects, err := archive.Objects(ctx, 1)
	if err != nil {
		return 0, err
	}
	_, need, err := measure(ctx, archive, objects)
	if err != nil {
		return 0, err
	}
	return without(need, leftovers)
}

// without returns need less what lies at the paths.
func without(need uint64, paths []string) (uint64, error) {
	for _, path := range paths {
		have, err := SizeOf(path)
		if err != nil {
			return 0, err
		}
		need -= min(have, need)
	}
	return need, nil
}

// makeRoom asks whether there is room for what is about to be built, before
// anything large is written: a checkpoint and the events after it, or, with
// nil, all events. What an interrupted run left of the same is room; what else
// lies beside it is not.
func (r *recovery) makeRoom(ctx context.Context, from *Checkpoint) error {
	if r.Room == nil {
		return nil
	}
	_, need, err := measure(ctx, r.Archive, after(r.objects, from))
	if err != nil {
		return err
	}
	if from != nil {
		need += uint64(max(from.Bytes, 0))
	}
	own := []string{r.Scratch}
	for _, p := range r.Projectors {
		path := filepath.Join(r.Dir, p.Name())
		own = append(own, path, projector.Building(path))
	}
	if need, err = without(need, own); err != nil {
		return err
	}
	return r.Room(need)
}

// after returns the objects whose events a recovery from a checkpoint projects,
// or, with nil, all. The first of them may have events that the checkpoint has.
func after(objects []archiver.ObjectInfo, from *Checkpoint) []archiver.ObjectInfo {
	if from == nil {
		return objects
	}
	first := slices.IndexFunc(objects, func(o archiver.ObjectInfo) bool { return o.Last > from.Ordinal })
	if first < 0 {
		return nil
	}
	return objects[first:]
}

// measure returns how many events the objects hold, and about what disk a
// recovery of them takes while it runs.
func measure(ctx context.Context, archive *archiver.Archive, objects []archiver.ObjectInfo) (events, bytes uint64, err error) {
	if events, err = countEvents(ctx, archive, objects); err != nil {
		return 0, 0, err
	}
	cost, err := archive.Cost(ctx, objects)
	return events, disk(events, cost), err
}

// countReads is how many trailers countEvents reads at most, beside the first
// and the last.
const countReads = 16

// stretch is objects whose ends are known: it counts the events after the
// first one's last, up to the last one's last.
type stretch struct {
	first, last         int // of the objects
	firstEnd, lastEnd   eventlog.Seq
	firstSize, lastSize uint64 // events of these objects
}

// known returns how many events there are, if the ends tell: within an epoch
// no seq is left out.
func (s *stretch) known() (events uint64, known bool) {
	switch {
	case s.first == s.last:
		return 0, true
	case s.firstEnd.Epoch() == s.lastEnd.Epoch():
		return uint64(s.lastEnd - s.firstEnd), true
	case s.first+1 == s.last:
		return s.lastSize, true
	}
	return 0, false
}

// guess takes all objects in between for like those at the ends.
func (s *stretch) guess() uint64 {
	return uint64(s.last-s.first)*max(1, (s.firstSize+s.lastSize)/2) + s.lastSize
}

// countEvents returns how many events the objects hold. It reads few trailers:
// with up to a dozen epochs the count is exact, with more of them about right.
func countEvents(ctx context.Context, archive *archiver.Archive, objects []archiver.ObjectInfo) (uint64, error) {
	if len(objects) == 0 {
		return 0, nil
	}
	first, err := ends(ctx, archive, objects, 0)
	if err != nil {
		return 0, err
	}
	last, err := ends(ctx, archive, objects, len(objects)-1)
	if err != nil {
		return 0, err
	}
	total := first.lastSize
	open := []stretch{between(first, last)}
	for reads := 0; len(open) > 0; {
		s := open[0]
		open = open[1:]
		if events, known := s.known(); known {
			total += events
			continue
		}
		if reads == countReads {
			total += s.guess()
			continue
		}
		reads++
		middle, err := ends(ctx, archive, objects, (s.first+s.last)/2)
		if err != nil {
			return 0, err
		}
		// The first come, first served: all stretches are about equally wide.
		open = append(open, between(s, middle), between(middle, s))
	}
	return total, nil
}

// ends returns a stretch of one object.
func ends(ctx context.Context, archive *archiver.Archive, objects []archiver.ObjectInfo, i int) (stretch, error) {
	t, err := archive.Trailer(ctx, objects[i])
	if err != nil {
		return stretch{}, err
	}
	return stretch{i, i, t.Last, t.Last, uint64(t.Events), uint64(t.Events)}, nil
}

// between returns the stretch from a's first object to b's last.
func between(a, b stretch) stretch {
	return stretch{a.first, b.last, a.firstEnd, b.lastEnd, a.firstSize, b.lastSize}
}

// SizeOf adds up the files below dir, which need not be there, nor stay there.
func SizeOf(dir string) (total uint64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil && !entry.IsDir() {
			info, err = entry.Info()
		}
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone meanwhile
			return nil
		case info != nil:
			total += uint64(max(info.Size(), 0))
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("add up what lies in %s: %w", dir, err)
	}
	return total, nil
}
