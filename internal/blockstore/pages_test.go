// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// fakeArchive has one object, counts what is read of it, and fails as told.
type fakeArchive struct {
	mu       sync.Mutex
	object   []byte
	requests map[uint64]int                   // by offset
	asked    uint64                           // bytes
	open     int                              // answers that are not closed
	fail     func(offset uint64, n int) error // the n-th request of an offset, from 1
	cut      bool                             // break transfers in the middle
	hold     chan struct{}                    // requests wait for it
	pace     chan struct{}                    // each page of an answer waits for one
}

var errGone = errors.New("no such object")

func (a *fakeArchive) OpenRange(ctx context.Context, _, offset, length uint64) (io.ReadCloser, error) {
	a.mu.Lock()
	if a.requests == nil {
		a.requests = map[uint64]int{}
	}
	a.requests[offset]++
	a.asked += length
	n, hold := a.requests[offset], a.hold
	a.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if a.fail != nil {
		if err := a.fail(offset, n); err != nil {
			return nil, err
		}
	}
	part := a.object[min(offset, uint64(len(a.object))):]
	part = part[:min(length, uint64(len(part)))]
	var body io.Reader = bytes.NewReader(part)
	switch {
	case a.cut:
		body = io.MultiReader(bytes.NewReader(part[:len(part)/2]), iotest.ErrReader(io.ErrUnexpectedEOF))
	case a.pace != nil:
		body = &paced{ctx, body, a.pace}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open++
	return &fakeAnswer{body, a}, nil
}

type fakeAnswer struct {
	io.Reader
	a *fakeArchive
}

func (f *fakeAnswer) Close() error {
	f.a.mu.Lock()
	defer f.a.mu.Unlock()
	f.a.open--
	return nil
}

// paced lets each pageful come when the pace allows it.
type paced struct {
	ctx  context.Context
	body io.Reader
	pace chan struct{}
}

func (r *paced) Read(p []byte) (int, error) {
	select {
	case <-r.pace:
		return io.ReadFull(r.body, p[:min(len(p), pageSize)])
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	}
}

func (a *fakeArchive) total() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, count := range a.requests {
		n += count
	}
	return n
}

// payloadOf places content in an object at offset.
func payloadOf(content []byte, offset uint64) ([]byte, eventlog.Placement) {
	object := append(bytes.Repeat([]byte{0xee}, int(offset)), content...)
	place := eventlog.Placement{Ordinal: 1, Offset: offset, Length: uint64(len(content))}
	for rest := content; len(rest) > 0; rest = rest[min(len(rest), eventlog.ChunkSize):] {
		place.Sums = binary.LittleEndian.AppendUint32(place.Sums, eventlog.Checksum(rest[:min(len(rest), eventlog.ChunkSize)]))
	}
	return append(object, "footer"...), place
}

// opened returns how many answers are not closed.
func (a *fakeArchive) opened() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open
}

// fakePages has room for 32 pages.
func fakePages(t *testing.T, a *fakeArchive) *pages {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := newPages(ctx, a, func(err error) bool { return errors.Is(err, errGone) }, 32*pageSize)
	t.Cleanup(func() {
		cancel()
		p.wait()
		if n := a.opened(); n != 0 {
			t.Errorf("%d answers were not closed", n)
		}
		if n := p.table.lost(); n != 0 {
			t.Errorf("%d buffers are lost", n)
		}
	})
	return p
}

// lost counts the buffers that are neither free nor of a page that nobody uses.
func (t *pageTable) lost() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.made - len(t.free) - t.idle.Len()
}

// readPages reads a whole payload as a blockReader does.
func readPages(ctx context.Context, p *pages, place eventlog.Placement) ([]byte, error) {
	var all []byte
	for first := uint64(0); first < place.Length; first += readSpan {
		span := make([]byte, min(readSpan, place.Length-first))
		if err := p.read(ctx, place, first, span, place.Length); err != nil {
			return all, err
		}
		all = append(all, span...)
	}
	return all, nil
}

func TestASequentialReaderAsksForEachPageOnceAndForManyAtOnce(t *testing.T) {
	content := bytesOf(1, 24*pageSize)
	a := &fakeArchive{}
	var place eventlog.Placement
	a.object, place = payloadOf(content, 12_345)
	p := fakePages(t, a)
	got, err := readPages(t.Context(), p, place)
	must(t, err)
	if !bytes.Equal(got, content) {
		t.Fatal("other bytes")
	}
	p.running.Wait()
	if n := a.total(); n != 2 || a.asked != 25*pageSize {
		t.Errorf("%d requests for %d bytes: %v", n, a.asked, a.requests)
	}
	got, err = readPages(t.Context(), p, place)
	must(t, err)
	if n := a.total(); n != 2 || !bytes.Equal(got, content) {
		t.Errorf("%d requests after a second reading", n)
	}
}

