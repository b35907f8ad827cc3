// SPDX-License-Identifier: Apache-2.0

package projector_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
	"github.com/strandline-project/strandline/projector/modeltest"
)

// However the rows are spread over table files, each is added once.
func TestADigestIsAddedUpFromRowsInManyFiles(t *testing.T) {
	dir := t.TempDir()
	for _, p := range []projector.Projector{projector.Machines(), projector.Blocks()} {
		history := modeltest.NewHistory(77, nil)
		view, err := projector.Open(kv.OnDisk(quiet), filepath.Join(dir, p.Name()), p, projector.Live, quiet)
		if err != nil {
			t.Fatal(err)
		}
		runner := projector.NewRunner(view, quiet)
		for step := range 240 {
			history.Step()
			if err := runner.CatchUp(t.Context(), history.Log); err != nil {
				t.Fatal(err)
			}
			if step%20 != 0 {
				continue
			}
			if err := view.Checkpoint(filepath.Join(dir, fmt.Sprint(p.Name(), step))); err != nil { // makes a file
				t.Fatal(err)
			}
			position, want := view.Digest()
			if at, rows, err := view.Recompute(t.Context()); err != nil || at != position || rows != want {
				t.Fatalf("the %s view's rows make %s at %s, want %s at %s: %v", p.Name(), rows, at, want, position, err)
			}
		}
		if err := view.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
