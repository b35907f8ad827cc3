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
	fail     func(offset uint64, n int) error // the n-th request of an offset, from 1
	cut      bool                             // break transfers in the middle
	hold     chan struct{}                    // requests wait for it
}

var errGone = errors.New("no such object")

func (a *fakeArchive) OpenRange(ctx context.Context, _, offset, length uint64) (io.ReadCloser, error) {
	a.mu.Lock()
	if a.requests == nil {
		a.requests = map[uint64]int{}
	}
	a.requests[offset]++
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
	if a.cut {
		return io.NopCloser(io.MultiReader(bytes.NewReader(part[:len(part)/2]), iotest.ErrReader(io.ErrUnexpectedEOF))), nil
	}
	return io.NopCloser(bytes.NewReader(part)), nil
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

func fakePages(t *testing.T, a *fakeArchive) *pages {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p, err := newPages(ctx, a, func(err error) bool { return errors.Is(err, errGone) }, 16<<20)
	must(t, err)
	t.Cleanup(func() { cancel(); p.wait() })
	return p
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

func TestASequentialReaderAsksForEachPageOnceAndAhead(t *testing.T) {
	content := bytesOf(1, 6*pageSize)
	a := &fakeArchive{}
	var place eventlog.Placement
	a.object, place = payloadOf(content, 12_345)
	p := fakePages(t, a)
	got, err := readPages(t.Context(), p, place)
	must(t, err)
	if !bytes.Equal(got, content) {
		t.Fatal("other bytes")
	}
	p.wait()
	if n := a.total(); n != 7 {
		t.Errorf("%d requests for 7 pages: %v", n, a.requests)
	}
	got, err = readPages(t.Context(), p, place)
	must(t, err)
	if n := a.total(); n != 7 || !bytes.Equal(got, content) {
		t.Errorf("%d requests after a second reading", n)
	}
}

func TestTheNextPagesAreAskedForWhileTheFirstIsOnItsWay(t *testing.T) {
	content := bytesOf(1, 8*pageSize)
	a := &fakeArchive{hold: make(chan struct{})}
	var place eventlog.Placement
	a.object, place = payloadOf(content, 0)
	p := fakePages(t, a)
	read := later(func() error {
		return p.read(context.Background(), place, 0, make([]byte, eventlog.ChunkSize), place.Length)
	})
	eventually(t, "the pages behind the first are asked for", func() bool { return a.total() == 1+aheadPages })
	close(a.hold)
	must(t, <-read)
}

func TestReadAheadStaysWithinWhatIsWanted(t *testing.T) {
	content := bytesOf(1, 8*pageSize)
	a := &fakeArchive{}
	var place eventlog.Placement
	a.object, place = payloadOf(content, 0)
	p := fakePages(t, a)
	span := make([]byte, eventlog.ChunkSize)
	must(t, p.read(t.Context(), place, 0, span, eventlog.ChunkSize))
	p.running.Wait()
	if n := a.total(); n != 1 {
		t.Errorf("%d requests for one chunk", n)
	}
	must(t, p.read(t.Context(), place, 0, span, place.Length))
	p.running.Wait()
	if n := a.total(); n > 1+aheadPages {
		t.Errorf("%d requests", n)
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
	if n := a.total(); n != 1 || len(p.ahead) != 0 {
		t.Errorf("%d requests, %d tokens", n, len(p.ahead))
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
