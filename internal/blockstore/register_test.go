// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

func TestRegisteringIsIdempotent(t *testing.T) {
	w := emptyWorld(t, Options{})
	w.start(nil)
	for range 3 {
		must(t, w.Register(t.Context(), "user:alice", laptop))
	}
	must(t, w.Register(t.Context(), "user:alice", Path{"alice", ""}))
	must(t, w.Register(t.Context(), "user:bob", Path{"bob", "laptop"}))
	if a, m := w.count(eventlog.AccountOpened), w.count(eventlog.MachineRegistered); a != 2 || m != 3 {
		t.Fatalf("%d accounts, %d machines", a, m)
	}
	wants(t, w.Register(t.Context(), "test", Path{"a/b", "x"}), ErrBadName)
}

func TestRegisteringIsACommitPoint(t *testing.T) {
	w := emptyWorld(t, Options{})
	w.start(nil)
	if !w.answered(t, func() error { return w.Register(context.Background(), "test", laptop) }) {
		t.Fatal("it did not wait for the archive")
	}
}

func TestParallelRegistrationsMakeOneMachine(t *testing.T) {
	w := emptyWorld(t, Options{})
	w.start(nil)
	var results []<-chan error
	for i := range 20 {
		results = append(results, later(func() error {
			return w.Register(context.Background(), "test", Path{"alice", fmt.Sprint("m", i%4)})
		}))
	}
	for _, result := range results {
		must(t, <-result)
	}
	if a, m := w.count(eventlog.AccountOpened), w.count(eventlog.MachineRegistered); a != 1 || m != 4 {
		t.Fatalf("%d accounts, %d machines", a, m)
	}
}

func TestARegistrationWhoseAccountIsThereAlreadyGoesOn(t *testing.T) {
	w := emptyWorld(t, Options{})
	w.start(nil)
	broken := errors.New("not now")
	w.intercept(func(ev eventlog.Event, body *eventlog.Body, real func(eventlog.Event, *eventlog.Body) promise) promise {
		if ev.Type == eventlog.MachineRegistered {
			return result{err: broken}
		}
		return real(ev, body)
	})
	wants(t, w.Register(t.Context(), "test", laptop), broken)
	_, err := w.Stat(t.Context(), laptop, Ref{Kind: eventlog.KindConfig})
	wants(t, err, ErrNoMachine)
	w.intercept(nil)
	must(t, w.Register(t.Context(), "test", laptop))
	if a := w.count(eventlog.AccountOpened); a != 1 {
		t.Fatalf("%d accounts", a)
	}
}

func TestAMachineIsReownedWithAllThatItStores(t *testing.T) {
	w := newWorld(t, Options{})
	bobs := Path{"bob", "laptop"}
	must(t, w.Register(t.Context(), "test", Path{"bob", "other"}))
	must(t, w.put(eventlog.KindData, []byte("data")))
	id := w.id(laptop)
	must(t, w.Reown(t.Context(), "operator", laptop, "bob"))
	if w.id(bobs) != id {
		t.Fatal("another machine")
	}
	_, err := w.get(ref(eventlog.KindData, []byte("data")))
	wants(t, err, ErrNoMachine)
	got, err := w.read(bobs, ref(eventlog.KindData, []byte("data")), 0, -1)
	must(t, err)
	if string(got) != "data" {
		t.Fatal("other bytes")
	}
	wants(t, w.Reown(t.Context(), "operator", laptop, "bob"), ErrNoMachine)
	must(t, w.Reown(t.Context(), "operator", bobs, "bob")) // it is there already
	must(t, w.Register(t.Context(), "test", laptop))       // the name is free again
	if w.id(laptop) == id {
		t.Fatal("the same machine")
	}
	wants(t, w.Reown(t.Context(), "operator", laptop, "bob"), ErrExists)
	wants(t, w.Reown(t.Context(), "operator", laptop, "nobody"), ErrNoMachine)
	must(t, w.Reown(t.Context(), "operator", Path{"bob", "other"}, "alice"))
	must(t, w.Reown(t.Context(), "operator", Path{"alice", "other"}, "bob"))
}

