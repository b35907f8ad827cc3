// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/projector"
)

var errKilled = errors.New("killed")

// mortal is an engine whose process dies at its last step: before the step, or
// after it and before anybody hears of it. From then on nothing works.
type mortal struct {
	projector.Engine
	left int  // steps until the last
	done bool // the last step is done
	died bool
	at   string // the last step
}

// step does what it is given, unless the process is dead.
func (m *mortal) step(name string, do func() error) error {
	if m.died {
		return errKilled
	}
	if m.left > 0 {
		m.left--
		return do()
	}
	m.died, m.at = true, name
	if m.done {
		return errors.Join(errKilled, do())
	}
	return errKilled
}

func (m *mortal) Open(dir string, use projector.Use) (projector.Store, error) {
	var store projector.Store
	err := m.step("open "+dir, func() (err error) {
		store, err = m.Engine.Open(dir, use)
		return err
	})
	if err != nil && store != nil {
		return nil, errors.Join(err, store.Close())
	}
	if err != nil {
		return nil, err
	}
	return &mortalStore{store, m}, nil
}

func (m *mortal) Exists(dir string) (there bool, err error) {
	err = m.step("look for "+dir, func() (err error) {
		there, err = m.Engine.Exists(dir)
		return err
	})
	return there, err
}

func (m *mortal) Move(from, to string) error {
	return m.step("move "+from, func() error { return m.Engine.Move(from, to) })
}

func (m *mortal) Remove(dir string) error {
	return m.step("remove "+dir, func() error { return m.Engine.Remove(dir) })
}

type mortalStore struct {
	projector.Store
	process *mortal
}

func (s *mortalStore) Ingest(ctx context.Context, names []string) error {
	return s.process.step("ingest", func() error { return s.Store.Ingest(ctx, names) })
}

func (s *mortalStore) Flush() error { return s.process.step("flush", s.Store.Flush) }

// Every step at which views are made, taken in, put in their place and looked
// at again may be the last one of a process, done or not done: the next
// process ends what it began, or the one after that.
func TestARecoveryKilledAtAnyStepIsResumed(t *testing.T) {
	for seed := range seeds(8) {
		w := newWorld(t, 2000+seed, 100)
		names := map[string]bool{}
		for step := 0; ; step++ {
			ended := true
			for _, done := range []bool{false, true} {
				opts := w.options(fmt.Sprint("new-", step, done))
				first := &mortal{Engine: w.engine, left: step, done: done}
				opts.Engine = first
				result, err := Run(t.Context(), opts)
				if !first.died {
					must(t, err)
					w.check(opts.Dir, result)
					continue
				}
				ended = false
				if !errors.Is(err, errKilled) {
					t.Fatalf("killed at step %d (%s), done %v: %v", step, first.at, done, err)
				}
				names[first.at[:4]] = true
				second := &mortal{Engine: w.engine, left: step / 2, done: !done}
				opts.Engine = second
				result, err = Run(t.Context(), opts)
				if second.died {
					opts.Engine = w.engine
					result, err = Run(t.Context(), opts)
				}
				if err != nil {
					t.Fatalf("resumed after step %d (%s), done %v, and %q: %v", step, first.at, done, second.at, err)
				}
				w.check(opts.Dir, result)
			}
			if ended {
				break
			}
		}
		for _, name := range []string{"open", "look", "move", "remo", "inge", "flus"} {
			if !names[name] {
				t.Errorf("no process was killed at %q", name)
			}
		}
	}
}

// A store that fails one call in twenty, before or after it had its effect,
// breaks off transfers, or stops for a while, makes a recovery slower, and no
// other.
func TestARecoveryGetsThroughAStoreThatFailsNowAndThen(t *testing.T) {
	for name, hooks := range map[string]func(dice func() bool) buckettest.Hooks{
		"asks for fewer requests": func(dice func() bool) buckettest.Hooks {
			return buckettest.Hooks{Before: func(context.Context, buckettest.Op, string) error {
				if dice() {
					return archiver.ErrThrottled
				}
				return nil
			}}
		},
		"loses answers": func(dice func() bool) buckettest.Hooks {
			return buckettest.Hooks{After: func(context.Context, buckettest.Op, string) error {
				if dice() {
					return buckettest.ErrInjected
				}
				return nil
			}}
		},
		"breaks off transfers": func(dice func() bool) buckettest.Hooks {
			return buckettest.Hooks{Cut: func(string) int64 {
				if dice() {
					return 5
				}
				return -1
			}}
		},
		"stops for a while": func(func() bool) buckettest.Hooks {
			var mu sync.Mutex
			var calls int
			var until time.Time
			return buckettest.Hooks{Before: func(context.Context, buckettest.Op, string) error {
				mu.Lock()
				defer mu.Unlock()
				if calls++; calls == 10 {
					until = time.Now().Add(500 * time.Millisecond)
				}
				if time.Now().Before(until) {
					return buckettest.ErrInjected
				}
				return nil
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 3000, 200)
			var mu sync.Mutex
			rng := rand.New(rand.NewPCG(1, 2))
			faulty := buckettest.NewFaulty(w.bucket)
			faulty.Set(hooks(func() bool {
				mu.Lock()
				defer mu.Unlock()
				return rng.IntN(20) == 0
			}))
			opts := w.options("new")
			opts.Archive = archiver.At(archiver.Adaptive(faulty, archiver.AdaptiveOptions{}), logID)
			result, err := Run(t.Context(), opts)
			must(t, err)
			w.check("new", result)
		})
	}
}
