// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tidwall/wal"
)

// faulty makes the n-th call of one kind fail, either without having done
// anything or although it is done.
type faulty struct {
	kind string
	n    int
	done bool

	mu    sync.Mutex
	calls int
	hit   bool
}

var errDisk = fmt.Errorf("injected: %w", syscall.EIO)

// call does what do does, or fails.
func (f *faulty) call(kind string, do func() error) error {
	f.mu.Lock()
	if kind == f.kind {
		f.calls++
	}
	fail := kind == f.kind && f.calls == f.n
	f.hit = f.hit || fail
	f.mu.Unlock()
	if !fail {
		return do()
	}
	if f.done {
		return errors.Join(do(), errDisk)
	}
	return errDisk
}

func (f *faulty) files(dir string) (frames frameLog, payload payloadFile, err error) {
	err = f.call("create", func() (err error) { frames, payload, err = createFiles(dir); return err })
	if err != nil {
		return nil, nil, err
	}
	return faultyFrames{frames, f}, faultyPayload{payload, f}, nil
}

type faultyFrames struct {
	real frameLog
	f    *faulty
}

func (f faultyFrames) WriteBatch(b *wal.Batch) error {
	return f.f.call("frames", func() error { return f.real.WriteBatch(b) })
}
func (f faultyFrames) Close() error { return f.f.call("close frames", f.real.Close) }

type faultyPayload struct {
	real payloadFile
	f    *faulty
}

// Write that fails halfway is the worst of both.
func (f faultyPayload) Write(p []byte) (n int, err error) {
	err = f.f.call("payload", func() (err error) { n, err = f.real.Write(p); return err })
	if err != nil && n == 0 {
		n, _ = f.real.Write(p[:len(p)/2])
	}
	return n, err
}
func (f faultyPayload) MarkClosed(trailer []byte) error {
	return f.f.call("mark closed", func() error { return f.real.MarkClosed(trailer) })
}
func (f faultyPayload) Sync() error  { return f.f.call("sync payload", f.real.Sync) }
func (f faultyPayload) Close() error { return f.f.call("close payload", f.real.Close) }

// Every call that a log makes on its files fails once, at every place, both
// not done and done.
func TestAFailingFilePoisonsTheLogAndLosesNothing(t *testing.T) {
	for _, kind := range []string{"frames", "payload", "sync payload", "mark closed", "close frames", "close payload"} {
		for _, done := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, done %v", kind, done), func(t *testing.T) {
				hits := 0
				for n := 1; failOnce(t, &faulty{kind: kind, n: n, done: done}); n++ {
					hits++
				}
				if hits < 3 {
					t.Errorf("the fault struck %d times: the test shows nothing", hits)
				}
			})
		}
	}
}

// failOnce lets a log live with f and reports whether f struck.
func failOnce(t *testing.T, f *faulty) bool {
	t.Helper()
	s := fastState(t)
	l := s.open(func(o *Options) { o.files = f.files; o.MaxEvents = 4 })
	contents := map[Seq][]byte{}
	issued := 0
	for i := range 14 {
		c := content(uint64(i), i%2*maxCarried+i*100)
		p, err := tryStore(l, c)
		if err != nil {
			break // poisoned
		}
		issued++
		if seq, err := p.Wait(); err == nil {
			contents[seq] = c
		} else if !errors.Is(err, ErrPoisoned) || !errors.Is(err, syscall.EIO) {
			t.Fatalf("call %d: the append gives %v, want ErrPoisoned and the cause", f.n, err)
		}
	}
	within(t, "Close", func() {
		if err := l.Close(true); f.hit && !errors.Is(err, syscall.EIO) {
			t.Errorf("call %d: Close gives %v, want the cause", f.n, err)
		}
	})
	if f.hit {
		expectStopped(t, l)
	}
	checkSurvivors(t, s, contents, issued)
	return f.hit
}

