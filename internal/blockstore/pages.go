// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/strandline-project/strandline/eventlog"
)

// pages reads payloads from the archive, in aligned pages of its objects that
// are kept in memory while there is room. Many readers of one page make one
// request. What comes out of read is verified.
type pages struct {
	archive Archive
	gone    func(error) bool
	cache   *otter.Cache[pageKey, []byte]

	ctx     context.Context // of read-ahead
	ahead   chan struct{}   // holds a token for each page being read ahead
	running sync.WaitGroup  // read-ahead; added to under mu

	mu      sync.Mutex
	ended   bool                 // owned by mu; no more read-ahead
	damaged map[payload]struct{} // owned by mu; payloads found damaged in every copy, at most maxDamaged
}

// pageKey names pageSize bytes of an object, the last page of one fewer.
type pageKey struct{ ordinal, page uint64 }

// payload says where one begins.
type payload struct{ ordinal, offset uint64 }

const (
	pageSize   = 1 << 20
	aheadPages = 4  // how far a sequential reader is read ahead
	aheadTotal = 16 // pages being read ahead for all readers
	maxDamaged = 1 << 16
	loadTries  = 3
	loadPause  = 100 * time.Millisecond // after the first failure; four times as long after the next
)

func newPages(ctx context.Context, archive Archive, gone func(error) bool, room uint64) (*pages, error) {
	cache, err := otter.New(&otter.Options[pageKey, []byte]{
		MaximumWeight: room,
		Weigher:       func(_ pageKey, page []byte) uint32 { return uint32(cap(page)) },
		Executor:      func(task func()) { task() }, // leaves no goroutine behind
	})
	if err != nil {
		return nil, fmt.Errorf("making the cache of archive pages: %w", err)
	}
	return &pages{
		archive: archive, gone: gone, cache: cache, ctx: ctx,
		ahead: make(chan struct{}, aheadTotal), damaged: map[payload]struct{}{},
	}, nil
}

// wait lets no more read-ahead begin, and returns when none is under way; its
// context has ended.
func (p *pages) wait() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.running.Wait()
}

// read fills span with the payload's bytes from first on, whole chunks, and
// verifies them. wanted is where the reader will stop. What fails the check
// is read once more, past the cache, before it is ErrDamaged. An archive that
// does not answer is Unavailable.
func (p *pages) read(ctx context.Context, place eventlog.Placement, first uint64, span []byte, wanted uint64) error {
	err := p.gather(ctx, place, first, span, wanted)
	if errors.Is(err, ErrDamaged) {
		for page := range pagesOf(place, first, uint64(len(span))) {
			p.cache.Invalidate(pageKey{place.Ordinal, page})
		}
		err = p.gather(ctx, place, first, span, wanted)
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

func (p *pages) gather(ctx context.Context, place eventlog.Placement, first uint64, span []byte, wanted uint64) error {
	from := place.Offset + first
	p.readAhead(place, first+uint64(len(span)), wanted)
	rest := span
	for page := range pagesOf(place, first, uint64(len(span))) {
		data, err := p.cache.Get(ctx, pageKey{place.Ordinal, page}, otter.LoaderFunc[pageKey, []byte](p.load))
		if err != nil {
			return err
		}
		begin := max(from, page*pageSize) - page*pageSize
		need := min(uint64(len(rest)), pageSize-begin)
		if begin+need > uint64(len(data)) {
			return fmt.Errorf("%w: the object of ordinal %d ends at %d, within a payload", ErrDamaged, place.Ordinal, page*pageSize+uint64(len(data)))
		}
		rest = rest[copy(rest, data[begin:begin+need]):]
	}
	return verify(place, first, span)
}

// readAhead loads the pages behind the one in which next lies, as far as the
// reader will need them. It does what there is room for, and waits for
// nothing.
func (p *pages) readAhead(place eventlog.Placement, next, wanted uint64) {
	if next >= wanted {
		return
	}
	wanted = min(wanted, next+aheadPages*pageSize)
	for page := range pagesOf(place, next, wanted-next) {
		key := pageKey{place.Ordinal, page}
		if _, ok := p.cache.GetEntryQuietly(key); ok {
			continue
		}
		select {
		case p.ahead <- struct{}{}:
		default:
			return
		}
		if !p.start(key) {
			return
		}
	}
}

// start loads a page in the background, unless the end has come.
func (p *pages) start(key pageKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		<-p.ahead
		return false
	}
	p.running.Go(func() {
		defer func() { <-p.ahead }()
		// Whoever needs the page loads it again, and hears of the error then.
		_, _ = p.cache.Get(p.ctx, key, otter.LoaderFunc[pageKey, []byte](p.load))
	})
	return true
}

// load reads one page, in a few tries.
func (p *pages) load(ctx context.Context, key pageKey) ([]byte, error) {
	pause := loadPause
	for try := 1; ; try++ {
		data, err := p.request(ctx, key)
		switch {
		case err == nil:
			return data, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("reading the archive: %w", context.Cause(ctx))
		case p.gone(err):
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		case try == loadTries:
			return nil, &Unavailable{Reason: "the archive does not answer: a retry succeeds once it is reached again", RetryAfter: retrySoon, Err: err}
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, fmt.Errorf("reading the archive: %w", err)
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

// request reads one page in one ranged GET; the object's last one is shorter.
func (p *pages) request(ctx context.Context, key pageKey) ([]byte, error) {
	r, err := p.archive.OpenRange(ctx, key.ordinal, key.page*pageSize, pageSize)
	if err != nil {
		return nil, err
	}
	data := make([]byte, pageSize)
	n := 0
	for n < len(data) && err == nil {
		var m int
		m, err = r.Read(data[n:])
		n += m
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("reading page %d of ordinal %d: %w", key.page, key.ordinal, err)
	}
	return data[:n], nil
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
