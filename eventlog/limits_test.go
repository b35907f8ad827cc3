// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const gib = 1 << 30

// limitsOn are the limits of a log on a disk with so much room.
func limitsOn(free, total int64, l Limits) *limits {
	limits := newLimits(l, "wal")
	limits.free = func(string) (int64, int64, error) { return free, total, nil }
	return limits
}

func TestTheLogRefusesWhatItCannotTake(t *testing.T) {
	const ample = 500 * gib
	tests := []struct {
		name    string
		free    int64
		limits  Limits
		backlog int64
		copies  int64
		size    int64
		urgent  bool
		want    error
	}{
		{name: "there is room", free: ample, size: gib},
		{name: "the backlog has room", free: ample, backlog: 7 * gib, size: gib},
		{name: "the backlog is full", free: ample, backlog: 7 * gib, size: gib + 1, want: ErrBacklog},
		{name: "the backlog is full, but for an urgent event", free: ample, backlog: 9 * gib, size: 100, urgent: true},
		{name: "one body is larger than the whole backlog may be", free: ample, limits: Limits{MaxBacklog: 10}, size: 100},
		{name: "the disk is full and something drains", free: 2*gib - 1, backlog: 1, want: ErrBacklog},
		{name: "the disk is full and nothing drains", free: 2*gib - 1, want: ErrDiskFull},
		{name: "the disk would be full then", free: 3 * gib, size: gib + 1, want: ErrDiskFull},
		{name: "the disk is full of copies of what is archived", free: 2*gib - 1, copies: gib, size: gib - 1, want: ErrBacklog},
		{name: "the disk would be full without the copies, too", free: 2*gib - 1, copies: gib, size: gib, want: ErrDiskFull},
		{name: "an urgent event, the reserve used up, and there are copies", free: 2*gib - urgentReserve - 1, copies: 1, urgent: true, want: ErrBacklog},
		{name: "an urgent event under the floor", free: 2*gib - 1, urgent: true},
		{name: "an urgent event, the reserve used up", free: 2*gib - urgentReserve - 1, urgent: true, want: ErrDiskFull},
		{name: "a floor of one's own", free: gib, limits: Limits{DiskFloor: gib / 2}, size: gib / 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := limitsOn(tt.free, 1000*gib, tt.limits)
			l.committed(tt.backlog)
			l.keepCopies(tt.copies, false)
			if _, err := l.admit(tt.size, tt.urgent); !errors.Is(err, tt.want) {
				t.Errorf("it says %v, want %v", err, tt.want)
			}
		})
	}
}

func TestWhatWasCommittedSinceTheDiskWasAskedTakesItsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // no time passes by itself
		l := limitsOn(3*gib, 1000*gib, Limits{MaxBacklog: 100 * gib})
		room, err := l.admit(gib/2, false)
		must(t, err)
		room.giveBack()
		l.committed(gib)
		if _, err := l.admit(gib/2, false); !errors.Is(err, ErrBacklog) {
			t.Errorf("the disk has 2 GiB left and keeps them, but it says %v", err)
		}
		time.Sleep(askDisk) // the fake disk is asked again, and has them all
		if _, err := l.admit(gib/2, false); err != nil {
			t.Error(err)
		}
	})
}

func TestTheDiskFloorOfASmallDiskIsATwentieth(t *testing.T) {
	if _, err := limitsOn(gib+1, 20*gib, Limits{}).admit(0, false); err != nil {
		t.Errorf("6 %% free: %v", err)
	}
	if _, err := limitsOn(gib-1, 20*gib, Limits{}).admit(0, false); !errors.Is(err, ErrDiskFull) {
		t.Errorf("under 5 %% free: %v, want ErrDiskFull", err)
	}
}

func TestTheDiskFloorOfATinyDiskHasRoomForWhatViewsPreallocate(t *testing.T) {
	for _, test := range []struct {
		free   int64
		urgent bool
		want   error
	}{
		{leastFloor + 1, false, nil},
		{leastFloor - 1, false, ErrDiskFull},
		{leastFloor/2 + 1, true, nil},
		{leastFloor/2 - 1, true, ErrDiskFull},
	} {
		if _, err := limitsOn(test.free, 160<<20, Limits{}).admit(0, test.urgent); !errors.Is(err, test.want) {
			t.Errorf("%d bytes free, urgent %v: %v, want %v", test.free, test.urgent, err, test.want)
		}
	}
}

func TestADiskThatCannotBeAskedRefuses(t *testing.T) {
	l := limitsOn(0, 0, Limits{})
	l.free = func(string) (int64, int64, error) { return 0, 0, errDisk }
	if _, err := l.admit(1, true); !errors.Is(err, errDisk) {
		t.Errorf("it says %v, want the cause", err)
	}
}

