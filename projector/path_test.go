// SPDX-License-Identifier: Apache-2.0

package projector_test

import (
	"flag"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

// calledBy reports whether function is among the callers.
func calledBy(function string) bool {
	var callers [64]uintptr
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers[:])])
	for {
		frame, more := frames.Next()
		if strings.HasSuffix(frame.Function, function) {
			return true
		}
		if !more {
			return false
		}
	}
}

// Live projection, start-up, recovery and rebuild are one path: every event
// that reaches a projector comes through the function project.
func TestLiveStartRecoveryAndRebuildAreOnePath(t *testing.T) {
	h := randomLog(1, 50)
	var through, past atomic.Int64
	p := shell{projector.Machines(), func(*eventlog.Entry) error {
		if calledBy("/projector.project") {
			through.Add(1)
		} else {
			past.Add(1)
		}
		return nil
	}}
	paths := map[string]func(t *testing.T){
		"live": func(t *testing.T) {
			_, r := openRunner(t, p)
			stop := run(t, r, h.Log)
			if err := r.WaitApplied(t.Context(), h.Log.Last()); err != nil {
				t.Error(err)
			}
			stop()
		},
		"start": func(t *testing.T) {
			_, r := openRunner(t, p)
			if err := r.CatchUp(t.Context(), h.Log); err != nil {
				t.Error(err)
			}
		},
		"recovery": func(t *testing.T) { // internal/recovery builds its views by this
			l := projector.Load{
				Engine: kv.InMemory(quiet), Dir: "views", Scratch: t.TempDir(), Input: "the log", Upto: h.Log.Last(),
				Projectors: []projector.Projector{p, projector.Blocks()}, Log: quiet,
			}
			if _, err := l.Run(t.Context(), h.Log); err != nil {
				t.Error(err)
			}
		},
		"recovery of what lies behind a checkpoint, or several views at a start": func(t *testing.T) {
			_, first := openRunner(t, p)
			_, second := openRunner(t, projector.Blocks())
			if err := projector.CatchUp(t.Context(), h.Log, first, second); err != nil {
				t.Error(err)
			}
		},
		"rebuild": func(t *testing.T) {
			if _, _, err := projector.Rebuild(t.Context(), kv.InMemory(quiet), "machine", t.TempDir(), p, h.Log, 0, quiet); err != nil {
				t.Error(err)
			}
		},
	}
	for name, bring := range paths {
		t.Run(name, func(t *testing.T) {
			through.Store(0)
			bring(t)
			if n := int64(len(h.Log.Entries())); through.Load() != n || past.Load() != 0 {
				t.Errorf("%d of %d events came through project, %d by another way", through.Load(), n, past.Load())
			}
		})
	}
}

// Whatever happens in whatever order (events of every type, a loss with bars,
// a view closed and opened, a power cut, a rebuild that takes its place), the
// views are the model.
func TestAnyOrderOfEventsCrashesAndRebuilds(t *testing.T) {
	if !testkit.Long() {
		checks := flag.Lookup("rapid.checks")
		before := checks.Value.String()
		t.Cleanup(func() { checks.Value.Set(before) })
		checks.Value.Set("15")
	}
	rapid.Check(t, func(rt *rapid.T) {
		files := vfs.NewCrashableMem()
		v := openViews(t, kv.On(files, quiet), "", projector.Live)
		defer func() { v.close() }()
		states := func() []eventlog.ViewState {
			v.catchUp(v.log)
			return v.states()
		}
		h := modeltest.NewHistory(rapid.Uint64().Draw(rt, "seed"), states)
		v.log = h.Log
		model, applied := modeltest.NewModel(), 0
		reopen := func() {
			log := v.log
			v = openViews(t, kv.On(files, quiet), "", projector.Live)
			v.log = log
		}
		rt.Repeat(map[string]func(*rapid.T){
			"events": func(rt *rapid.T) {
				for range rapid.IntRange(1, 12).Draw(rt, "n") {
					h.Step()
				}
			},
			"lose":   func(*rapid.T) { h.Start(true) },
			"reopen": func(*rapid.T) { v.close(); reopen() },
			"power": func(rt *rapid.T) {
				percent := rapid.SampledFrom([]int{0, 50, 100}).Draw(rt, "percent")
				clone := files.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "cut"), 1))})
				v.close()
				files = clone
				reopen()
			},
			"rebuild": func(rt *rapid.T) {
				v.close()
				if _, _, err := projector.Rebuild(t.Context(), kv.On(files, quiet), "views/block", t.TempDir(), projector.Blocks(), h.Log, 0, quiet); err != nil {
					rt.Fatal(err)
				}
				reopen()
			},
			"": func(rt *rapid.T) {
				v.catchUp(h.Log)
				for entries := h.Log.Entries(); applied < len(entries); applied++ {
					model.Apply(&entries[applied])
				}
				if err := model.Check(t.Context(), v.machines, v.blocks); err != nil {
					rt.Fatal(err)
				}
			},
		})
	})
}
