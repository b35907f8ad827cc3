// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeRestic is a shell script in place of restic.
func fakeRestic(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "restic")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// nowhere is a peer without a server.
func nowhere(name string) Peer {
	return Peer{Name: name, Start: func(context.Context, string) (*Instance, error) {
		return &Instance{Repository: "nowhere", PID: os.Getpid(), Stop: func() error { return nil }}, nil
	}}
}

// What restic does wrong ends the run: its figures would say nothing.
func TestAWrongRestoreIsNoResult(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"it restores nothing":       {`exit 0`, "no such file"},
		"it restores too little":    {`[ "$1" = restore ] && mkdir "$6"; exit 0`, "something else than was backed up: 0 files"},
		"the repository is refused": {`[ "$1" = init ] && { echo no key; exit 1; }; exit 0`, "no key"},
	} {
		dir := t.TempDir()
		_, err := RunRestic(t.Context(), ResticPlan{Program: fakeRestic(t, c.script), Peers: []Peer{nowhere("x")}, Source: someFiles, Dir: dir})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A run with a restic that copies: each round begins with the same files, each
// peer has a repository of its own, and nothing of a turn is left.
func TestEachTurnDoesTheSame(t *testing.T) {
	copies := fakeRestic(t, `
repo=$TMPDIR/repo
case "$1" in
init) mkdir "$repo" ;; # fails if it is there
backup) rm -rf "$repo/$3"; cp -r . "$repo/$3" ;;
restore) cp -r "$repo/$4" "$6" ;;
version) echo restic 1 ;;
esac`)
	dir := t.TempDir()
	var turns []string
	plan := ResticPlan{Program: copies, Peers: []Peer{nowhere("a"), nowhere("b")}, Beside: map[string]string{"b": "a"}, Source: someFiles, Rounds: 2, Dir: dir,
		Progress: func(text string) { turns = append(turns, text) }}
	report, err := RunRestic(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	if report.Restic != "restic 1" || len(report.Rows) != 7 || len(turns) != 1+2*2*7 || !strings.HasPrefix(turns[8], "b: backup small, round 1 of 2") {
		t.Errorf("%q: %d rows; %q", report.Restic, len(report.Rows), turns)
	}
	for _, row := range report.Rows {
		for i, rounds := range row.Results {
			if len(rounds) != 2 || rounds[0].Seconds <= 0 || rounds[1].Seconds <= 0 || rounds[0].Server == nil || rounds[0].Server.PeakRSS == 0 || rounds[0].Traffic != nil {
				t.Errorf("%s with %s: %+v", row.Step, report.Peers[i], rounds)
			}
		}
	}
	plan.Until, plan.Dir = "backup large", t.TempDir()
	if part, err := RunRestic(t.Context(), plan); err != nil || len(part.Rows) != 2 {
		t.Errorf("until the second step: %d (%v)", len(part.Rows), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("beside the source there is %v (%v)", left, err)
	}
}

func TestTheTableOfResticComparesPeersWithTheServerBesideThem(t *testing.T) {
	report := ResticReport{Restic: "restic 1", Peers: []string{"strandline", "rclone", "on MinIO", "restic on MinIO"},
		Beside: map[string]string{"rclone": "strandline", "restic on MinIO": "on MinIO"}}
	use := &Use{CPU: 1.5, PeakRSS: 5 << 20, Written: 7 << 20}
	for i, seconds := range []float64{1, 4, 2, 3} {
		f := Figures{Seconds: seconds, ResticCPU: 0.5}
		if i != 3 {
			f.Server = use
		}
		if i > 1 {
			f.Store, f.Traffic = use, &Traffic{Requests: 11, Received: 3 << 20, Sent: 1 << 20}
		}
		report.add("backup", i, f)
		f.Seconds += 2
		report.add("backup", i, f)
	}
	var table bytes.Buffer
	if err := report.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"backup strandline 2.00 s 0.50 s 1.50 s 5.0 MiB 7.0 MiB 1.00-3.00 s",
		"rclone 5.00 s 0.50 s 1.50 s 5.0 MiB 7.0 MiB 4.00-6.00 s 2.50 x",
		"on MinIO 3.00 s 0.50 s 1.50 s 5.0 MiB 1.50 s 5.0 MiB 14.0 MiB 11 3.0 MiB 1.0 MiB 2.00-4.00 s",
		"restic on MinIO 4.00 s 0.50 s 1.50 s 5.0 MiB 7.0 MiB 11 3.0 MiB 1.0 MiB 3.00-5.00 s 1.33 x",
	} {
		line := strings.Split(table.String(), "\n")[i+2]
		if got := strings.Join(strings.Fields(line), " "); got != want {
			t.Errorf("%q\nwant %q", got, want)
		}
	}
}
