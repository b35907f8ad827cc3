// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
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
	w.checkUsage(t)
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
		w.checkUsage(t)
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
		return w.reserved() == 0
	})
	wants(t, w.put(eventlog.KindData, bytesOf(2, 5000)), ErrQuota)
	must(t, w.put(eventlog.KindData, bytesOf(3, 4000)))
}

// reserved returns the bytes that are on their way in, over all accounts.
func (w *world) reserved() (sum uint64) {
	w.quota.mu.Lock()
	defer w.quota.mu.Unlock()
	for _, u := range w.quota.accounts {
		u.mu.Lock()
		sum += u.reserved
		u.mu.Unlock()
	}
	return sum
}

// checkUsage compares the kept total of each account with what the machine view
// adds up. Nothing is on its way in.
func (w *world) checkUsage(t *testing.T) {
	t.Helper()
	if n := w.reserved(); n != 0 {
		t.Errorf("%d bytes are still reserved", n)
	}
	w.quota.mu.Lock()
	defer w.quota.mu.Unlock()
	for account, u := range w.quota.accounts {
		totals, _, err := w.machines.AccountTotals(t.Context(), account)
		must(t, err)
		if u.known && u.used != totals.Bytes {
			t.Errorf("account %s: %d bytes by the kept total, %d by the view", account, u.used, totals.Bytes)
		}
	}
}

// Many clients store and delete, of machines that change hands meanwhile and over
// restarts. The view that adds up is the oracle.
func TestTheKeptTotalOfAnAccountIsWhatTheViewAddsUp(t *testing.T) {
	w := newWorld(t, Options{MaxSize: 1 << 40})
	paths := []Path{laptop, {"alice", "desktop"}, {"bob", "server"}}
	for _, p := range paths[1:] {
		must(t, w.Register(t.Context(), "test", p))
	}
	for round := range 3 {
		var clients sync.WaitGroup
		for client := range 6 {
			clients.Go(func() { w.storeAndDelete(t, paths[client%3], 100*round+client) })
		}
		for range 10 {
			must(t, w.Reown(t.Context(), "operator", Path{"alice", "desktop"}, "bob"))
			must(t, w.Reown(t.Context(), "operator", Path{"bob", "desktop"}, "alice"))
		}
		clients.Wait()
		w.checkUsage(t)
		w.restart()
	}
}

// storeAndDelete stores and deletes blocks of p at random, whose machine may be
// another account's now and then.
func (w *world) storeAndDelete(t *testing.T, p Path, seed int) {
	rng := rand.New(rand.NewPCG(uint64(seed), 1))
	for range 60 {
		content := bytesOf(seed*100+rng.IntN(8), 1+rng.IntN(3000))
		kind := []eventlog.Kind{eventlog.KindData, eventlog.KindLock}[rng.IntN(2)]
		err := w.Put(t.Context(), "test", p, ref(kind, content), bytes.NewReader(content), int64(len(content)))
		if err == nil && rng.IntN(3) > 0 {
			err = w.Delete(t.Context(), "test", p, ref(kind, content))
		}
		if err != nil && !errors.Is(err, ErrNoMachine) {
			t.Errorf("a write of %s: %v", p, err)
		}
	}
}

// addsUp counts how often an account is added up, and may make it wait.
type addsUp struct {
	Machines
	times atomic.Int64
	wait  func(account eventlog.Seq)
}

func (a *addsUp) AccountTotals(ctx context.Context, account eventlog.Seq) (projector.Totals, eventlog.Seq, error) {
	a.times.Add(1)
	a.wait(account)
	return a.Machines.AccountTotals(ctx, account)
}

func (w *world) countAddingUp(wait func(account eventlog.Seq)) *addsUp {
	a := &addsUp{Machines: w.machines, wait: wait}
	w.Store.opts.Machines = a
	return a
}

func TestAnAccountIsAddedUpOnceHoweverManyBlocksCome(t *testing.T) {
	w := newWorld(t, Options{MaxSize: 1 << 40})
	must(t, w.Register(t.Context(), "test", Path{"bob", "laptop"}))
	views := w.countAddingUp(func(eventlog.Seq) {})
	storeMany := func(want int64) {
		t.Helper()
		for i := range 100 {
			must(t, w.put(eventlog.KindData, bytesOf(i, 100)))
			must(t, w.remove(eventlog.KindData, bytesOf(i, 100)))
		}
		if n := views.times.Load(); n != want {
			t.Errorf("added up %d times, want %d", n, want)
		}
		w.checkUsage(t)
	}
	storeMany(1)
	must(t, w.Register(t.Context(), "test", Path{"alice", "desktop"}))
	storeMany(1)
	must(t, w.Reown(t.Context(), "operator", Path{"alice", "desktop"}, "bob"))
	storeMany(2)
}

func TestNoAccountWaitsForAnotherThatIsAddedUp(t *testing.T) {
	w := newWorld(t, Options{MaxSize: 1 << 40})
	must(t, w.Register(t.Context(), "test", Path{"bob", "laptop"}))
	alice, _, err := w.machines.AccountByName("alice")
	must(t, err)
	asked, goOn := make(chan struct{}), make(chan struct{})
	w.countAddingUp(func(account eventlog.Seq) {
		if account == alice {
			close(asked)
			<-goOn
		}
	})
	slow := later(func() error { return w.put(eventlog.KindData, bytesOf(1, 100)) })
	<-asked
	content := bytesOf(2, 100)
	must(t, w.Put(t.Context(), "test", Path{"bob", "laptop"}, ref(eventlog.KindData, content), bytes.NewReader(content), 100))
	close(goOn)
	must(t, <-slow)
	w.checkUsage(t)
}

func TestABlockThatTheLogRefusesTakesNoRoom(t *testing.T) {
	w := newWorld(t, Options{MaxSize: 10_000})
	must(t, w.put(eventlog.KindData, bytesOf(1, 1000)))
	w.intercept(func(_ eventlog.Event, body *eventlog.Body, _ func(eventlog.Event, *eventlog.Body) promise) promise {
		body.Release()
		return result{err: errors.New("no such machine")}
	})
	for range 20 {
		if err := w.put(eventlog.KindData, bytesOf(2, 1000)); err == nil {
			t.Fatal("a refused block was stored")
		}
	}
	w.intercept(nil)
	w.checkUsage(t)
	must(t, w.put(eventlog.KindData, bytesOf(3, 9000)))
	wants(t, w.put(eventlog.KindData, bytesOf(4, 1)), ErrQuota)
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
