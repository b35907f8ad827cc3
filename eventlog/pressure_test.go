// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func pressed(l *Log) bool {
	select {
	case <-l.Pressed():
		return true
	default:
		return false
	}
}

// The disk has a gibibyte and a floor of 100 MB.
func TestTheDiskComesUnderPressureBeforeItIsFull(t *testing.T) {
	for _, test := range []struct {
		name    string
		free    int64
		size    int64
		copies  int64
		refused bool
		pressed bool
		wants   int64
	}{
		{name: "there is room", free: 150e6, copies: 1e9},
		{name: "half a floor above the floor", free: 150e6 - 1, copies: 1e9, pressed: true, wants: 50e6 + 1},
		{name: "nothing can go", free: 150e6 - 1, wants: 50e6 + 1},
		{name: "at the floor", free: 100e6, copies: 1e9, pressed: true, wants: 100e6},
		{name: "a body is refused", free: 150e6, size: 60e6, copies: 1e9, refused: true, pressed: true, wants: 110e6},
	} {
		t.Run(test.name, func(t *testing.T) {
			limits := limitsOn(test.free, gib, Limits{DiskFloor: 100e6})
			l := &Log{limits: limits}
			limits.keepCopies(test.copies, false)
			room, err := limits.admit(test.size, false)
			if (err != nil) != test.refused {
				t.Fatalf("a body of %d bytes: %v", test.size, err)
			}
			if err == nil {
				room.giveBack()
			}
			limits.committed(0)
			if got := pressed(l); got != test.pressed {
				t.Errorf("pressed: %v", got)
			}
			if wants, err := l.WantsRoom(); wants != test.wants || err != nil {
				t.Errorf("it wants %d bytes, %v; want %d", wants, err, test.wants)
			}
		})
	}
}

func TestADiskThatCannotBeAskedWantsNothing(t *testing.T) {
	limits := limitsOn(0, 0, Limits{})
	limits.free = func(string) (int64, int64, error) { return 0, 0, errDisk }
	if wants, err := (&Log{limits: limits}).WantsRoom(); wants != 0 || !errors.Is(err, errDisk) {
		t.Errorf("%d, %v", wants, err)
	}
}

// A disk is full of what is in the archive already: a body is told to come
// again, and is taken once the oldest copy is gone.
func TestADiskFullOfArchivedCopiesTakesBodiesAgainWhenTheyAreDropped(t *testing.T) {
	s := newState(t)
	l := s.open(nil)
	used := int64(0)
	l.limits.free = func(string) (int64, int64, error) { return 3*gib - used, 1000 * gib, nil }
	var gens []*Generation
	for i := range uint64(3) {
		seq, answered := committed(t, store(t, l, []byte{byte(i)})), make(chan error, 1)
		go func() { answered <- l.WaitArchived(context.Background(), seq) }() // which cuts
		g, err := l.NextClosed(context.Background(), i)
		must(t, err)
		l.MarkArchived(g, time.Second)
		must(t, <-answered)
		gens = append(gens, g)
	}
	used = 2 * gib
	l.limits.asked = time.Time{}
	receive := func() error {
		body, err := l.Receive(context.Background(), strings.NewReader("x"), 1, 10)
		if err == nil {
			body.Release()
		}
		return err
	}
	// Only what two of them take can be had, and it is not enough.
	if err := receive(); !errors.Is(err, ErrDiskFull) {
		t.Errorf("a disk full of something else: %v", err)
	}
	used = gib + gens[0].Size() + gens[1].Size() - 1
	l.limits.asked = time.Time{}
	if err := receive(); !errors.Is(err, ErrBacklog) || !pressed(l) {
		t.Errorf("a disk full of copies: %v", err)
	}
	for _, g := range gens[:2] {
		must(t, l.Drop(g))
		used -= g.Size()
	}
	must(t, receive())
	if l.limits.copies != 0 {
		t.Errorf("%d bytes can go, the last copy among them", l.limits.copies)
	}
	must(t, l.Close(false))
}