func TestAPageIsReadWhileThoseBehindItAreOnTheirWay(t *testing.T) {
	content := bytesOf(1, 8*pageSize)
	a := &fakeArchive{pace: make(chan struct{})}
	var place eventlog.Placement
	a.object, place = payloadOf(content, 0)
	p := fakePages(t, a)
	for page := range uint64(3) {
		read := later(func() error {
			return p.read(context.Background(), place, page*pageSize, make([]byte, eventlog.ChunkSize), place.Length)
		})
		a.pace <- struct{}{}
		must(t, <-read)
	}
	if n := a.total(); n != 1 {
		t.Errorf("%d requests: %v", n, a.requests)
	}
}

func TestReadAheadStaysWithinWhatIsWanted(t *testing.T) {
	cases := map[string]struct{ first, wanted, asked uint64 }{
		"a chunk":                       {0, eventlog.ChunkSize, pageSize},
		"a chunk in the middle":         {5*pageSize + eventlog.ChunkSize, 5*pageSize + 2*eventlog.ChunkSize, pageSize},
		"a page's last chunk, and more": {pageSize - eventlog.ChunkSize, pageSize + 1, 2 * pageSize},
		"everything":                    {0, 40 * pageSize, aheadPages * pageSize},
		"nothing":                       {0, 0, pageSize},
	}
	content := bytesOf(1, 40*pageSize)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := &fakeArchive{}
			var place eventlog.Placement
			a.object, place = payloadOf(content, 0)
			p := fakePages(t, a)
			must(t, p.read(t.Context(), place, c.first, make([]byte, eventlog.ChunkSize), c.wanted))
			p.running.Wait()
			if n := a.total(); n != 1 || a.asked != c.asked {
				t.Errorf("%d bytes in %d requests, want %d in one", a.asked, n, c.asked)
			}
		})
	}
}

func TestWhoeverGoesOnWhereTheLastReaderStoppedIsReadFurtherAhead(t *testing.T) {
	const chunk = eventlog.ChunkSize
	place := eventlog.Placement{Ordinal: 1, Offset: 77, Length: 16 * pageSize}
	steps := []struct {
		name               string
		first, end, wanted uint64
	}{
		{"the first", 0, 3 * pageSize, 3 * pageSize},
		{"right behind it", 3 * pageSize, 4 * pageSize, 7 * pageSize},
		{"with a gap", 4*pageSize + chunk, 5 * pageSize, 9 * pageSize},
		{"up to the end", 5 * pageSize, 13 * pageSize, 16 * pageSize},
		{"back again", 0, pageSize, pageSize},
		{"far ahead", 9 * pageSize, 9*pageSize + chunk, 9*pageSize + chunk},
		{"a small part in order", 9*pageSize + chunk, 9*pageSize + 2*chunk, 9*pageSize + 2*chunk},
		{"once more the same", 9*pageSize + chunk, 9*pageSize + 2*chunk, 9*pageSize + 2*chunk},
	}
	p := fakePages(t, &fakeArchive{})
	for _, s := range steps {
		if wanted := p.follow(place, s.first, s.end); wanted != s.wanted {
			t.Errorf("%s: read ahead to %d, want %d", s.name, wanted, s.wanted)
		}
	}
	for i := range uint64(2 * maxCourses) {
		p.follow(eventlog.Placement{Ordinal: i, Length: 1}, 0, 1)
	}
	if len(p.courses) > maxCourses {
		t.Errorf("%d courses are kept", len(p.courses))
	}
}

func TestReadersWaitForMemoryAndShareIt(t *testing.T) {
	content := bytesOf(1, 12*pageSize)
	a := &fakeArchive{}
	var place eventlog.Placement
	a.object, place = payloadOf(content, 500)
	p := newPages(t.Context(), a, func(error) bool { return false }, 3*pageSize)
	var results []<-chan error
	for range 4 {
		results = append(results, later(func() error {
			got, err := readPages(context.Background(), p, place)
			if err == nil && !bytes.Equal(got, content) {
				err = errors.New("other bytes")
			}
			return err
		}))
	}
	for _, result := range results {
		must(t, <-result)
	}
	p.wait()
	if p.table.made > 3 || p.table.lost() != 0 || p.table.unread > p.table.made {
		t.Errorf("%d buffers, %d of them lost, %d pages unread", p.table.made, p.table.lost(), p.table.unread)
	}
}

