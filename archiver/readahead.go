// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"fmt"
	"sync"
	"unsafe"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/memory"
)

// Footers are read ahead of the reader: so many at once, and no more decoded
// than fit the budget (a single larger one goes alone). Those in index objects
// come in pieces, each one request, and several at once. What is bytes is less
// where GOMEMLIMIT is low.
const (
	readsAhead   = 64
	aheadBudget  = 64 << 20 // bytes of footers decoded, or about to be
	storedBudget = 96 << 20 // bytes of footers as stored, out of index objects
	pieceSize    = 32 << 20 // bytes of an index object that one request asks for
	indexesAhead = 8        // directories of index objects being read at once
	indexWorth   = 8        // objects of a run that are to be read: fewer are read one by one
	pieceReads   = 16       // objects that are read at once in place of a piece that cannot be
	maxTail      = 1 << 20  // bytes that the first read of an object's end takes at most
)

// pieceLimit is pieceSize; tests make it smaller.
var pieceLimit int64 = pieceSize

// metadata is what one object says, on its way from a read to its use.
type metadata struct {
	object  ObjectInfo
	index   *IndexInfo // the index object that it came from; nil: the object itself
	offset  int64      // of the footer in the index object
	trailer *eventlog.Trailer
	contents
	err      error
	stored   int64           // of storedBudget, held until decoded
	weight   int64           // of aheadBudget, held until used
	after    <-chan struct{} // closed when the object before has had its turn
	admitted chan struct{}   // closed once weight is held, or never will be
	done     chan struct{}   // closed when trailer, contents and err are set
}

// ahead reads the metadata of a list of objects ahead of its use.
//
// Both budgets are taken in the order of the objects: the decoded one by a
// chain from object to object, the stored one by the one goroutine that
// dispatches. So the object whose turn it is to be used never waits for memory
// that a later one holds.
type ahead struct {
	archive *Archive
	whole   bool // entries are decoded, too
	decoded *memory.Budgeted
	stored  *memory.Budgeted
	piece   int64 // bytes that one request asks for, of several footers
	queue   chan *metadata
	guess   tailGuess
	running sync.WaitGroup
	before  <-chan struct{} // owned by dispatch: admitted of the object before
}

// readAhead calls use with the metadata of each object, in order, while the
// next ones are being read: out of index objects where there are any that fit,
// else from the objects. Footers are decoded if whole is set. It returns the
// first error, after all its goroutines have ended.
func (a *Archive) readAhead(ctx context.Context, objects []ObjectInfo, indexes []IndexInfo, whole bool, use func(*metadata) error) error {
	ctx, cancel := context.WithCancel(ctx)
	first := make(chan struct{})
	close(first)
	r := &ahead{
		archive: a, whole: whole, before: first, queue: make(chan *metadata, readsAhead),
		decoded: memory.NewBudgeted(aheadBudget), stored: memory.NewBudgeted(storedBudget),
		piece: memory.Budget(pieceLimit),
	}
	defer r.running.Wait()
	defer cancel()
	r.running.Go(func() {
		defer close(r.queue)
		r.dispatch(ctx, runsOf(objects, indexes, indexWorth))
	})
	for m := range r.queue {
		<-m.done
		if m.err != nil {
			return m.err
		}
		if err := use(m); err != nil {
			return err
		}
		r.decoded.Release(m.weight)
	}
	return context.Cause(ctx)
}

// runObjects are those objects of one run that are to be read.
type runObjects struct {
	objects []ObjectInfo
	indexes []IndexInfo // of the run, the highest revision first; none: not to be used
	opened  chan struct{}
	index   *runIndex // valid when opened is closed; nil: to be read without
}

// runsOf cuts objects into runs, and finds the index objects of those of which
// there are at least worth.
func runsOf(objects []ObjectInfo, indexes []IndexInfo, worth int) []*runObjects {
	var runs []*runObjects
	for len(objects) > 0 {
		number, n := runOf(objects[0].First), 1
		for n < len(objects) && runOf(objects[n].First) == number {
			n++
		}
		run := &runObjects{objects: objects[:n:n]}
		for len(indexes) > 0 && indexes[0].Run <= number {
			if indexes[0].Run == number && n >= worth {
				run.indexes = append(run.indexes, indexes[0])
			}
			indexes = indexes[1:]
		}
		runs, objects = append(runs, run), objects[n:]
	}
	return runs
}

