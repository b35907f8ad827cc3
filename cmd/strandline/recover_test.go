// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestARecoveryThatDoesNotFitOnTheDiskIsRefusedUnlessItIsTold(t *testing.T) {
	data := filepath.Join(t.TempDir(), "not", "yet", "there")
	var asked recoverFlags
	room := asked.roomAt(data)
	if err := room(1); err != nil {
		t.Errorf("one byte: %v", err)
	}
	err := room(1 << 60)
	if exitCode(err) != exitRefused || !strings.Contains(err.Error(), data) || !strings.Contains(err.Error(), "--skip-disk-check") {
		t.Errorf("too much: %v, code %d", err, exitCode(err))
	}
	asked.skipDisk = true
	if asked.roomAt(data) != nil {
		t.Error("the disk is asked for all the same")
	}
}
