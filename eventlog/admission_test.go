// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// nothingPromised checks that all room came back.
func nothingPromised(t testing.TB, l *limits) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.promised != 0 || l.coming != 0 || l.spooled != 0 {
		t.Errorf("%d bytes of the disk and %d of the backlog are still promised, %d count as spooled", l.promised, l.coming, l.spooled)
	}
}

// stalled is a body that sends what it has when it is let go on.
type stalled struct {
	content io.Reader
	goOn    <-chan struct{}
}

func (s *stalled) Read(p []byte) (int, error) {
	<-s.goOn
	return s.content.Read(p)
}

func TestBodiesThatComeTogetherAreNotAllLetInForTheSameRoom(t *testing.T) {
	const mib = 1 << 20
	tests := []struct {
		name     string
		memory   int64
		free     int64
		backlog  int64 // the most
		declared bool
		want     error
		fit      int // of ten bodies of 1 MiB
	}{
		{"the disk, bodies in memory", gib, 104 * mib, gib, true, ErrBacklog, 4},
		{"the disk, spooled bodies lie there twice", 0, 104 * mib, gib, true, ErrBacklog, 2},
		{"the backlog", gib, gib, 3 * mib, true, ErrBacklog, 3},
		{"the disk, bodies of unknown length", gib, 104 * mib, gib, false, ErrBacklog, 4},
		{"the disk, spooled bodies of unknown length", 0, 104 * mib, gib, false, ErrBacklog, 2},
		{"the backlog, bodies of unknown length", gib, gib, 3 * mib, false, ErrBacklog, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // no time passes: the disk is not asked by the clock
				l := limitsOn(tt.free, gib, Limits{MaxBacklog: tt.backlog, DiskFloor: 100 * mib})
				l.free = func(string) (int64, int64, error) { return tt.free - l.spooled, gib, nil } // called with mu held
				m := newMemory(t, tt.memory)
				bodies, refusals := receiveTogether(t, l, m, mib, tt.declared)
				for _, err := range refusals {
					if !errors.Is(err, tt.want) {
						t.Errorf("refused with %v, want %v", err, tt.want)
					}
				}
				switch {
				case tt.declared && len(bodies) != tt.fit:
					t.Errorf("%d bodies were let in, there is room for %d", len(bodies), tt.fit)
				case len(bodies) > tt.fit: // those that grow together may be refused together
					t.Errorf("%d bodies were let in, there is room for %d", len(bodies), tt.fit)
				}
				for _, b := range bodies {
					b.Release()
				}
				nothingPromised(t, l)
			})
		})
	}
}

// receiveTogether lets ten bodies in and only then sends them.
func receiveTogether(t *testing.T, l *limits, m *memory, size int, declared bool) (bodies []*Body, refusals []error) {
	t.Helper()
	goOn := make(chan struct{})
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			length := int64(-1)
			if declared {
				length = int64(size)
			}
			room, err := l.admit(max(length, 0), false)
			var b *Body
			if err == nil {
				b, err = m.receive(&stalled{bytes.NewReader(content(uint64(i), size)), goOn}, length, gib, room)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				refusals = append(refusals, err)
				return
			}
			bodies = append(bodies, b)
		})
	}
	synctest.Wait()
	close(goOn)
	all.Wait()
	return bodies, refusals
}

func TestABodyThatIsAloneAndTooLargeForTheDiskIs507AndOneAmongOthersIsToComeAgain(t *testing.T) {
	const mib = 1 << 20
	l := limitsOn(10*mib, gib, Limits{DiskFloor: mib})
	if _, err := l.admit(10*mib, false); !errors.Is(err, ErrDiskFull) {
		t.Errorf("alone: %v, want ErrDiskFull", err)
	}
	other := roomFor(l, 5*mib)
	if _, err := l.admit(5*mib, false); !errors.Is(err, ErrBacklog) {
		t.Errorf("while another is coming in: %v, want ErrBacklog", err)
	}
	if _, err := l.admit(10*mib, false); !errors.Is(err, ErrDiskFull) {
		t.Errorf("too large even without the other: %v, want ErrDiskFull", err)
	}
	other.giveBack()
	b, err := newMemory(t, 0).receive(bytes.NewReader(make([]byte, 5*mib)), 5*mib, gib, roomFor(l, 5*mib))
	if b != nil || !errors.Is(err, ErrDiskFull) {
		t.Errorf("one that fits once and not twice, alone: %v, want ErrDiskFull", err)
	}
	nothingPromised(t, l)
}

