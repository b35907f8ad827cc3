// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// retain removes checkpoints that the schedule keeps no more: their manifests
// first, then all files that no manifest names. A crash anywhere leaves files
// too many, which the next removal finds, or manifests too many. Whoever
// restores a checkpoint meanwhile misses a file, and takes another one.
func (t *Taker) retain(ctx context.Context) error {
	all, err := readAll(ctx, t.Archive)
	if err == nil {
		err = t.removable(all)
	}
	if err != nil {
		return fmt.Errorf("look for checkpoints to remove: %w", err)
	}
	kept := t.keep(all, t.Clock.Now())
	named := map[Hash]bool{}
	var doomed []string
	for _, f := range all {
		if !kept[f.seq] {
			doomed = append(doomed, manifestKey(f.seq))
			continue
		}
		for sum := range f.manifest.contents() {
			named[sum] = true
		}
	}
	if err := t.remove(ctx, doomed); err != nil {
		return err
	}
	there, err := files(ctx, t.Archive)
	if err != nil {
		return fmt.Errorf("look for files of removed checkpoints: %w", err)
	}
	doomed = doomed[:0]
	for sum := range there {
		if !named[sum] {
			doomed = append(doomed, fileKey(sum))
		}
	}
	return t.remove(ctx, doomed)
}

// removable makes sure that it is known what every manifest names, and that
// the list is not an old one.
func (t *Taker) removable(all []found) error {
	newest := false
	for _, f := range all {
		if errors.Is(f.err, errLater) {
			return fmt.Errorf("nothing is removed beside what a later version wrote: %w", f.err)
		}
		newest = newest || f.manifest != nil && f.seq == t.last.Seq
	}
	if !newest {
		return fmt.Errorf("the list of the checkpoints lacks the one as of event %s, which was just put", t.last.Seq)
	}
	return nil
}

// keep says which checkpoints stay: the newest Keep, and of each of the last
// Days days, by UTC, the newest. One whose manifest is damaged can never be
// used, and goes.
func (t *Taker) keep(newestFirst []found, now time.Time) map[eventlog.Seq]bool {
	kept := map[eventlog.Seq]bool{}
	days := map[string]bool{}
	oldest := now.UTC().AddDate(0, 0, -t.Days)
	for _, f := range newestFirst {
		if f.manifest == nil {
			continue
		}
		taken := f.manifest.Time.UTC()
		day := taken.Format(time.DateOnly)
		first := t.Days > 0 && taken.After(oldest) && !days[day]
		days[day] = true
		if len(kept) < t.Keep || first {
			kept[f.seq] = true
		}
	}
	return kept
}

// removedAtOnce is how many removals one look at the claims stands for.
const removedAtOnce = 100

// remove removes keys, all of which are this package's.
func (t *Taker) remove(ctx context.Context, keys []string) error {
	for i, key := range keys {
		if i%removedAtOnce == 0 {
			if err := t.Archive.Owns(ctx, t.Epoch); err != nil {
				return err
			}
		}
		if err := t.Archive.Bucket().Delete(ctx, key); err != nil {
			return fmt.Errorf("remove an old checkpoint: %w", err)
		}
	}
	return nil
}
