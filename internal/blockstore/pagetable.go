// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"container/list"
	"context"
	"fmt"
	"slices"
	"sync"
)

// pageTable has the pages that are in memory or on their way there. Their
// buffers are used again, and it makes only so many: whoever needs one more
// takes that of the page which nobody used for the longest time, and waits
// while there is none. Nobody waits for a buffer while holding one, so each
// comes back.
type pageTable struct {
	buffers int // that may be made

	mu      sync.Mutex
	pages   map[pageKey]*page // owned by mu
	idle    list.List         // owned by mu; of *page: arrived, and in nobody's use, the one left first in front
	made    int               // owned by mu; buffers
	free    [][]byte          // owned by mu; buffers of no page
	waiting []chan []byte     // owned by mu; who waits for a buffer, each channel with room for it
	unread  int               // owned by mu; pages that were read ahead and not used yet
}

// pageKey names pageSize bytes of an object, the last page of one fewer.
type pageKey struct{ ordinal, page uint64 }

// page is one of an object. Whoever takes it releases it.
type page struct {
	key     pageKey
	arrived chan struct{} // closed when data and err are set
	data    []byte        // a buffer's beginning
	err     error         // why it did not arrive; the next who needs the page asks for it again

	users  int           // owned by the table's mu
	unread bool          // owned by the table's mu
	idle   *list.Element // owned by the table's mu; nil while in use
}

// newPageTable returns one for as many pages as there is room for, one at
// least.
func newPageTable(room uint64) *pageTable {
	return &pageTable{buffers: int(max(1, room/pageSize)), pages: map[pageKey]*page{}}
}

// take returns a page for use. A fresh one is its taker's to fill.
func (t *pageTable) take(key pageKey) (pg *page, fresh bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	pg, ok := t.pages[key]
	if !ok {
		return t.addLocked(key), true
	}
	t.usedLocked(pg)
	pg.users++
	if pg.idle != nil {
		t.idle.Remove(pg.idle)
		pg.idle = nil
	}
	return pg, false
}

func (t *pageTable) addLocked(key pageKey) *page {
	pg := &page{key: key, arrived: make(chan struct{}), users: 1}
	t.pages[key] = pg
	return pg
}

// usedLocked notes that a page was not read ahead in vain, or will not be.
func (t *pageTable) usedLocked(pg *page) {
	if pg.unread {
		pg.unread = false
		t.unread--
	}
}

// takeAhead returns fresh pages, one behind the other, that are to be read
// ahead: from the first on that the table lacks, up to last, at most count,
// and none when key is last or more than enough from key on are there. Pages
// that were read ahead and not used yet are at most half of all, so that
// readers do not take from each other what they will need.
func (t *pageTable) takeAhead(key pageKey, last uint64, count, enough int) (run []*page) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if key.page == last {
		return nil
	}
	for had := 0; t.pages[key] != nil; had++ {
		if had == enough {
			return nil
		}
		key.page++
	}
	for key.page <= last && len(run) < count && t.unread < t.buffers/2 && t.pages[key] == nil {
		pg := t.addLocked(key)
		pg.unread = true
		t.unread++
		run = append(run, pg)
		key.page++
	}
	return run
}

// buffer returns pageSize bytes of memory, as soon as there are some.
func (t *pageTable) buffer(ctx context.Context) ([]byte, error) {
	t.mu.Lock()
	if buffer := t.bufferLocked(); buffer != nil {
		t.mu.Unlock()
		return buffer, nil
	}
	mine := make(chan []byte, 1)
	t.waiting = append(t.waiting, mine)
	t.mu.Unlock()
	select {
	case buffer := <-mine:
		return buffer, nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.waiting, mine); i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
	} else {
		t.giveLocked(<-mine)
	}
	return nil, fmt.Errorf("waiting for memory for a page: %w", context.Cause(ctx))
}

// bufferLocked returns nil when all are in use.
func (t *pageTable) bufferLocked() []byte {
	if len(t.free) == 0 && t.made < t.buffers {
		t.made++
		return make([]byte, pageSize)
	}
	if oldest := t.idle.Front(); len(t.free) == 0 && oldest != nil {
		t.dropLocked(oldest.Value.(*page))
	}
	if len(t.free) == 0 {
		return nil
	}
	buffer := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	return buffer
}

func (t *pageTable) giveLocked(buffer []byte) {
	if len(t.waiting) == 0 {
		t.free = append(t.free, buffer)
		return
	}
	t.waiting[0] <- buffer
	t.waiting = t.waiting[1:]
}

// arrive fills a page with a buffer's beginning, which may be nil, or says why
// there is none.
func (t *pageTable) arrive(pg *page, data []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	pg.data, pg.err = data, err
	if err != nil {
		t.removeLocked(pg)
	}
	close(pg.arrived)
}

// release ends one use of a page.
func (t *pageTable) release(pg *page) {
	t.mu.Lock()
	defer t.mu.Unlock()
	pg.users--
	switch {
	case pg.users > 0:
	case t.pages[pg.key] != pg || len(t.waiting) > 0:
		t.dropLocked(pg)
	default:
		pg.idle = t.idle.PushBack(pg)
	}
}

// forget lets a page that has arrived be asked for again.
func (t *pageTable) forget(key pageKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	pg := t.pages[key]
	if pg == nil || pg.data == nil {
		return
	}
	t.removeLocked(pg)
	if pg.users == 0 {
		t.dropLocked(pg)
	}
}

// dropLocked takes the buffer of a page that nobody uses.
func (t *pageTable) dropLocked(pg *page) {
	t.removeLocked(pg)
	if pg.idle != nil {
		t.idle.Remove(pg.idle)
		pg.idle = nil
	}
	if pg.data != nil {
		t.giveLocked(pg.data[:pageSize])
		pg.data = nil
	}
}

// removeLocked lets nobody find a page any more; who uses it goes on.
func (t *pageTable) removeLocked(pg *page) {
	t.usedLocked(pg)
	if t.pages[pg.key] == pg {
		delete(t.pages, pg.key)
	}
}
