// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"log/slog"
	"os"
	"testing"

	"github.com/strandline-project/strandline/projector"
)

// Views were emptied to be built, and cannot be opened again, as on a full disk:
// nothing is known to be applied then, and the next try opens them.
func TestViewsThatCannotBeOpenedAgainHaveAppliedNothing(t *testing.T) {
	v, err := openViews(t.TempDir(), projector.Live, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, view := range v.views() {
		if err := v.forget(view); err != nil {
			t.Fatal(err)
		}
	}
	inTheWay := v.path(projector.Machines().Name())
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := v.open(); err == nil {
		t.Fatal("a file was opened as a view")
	}
	if seq := v.Applied(); seq != 0 {
		t.Errorf("%s is applied", seq)
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := v.open(); err != nil {
		t.Error(err)
	}
}
