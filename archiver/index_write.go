// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/strandline-project/strandline/eventlog"
)

// indexReads is how many objects are read at once while an index object is
// made: it is never urgent, and each may be a footer of many megabytes.
const indexReads = 4

// indexWriter makes index objects out of the archive's objects, and out of
// local copies where there are any.
type indexWriter struct {
	archive *Archive
	scratch string                          // for a file of one run's footers
	local   map[uint64]*eventlog.Generation // archived generations at hand, by ordinal; may be nil
	// allowed is asked right before each put; nil: always.
	allowed func(context.Context) error
}

// write makes the index object of a run under the first free revision from
// revision on, and returns it. Somebody else may have done it meanwhile: one
// that is whole is as good.
func (w *indexWriter) write(ctx context.Context, run uint64, revision uint16) (IndexInfo, error) {
	objects, err := w.archive.listRun(ctx, run)
	if err != nil {
		return IndexInfo{Run: run}, err
	}
	for {
		info, err := w.writeRevision(ctx, IndexInfo{Run: run, Revision: revision}, objects)
		if !errors.Is(err, ErrDifferent) || revision == maxRevision {
			return info, err
		}
		x, err := w.archive.readIndex(ctx, info)
		if err == nil {
			err = x.matches(objects)
		}
		if err == nil || !errors.Is(err, ErrIndexUnusable) {
			return info, err
		}
		w.archive.warnOfIndex(info, err)
		revision++
	}
}