// Also while the writer is ahead of the committer: then others are on their way
// when a call fails.
func TestAFileThatFailsUnderLoadLosesNothing(t *testing.T) {
	const clients, each = 6, 8
	for _, kind := range []string{"frames", "payload", "sync payload", "close payload"} {
		for _, done := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, done %v", kind, done), func(t *testing.T) {
				hits, doubtful := 0, 0
				for n := 1; n <= 30; n++ {
					hit, unsure := failUnderLoad(t, &faulty{kind: kind, n: n, done: done}, clients, each)
					if hit {
						hits++
					}
					doubtful += unsure
				}
				if hits < 3 || kind != "close payload" && doubtful <= hits {
					t.Errorf("the fault struck %d times, and %d events were on their way: the test shows nothing", hits, doubtful)
				}
			})
		}
	}
}

// failUnderLoad lets a log with several clients live with f and reports whether
// f struck, and how many events were left in doubt.
func failUnderLoad(t *testing.T, f *faulty, clients, each int) (hit bool, doubtful int) {
	t.Helper()
	s := fastState(t)
	l := s.open(func(o *Options) { o.files = f.files; o.MaxEvents = 7 })
	var mu sync.Mutex
	contents := map[Seq][]byte{}
	issued := 0
	var group sync.WaitGroup
	for client := range clients {
		group.Go(func() {
			for i := range each {
				c := content(uint64(client*each+i), min(client%3, 1)*maxCarried+i*(200+client))
				p, err := tryStore(l, c)
				if err != nil {
					return // poisoned
				}
				seq, err := p.Wait()
				mu.Lock()
				issued++
				if err == nil {
					contents[seq] = c
				} else {
					doubtful++
				}
				mu.Unlock()
				if err != nil && (!errors.Is(err, ErrPoisoned) || !errors.Is(err, syscall.EIO)) {
					t.Errorf("call %d: the append gives %v, want ErrPoisoned and the cause", f.n, err)
				}
			}
		})
	}
	within(t, "the clients", group.Wait)
	within(t, "Close", func() {
		if err := l.Close(true); f.hit && !errors.Is(err, syscall.EIO) {
			t.Errorf("call %d: Close gives %v, want the cause", f.n, err)
		}
	})
	checkSurvivors(t, s, contents, issued)
	return f.hit, doubtful
}

// watched are a generation's files, of which is known how far the payload is
// synced.
type watched struct {
	t   *testing.T
	dir string
	frameLog
	payloadFile

	mu              sync.Mutex
	written, synced int64 // owned by mu
	ahead           *atomic.Int64
}

func (w *watched) Write(p []byte) (int, error) {
	if at := len(p) - TrailerSize; at >= 0 && string(p[at:at+len(trailerMagic)]) == trailerMagic && w.unsynced() > 0 {
		w.t.Errorf("a trailer is written behind %d bytes that are not synced", w.unsynced())
	}
	n, err := w.payloadFile.Write(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written += int64(n)
	return n, err
}

func (w *watched) Sync() error {
	w.mu.Lock()
	before := w.written
	w.mu.Unlock()
	err := w.payloadFile.Sync()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.synced = before
	if w.written > before {
		w.ahead.Add(1)
	}
	return err
}

func (w *watched) WriteBatch(b *wal.Batch) error {
	w.mu.Lock()
	synced := w.synced
	w.mu.Unlock()
	err := w.frameLog.WriteBatch(b)
	data, readErr := os.ReadFile(filepath.Join(w.dir, segmentName))
	for _, f := range readSegment(data).frames {
		if f.length > 0 && len(f.payload) == 0 && int64(f.offset+f.length) > synced {
			w.t.Errorf("the frame of %s is written, and its payload is synced up to byte %d, not %d", f.seq, synced, f.offset+f.length)
		}
	}
	return errors.Join(err, readErr)
}

// unsynced is how many bytes of payload a power cut may take.
func (w *watched) unsynced() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written - w.synced
}

func (w *watched) Close() error { return nil } // both by the test's end

