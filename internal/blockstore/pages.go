// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// pages reads payloads from the archive, in aligned pages of its objects that
// are kept in memory while there is room. Many readers of one page make one
// request, and a reader that goes on in order has many pages come in one. What
// comes out of read is verified.
type pages struct {
	archive Archive
	gone    func(error) bool
	table   *pageTable

	ctx     context.Context // of read-ahead
	running sync.WaitGroup  // read-ahead; added to under mu

	mu      sync.Mutex
	ended   bool                 // owned by mu; no more read-ahead
	damaged map[payload]struct{} // owned by mu; payloads found damaged in every copy, at most maxDamaged
	courses map[payload]course   // owned by mu; at most maxCourses
}

// payload says where one begins.
type payload struct{ ordinal, offset uint64 }

// course is how a payload was read last.
type course struct {
	next  uint64 // where the last reader will stop
	bytes uint64 // that it and those before it read in order
}

const (
	pageSize    = 1 << 20
	aheadPages  = 16 // read ahead in one request at most
	aheadEnough = 8  // no request is made while more than these are there or on their way
	maxDamaged  = 1 << 16
	maxCourses  = 1 << 10
	loadTries   = 3
	loadPause   = 100 * time.Millisecond // after the first failure; four times as long after the next
	stallLimit  = time.Minute            // an answer of which nothing comes for so long is broken off
)

func newPages(ctx context.Context, archive Archive, gone func(error) bool, room uint64) *pages {
	return &pages{
		archive: archive, gone: gone, table: newPageTable(room), ctx: ctx,
		damaged: map[payload]struct{}{}, courses: map[payload]course{},
	}
}

// wait lets no more read-ahead begin, and returns when none is under way; its
// context has ended.
func (p *pages) wait() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.running.Wait()
}

// follow notes that a payload will be read from first to end, and returns how
// far it should be read ahead. A reader that begins where the last one
// stopped, or less than a page behind it, is likely to be followed by another
// (restic asks for a pack part by part): then that is as much behind end as was
// read in order before, in whole pages, so small parts here and there cost
// nothing more.
func (p *pages) follow(place eventlog.Placement, first, end uint64) (wanted uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := payload{place.Ordinal, place.Offset}
	c, ok := p.courses[key]
	if first < c.next || first >= c.next+pageSize {
		c.bytes = 0
	}
	wanted = min(place.Length, end+c.bytes/pageSize*pageSize)
	if !ok && len(p.courses) >= maxCourses {
		for other := range p.courses { // any
			delete(p.courses, other)
			break
		}
	}
	p.courses[key] = course{next: end, bytes: c.bytes + end - first}
	return wanted
}

// read fills span with the payload's bytes from first on, whole chunks, and
// verifies them. wanted is how far to read ahead. What fails the check is read
// once more, past the table, before it is ErrDamaged. An archive that does not
// answer is Unavailable.
func (p *pages) read(ctx context.Context, place eventlog.Placement, first uint64, span []byte, wanted uint64) error {
	p.readAhead(place, first, wanted)
	err := p.gather(ctx, place, first, span)
	if errors.Is(err, ErrDamaged) {
		for page := range pagesOf(place, first, uint64(len(span))) {
			p.table.forget(pageKey{place.Ordinal, page})
		}
		err = p.gather(ctx, place, first, span)
	}
	return err
}

// pagesOf yields the pages that hold length bytes of a payload from first on.
func pagesOf(place eventlog.Placement, first, length uint64) func(yield func(page uint64) bool) {
	from, to := place.Offset+first, place.Offset+first+length
	return func(yield func(uint64) bool) {
		for page := from / pageSize; page*pageSize < to; page++ {
			if !yield(page) {
				return
			}
		}
	}
}

// readAhead asks in the background for the pages that a reader who is at first
// will need up to wanted, for many at once. It waits for nothing. A single
// page is left to the reader.
func (p *pages) readAhead(place eventlog.Placement, first, wanted uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || wanted <= first {
		return
	}
	key, last := pageKey{place.Ordinal, (place.Offset + first) / pageSize}, (place.Offset+wanted-1)/pageSize
	if run := p.table.takeAhead(key, last, aheadPages, aheadEnough); len(run) > 0 {
		p.running.Go(func() { p.stream(run) })
	}
}

// stream reads pages that follow each other in one ranged GET; each can be
// used as soon as it is there. Whoever needs one that did not come loads it,
// and hears of the error then.
func (p *pages) stream(run []*page) {
	a, err := p.ask(p.ctx, run[0].key, len(run))
	if err == nil {
		defer a.close() // what came is verified by whoever reads it
	}
	for _, pg := range run {
		var data []byte
		if err == nil {
			data, err = p.table.buffer(p.ctx)
		}
		if err == nil {
			data, err = a.fill(data)
		}
		if err == nil && len(data) == 0 {
			err = io.ErrUnexpectedEOF
		}
		p.table.arrive(pg, data, gaveUp(err))
		p.table.release(pg)
	}
}

