// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strandline-project/strandline/internal/recovery"
)

func TestARecoveryThatDoesNotFitOnTheDiskIsRefusedUnlessItIsTold(t *testing.T) {
	data := filepath.Join(t.TempDir(), "not", "yet", "there")
	var asked recoverFlags
	room := asked.roomAt(data, "--data")
	if err := room(1); err != nil {
		t.Errorf("one byte: %v", err)
	}
	err := room(1 << 60)
	if exitCode(err) != exitRefused || !strings.Contains(err.Error(), data) || !strings.Contains(err.Error(), "--skip-disk-check") {
		t.Errorf("too much: %v, code %d", err, exitCode(err))
	}
	asked.skipDisk = true
	if asked.roomAt(data, "--data") != nil {
		t.Error("the disk is asked for all the same")
	}
}

// What builds views asks for room where they are to be, and names the flag that
// says where, if there is one.
func TestWhatBuildsViewsIsRefusedWithoutRoom(t *testing.T) {
	spec := "dir:" + filepath.Join(t.TempDir(), "archive")
	if _, err := execute(t, "bench", "archive", "--archive", spec, "--events", "2000", "--seed", "1"); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(t.TempDir(), "data")
	if _, err := execute(t, "recover", "--archive", spec, "--data", data); err != nil {
		t.Fatal(err)
	}
	ask := statfs
	defer func() { statfs = ask }()
	statfs = func(path string, disk *unix.Statfs_t) error {
		err := ask(path, disk)
		disk.Bavail = 1
		return err
	}
	scratch, aside := t.TempDir(), filepath.Join(t.TempDir(), "aside")
	for _, test := range []struct {
		command []string
		remedy  string
	}{
		{[]string{"recover", "--check-all", "--archive", spec, "--scratch", scratch}, "with --scratch, or go on all the same with --skip-disk-check"},
		{[]string{"compare", spec, spec + "@1.1000", "--scratch", scratch}, "with --scratch"},
		{[]string{"rebuild", "--archive", spec, "--view", "block", "--to", aside}, "with --to"},
		{[]string{"rebuild", "--data", data, "--view", "block"}, "make room; nothing was changed"},
	} {
		if out, err := execute(t, test.command...); exitCode(err) != exitRefused || !strings.HasSuffix(err.Error(), test.remedy) {
			t.Errorf("%s: %v, code %d, want %q\n%s", test.command[0], err, exitCode(err), test.remedy, out)
		}
	}
	if left, err := filepath.Glob(filepath.Join(scratch, "*")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if _, err := execute(t, "recover", "--check-all", "--archive", spec, "--scratch", scratch, "--skip-disk-check"); err != nil {
		t.Errorf("all the same: %v", err)
	}
}

// What a recovery from a checkpoint takes is its files and its tail's part.
func TestAPlanIsOfTheRecoveryFromTheCheckpointToo(t *testing.T) {
	p := estimate{Events: 1000, Read: 4e9, PerSecond: 50, Listing: 2, Tail: 250, FromRate: 1e8, Checkpoint: &recovery.Checkpoint{Bytes: 2e9, Files: 1000}}
	sample := recovery.Sampled{Events: 100, Seconds: 2, VerifySeconds: 0.5, Tail: 10, TailSeconds: 1}
	p.fromCheckpoint(&sample, 8000, &prices{gets: 1, bytes: 0.5})
	if p.FromRead != 3e9 || p.FromRequests != 2000+1000 || p.FromDollars != 3+1.5 {
		t.Errorf("%+v", p)
	}
	if want := 2. + 20 + 5 + 25; p.FromSeconds != want { // list, transfer, verify all, look the tail up
		t.Errorf("%v s, want %v", p.FromSeconds, want)
	}
	p.FromRate, sample.Tail = 0, 0 // nothing was read, no tail was tried: infinity is no JSON
	if p.fromCheckpoint(&sample, 8000, &prices{}); p.FromSeconds != 2+5+5 {
		t.Errorf("%+v", p)
	}
}
