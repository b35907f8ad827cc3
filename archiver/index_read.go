// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/strandline-project/strandline/eventlog"
)

// wholeIndex is up to which size an index object is read at once. Of a larger
// one the directory is read, and then the footers that are needed, in pieces.
const wholeIndex = 1 << 20

// runIndex is an index object whose directory is whole.
type runIndex struct {
	info    IndexInfo
	entries []indexEntry // of all ordinals of the run
	body    []byte       // all before the directory, of a small one; nil: to be read
}

// entry returns what the index object says of the object, which the archive
// lists: another size or revision, and it is not of this object.
func (x *runIndex) entry(object ObjectInfo) (*indexEntry, error) {
	first, last := x.info.Ordinals()
	if object.First < first || object.First > last {
		return nil, unusable("%v is not of its run", object)
	}
	entry := &x.entries[object.First-first]
	if entry.object != object {
		return nil, unusable("it is of %v with %d bytes, listed is %v with %d bytes", entry.object, entry.object.Size, object, object.Size)
	}
	return entry, nil
}

// footer returns the stored footer of entry out of what was read at once.
func (x *runIndex) footer(entry *indexEntry) []byte {
	return x.body[entry.offset:][:entry.trailer.FooterSize]
}

// IndexObjects lists the index objects from that of fromOrdinal's run on, by
// run, and of a run the highest revision first. That one is listed says
// nothing of whether it is whole.
func (a *Archive) IndexObjects(ctx context.Context, fromOrdinal uint64) ([]IndexInfo, error) {
	return a.listIndex(ctx, runOf(fromOrdinal), maxOrdinal/RunSize)
}

