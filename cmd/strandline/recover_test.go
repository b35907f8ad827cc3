// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/internal/recovery"
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

// What a recovery from a checkpoint takes is its files and its tail's part.
func TestAPlanIsOfTheRecoveryFromTheCheckpointToo(t *testing.T) {
	p := recoverPlan{Events: 1000, Read: 4e9, PerSecond: 50, Tail: 250, FromRate: 1e8, Checkpoint: &recovery.Checkpoint{Bytes: 2e9, Files: 1000}}
	p.fromCheckpoint(8000, &prices{gets: 1, bytes: 0.5})
	if p.FromRead != 3e9 || p.FromRequests != 2000+1000 || p.FromDollars != 3+1.5 || p.FromSeconds != 20+5 {
		t.Errorf("%+v", p)
	}
	p.FromRate = 0 // nothing was read: infinity is no JSON
	if p.fromCheckpoint(8000, &prices{}); p.FromSeconds != 5 {
		t.Errorf("%+v", p)
	}
}