// watching makes files that are watched, and keeps them.
func watching(t *testing.T, ahead *atomic.Int64) (files, func() []*watched) {
	var mu sync.Mutex
	var all []*watched
	create := func(dir string) (frameLog, payloadFile, error) {
		frames, payload, err := createFiles(dir)
		w := &watched{t: t, dir: dir, frameLog: frames, payloadFile: payload, written: int64(len(ObjectMagic)), synced: int64(len(ObjectMagic)), ahead: ahead}
		t.Cleanup(func() { must(t, errors.Join(frames.Close(), payload.Close())) })
		mu.Lock()
		defer mu.Unlock()
		all = append(all, w)
		return w, w, err
	}
	return create, func() []*watched {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

func TestNoFrameIsWrittenBeforeItsPayloadIsSynced(t *testing.T) {
	s := newState(t)
	var ahead atomic.Int64
	var made func() []*watched
	l := s.open(func(o *Options) {
		o.MaxEvents = 100
		o.files, made = watching(t, &ahead)
	})
	for round := 0; round < 100 && ahead.Load() == 0; round++ { // as a rule once
		storeSideBySide(t, l)
	}
	must(t, l.Close(true))
	if ahead.Load() == 0 {
		t.Error("nothing was ever written while a sync ran: the test shows nothing")
	}
	for _, w := range made() { // all of them are objects now, or empty
		if n := w.unsynced(); n > 0 {
			t.Errorf("the object in %s ends with %d bytes that are not synced", w.dir, n)
		}
	}
}

// A start that writes a tail again keeps to the same order.
func TestATailIsWrittenAgainPayloadsFirst(t *testing.T) {
	s := newState(t)
	storeSideBySide(t, s.open(nil))
	s = s.copyState(t)
	w := s.read(Bounds{})
	var made func() []*watched
	w.create, made = watching(t, new(atomic.Int64))
	must(t, w.CloseTail(time.Now()))
	if len(made()) == 0 {
		t.Error("nothing was written again")
	}
	for _, w := range made() {
		if n := w.unsynced(); n > 0 {
			t.Errorf("the object in %s ends with %d bytes that are not synced", w.dir, n)
		}
	}
}

// storeSideBySide stores blocks of all sizes from eight clients.
func storeSideBySide(t *testing.T, l *Log) {
	t.Helper()
	var group sync.WaitGroup
	for client := range 8 {
		group.Go(func() {
			for i := range 50 {
				p, err := tryStore(l, content(uint64(client*50+i), i%2*maxCarried+1+i*400))
				if err == nil {
					_, err = p.Wait()
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

func tryStore(l *Log, content []byte) (*Pending, error) {
	body, err := l.Receive(context.Background(), bytes.NewReader(content), int64(len(content)), 1<<20)
	if err != nil {
		return nil, err
	}
	return l.Append(storeEvent(content), body), nil
}

// expectStopped checks that a stopped log answers everyone, at once, with an
// error.
func expectStopped(t *testing.T, l *Log) {
	t.Helper()
	within(t, "an answer of a stopped log", func() {
		ctx := context.Background()
		_, appended := l.Append(noteEvent(1), nil).Wait()
		_, next := l.NextClosed(ctx, 1<<40)
		for what, err := range map[string]error{
			"Append": appended, "NextClosed": next, "Err": l.Err(),
			"WaitCommitted": l.WaitCommitted(ctx, 1<<60), "WaitArchived": l.WaitArchived(ctx, 1<<60),
		} {
			if err == nil {
				t.Errorf("%s of a stopped log succeeds", what)
			}
		}
		if free := l.memory.free; free != l.limits.BodyMemory {
			t.Errorf("%d of %d bytes of body memory came back", free, l.limits.BodyMemory)
		}
	})
}

// checkSurvivors starts again and wants every committed event and payload, in
// order, and no more than were issued.
func checkSurvivors(t *testing.T, s *testState, contents map[Seq][]byte, issued int) {
	t.Helper()
	var last Seq
	for seq := range contents {
		last = max(last, seq)
	}
	entries, blocks, err := start(t, s, Bounds{Durable: last})
	must(t, err)
	expectContiguous(t, entries, FirstSeq)
	if len(entries) > issued {
		t.Fatalf("%d events came back, %d were appended", len(entries), issued)
	}
	for _, e := range entries {
		seq := e.Event.Seq
		if want, ok := contents[seq]; ok && !bytes.Equal(blocks[seq], want) {
			t.Fatalf("the payload of %s is not what was stored", seq)
		}
		delete(contents, seq)
	}
	if len(contents) > 0 {
		t.Fatalf("%d committed events are lost", len(contents))
	}
}

func TestAWriteThatFailsWithAFullDiskIsNotKnownToBeLost(t *testing.T) {
	s := newState(t)
	full := &fs.PathError{Op: "write", Path: "payload", Err: syscall.ENOSPC}
	l := s.open(func(o *Options) {
		o.files = func(dir string) (frameLog, payloadFile, error) {
			frames, payload, err := createFiles(dir)
			return frames, fullDisk{payload, full}, err
		}
	})
	_, err := store(t, l, content(1, 10)).Wait()
	if !errors.Is(err, ErrPoisoned) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the append gives %v, want ErrPoisoned and ENOSPC", err)
	}
	if _, err := tryStore(l, content(2, 10)); !errors.Is(err, ErrPoisoned) {
		t.Errorf("a poisoned log receives a body: %v", err)
	}
	if err := l.Close(true); !errors.Is(err, ErrPoisoned) {
		t.Errorf("Close gives %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.wal(), generationName(1, 0), segmentName)); err != nil {
		t.Errorf("what the failed write left is not kept: %v", err)
	}
}

type fullDisk struct {
	payloadFile
	err error
}

func (f fullDisk) Write([]byte) (int, error) { return 0, f.err }

func TestBodiesThatWaitWhenTheLogIsPoisonedGetTheErrorAndGiveTheirMemoryBack(t *testing.T) {
	s := newState(t)
	gate := make(chan struct{})
	l := s.open(func(o *Options) {
		o.files = func(dir string) (frameLog, payloadFile, error) {
			frames, payload, err := createFiles(dir)
			return frames, gatedPayload{payload, gate}, err
		}
	})
	var waiting []*Pending
	for i := range 20 {
		waiting = append(waiting, store(t, l, content(uint64(i), maxCarried+1)))
	}
	close(gate)
	for _, p := range waiting {
		if _, err := p.Wait(); !errors.Is(err, ErrPoisoned) {
			t.Fatalf("a waiting append gives %v, want ErrPoisoned", err)
		}
	}
	expectStopped(t, l)
}

// gatedPayload fails its sync once the gate opens.
type gatedPayload struct {
	payloadFile
	gate chan struct{}
}

func (f gatedPayload) Sync() error { <-f.gate; return errDisk }

// failingGate fails its first sync once the test lets it.
type failingGate struct {
	payloadFile
	begun, gate chan struct{}
	once        *sync.Once
	written     *atomic.Int64 // bytes
}

func (g failingGate) Write(p []byte) (int, error) {
	n, err := g.payloadFile.Write(p)
	g.written.Add(int64(n))
	return n, err
}

func (g failingGate) Sync() (err error) {
	failed := false
	g.once.Do(func() {
		close(g.begun)
		<-g.gate
		failed = true
	})
	if failed {
		return errDisk
	}
	return g.payloadFile.Sync()
}

// A fence does not hide that a sync failed: nothing that was written behind it
// is committed, or made an object.
func TestAFailedSyncOfAFencedLogEndsAllWriting(t *testing.T) {
	s := newState(t)
	g := failingGate{begun: make(chan struct{}), gate: make(chan struct{}), once: &sync.Once{}, written: new(atomic.Int64)}
	l := s.open(func(o *Options) {
		o.files = func(dir string) (frameLog, payloadFile, error) {
			frames, payload, err := createFiles(dir)
			own := g
			own.payloadFile = payload
			return frames, own, err
		}
	})
	first := store(t, l, content(1, maxCarried+1))
	<-g.begun
	second := store(t, l, content(2, maxCarried+1)) // the writer is ahead of the committer
	eventually(t, "the second payload is written", func() bool { return g.written.Load() == 2*(maxCarried+1) })
	fenced := errors.New("fenced")
	l.Fence(fenced)
	close(g.gate)
	for i, p := range []*Pending{first, second} {
		if _, err := p.Wait(); !errors.Is(err, ErrPoisoned) || !errors.Is(err, syscall.EIO) || !errors.Is(err, fenced) {
			t.Errorf("append %d gives %v, want ErrPoisoned, its cause and the fence", i+1, err)
		}
	}
	if err := l.Close(true); !errors.Is(err, ErrPoisoned) || !errors.Is(err, fenced) {
		t.Errorf("Close gives %v", err)
	}
	checkSurvivors(t, s, map[Seq][]byte{}, 2)
}