func TestWhatIsSpooledIsNotHeldAgainstTheDiskTwiceWhenItIsAskedAgain(t *testing.T) {
	const mib = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		disk := int64(10 * mib)
		l := limitsOn(0, gib, Limits{DiskFloor: mib})
		l.free = func(string) (int64, int64, error) { return disk, gib, nil }
		b, err := newMemory(t, 0).receive(bytes.NewReader(make([]byte, 3*mib)), 3*mib, gib, roomFor(l, 3*mib))
		must(t, err)
		disk -= 3 * mib // the spool file
		for range 2 {   // 7 MiB are left, 3 of them for the payload, 1 stays free
			room, err := l.admit(3*mib, false)
			must(t, err)
			if _, err := l.admit(1, false); !errors.Is(err, ErrBacklog) {
				t.Errorf("one byte more: %v, want ErrBacklog", err)
			}
			room.giveBack()
			time.Sleep(askDisk)
		}
		b.Release()
		nothingPromised(t, l)
	})
}

func TestACommittedOrRefusedBodyGivesItsRoomBack(t *testing.T) {
	l := newState(t).open(func(o *Options) { o.Limits.BodyMemory = 1 << 20; o.Rules = &refuseAll{refused: MachineRegistered} })
	for _, size := range []int{10, 100_000, 3 << 20} {
		committed(t, store(t, l, content(1, size)))
		body, err := l.Receive(context.Background(), bytes.NewReader(content(2, size)), -1, gib)
		must(t, err)
		if _, err := l.Append(Event{Type: MachineRegistered, Length: uint64(size)}, body).Wait(); !errors.Is(err, errRule) {
			t.Fatal(err)
		}
	}
	nothingPromised(t, l.limits)
	must(t, l.Close(true))
}

// widest notes the largest buffer that it is read into.
type widest struct {
	io.Reader
	most int
}

func (w *widest) Read(p []byte) (int, error) {
	w.most = max(w.most, len(p))
	return w.Reader.Read(p)
}

func TestPastTheBudgetABodyHoldsOnlyASmallBufferAndTheirNumberIsBounded(t *testing.T) {
	l := limitsOn(500*gib, 1000*gib, Limits{})
	m := newMemory(t, 0)
	r := &widest{Reader: bytes.NewReader(content(1, 1<<20))}
	b, err := m.receive(r, 1<<20, gib, roomFor(l, 1<<20))
	must(t, err)
	b.Release()
	if r.most > spoolBuffer {
		t.Errorf("it was read into a buffer of %d bytes", r.most)
	}
	m.spooling = maxSpooling - 1
	goOn := make(chan struct{})
	last := make(chan error, 1)
	go func() {
		b, err := m.receive(&stalled{bytes.NewReader([]byte("x")), goOn}, 1, gib, roomFor(l, 1))
		b.Release()
		last <- err
	}()
	eventually(t, "all may be spooled that may", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.spooling == maxSpooling
	})
	if _, err := m.receive(bytes.NewReader([]byte("x")), 1, gib, roomFor(l, 1)); !errors.Is(err, ErrTooMany) {
		t.Errorf("one too many: %v, want ErrTooMany", err)
	}
	close(goOn)
	must(t, <-last)
	if m.spooling != maxSpooling-1 {
		t.Errorf("%d count as spooling", m.spooling)
	}
	nothingPromised(t, l)
}
