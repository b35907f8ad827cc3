// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// gatedRules hold the log's writer, as a disk that hangs does.
type gatedRules struct{ gate chan struct{} }

func (r gatedRules) Admit(*eventlog.Event) error { <-r.gate; return nil }

// watched is a watchdog over an app with a log that moves once per send to the
// gate. It counts what is told.
func watched(t *testing.T) (w *watchdog, log *eventlog.Log, gate chan struct{}, told *int) {
	t.Helper()
	spec, data := readArchive(t)
	cfg := defaultConfig()
	cfg.Data, cfg.Archive, cfg.NoAuth = data, spec, true
	cfg.Listen, cfg.Admin = "127.0.0.1:0", "127.0.0.1:0"
	a := newApp(&cfg, slog.New(slog.DiscardHandler))
	if err := a.open(t.Context()); err != nil {
		t.Fatal(errors.Join(err, a.closeAll()))
	}
	gate = make(chan struct{})
	log, err := eventlog.Open(eventlog.Options{
		Dir: t.TempDir(), Spool: filepath.Join(t.TempDir(), "spool"), Rules: gatedRules{gate},
		Head: eventlog.Head{LogID: eventlog.ID{1}, Writer: eventlog.ID{2}, Epoch: 1}, NextOrdinal: 1,
	})
	if err != nil {
		t.Fatal(errors.Join(err, a.closeAll()))
	}
	a.reading, a.readStore = log, a.newStore(log)
	t.Cleanup(func() {
		if err := errors.Join(log.Close(false), a.closeAll()); err != nil {
			t.Error(err)
		}
	})
	told = new(int)
	return &watchdog{app: a, tell: func(string) { *told++ }}, log, gate, told
}

// pass lets one event through, which is to be p.
func pass(t *testing.T, gate chan struct{}, p *eventlog.Pending) {
	t.Helper()
	select {
	case gate <- struct{}{}:
	case <-p.Done():
		_, err := p.Wait()
		close(gate)
		t.Fatalf("it was not asked for: %v", err)
	}
}

// As long as the log moves, the service manager hears it; when all that waited
// waits still, it hears nothing, until the log moves again.
func TestALogThatIsStuckIsNotKeptAlive(t *testing.T) {
	w, log, gate, told := watched(t)
	look := func(when string, want int) {
		t.Helper()
		if w.look(); *told != want {
			t.Errorf("%s: told %d times, want %d", when, *told, want)
		}
	}
	note := func() *eventlog.Pending {
		return log.Append(eventlog.Event{Type: eventlog.AccountOpened, Name: "alice", Actor: "operator"}, nil)
	}
	look("nothing waits", 1)
	look("nothing waits still", 2)
	first, second := note(), note()
	look("something waits since now", 3)
	pass(t, gate, first)
	pass(t, gate, second)
	<-first.Done()
	<-second.Done()
	third := note()
	look("something was committed, something else waits", 4)
	look("it is stuck", 4)
	fourth := note() // which does not make it move
	look("it is stuck and more comes", 4)
	pass(t, gate, third)
	pass(t, gate, fourth)
	<-third.Done()
	<-fourth.Done()
	look("it moves again", 5)
	close(gate)
	look("nothing waits at the end", 6)
}

// A server that does not answer its own questions is not kept alive, though its
// log has nothing to do.
func TestAServerThatDoesNotAnswerIsNotKeptAlive(t *testing.T) {
	w, _, gate, told := watched(t)
	close(gate)
	w.app.mu.Lock()
	w.look()
	w.app.mu.Unlock()
	if *told != 0 {
		t.Error("it is said to work")
	}
	if w.look(); *told != 1 {
		t.Error("it works again, and is not said to")
	}
}

// The looks come four times within the time that the service manager waits, and
// end when they are called off.
func TestTheWatchdogLooksAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		w := &watchdog{app: newApp(&Config{}, slog.New(slog.DiscardHandler)), tell: func(string) { told++ }}
		ctx, stop := context.WithCancel(t.Context())
		go w.run(ctx, time.Minute/looks)
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		stop()
		synctest.Wait()
		time.Sleep(time.Hour)
		if told != looks+1 {
			t.Errorf("told %d times in the time of %d", told, looks)
		}
	})
}
