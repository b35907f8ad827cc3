// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
)

func TestABacklogRefusesDataAndLetsLocksAndDeletesThrough(t *testing.T) {
	w := newWorld(t, Options{Ack: AckCommitted})
	w.stop()
	w.limits = eventlog.Limits{MaxBacklog: 10_000}
	w.start(nil)
	w.away.shut()
	must(t, w.put(eventlog.KindData, bytesOf(1, 9000)))
	u := wantsUnavailable(t, w.put(eventlog.KindData, bytesOf(2, 9000)))
	wants(t, u, eventlog.ErrBacklog)
	must(t, w.put(eventlog.KindLock, []byte("lock")))
	must(t, w.remove(eventlog.KindData, bytesOf(1, 9000)))
	w.away.lift()
	must(t, w.events.WaitArchived(t.Context(), w.committed()))
	must(t, w.put(eventlog.KindData, bytesOf(2, 9000)))
}

func TestAFullDiskWithNothingToDrainIs507(t *testing.T) {
	w := newWorld(t, Options{})
	must(t, w.put(eventlog.KindData, []byte("data")))
	w.stop()
	w.limits = eventlog.Limits{DiskFloor: 1 << 60}
	w.start(nil)
	must(t, w.events.WaitArchived(t.Context(), w.committed()))
	wants(t, w.put(eventlog.KindData, []byte("more")), ErrDiskFull)
	wants(t, w.put(eventlog.KindLock, []byte("lock")), ErrDiskFull)
	wants(t, w.remove(eventlog.KindData, []byte("data")), ErrDiskFull)
	wants(t, w.Register(t.Context(), "test", Path{"bob", "x"}), ErrDiskFull)
	wants(t, w.Register(t.Context(), "test", Path{"alice", "x"}), ErrDiskFull)
	wants(t, w.Reown(t.Context(), "test", laptop, "bob"), ErrDiskFull)
	got, err := w.get(ref(eventlog.KindData, []byte("data")))
	must(t, err)
	if string(got) != "data" {
		t.Fatal("other bytes")
	}
}

func TestTroubleOfTheSpoolIsNotTheClientsFault(t *testing.T) {
	w := newWorld(t, Options{})
	for _, cause := range []error{eventlog.ErrTooMany, syscall.ENOSPC, syscall.EMFILE, syscall.ENFILE} {
		wantsUnavailable(t, w.receiveError(fmt.Errorf("spooling a body: %w", cause)))
	}
	other := errors.New("input/output error")
	err := w.receiveError(other)
	wants(t, err, other)
	for _, certain := range []error{ErrShortBody, ErrTooLarge, ErrDiskFull} {
		if errors.Is(err, certain) {
			t.Errorf("%v", err)
		}
	}
}

func TestAStoppedLogTakesNoBodies(t *testing.T) {
	w := newWorld(t, Options{})
	w.SetMode(Serving, "")
	fenced := errors.New("another server owns the log")
	w.events.Fence(fenced)
	err := w.put(eventlog.KindData, []byte("data"))
	wantsUnavailable(t, err)
	wants(t, err, fenced)
	wantsUnavailable(t, w.receiveError(fenced))
	wantsUnavailable(t, w.refused(fenced))
}
