// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

// stepped syncs payloads one at a time, when the test lets it; all of them when
// the test is over.
type stepped struct {
	payloadFile
	begun, let, over chan struct{}
}

func (s stepped) Sync() error {
	select {
	case s.begun <- struct{}{}:
		select {
		case <-s.let:
		case <-s.over:
		}
	case <-s.over:
	}
	return s.payloadFile.Sync()
}

// steppedLog is a log whose payload syncs say that they have begun, and then
// wait for a step.
func steppedLog(t *testing.T) (l *Log, begun <-chan struct{}, step func()) {
	t.Helper()
	s := fastState(t)
	steps := stepped{begun: make(chan struct{}), let: make(chan struct{}), over: make(chan struct{})}
	l = s.open(func(o *Options) {
		o.files = func(dir string) (frameLog, payloadFile, error) {
			frames, payload, err := createFiles(dir)
			own := steps
			own.payloadFile = payload
			return frames, own, err
		}
	})
	t.Cleanup(func() { close(steps.over) }) // before the log is closed
	return l, steps.begun, func() { steps.let <- struct{}{} }
}

func resolved(p *Pending) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// A small event waits for the large ones that are on their way, never for those
// behind them.
func TestASmallEventOvertakesLargeOnesThatWait(t *testing.T) {
	l, begun, step := steppedLog(t)
	const large = batchBytes * 3 / 4
	var all []*Pending
	for i := range 4 {
		all = append(all, store(t, l, content(uint64(i), large)))
		if i == 0 {
			<-begun
		}
	}
	eventually(t, "one is written ahead, and two wait", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.large) == 2 })
	small := store(t, l, content(9, 1000))
	eventually(t, "the small one is taken", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.queue) == 0 })
	step()
	<-begun
	if !resolved(all[0]) || resolved(small) {
		t.Errorf("after the first sync the first is resolved: %v, the small one: %v", resolved(all[0]), resolved(small))
	}
	step()
	order := []Seq{committed(t, all[0]), committed(t, all[1]), committed(t, small)}
	for range 2 {
		<-begun
		step()
	}
	order = append(order, committed(t, all[2]), committed(t, all[3]))
	if want := []Seq{FirstSeq, FirstSeq + 1, FirstSeq + 2, FirstSeq + 3, FirstSeq + 4}; !slices.Equal(order, want) {
		t.Errorf("the order is %v, want %v", order, want)
	}
}

// Small events that came first are committed without the sync of a large one
// that came while they waited; those of middle size with their own.
func TestASmallEventDoesNotWaitForALargeOneBehindIt(t *testing.T) {
	t.Run("small", func(t *testing.T) { doesNotWait(t, 1000) })
	t.Run("of middle size", func(t *testing.T) { doesNotWait(t, maxCarried+1) })
}

func doesNotWait(t *testing.T, size int) {
	l, begun, step := steppedLog(t)
	first := store(t, l, content(1, slowSync))
	<-begun
	taken := func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.queue)+len(l.large) == 0 }
	small := []*Pending{l.Append(noteEvent(1), nil)}
	eventually(t, "the smallest is taken", taken)
	small = append(small, store(t, l, content(2, size)))
	eventually(t, "the small ones are taken", taken)
	behind := store(t, l, content(3, slowSync))
	step()
	if size > maxCarried {
		<-begun
		step()
	}
	for i, p := range append([]*Pending{first}, small...) {
		if seq := committed(t, p); seq != FirstSeq+Seq(i) {
			t.Errorf("event %d is %s", i, seq)
		}
	}
	<-begun
	if resolved(behind) {
		t.Error("the last is committed before its payload is synced")
	}
	step()
	if seq := committed(t, behind); seq != FirstSeq+3 {
		t.Errorf("the last is %s", seq)
	}
}

// Nothing of what waits is left behind when the log is closed, or stops.
func TestLargeOnesThatWaitAreCommittedByCloseAndRefusedByAFence(t *testing.T) {
	for _, fence := range []error{nil, errors.New("fenced")} {
		l, begun, step := steppedLog(t)
		var all []*Pending
		for i := range 4 {
			all = append(all, store(t, l, content(uint64(i), batchBytes*3/4)))
		}
		<-begun
		if fence != nil {
			l.Fence(fence)
		}
		step()
		done := make(chan error)
		go func() { done <- l.Close(true) }()
		for open := true; open; {
			select {
			case <-begun:
				step()
			case err := <-done:
				if open = false; !errors.Is(err, fence) {
					t.Errorf("Close gives %v", err)
				}
			case <-time.After(testkit.Patience):
				t.Fatal("Close does not end")
			}
		}
		committed := 0
		for _, p := range all {
			if _, err := p.Wait(); err == nil {
				committed++
			} else if fence == nil || !errors.Is(err, fence) {
				t.Errorf("an append gives %v", err)
			}
		}
		if (fence == nil) != (committed == len(all)) {
			t.Errorf("fenced %v: %d of %d are committed", fence, committed, len(all))
		}
	}
}

// Large ones get their turn also while small ones keep the slot full, and
// nothing is said to have room for which the writer would wait behind a
// generation's end.
func TestTheSlotHasRoomForOneBatchOfLargeOnes(t *testing.T) {
	a, b := &openGeneration{}, &openGeneration{}
	small := func(g *openGeneration, n int) *part { return &part{gen: g, accepted: make([]*Pending, n)} }
	large := func(g *openGeneration, apart uint64) *part {
		return &part{gen: g, accepted: make([]*Pending, 1), apart: apart}
	}
	for _, test := range []struct {
		name  string
		parts []*part
		want  uint64
		held  int
	}{
		{"nothing waits", nil, batchBytes, 0},
		{"small ones", []*part{small(a, 1), small(a, 1)}, batchBytes, 1},
		{"as many small ones as there can be", []*part{small(a, batchEvents), small(a, batchEvents)}, batchBytes, 2},
		{"a large one", []*part{large(a, 10<<20)}, 6 << 20, 1},
		{"small ones before a large one", []*part{small(a, 1), large(a, 10<<20)}, 6 << 20, 2},
		{"small ones behind a large one", []*part{large(a, 10<<20), small(a, 1)}, 6 << 20, 1},
		{"more than a batch", []*part{large(a, 20<<20)}, 0, 1},
		{"a generation's end", []*part{large(a, 10<<20), {gen: a, ends: true}}, 0, 1},
		{"an end behind more than a batch", []*part{large(a, 20<<20), {gen: a, ends: true}}, 0, 1},
		{"the next generation's small ones", []*part{large(a, 10<<20), {gen: a, ends: true}, small(b, 1)}, 0, 2},
	} {
		s := newSlot()
		for _, p := range test.parts {
			if !s.tryPut(p) {
				t.Errorf("%s: it is full", test.name)
			}
		}
		if got := s.room(); got != test.want || len(s.waiting) != test.held {
			t.Errorf("%s: room for %d bytes behind %d parts, want %d and %d", test.name, got, len(s.waiting), test.want, test.held)
		}
	}
}
