// SPDX-License-Identifier: Apache-2.0

package projector_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"go.uber.org/goleak"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// views are both views of a server, in one engine's directories.
type views struct {
	t        testing.TB
	engine   projector.Engine
	machines *projector.MachineView
	blocks   *projector.BlockView
	runners  []*projector.Runner
	log      *modeltest.Log // for who needs it
}

func openViews(t testing.TB, engine projector.Engine, prefix string, use projector.Use) *views {
	t.Helper()
	v := &views{t: t, engine: engine}
	var err error
	if v.machines, err = projector.OpenMachineView(engine, prefix+"views/machine", use, quiet); err != nil {
		t.Fatal(err)
	}
	if v.blocks, err = projector.OpenBlockView(engine, prefix+"views/block", use, quiet); err != nil {
		t.Fatal(err)
	}
	v.runners = []*projector.Runner{projector.NewRunner(v.machines.View, quiet), projector.NewRunner(v.blocks.View, quiet)}
	t.Cleanup(v.close)
	return v
}

func (v *views) close() {
	for _, view := range []*projector.View{v.machines.View, v.blocks.View} {
		if err := view.Close(); err != nil {
			v.t.Error(err)
		}
	}
}

func (v *views) catchUp(source projector.Source) {
	v.t.Helper()
	if err := projector.CatchUp(context.Background(), source, v.runners...); err != nil {
		v.t.Fatal(err)
	}
}

// states is what a state_recorded written now would say: the digests kept
// when the last one was applied, or, the first time, those as they stand.
func (v *views) states() []eventlog.ViewState {
	var all []eventlog.ViewState
	for _, view := range []*projector.View{v.machines.View, v.blocks.View} {
		seq, digest := view.Kept()
		if seq == 0 {
			seq, digest = view.Digest()
		}
		all = append(all, eventlog.ViewState{Name: view.Name(), Version: view.Version(), Digest: digest, AsOf: seq})
	}
	return all
}

func (v *views) digests() string {
	a, da := v.machines.Digest()
	b, db := v.blocks.Digest()
	return fmt.Sprintf("machine %s %s, block %s %s", a, da, b, db)
}

// A live view, the same view rebuilt, and the model are equal after every
// event of random histories; and what the view says of the past is what it
// said then.
func TestLiveRebuiltAndModelAreEqualAtEveryStep(t *testing.T) {
	steps := 400
	if !testkit.Long() {
		steps = 100
	}
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			live := openViews(t, kv.InMemory(quiet), "", projector.Live)
			history := modeltest.NewHistory(seed, live.states)
			model := modeltest.NewModel()
			applied := 0
			for step := range steps {
				live.catchUp(history.Log)
				entries := history.Log.Entries()
				for ; applied < len(entries); applied++ {
					model.Apply(&entries[applied])
				}
				if err := model.Check(t.Context(), live.machines, live.blocks); err != nil {
					t.Fatal(err)
				}
				if step%40 == 0 {
					checkRebuilt(t, history, model, live)
				}
				history.Step()
			}
			if compared, _ := live.machines.Recorded(); compared == 0 {
				t.Error("no recorded digest was compared")
			}
		})
	}
}

func checkRebuilt(t *testing.T, history *modeltest.History, model *modeltest.Model, live *views) {
	t.Helper()
	rebuilt := openViews(t, kv.InMemory(quiet), "", projector.Bulk)
	defer rebuilt.close()
	rebuilt.catchUp(history.Log)
	if live.digests() != rebuilt.digests() {
		t.Fatalf("live %s; rebuilt %s", live.digests(), rebuilt.digests())
	}
	if err := model.Check(t.Context(), rebuilt.machines, rebuilt.blocks); err != nil {
		t.Fatal(err)
	}
	entries := history.Log.Entries()
	for _, i := range []int{0, len(entries) / 3, 2 * len(entries) / 3} {
		if err := model.CheckAsOf(t.Context(), rebuilt.blocks, entries[i].Event.Seq); err != nil {
			t.Fatal(err)
		}
	}
}
