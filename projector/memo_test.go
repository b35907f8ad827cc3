// SPDX-License-Identifier: Apache-2.0

package projector_test

import (
	"fmt"
	"path/filepath"
	"reflect"
	"sync"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

// What the machine view remembers is what its rows say, once it stands at the
// event that changed them, whoever asked before and meanwhile.
func TestWhatIsRememberedIsWhatTheRowsSay(t *testing.T) {
	machines, err := projector.OpenMachineView(kv.OnDisk(quiet), filepath.Join(t.TempDir(), "machine"), projector.Live, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := machines.Close(); err != nil {
			t.Error(err)
		}
	}()
	history, runner := modeltest.NewHistory(31, nil), projector.NewRunner(machines.View, quiet)
	ask := func(v *projector.MachineView, account, machine eventlog.Seq) string {
		locks, err1 := v.Locks(t.Context(), machine)
		since, barred, err2 := v.Barred(machine)
		id, there, err3 := v.MachineByName(account, "late")
		other, opened, err4 := v.AccountByName("late")
		for _, err := range []error{err1, err2, err3, err4} {
			if err != nil {
				t.Error(err)
			}
		}
		return fmt.Sprint(locks, since, barred, id, there, other, opened)
	}
	account := history.Open("alice")
	machine := history.Register(account, "laptop")
	stop, asking := make(chan struct{}), sync.WaitGroup{}
	for range 2 {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					ask(machines, account, machine)
				}
			}
		})
	}
	seen := map[string]bool{}
	for i, change := range []func(){
		func() {},
		func() { history.Store(machine, eventlog.KindLock, []byte("lock"), 5, false) },
		func() { history.Store(machine, eventlog.KindLock, []byte("other"), 5, false) },
		func() { history.Delete(machine, eventlog.KindLock, []byte("lock")) },
		func() { history.Register(account, "late") },
		func() { history.Open("late") },
		func() { history.Start(true) },
		func() { history.Release(machine) },
	} {
		change()
		if err := runner.CatchUp(t.Context(), history.Log); err != nil {
			t.Fatal(err)
		}
		got, want := ask(machines, account, machine), ask(&projector.MachineView{View: machines.View}, account, machine)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("after change %d: %s, the rows say %s", i, got, want)
		}
		seen[got] = true
	}
	close(stop)
	asking.Wait()
	if len(seen) != 7 { // released, it is as it was before the bar
		t.Errorf("%d different answers, want 7: %v", len(seen), seen)
	}
	for i := range 3 * 4096 { // names that are not there do not fill the memory, and are not there afterwards either
		if _, there, err := machines.AccountByName(fmt.Sprint("nobody", i)); there || err != nil {
			t.Fatal(there, err)
		}
	}
}