func TestWhoeverWaitsForMemoryCanGiveUp(t *testing.T) {
	a := &fakeArchive{hold: make(chan struct{})}
	var place eventlog.Placement
	a.object, place = payloadOf(bytesOf(1, 2*pageSize), 0)
	p := newPages(t.Context(), a, func(error) bool { return false }, pageSize)
	read := func(ctx context.Context, first uint64) error {
		return p.read(ctx, place, first, make([]byte, eventlog.ChunkSize), 0)
	}
	first := later(func() error { return read(context.Background(), 0) })
	eventually(t, "the request", func() bool { return a.total() == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	second := later(func() error { return read(ctx, pageSize) })
	eventually(t, "the second one waits", func() bool {
		p.table.mu.Lock()
		defer p.table.mu.Unlock()
		return len(p.table.waiting) == 1
	})
	third := later(func() error { return read(context.Background(), pageSize) })
	cancel()
	wants(t, <-second, context.Canceled)
	close(a.hold)
	must(t, <-first)
	must(t, <-third)
	if n := p.table.lost(); n != 0 || len(p.table.waiting) != 0 {
		t.Errorf("%d buffers are lost, %d wait", n, len(p.table.waiting))
	}
}

func TestManyReadersOfAPageMakeOneRequest(t *testing.T) {
	content := bytesOf(1, 1000)
	a := &fakeArchive{hold: make(chan struct{})}
	var place eventlog.Placement
	a.object, place = payloadOf(content, 0)
	p := fakePages(t, a)
	var results []<-chan error
	for range 20 {
		results = append(results, later(func() error { _, err := readPages(context.Background(), p, place); return err }))
	}
	eventually(t, "the request", func() bool { return a.total() == 1 })
	close(a.hold)
	for _, result := range results {
		must(t, <-result)
	}
	if n := a.total(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestAReaderThatGivesUpDoesNotTakeTheOthersWithIt(t *testing.T) {
	content := bytesOf(1, 1000)
	a := &fakeArchive{hold: make(chan struct{})}
	var place eventlog.Placement
	a.object, place = payloadOf(content, 0)
	p := fakePages(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	first := later(func() error { _, err := readPages(ctx, p, place); return err })
	eventually(t, "the request", func() bool { return a.total() == 1 })
	second := later(func() error { _, err := readPages(context.Background(), p, place); return err })
	cancel()
	wants(t, <-first, context.Canceled)
	close(a.hold)
	must(t, <-second)
}

func TestTroubleWithTheArchive(t *testing.T) {
	content := bytesOf(1, 300_000)
	timeout := errors.New("timeout")
	cases := map[string]struct {
		change      func(a *fakeArchive)
		ok          bool
		damaged     bool
		unavailable bool
	}{
		"it fails once":           {change: func(a *fakeArchive) { a.fail = func(_ uint64, n int) error { return until(n, 1, timeout) } }, ok: true},
		"it fails twice":          {change: func(a *fakeArchive) { a.fail = func(_ uint64, n int) error { return until(n, 2, timeout) } }, ok: true},
		"it does not answer":      {change: func(a *fakeArchive) { a.fail = func(uint64, int) error { return timeout } }, unavailable: true},
		"transfers break":         {change: func(a *fakeArchive) { a.cut = true }, unavailable: true},
		"the object is gone":      {change: func(a *fakeArchive) { a.fail = func(uint64, int) error { return errGone } }, damaged: true},
		"the object is cut short": {change: func(a *fakeArchive) { a.object = a.object[:200_000] }, damaged: true},
		"a bit has flipped":       {change: func(a *fakeArchive) { a.object[5000] ^= 4 }, damaged: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &fakeArchive{}
				var place eventlog.Placement
				a.object, place = payloadOf(content, 100)
				c.change(a)
				p := fakePages(t, a)
				got, err := readPages(t.Context(), p, place)
				switch {
				case c.ok:
					must(t, err)
					if !bytes.Equal(got, content) {
						t.Fatal("other bytes")
					}
				case c.damaged:
					wants(t, err, ErrDamaged)
				case c.unavailable:
					wantsUnavailable(t, err)
					if errors.Is(err, ErrDamaged) {
						t.Error("it is called damaged")
					}
				}
			})
		})
	}
}

func TestAnAnswerThatStallsIsBrokenOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeArchive{pace: make(chan struct{})}
		var place eventlog.Placement
		a.object, place = payloadOf(bytesOf(1, 2*pageSize), 0)
		p := fakePages(t, a)
		began := time.Now()
		_, err := readPages(t.Context(), p, place)
		u := wantsUnavailable(t, err)
		wants(t, u.Err, errStalled)
		if took := time.Since(began); took < (1+loadTries)*stallLimit || took > (2+loadTries)*stallLimit {
			t.Errorf("after %s", took)
		}
	})
}