func (p *pages) gather(ctx context.Context, place eventlog.Placement, first uint64, span []byte) error {
	at, rest := place.Offset+first, span
	for page := range pagesOf(place, first, uint64(len(span))) {
		n := min(uint64(len(rest)), (page+1)*pageSize-at)
		if err := p.copyFrom(ctx, pageKey{place.Ordinal, page}, at%pageSize, rest[:n]); err != nil {
			return err
		}
		at, rest = at+n, rest[n:]
	}
	return verify(place, first, span)
}

// copyFrom fills part with a page's bytes from begin on.
func (p *pages) copyFrom(ctx context.Context, key pageKey, begin uint64, part []byte) error {
	pg, err := p.page(ctx, key)
	if err != nil {
		return err
	}
	defer p.table.release(pg)
	if begin+uint64(len(part)) > uint64(len(pg.data)) {
		return fmt.Errorf("%w: the object of ordinal %d ends at %d, within a payload", ErrDamaged, key.ordinal, key.page*pageSize+uint64(len(pg.data)))
	}
	copy(part, pg.data[begin:])
	return nil
}

// page returns a page that has arrived; the caller releases it. The first who
// needs it loads it, for all who need it meanwhile; when that one gives up,
// another one does.
func (p *pages) page(ctx context.Context, key pageKey) (*page, error) {
	for {
		pg, fresh := p.table.take(key)
		if fresh {
			data, err := p.load(ctx, key)
			p.table.arrive(pg, data, err)
		}
		select {
		case <-pg.arrived:
		case <-ctx.Done():
			p.table.release(pg)
			return nil, gaveUp(context.Cause(ctx))
		}
		err := pg.err
		if err == nil {
			return pg, nil
		}
		p.table.release(pg)
		if fresh || !errors.Is(err, errGaveUp) {
			return nil, err
		}
	}
}

// errGaveUp says nothing about a page, only about who was to load it.
var errGaveUp = errors.New("reading the archive was given up")

func gaveUp(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errGaveUp, err)
}

// load reads one page, in a few tries. What it returns with an error is the
// buffer, if it had one already.
func (p *pages) load(ctx context.Context, key pageKey) ([]byte, error) {
	buffer, err := p.table.buffer(ctx)
	if err != nil {
		return nil, gaveUp(err)
	}
	pause := loadPause
	for try := 1; ; try++ {
		data, err := p.request(ctx, key, buffer)
		switch {
		case err == nil:
			return data, nil
		case ctx.Err() != nil:
			return buffer, gaveUp(context.Cause(ctx))
		case p.gone(err):
			return buffer, fmt.Errorf("%w: %w", ErrDamaged, err)
		case try == loadTries:
			return buffer, &Unavailable{Reason: "the archive does not answer: a retry succeeds once it is reached again", RetryAfter: retrySoon, Err: err}
		}
		if err := sleep(ctx, pause); err != nil {
			return buffer, gaveUp(err)
		}
		pause *= 4
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// request reads one page into a buffer in one ranged GET; the object's last
// one is shorter.
func (p *pages) request(ctx context.Context, key pageKey, buffer []byte) ([]byte, error) {
	a, err := p.ask(ctx, key, 1)
	if err != nil {
		return nil, err
	}
	data, err := a.fill(buffer)
	if err := errors.Join(err, a.close()); err != nil {
		return nil, fmt.Errorf("reading page %d of ordinal %d: %w", key.page, key.ordinal, err)
	}
	return data, nil
}

// ask opens count pages of the archive.
func (p *pages) ask(ctx context.Context, key pageKey, count int) (*answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	body, err := p.archive.OpenRange(ctx, key.ordinal, key.page*pageSize, uint64(count)*pageSize)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	return &answer{ctx: ctx, cancel: cancel, body: body}, nil
}

// answer is one of the archive.
type answer struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	body   io.ReadCloser
}

var errStalled = fmt.Errorf("nothing came for %s", stallLimit)

// fill reads until the buffer is full or the object ends. With an error it
// returns the buffer.
func (a *answer) fill(buffer []byte) ([]byte, error) {
	stalled := time.AfterFunc(stallLimit, func() { a.cancel(errStalled) })
	defer stalled.Stop()
	n := 0
	for n < len(buffer) {
		m, err := a.body.Read(buffer[n:])
		n += m
		if err == io.EOF {
			break
		}
		if err != nil {
			return buffer, errors.Join(err, context.Cause(a.ctx))
		}
		stalled.Reset(stallLimit)
	}
	return buffer[:n], nil
}

func (a *answer) close() error {
	a.cancel(nil)
	return a.body.Close()
}

// noteDamaged remembers that no copy of a payload is good.
func (p *pages) noteDamaged(place eventlog.Placement) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.damaged) < maxDamaged {
		p.damaged[payload{place.Ordinal, place.Offset}] = struct{}{}
	}
}

func (p *pages) isDamaged(place eventlog.Placement) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.damaged[payload{place.Ordinal, place.Offset}]
	return ok
}
