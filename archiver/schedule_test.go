// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/internal/testkit"
)

// player is a server that stops for a while before or after one of its calls
// of the bucket, as a process that sleeps or a packet that is slow.
type player struct {
	s       *server
	pause   atomic.Int64 // stop at this half of a call; an even number is before one
	halves  atomic.Int64 // of the calls so far
	asleep  atomic.Bool
	resume  chan struct{}
	done    chan error
	playing bool
}

func newPlayer(s *server, pause int) *player {
	p := &player{s: s, resume: make(chan struct{}), done: make(chan error, 1)}
	p.pause.Store(int64(pause))
	half := func(_ context.Context, op buckettest.Op, _ string) error {
		if op == buckettest.Get { // that changes nothing, and some run side by side
			return nil
		}
		if p.halves.Add(1) == p.pause.Load()+1 {
			p.asleep.Store(true)
			<-p.resume
		}
		return nil
	}
	s.bucket.Set(buckettest.Hooks{Before: half, After: half})
	return p
}

// play runs script until it ends or the player falls asleep.
func (p *player) play(script func(*server) error) {
	p.playing = true
	go func() { p.done <- script(p.s) }()
	p.settle()
}

// settle waits until the player is asleep or at the end.
func (p *player) settle() {
	for range 1000 {
		synctest.Wait()
		if p.asleep.Load() || len(p.done) == 1 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	p.s.w.t.Fatalf("a server makes no progress")
}

// wake lets the player go on, to its end, without falling asleep any more.
func (p *player) wake() {
	p.pause.Store(-1)
	if p.asleep.Swap(false) {
		p.resume <- struct{}{}
		p.settle()
	}
}

// result is how the script ended.
func (p *player) result() error {
	if !p.playing {
		return nil
	}
	p.playing = false
	return <-p.done
}

// takeOverAndServe is the life of a server that claims the log.
func takeOverAndServe(s *server) error {
	if err := s.start(true); err != nil {
		return err
	}
	return serveABit(s)
}

// serveABit commits twice, and waits for the archive.
func serveABit(s *server) error {
	for range 2 {
		if _, err := s.append(someBlock, "a block"); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		err := s.waitWithin(ctx)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// finish lets every server that still thinks that it owns the log find out,
// and checks that at most one does.
func (w *world) finish(players ...*player) {
	w.t.Helper()
	time.Sleep(time.Minute)
	synctest.Wait()
	owners := 0
	for _, p := range players {
		err := p.result()
		if err != nil && !errors.Is(err, archiver.ErrFenced) && !errors.Is(err, archiver.ErrTakeOver) {
			w.t.Fatalf("a server ended with %v", err)
		}
		if w.running[p.s] && p.s.log.Err() == nil {
			owners++
			p.s.check()
		}
	}
	if owners > 1 {
		w.t.Fatalf("%d servers own the log", owners)
	}
	w.archive()
	w.endAll()
}

func TestTwoServersThatSleepAtAnyCallNeverBothArchive(t *testing.T) {
	for name, first := range map[string]struct {
		make   func(w *world) *server
		script func(*server) error
	}{
		"a zombie": {script: serveABit, make: func(w *world) *server {
			s := w.first()
			s.mustStart(false)
			s.lock(machine)
			s.wait()
			return s
		}},
		"a zombie of a lost disk that takes over": {script: takeOverAndServe, make: func(w *world) *server {
			lostMachine(w)
			return w.recovered()
		}},
		"a restart with a backlog": {script: takeOverAndServe, make: killed},
	} {
		t.Run(name, func(t *testing.T) {
			for pause, more := 0, true; more && !t.Failed(); pause++ {
				inWorld(t, func(w *world) {
					w.t = annotated{w.t, fmt.Sprintf("asleep at half call %d", pause)}
					slow := newPlayer(first.make(w), pause)
					slow.play(first.script)
					more = slow.asleep.Load()
					quick := newPlayer(w.recovered(), -1)
					quick.play(takeOverAndServe)
					slow.wake()
					w.finish(slow, quick)
				})
			}
		})
	}
}

func TestTwoClaimersThatSleepAtAnyCallNeverBothServe(t *testing.T) {
	step := 3
	if testkit.Long() {
		step = 1
	}
	for one, more := 0, true; more; one += step {
		for two, moreTwo := 0, true; moreTwo; two += step {
			for _, swapped := range []bool{false, true} {
				inWorld(t, func(w *world) {
					w.t = annotated{w.t, fmt.Sprintf("asleep at half calls %d and %d, swapped %t", one, two, swapped)}
					more, moreTwo = twoClaimers(w, one, two, swapped)
				})
				if t.Failed() {
					return
				}
			}
		}
	}
}

// twoClaimers lets a dead server that comes back and one on a new directory
// claim a log, each asleep at a call of its own. It tells whether there was
// such a call.
func twoClaimers(w *world, one, two int, swapped bool) (slept, bothSlept bool) {
	dead := lostMachine(w)
	first, second := newPlayer(dead, one), newPlayer(w.recovered(), two)
	first.play(takeOverAndServe)
	slept = first.asleep.Load()
	second.play(takeOverAndServe)
	bothSlept = second.asleep.Load()
	players := []*player{first, second}
	if swapped {
		slices.Reverse(players)
	}
	for _, p := range players {
		p.wake()
	}
	w.finish(players...)
	return slept, bothSlept
}