// TestReownedWhileStoringThenReprojected is the post-mortem's script: a
// machine changes hands while it stores data, and later the whole state is
// made again from the log.
func TestReownedWhileStoringThenReprojected(t *testing.T) {
	w := newWorld(t, Options{})
	must(t, w.Register(t.Context(), "test", Path{"bob", "x"}))
	ends := make(chan struct{})
	stored := make(chan int)
	go func() {
		defer close(stored)
		owners := []Path{laptop, {"bob", "laptop"}}
		for i := 0; ; i++ {
			select {
			case <-ends:
				return
			default:
			}
			content := bytesOf(i, 200)
			err := ErrNoMachine
			for turn := 0; errors.Is(err, ErrNoMachine); turn++ { // whoever owns it now
				err = w.Put(context.Background(), "test", owners[turn%2], ref(eventlog.KindData, content), bytes.NewReader(content), 200)
			}
			if err != nil {
				t.Error(err)
				return
			}
			stored <- i
		}
	}()
	for range 3 {
		<-stored
		must(t, later2(stored, func() error { return w.Reown(context.Background(), "operator", laptop, "bob") }))
		<-stored
		must(t, later2(stored, func() error { return w.Reown(context.Background(), "operator", Path{"bob", "laptop"}, "alice") }))
	}
	close(ends)
	for range stored {
	}
	w.reproject()
}

// later2 drains stored while do runs.
func later2(stored <-chan int, do func() error) error {
	result := later(do)
	for {
		select {
		case err := <-result:
			return err
		case <-stored:
		}
	}
}

// reproject makes both views again from the log and compares the digests.
func (w *world) reproject() {
	w.t.Helper()
	w.settle()
	for i, p := range []projector.Projector{projector.Machines(), projector.Blocks()} {
		fresh, err := projector.Open(w.engine, fmt.Sprintf("again-%d-%s", w.committed(), p.Name()), p, projector.Bulk, quiet)
		must(w.t, err)
		must(w.t, projector.NewRunner(fresh, quiet).CatchUp(context.Background(), &gatedSource{w.events, w.still}))
		seq, digest := fresh.Digest()
		want, wantDigest := []*projector.View{w.machines.View, w.blocks.View}[i].Digest()
		if seq != want || digest != wantDigest {
			w.t.Errorf("the %s view projected again stands at %s with %x, the live one at %s with %x", p.Name(), seq, digest, want, wantDigest)
		}
		must(w.t, fresh.Close())
	}
}

func TestAPutThatWaitedWhileItsMachineChangedHandsIsRefused(t *testing.T) {
	w := newWorld(t, Options{})
	must(t, w.Register(t.Context(), "test", Path{"bob", "x"}))
	h, err := w.take(t.Context(), machineLock(w.id(laptop), false))
	must(t, err)
	queue := func(n int) func() bool {
		return func() bool {
			w.locks.mu.Lock()
			defer w.locks.mu.Unlock()
			return len(w.locks.locks[machineLock(w.id(laptop), true).name].queue) == n
		}
	}
	reowned := later(func() error { return w.Reown(context.Background(), "operator", laptop, "bob") })
	eventually(t, "the re-owning waits", queue(1))
	put := later(func() error { return w.put(eventlog.KindData, []byte("data")) })
	removed := later(func() error { return w.remove(eventlog.KindData, []byte("data")) })
	eventually(t, "the put and the delete wait behind it", queue(3))
	h.release()
	must(t, <-reowned)
	wants(t, <-put, ErrNoMachine)
	wants(t, <-removed, ErrNoMachine)
}

func TestAPathThatNamesAnotherMachineByNowIsRefused(t *testing.T) {
	w := newWorld(t, Options{})
	must(t, w.Register(t.Context(), "test", Path{"bob", "x"}))
	before, err := w.find(laptop)
	must(t, err)
	must(t, w.refind(laptop, before))
	must(t, w.Reown(t.Context(), "operator", laptop, "bob"))
	wants(t, w.refind(laptop, before), ErrNoMachine)
	must(t, w.Register(t.Context(), "test", laptop))
	wants(t, w.refind(laptop, before), ErrNoMachine)
}
