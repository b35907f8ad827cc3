// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"slices"
	"testing"
	"time"
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
// that came while they waited.
func TestASmallEventDoesNotWaitForALargeOneBehindIt(t *testing.T) {
	l, begun, step := steppedLog(t)
	first := store(t, l, content(1, slowSync))
	<-begun
	small := []*Pending{store(t, l, content(2, 1000)), l.Append(noteEvent(1), nil)}
	eventually(t, "the small ones are taken", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.queue) == 0 })
	behind := store(t, l, content(3, slowSync))
	step()
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
			case <-time.After(10 * time.Second):
				t.Fatal("Close takes longer than 10 s")
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