func TestPagesThatWereReadAheadInVainAreReadByWhoeverNeedsThem(t *testing.T) {
	content := bytesOf(1, 6*pageSize)
	a := &fakeArchive{}
	var place eventlog.Placement
	a.object, place = payloadOf(content, 0)
	good := a.object
	a.object = good[:2*pageSize+5] // while the pages come in one
	a.fail = func(_ uint64, n int) error {
		if a.total() > 1 {
			a.object = good
		}
		return nil
	}
	p := fakePages(t, a)
	got, err := readPages(t.Context(), p, place)
	must(t, err)
	if !bytes.Equal(got, content) {
		t.Fatal("other bytes")
	}
}

func TestReadersGoOnAfterTheEndOfReadAhead(t *testing.T) {
	content := bytesOf(1, 6*pageSize)
	a := &fakeArchive{pace: make(chan struct{})}
	var place eventlog.Placement
	a.object, place = payloadOf(content, 0)
	ctx, cancel := context.WithCancel(t.Context())
	p := newPages(ctx, a, func(error) bool { return false }, 32*pageSize)
	read := later(func() error {
		got, err := readPages(context.Background(), p, place)
		if err == nil && !bytes.Equal(got, content) {
			err = errors.New("other bytes")
		}
		return err
	})
	a.pace <- struct{}{}
	cancel()
	p.wait()
	close(a.pace)
	must(t, <-read)
	if n := a.opened(); n != 0 {
		t.Errorf("%d answers were not closed", n)
	}
}

// until fails the first last requests.
func until(n, last int, err error) error {
	if n <= last {
		return err
	}
	return nil
}

func TestAPageThatCameDamagedOnceIsReadAgain(t *testing.T) {
	content := bytesOf(1, 300_000)
	a := &fakeArchive{}
	good, place := payloadOf(content, 0)
	a.object = bytes.Clone(good)
	a.object[77] ^= 1
	a.fail = func(_ uint64, n int) error {
		if n == 2 {
			a.object = good
		}
		return nil
	}
	p := fakePages(t, a)
	got, err := readPages(t.Context(), p, place)
	must(t, err)
	if !bytes.Equal(got, content) || a.total() != 2 {
		t.Fatalf("%d requests", a.total())
	}
}

func TestNoReadAheadAfterTheEnd(t *testing.T) {
	a := &fakeArchive{}
	var place eventlog.Placement
	a.object, place = payloadOf(bytesOf(1, 4*pageSize), 0)
	p := fakePages(t, a)
	p.wait()
	must(t, p.read(t.Context(), place, 0, make([]byte, eventlog.ChunkSize), place.Length))
	if n := a.total(); n != 1 || a.asked != pageSize {
		t.Errorf("%d bytes in %d requests", a.asked, n)
	}
}

func TestALocalCopyThatIsDamagedWhileTheArchiveIsAwayIs503(t *testing.T) {
	w := newWorld(t, Options{Ack: AckArchived})
	content := bytesOf(1, 1000)
	must(t, w.put(eventlog.KindData, content))
	w.damageLocal(ref(eventlog.KindData, content), 3)
	w.faults.Away()
	_, err := w.get(ref(eventlog.KindData, content))
	wantsUnavailable(t, err) // the archive's copy may be good
}

func TestALocalCopyThatIsDamagedBeforeItWasArchivedIsDamaged(t *testing.T) {
	w := newWorld(t, Options{Ack: AckCommitted})
	content := bytesOf(1, 1000)
	w.away.shut()
	must(t, w.put(eventlog.KindData, content))
	w.damageLocal(ref(eventlog.KindData, content), 3)
	_, err := w.get(ref(eventlog.KindData, content))
	wants(t, err, ErrDamaged)
	w.away.lift()
}

func TestTheSteadyClockFollowsForwardAndNeverGoesBack(t *testing.T) {
	wall := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := steadyClock{wall: func() time.Time { return wall }}
	start := c.now()
	for _, step := range []time.Duration{time.Second, time.Hour, -2 * time.Hour, time.Minute, -time.Second} {
		before := c.now()
		wall = wall.Add(step)
		if now := c.now(); now.Before(before) {
			t.Fatalf("a step of %s took it from %s to %s", step, before, now)
		}
	}
	if got := c.now().Sub(start); got < time.Hour {
		t.Fatalf("it advanced %s", got)
	}
}
