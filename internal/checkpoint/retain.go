// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// errLost says that the newest checkpoint is not what was put: its manifest or
// one of its files has gone.
var errLost = errors.New("the newest checkpoint of the views is not whole any more")

// retain removes checkpoints that the schedule keeps no more: their manifests
// first, then all files that no manifest names. A crash anywhere leaves files
// too many, which the next removal finds, or manifests too many. Whoever
// restores a checkpoint meanwhile misses a file, and takes another one.
//
// Another server may take over at any moment, and use files again that are to
// be removed here. So the manifests are read again after the files were listed,
// and right before each single removal the claims are asked whether the log is
// still this server's. One removal can be under way then, no more. The
// successor finds that file missing and puts it again (upload.ensure).
func (t *Taker) retain(ctx context.Context) error {
	all, err := readAll(ctx, t.Archive, t.known...)
	var listed map[Hash]int64
	if err == nil {
		listed, err = files(ctx, t.Archive)
	}
	if err == nil {
		err = countWhole(ctx, t.Archive, all, listed)
	}
	if err == nil {
		err = readable(all)
	}
	if err == nil {
		err = t.verify(ctx) // others are removed because the newest is there
	}
	if err != nil {
		return fmt.Errorf("look for checkpoints to remove: %w", err)
	}
	kept := t.keep(all, t.Clock.Now())
	var doomed []string
	t.known = t.known[:0]
	for _, f := range all {
		if kept[f.seq] {
			t.known = append(t.known, f.seq)
		} else {
			doomed = append(doomed, manifestKey(f.seq))
		}
	}
	if err := t.remove(ctx, doomed); err != nil {
		return err
	}
	return t.removeUnnamed(ctx, listed)
}

// removeUnnamed removes those of the listed files that no manifest names.
func (t *Taker) removeUnnamed(ctx context.Context, listed map[Hash]int64) error {
	all, err := readAll(ctx, t.Archive, t.known...)
	if err == nil {
		err = readable(all)
	}
	if err != nil {
		return fmt.Errorf("look for what the checkpoints name: %w", err)
	}
	for _, f := range all {
		if f.manifest == nil {
			continue
		}
		for sum := range f.manifest.contents() {
			delete(listed, sum)
		}
	}
	var doomed []string
	for sum := range listed {
		doomed = append(doomed, fileKey(sum))
	}
	slices.Sort(doomed)
	return t.remove(ctx, doomed)
}

// readable makes sure that it is known what every manifest names.
func readable(all []found) error {
	for _, f := range all {
		if errors.Is(f.err, errLater) {
			return fmt.Errorf("nothing is removed beside what a later version wrote: %w", f.err)
		}
	}
	return nil
}

// keep says which checkpoints stay: of those that are whole the newest Keep,
// and of each of the last Days days, by UTC, the newest. One whose manifest is
// damaged, or which lacks a file, can never be used, and goes. What is later
// than this server's last is a successor's, and none of its business.
func (t *Taker) keep(newestFirst []found, now time.Time) map[eventlog.Seq]bool {
	kept := map[eventlog.Seq]bool{}
	days := map[string]bool{}
	oldest := now.UTC().AddDate(0, 0, -t.Days)
	counted := 0
	for _, f := range newestFirst {
		if f.seq > t.last.Seq {
			kept[f.seq] = true
			continue
		}
		if !f.whole {
			continue
		}
		taken := f.manifest.Time.UTC()
		day := taken.Format(time.DateOnly)
		first := t.Days > 0 && taken.After(oldest) && !days[day]
		days[day] = true
		if counted < t.Keep || first {
			kept[f.seq] = true
			counted++
		}
	}
	return kept
}

// remove removes keys, all of which are this package's, while the log is this
// server's.
func (t *Taker) remove(ctx context.Context, keys []string) error {
	for _, key := range keys {
		if err := t.Archive.Owns(ctx, t.Epoch); err != nil {
			return err
		}
		if err := t.Archive.Bucket().Delete(ctx, key); err != nil {
			return fmt.Errorf("remove an old checkpoint: %w", err)
		}
	}
	return nil
}