// listIndex lists the index objects of the runs first to last.
func (a *Archive) listIndex(ctx context.Context, first, last uint64) ([]IndexInfo, error) {
	after := ""
	if first > 1 {
		after = IndexInfo{Run: first - 1, Revision: maxRevision}.Key()
	}
	var found []IndexInfo
	err := retry(ctx, readLimit, func() error {
		found = found[:0]
		for info, err := range a.bucket.List(ctx, IndexPrefix, after) {
			if err != nil {
				return err
			}
			index, err := ParseIndexKey(info.Key)
			if err != nil {
				a.noteForeign(info.Key)
				continue
			}
			if index.Run > last {
				break
			}
			index.Size = info.Size
			found = append(found, index)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the index objects of %v: %w", a.bucket, err)
	}
	slices.SortFunc(found, func(x, y IndexInfo) int {
		return cmp.Or(cmp.Compare(x.Run, y.Run), cmp.Compare(y.Revision, x.Revision))
	})
	return slices.Compact(found), nil
}

// laterIndexes asks by name for the index objects that the list may lack at its
// end, up to the last complete run of objects, until one is absent. One that a
// list lacks costs time, never events.
func (a *Archive) laterIndexes(ctx context.Context, indexes []IndexInfo, objects []ObjectInfo) ([]IndexInfo, error) {
	if len(objects) == 0 {
		return indexes, nil
	}
	run := runOf(objects[0].First)
	if n := len(indexes); n > 0 {
		run = indexes[n-1].Run + 1
	}
	for ; run*RunSize <= objects[len(objects)-1].Last; run++ {
		index, there, err := a.indexByName(ctx, run)
		if err != nil || !there {
			return indexes, err
		}
		a.warnOnce("list of "+IndexPrefix, "the archive's list lacks an index object that is there", "archive", a.bucket.String(), "key", index.Key())
		indexes = append(indexes, index)
	}
	return indexes, nil
}

// indexByName asks for the first index object of a run by name.
func (a *Archive) indexByName(ctx context.Context, run uint64) (index IndexInfo, there bool, err error) {
	index.Run = run
	err = retry(ctx, readLimit, func() error {
		info, err := a.bucket.Head(ctx, index.Key())
		index.Size = info.Size
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return index, false, nil
	}
	if err != nil {
		return index, false, fmt.Errorf("ask %v for %v: %w", a.bucket, index, err)
	}
	return index, true, nil
}

// errNoIndex says that a run has no index object.
var errNoIndex = unusable("there is none")

// openIndex reads the directory of the first of the given index objects, all
// of one run, that is whole. One that is not is told once. ErrIndexUnusable
// when none is; another error is the bucket's.
func (a *Archive) openIndex(ctx context.Context, revisions []IndexInfo) (*runIndex, error) {
	last := errNoIndex
	for _, info := range revisions {
		x, err := a.readIndex(ctx, info)
		if err == nil {
			return x, nil
		}
		if errors.Is(err, ErrNotFound) {
			err = unusable("it was listed, and is gone: %w", err)
		}
		if !errors.Is(err, ErrIndexUnusable) {
			return nil, err
		}
		a.warnOfIndex(info, err)
		last = err
	}
	return nil, last
}

// readIndex reads the directory of an index object, and all of a small one.
// What does not verify, or is absent, is read again.
func (a *Archive) readIndex(ctx context.Context, info IndexInfo) (x *runIndex, err error) {
	err = AskAgain(ctx, contradicts, func() error {
		x, err = a.readIndexOnce(ctx, info)
		return err
	})
	return x, err
}

func (a *Archive) readIndexOnce(ctx context.Context, info IndexInfo) (*runIndex, error) {
	if info.Size < int64(len(indexMagic))+indexTailSize {
		return nil, fmt.Errorf("read %v: %w", info, unusable("%d bytes", info.Size))
	}
	size := int64(indexTailSize)
	if info.Size <= wholeIndex {
		size = info.Size
	}
	data, err := readAll(ctx, a.bucket, info.Key(), info.Size-size, size)
	var x *runIndex
	if err == nil {
		x, err = a.decodeIndex(info, data, size)
	}
	if err != nil {
		return nil, fmt.Errorf("read %v: %w", info, err)
	}
	return x, nil
}

func (a *Archive) decodeIndex(info IndexInfo, data []byte, size int64) (*runIndex, error) {
	if int64(len(data)) != size {
		return nil, unusable("it ends %d bytes before its listed size of %d", size-int64(len(data)), info.Size)
	}
	body := data[:size-indexTailSize]
	entries, err := decodeIndexTail(a.logID, info, data[len(body):])
	if err != nil {
		return nil, err
	}
	x := &runIndex{info: info, entries: entries}
	if size == info.Size {
		if string(body[:len(indexMagic)]) != indexMagic {
			return nil, unusable("it does not begin as one")
		}
		x.body = body
	}
	return x, nil
}

// copyOf returns what an index object has of object: its trailer, and its footer
// as stored. It is for an object whose own metadata is damaged, and trusts
// nothing more: the trailer must fit the object's key and size.
func (a *Archive) copyOf(ctx context.Context, object ObjectInfo) (*eventlog.Trailer, []byte, error) {
	run := runOf(object.First)
	revisions, err := a.listIndex(ctx, run, run)
	if err != nil {
		return nil, nil, err
	}
	x, err := a.openIndex(ctx, revisions)
	if err != nil {
		return nil, nil, err
	}
	entry, err := x.entry(object)
	if err != nil {
		a.warnOfIndex(x.info, err)
		return nil, nil, err
	}
	stored, err := a.storedFooter(ctx, x, entry)
	return entry.trailer, stored, err
}

// storedFooter returns the footer of entry, as stored.
func (a *Archive) storedFooter(ctx context.Context, x *runIndex, entry *indexEntry) ([]byte, error) {
	if x.body != nil {
		return x.footer(entry), nil
	}
	return readSeen(ctx, a.bucket, x.info.Key(), entry.offset, int64(entry.trailer.FooterSize))
}

// SetLogger makes log hear of what is wrong and was helped: slog.Default() does
// otherwise. It is called before the archive is read.
func (a *Archive) SetLogger(log *slog.Logger) { a.logger = log }

// warnOfIndex says once that an index object is not used.
func (a *Archive) warnOfIndex(info IndexInfo, err error) {
	a.warnOnce(info.Key(), "an index object is not used; the footers are read from their objects. `strandline index rebuild` writes it anew",
		"key", info.Key(), "error", err)
}

// warnOnce logs the first warning about key.
func (a *Archive) warnOnce(key, message string, args ...any) {
	a.mu.Lock()
	_, told := a.warned[key]
	if !told && len(a.warned) < maxWarned {
		a.warned[key] = struct{}{}
	}
	a.mu.Unlock()
	if told {
		return
	}
	a.log().Warn(message, args...)
}

func (a *Archive) log() *slog.Logger {
	if a.logger == nil {
		return slog.Default()
	}
	return a.logger
}

// maxWarned bounds the keys that are remembered to have been warned of; those
// beyond are warned of each time.
const maxWarned = 1 << 16