func (w *indexWriter) writeRevision(ctx context.Context, info IndexInfo, objects []ObjectInfo) (_ IndexInfo, err error) {
	b, err := NewIndexBuilder(w.scratch, w.archive.logID, info)
	if err != nil {
		return info, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	err = inOrder(ctx, objects, indexReads, w.read, func(s storedFooter) error { return b.Add(s.object, s.trailer, s.footer) })
	if err == nil && w.allowed != nil {
		err = w.allowed(ctx)
	}
	if err != nil {
		return info, err
	}
	return b.Put(ctx, w.archive.bucket)
}

// storedFooter is an object's metadata as it is stored.
type storedFooter struct {
	object  ObjectInfo
	trailer *eventlog.Trailer
	footer  []byte
}

// read returns an object's metadata. Whatever it is taken from, the trailer is
// the one that the object in the bucket has now, unless that one is damaged: then
// there may be an older index object that has it.
func (w *indexWriter) read(ctx context.Context, object ObjectInfo) (storedFooter, error) {
	if g := w.local[object.First]; g != nil {
		s, err := w.readLocal(ctx, object, g)
		if err == nil {
			return s, nil
		}
		if ctx.Err() != nil || errors.Is(err, errChanged) {
			return s, err
		}
	}
	s, err := w.readOwn(ctx, object)
	if err == nil || !errors.Is(err, eventlog.ErrObjectDamaged) {
		return s, err
	}
	trailer, footer, copyErr := w.archive.copyOf(ctx, object)
	if copyErr != nil {
		return s, withoutCopy(err, copyErr)
	}
	w.archive.warnOfObject(object, err)
	return storedFooter{object, trailer, footer}, nil
}

// errNotLocal says that a local copy is damaged, or gone.
var errNotLocal = errors.New("no local copy")

// readLocal takes the footer from the local copy, when the object in the
// bucket ends with the same trailer, whose checksums cover every byte.
func (w *indexWriter) readLocal(ctx context.Context, object ObjectInfo, g *eventlog.Generation) (storedFooter, error) {
	own, err := w.archive.ownTrailer(ctx, object)
	if err != nil {
		return storedFooter{}, err
	}
	if *own != *g.Trailer { // whatever is there now, it is no history to bind
		return storedFooter{}, fmt.Errorf("%w: %w", eventlog.ErrObjectDamaged, w.archive.alarm(object.Key()))
	}
	f, err := os.Open(g.Path())
	if err != nil {
		return storedFooter{}, fmt.Errorf("%w: %w", errNotLocal, err)
	}
	defer f.Close() //nolint:errcheck // read only
	footer := make([]byte, own.FooterSize)
	if _, err := f.ReadAt(footer, int64(own.FooterOffset)); err != nil || eventlog.Checksum(footer) != own.FooterSum {
		return storedFooter{}, errNotLocal
	}
	return storedFooter{object, own, footer}, nil
}

// readOwn reads the object itself. What does not verify is read again.
func (w *indexWriter) readOwn(ctx context.Context, object ObjectInfo) (storedFooter, error) {
	own := storedFooter{object: object}
	err := AskAgain(ctx, contradicts, func() (err error) {
		own.trailer, own.footer, err = w.archive.ownStored(ctx, object, tailSize, func(*eventlog.Trailer) error { return nil })
		if err == nil && (uint64(len(own.footer)) != own.trailer.FooterSize || eventlog.Checksum(own.footer) != own.trailer.FooterSum) {
			err = fmt.Errorf("%w: the footer of %v is not the one that its trailer describes", eventlog.ErrObjectDamaged, object)
		}
		return err
	})
	if err != nil {
		return storedFooter{}, w.archive.objectError(object, err)
	}
	return own, nil
}

// listRun lists the objects of a run, which must all be there.
func (a *Archive) listRun(ctx context.Context, run uint64) ([]ObjectInfo, error) {
	first, last := IndexInfo{Run: run}.Ordinals()
	list := func(ctx context.Context, from uint64) ([]ObjectInfo, error) {
		return a.listRanges(ctx, from, []keyRange{{after: keyBefore(runStart(from)), upto: Shipped(last).Key()}})
	}
	objects, err := (&walk{archive: a, list: list, next: first, last: last}).run(ctx)
	if err != nil {
		return nil, err
	}
	return objects, nil
}

// check holds an index object against the objects of its run: each of its
// footers, and the trailer that each object has now. damaged are those objects
// whose own trailer is, and which only it describes.
func (a *Archive) checkIndex(ctx context.Context, info IndexInfo, objects []ObjectInfo) (damaged []ObjectInfo, err error) {
	var x *runIndex
	err = AskAgain(ctx, contradicts, func() (err error) {
		if x, err = a.readIndexOnce(ctx, info); err == nil {
			err = x.matches(objects)
		}
		if err == nil {
			err = a.checkFooters(ctx, x)
		}
		return err
	})
	if err != nil {
		return nil, olderIfAbsent(err)
	}
	return a.confirm(ctx, x.entries, func(entry *indexEntry) error {
		return unusable("%v says something else of itself", entry.object)
	})
}

// confirm holds entries of an index object against the trailer that each
// object has, and calls differs for those that are not equal. damaged are the
// objects whose own is damaged.
func (a *Archive) confirm(ctx context.Context, entries []indexEntry, differs func(*indexEntry) error) (damaged []ObjectInfo, err error) {
	trailer := func(ctx context.Context, entry indexEntry) (*eventlog.Trailer, error) {
		t, err := a.ownTrailer(ctx, entry.object)
		if errors.Is(err, eventlog.ErrObjectDamaged) {
			return nil, nil
		}
		return t, err
	}
	i := 0
	err = inOrder(ctx, entries, readsAhead, trailer, func(own *eventlog.Trailer) error {
		entry := &entries[i]
		i++
		if own == nil {
			damaged = append(damaged, entry.object)
		} else if *own != *entry.trailer {
			return differs(entry)
		}
		return nil
	})
	return damaged, err
}

// checkFooters reads all footers of an index object.
func (a *Archive) checkFooters(ctx context.Context, x *runIndex) error {
	if x.body != nil {
		return x.checkBody()
	}
	return retry(ctx, readLimit, func() error {
		body, err := a.bucket.GetRange(ctx, x.info.Key(), 0, x.info.Size-indexTailSize)
		if err != nil {
			return err
		}
		return errors.Join(x.checkBytes(body), body.Close())
	})
}

func (x *runIndex) checkBody() error {
	for i := range x.entries {
		if entry := &x.entries[i]; eventlog.Checksum(x.footer(entry)) != entry.trailer.FooterSum {
			return unusable("the footer of %v is damaged", entry.object)
		}
	}
	return nil
}

// checkBytes reads the index object up to its directory.
func (x *runIndex) checkBytes(r io.Reader) error {
	buffer := make([]byte, len(indexMagic))
	if _, err := io.ReadFull(r, buffer); err != nil {
		return err
	}
	if string(buffer) != indexMagic {
		return permanent(unusable("it does not begin as one"))
	}
	for i := range x.entries {
		entry := &x.entries[i]
		if size := int(entry.trailer.FooterSize); size > cap(buffer) {
			buffer = make([]byte, size)
		}
		buffer = buffer[:entry.trailer.FooterSize]
		if _, err := io.ReadFull(r, buffer); err != nil {
			return err
		}
		if eventlog.Checksum(buffer) != entry.trailer.FooterSum {
			return permanent(unusable("the footer of %v is damaged", entry.object))
		}
	}
	return nil
}

// inOrder calls fetch for each item, up to width at once, and use with what
// they return, one after the other and in order. It returns the first error,
// after all fetches have ended.
func inOrder[I, T any](ctx context.Context, items []I, width int, fetch func(context.Context, I) (T, error), use func(T) error) error {
	type result struct {
		value T
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var pending []chan result
	for len(items) > 0 || len(pending) > 0 {
		for len(items) > 0 && len(pending) < width {
			item, done := items[0], make(chan result, 1)
			items, pending = items[1:], append(pending, done)
			running.Go(func() {
				value, err := fetch(ctx, item)
				done <- result{value, err}
			})
		}
		r := <-pending[0]
		pending = pending[1:]
		if r.err == nil {
			r.err = use(r.value)
		}
		if r.err != nil {
			return r.err
		}
	}
	return nil
}