func TestOnlyUrgentBodiesUseTheReserveUnderTheFloor(t *testing.T) {
	l := newState(t).open(nil)
	l.limits.free = func(string) (int64, int64, error) { return 2*gib - 1, 1000 * gib, nil }
	if _, err := l.Receive(context.Background(), strings.NewReader("x"), 1, 10); !errors.Is(err, ErrDiskFull) {
		t.Errorf("Receive gives %v, want ErrDiskFull", err)
	}
	b, err := l.ReceiveUrgent(strings.NewReader("x"), 1, 10)
	must(t, err)
	must(t, l.AdmitUrgent(100))
	committed(t, l.Append(storeEvent([]byte("x")), b))
	if bytes, _ := l.Backlog(); bytes == 0 {
		t.Error("what is committed does not count in the backlog")
	}
	must(t, l.Close(false))
}

// roomFor is the promise of room for a body that l must let in.
func roomFor(l *limits, size int64) *admission {
	room, err := l.admit(max(size, 0), false)
	if err != nil {
		panic(err)
	}
	return room
}

// receiveTime is how long a body of n bytes takes to come in.
func receiveTime(t *testing.T, l *limits, n int) time.Duration {
	t.Helper()
	r, done := l.pace(t.Context(), bytes.NewReader(make([]byte, n)))
	defer done()
	began := time.Now()
	_, err := io.Copy(io.Discard, onlyReader{r})
	must(t, err)
	return time.Since(began)
}

type onlyReader struct{ io.Reader }

func TestIngestIsPacedByTheUploadRateWhileTheBacklogDrainsTooSlowly(t *testing.T) {
	const mib = 1 << 20
	tests := []struct {
		name    string
		prepare func(l *limits)
		min     time.Duration // for 20 MiB
		max     time.Duration
	}{
		{"no upload was measured yet", func(l *limits) { l.committed(gib) }, 0, 0},
		{"the backlog drains in time", func(l *limits) { l.committed(20 * mib) }, 0, 0},
		{"the backlog takes too long", func(l *limits) {
			l.archived(10*mib, 10*time.Second) // 1 MiB/s
			l.committed(26 * mib)
		}, 20 * time.Second, 24 * time.Second},
		{"a very slow bucket still lets a trickle in", func(l *limits) {
			l.archived(mib, 1000*time.Second)
			l.committed(26 * mib)
		}, 290 * time.Second, 330 * time.Second},
		{"the bucket is away", func(l *limits) {
			l.archived(10*mib, 10*time.Second)
			l.committed(26 * mib)
			l.unreachable()
		}, 0, 0},
		{"the bucket is back", func(l *limits) {
			l.committed(26 * mib)
			l.unreachable()
			l.archived(10*mib, 10*time.Second)
			l.committed(10 * mib)
		}, 20 * time.Second, 24 * time.Second},
		{"the backlog has drained", func(l *limits) {
			l.committed(26 * mib)
			l.archived(20*mib, 20*time.Second)
		}, 0, 0},
		{"small objects measure nothing", func(l *limits) {
			l.archived(1000, time.Second)
			l.committed(gib)
		}, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := limitsOn(500*gib, 1000*gib, Limits{})
				tt.prepare(l)
				_, done := l.pace(t.Context(), nil) // another body is coming in
				defer done()
				if took := receiveTime(t, l, 20*mib); took < tt.min || took > tt.max {
					t.Errorf("20 MiB came in within %v, want %v to %v", took, tt.min, tt.max)
				}
			})
		})
	}
}

func TestABodyThatComesAloneIsNotSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limitsOn(500*gib, 1000*gib, Limits{})
		l.archived(1<<20, 10*time.Second)
		l.committed(gib)
		for range 2 {
			if took := receiveTime(t, l, 10<<20); took != 0 {
				t.Errorf("it took %v", took)
			}
		}
	})
}

func TestASlowedDownBodyEndsWithItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limitsOn(500*gib, 1000*gib, Limits{})
		l.archived(1<<20, 10*time.Second)
		l.committed(gib)
		_, other := l.pace(t.Context(), nil)
		defer other()
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(3*time.Second, func() { cancel(nil) })
		r, done := l.pace(ctx, bytes.NewReader(make([]byte, 100<<20)))
		defer done()
		began := time.Now()
		_, err := (&memory{free: gib}).receive(r, 100<<20, gib, roomFor(l, 100<<20))
		if !errors.Is(err, context.Canceled) || time.Since(began) != 3*time.Second {
			t.Errorf("after %v: %v, want Canceled after 3 s", time.Since(began), err)
		}
	})
}
