// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"bytes"
	"context"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
)

func TestQuotas(t *testing.T) {
	w := newWorld(t, Options{MaxSize: 10_000})
	must(t, w.Register(t.Context(), "test", Path{"alice", "desktop"}))
	must(t, w.Register(t.Context(), "test", Path{"bob", "laptop"}))
	store := func(p Path, kind eventlog.Kind, seed, size int, declared bool) error {
		content := bytesOf(seed, size)
		n := int64(size)
		if !declared {
			n = -1
		}
		return w.Put(context.Background(), "test", p, ref(kind, content), bytes.NewReader(content), n)
	}
	must(t, store(laptop, eventlog.KindData, 1, 6000, true))
	wants(t, store(laptop, eventlog.KindData, 2, 4001, true), ErrQuota)
	wants(t, store(laptop, eventlog.KindData, 2, 4001, false), ErrQuota)
	wants(t, store(Path{"alice", "desktop"}, eventlog.KindData, 2, 4001, true), ErrQuota) // it is the account's
	must(t, store(Path{"bob", "laptop"}, eventlog.KindData, 2, 4001, true))
	must(t, store(laptop, eventlog.KindData, 3, 4000, false))
	wants(t, store(laptop, eventlog.KindData, 4, 1, true), ErrQuota)
	wants(t, store(laptop, eventlog.KindData, 4, 1, false), ErrQuota)
	must(t, store(laptop, eventlog.KindData, 1, 6000, true)) // it is there already
	must(t, store(laptop, eventlog.KindData, 1, 6000, false))
	must(t, store(laptop, eventlog.KindLock, 5, 100, true)) // to make room, one needs a lock
	must(t, w.remove(eventlog.KindLock, bytesOf(5, 100)))
	must(t, w.remove(eventlog.KindData, bytesOf(1, 6000)))
	must(t, store(laptop, eventlog.KindData, 4, 6000, true))
	if len(w.quota.reserved) != 0 {
		t.Errorf("still reserved: %v", w.quota.reserved)
	}
}

func TestParallelPutsStayWithinTheQuota(t *testing.T) {
	for _, declared := range []bool{true, false} {
		w := newWorld(t, Options{MaxSize: 10_000})
		var results []<-chan error
		for i := range 30 {
			content := bytesOf(i, 1000)
			size := int64(1000)
			if !declared {
				size = -1
			}
			results = append(results, later(func() error {
				return w.Put(context.Background(), "test", laptop, ref(eventlog.KindData, content), bytes.NewReader(content), size)
			}))
		}
		stored := 0
		for _, result := range results {
			if err := <-result; err == nil {
				stored++
			} else {
				wants(t, err, ErrQuota)
			}
		}
		if stored == 0 || stored > 10 {
			t.Errorf("%d blocks of 1000 bytes stored", stored)
		}
		if len(w.quota.reserved) != 0 {
			t.Errorf("still reserved: %v", w.quota.reserved)
		}
	}
}

func TestAClientThatHangsUpDoesNotFreeTheRoomOfWhatItStored(t *testing.T) {
	w := newWorld(t, Options{MaxSize: 10_000})
	queued, goOn := make(chan struct{}), make(chan struct{})
	w.intercept(func(ev eventlog.Event, body *eventlog.Body, real func(eventlog.Event, *eventlog.Body) promise) promise {
		if ev.Length != 6000 {
			return real(ev, body)
		}
		close(queued)
		return slow{goOn, func() promise { return real(ev, body) }}
	})
	ctx, hangUp := context.WithCancel(t.Context())
	content := bytesOf(1, 6000)
	first := later(func() error {
		return w.Put(ctx, "test", laptop, ref(eventlog.KindData, content), bytes.NewReader(content), 6000)
	})
	<-queued
	hangUp()
	wants(t, <-first, context.Canceled)
	wants(t, w.put(eventlog.KindData, bytesOf(2, 5000)), ErrQuota) // the first is on its way still
	close(goOn)
	eventually(t, "the first block is stored", func() bool {
		_, err := w.get(ref(eventlog.KindData, content))
		return err == nil
	})
	eventually(t, "its reservation has ended", func() bool {
		w.quota.mu.Lock()
		defer w.quota.mu.Unlock()
		return len(w.quota.reserved) == 0
	})
	wants(t, w.put(eventlog.KindData, bytesOf(2, 5000)), ErrQuota)
	must(t, w.put(eventlog.KindData, bytesOf(3, 4000)))
}

// slow is a promise whose event reaches the log only when it may.
type slow struct {
	goOn <-chan struct{}
	real func() promise
}

func (s slow) Wait() (eventlog.Seq, error) {
	<-s.goOn
	return s.real().Wait()
}