// dispatch starts the reads, in order, as far ahead as the queue and the
// budget for stored footers let it. Directories of index objects are read
// some runs ahead of that.
func (r *ahead) dispatch(ctx context.Context, runs []*runObjects) {
	opening := 0
	for i, run := range runs {
		for ; opening < len(runs) && opening < i+indexesAhead; opening++ {
			r.open(ctx, runs[opening])
		}
		if run.opened != nil {
			select {
			case <-run.opened:
			case <-ctx.Done():
				return
			}
		}
		var ok bool
		if x := run.index; x != nil {
			run.index = nil // its bytes go with the objects that need them
			ok = r.dispatchIndex(ctx, x, run.objects)
		} else {
			ok = r.dispatchObjects(ctx, run.objects)
		}
		if !ok {
			return
		}
	}
}

// open reads the directory of the run's index object, if it is to be used, and
// holds it against the list.
func (r *ahead) open(ctx context.Context, run *runObjects) {
	if len(run.indexes) == 0 {
		return
	}
	run.opened = make(chan struct{})
	r.running.Go(func() {
		defer close(run.opened)
		x, err := r.archive.openIndex(ctx, run.indexes)
		if err == nil {
			err = x.matches(run.objects)
		}
		switch {
		case err == nil:
			run.index = x
			r.guess.learn(x)
		case ctx.Err() != nil:
		case x != nil:
			r.archive.warnOfIndex(x.info, err)
		default:
			r.archive.warnOfIndex(run.indexes[0], err)
		}
	})
}

// matches checks that the index object is of the objects that are listed.
func (x *runIndex) matches(objects []ObjectInfo) error {
	for _, object := range objects {
		if _, err := x.entry(object); err != nil {
			return err
		}
	}
	return nil
}

// add returns the metadata to be of the next object.
func (r *ahead) add(object ObjectInfo) *metadata {
	m := &metadata{object: object, after: r.before, admitted: make(chan struct{}), done: make(chan struct{})}
	r.before = m.admitted
	return m
}

// push puts m up for use. False when nobody wants it any more.
func (r *ahead) push(ctx context.Context, m *metadata) bool {
	select {
	case r.queue <- m:
		return true
	case <-ctx.Done():
		return false
	}
}

// dispatchObjects reads each object by itself.
func (r *ahead) dispatchObjects(ctx context.Context, objects []ObjectInfo) bool {
	for _, object := range objects {
		m := r.add(object)
		if !r.push(ctx, m) {
			return false
		}
		r.running.Go(func() { r.readObject(ctx, m) })
	}
	return true
}

// readObject fills m from the object itself.
func (r *ahead) readObject(ctx context.Context, m *metadata) {
	defer close(m.done)
	admit := sync.OnceFunc(func() { close(m.admitted) })
	defer admit()
	m.trailer, m.contents, m.err = r.archive.metadata(ctx, m.object, r.guess.next(), r.whole, func(t *eventlog.Trailer) error {
		defer admit()
		return r.admit(ctx, m, r.decodedSize(t))
	})
	if m.err == nil {
		r.guess.note(m.trailer)
	}
}

// admit waits for memory, after the object before has had its turn.
func (r *ahead) admit(ctx context.Context, m *metadata, weight int64) error {
	select {
	case <-m.after:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	weight = r.decoded.AtMost(weight)
	if err := r.decoded.Acquire(ctx, weight); err != nil {
		return fmt.Errorf("wait for memory: %w", err)
	}
	m.weight = weight
	return nil
}

// decodedSize is about what a footer takes in memory while it is decoded.
func (r *ahead) decodedSize(t *eventlog.Trailer) int64 {
	size := int64(t.FooterSize) + int64(t.FooterRawSize)
	if r.whole {
		size += int64(t.Events) * int64(unsafe.Sizeof(eventlog.Entry{}))
	}
	return size
}
