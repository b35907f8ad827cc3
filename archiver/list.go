// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
)

// A long list is read in ranges of ordinals, several at once: a store gives a
// thousand keys for a request, one request after the other. A range is a whole
// number of such pages.
const (
	listRange  = 8 * listPage
	listAtOnce = 8
)

// list reads the bucket's list from the run of fromOrdinal on, because a
// cleaned object is listed under the first of its ordinals, and returns what
// covers fromOrdinal or stands after it, sorted, each once.
func (a *Archive) list(ctx context.Context, fromOrdinal uint64) ([]ObjectInfo, error) {
	return a.listRanges(ctx, fromOrdinal, cutRanges(runStart(fromOrdinal), a.lastExpected()))
}

// listRanges lists the objects of the ranges that cover fromOrdinal or stand
// after it.
func (a *Archive) listRanges(ctx context.Context, fromOrdinal uint64, ranges []keyRange) ([]ObjectInfo, error) {
	parts := make([][]ObjectInfo, len(ranges))
	group, listing := errgroup.WithContext(ctx)
	group.SetLimit(listAtOnce)
	for i, r := range ranges {
		group.Go(func() (err error) {
			parts[i], err = a.listKeys(listing, r, fromOrdinal)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("list %v from ordinal %d: %w", a.bucket, fromOrdinal, err)
	}
	objects := slices.Concat(parts...)
	slices.SortFunc(objects, compareObjects)
	objects = slices.Compact(objects)
	return objects, a.refuseCleaned(objects)
}

// keyRange is the keys after one and up to another, which need not exist.
type keyRange struct {
	after string // "": from the first
	upto  string // "": to the last
}

// keyBefore is the last key that stands before those of ordinal.
func keyBefore(ordinal uint64) string {
	if ordinal <= 1 {
		return ""
	}
	return ObjectInfo{First: ordinal - 1, Last: maxOrdinal, Revision: maxRevision}.Key()
}

// cutRanges cuts the keys from the ordinal first on into ranges which
// together are all of them, foreign ones too. That the archive reaches to end
// is known; the last range goes on to wherever it ends. A list that is known to
// be long only is cut: how long it is nobody knows before.
func cutRanges(first, end uint64) []keyRange {
	after := keyBefore(first) // below the first key of the run
	if end < first || end-first < 2*listRange {
		return []keyRange{{after: after}}
	}
	width := (end - first) / listAtOnce / listPage * listPage
	width = max(width, listRange)
	var ranges []keyRange
	for last := first + width - 1; last < end; last += width {
		// It ends with the key that closes a page: the next page is not asked for.
		border := Shipped(last).Key()
		ranges = append(ranges, keyRange{after, border})
		after = border
	}
	return append(ranges, keyRange{after: after})
}

// listKeys reads the list of one range.
func (a *Archive) listKeys(ctx context.Context, r keyRange, fromOrdinal uint64) ([]ObjectInfo, error) {
	var objects []ObjectInfo
	err := retry(ctx, readLimit, func() error {
		objects = objects[:0]
		for info, err := range a.bucket.List(ctx, LogPrefix, r.after) {
			if err != nil {
				return err
			}
			if r.upto != "" && info.Key > r.upto {
				return nil
			}
			object, err := ParseLogKey(info.Key)
			if err != nil {
				a.noteForeign(info.Key)
				continue
			}
			if object.Size = info.Size; object.Last >= fromOrdinal {
				objects = append(objects, object)
			}
			if info.Key == r.upto {
				return nil
			}
		}
		return nil
	})
	return objects, err
}
