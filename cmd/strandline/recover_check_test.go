// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// checked is what recover --check-all --json prints.
type checked struct {
	checkResult
	Violations []foundViolation `json:"violations"`
}

// However many events break a rule, of each it is told what later ones say.
func TestOfEveryViolationItIsToldWhatLaterEventsSay(t *testing.T) {
	const moves = 50
	spec := "dir:" + filepath.Join(t.TempDir(), "archive")
	if _, err := execute(t, "init", "--data", filepath.Join(t.TempDir(), "data"), "--archive", spec); err != nil {
		t.Fatal(err)
	}
	var machine eventlog.Seq
	extendArchiveBy(t, spec, func(next eventlog.Seq) []eventlog.Event {
		alice, bob := next, next+1
		machine = next + 2 + moves
		events := []eventlog.Event{{Type: eventlog.AccountOpened, Account: alice, Name: "alice"}, {Type: eventlog.AccountOpened, Account: bob, Name: "bob"}}
		for range moves { // a machine that is registered further on
			events = append(events, eventlog.Event{Type: eventlog.MachineReowned, Account: bob, Machine: machine, Name: "laptop", From: alice, To: bob, Previous: alice})
		}
		return append(events, eventlog.Event{Type: eventlog.MachineRegistered, Account: alice, Machine: machine, Name: "laptop"})
	})
	scratch := t.TempDir()
	out, err := execute(t, "recover", "--check-all", "--archive", spec, "--scratch", scratch, "--json")
	var found checked
	if json.Unmarshal([]byte(out), &found) != nil || exitCode(err) != exitDamage || len(found.Violations) != moves || found.Cut != 0 {
		t.Fatalf("%d violations, %d cut, %v\n%s", len(found.Violations), found.Cut, err, out)
	}
	for i, v := range found.Violations {
		if v.Seq != machine-moves+eventlog.Seq(i) || v.Rule != projector.RuleMachine.String() || !strings.Contains(v.Detail, "; later events: ") || strings.Contains(v.Detail, "none of") ||
			!strings.Contains(v.Detail, "; machine "+machine.String()) || !strings.Contains(v.Detail, "; the event lies in log/") {
			t.Errorf("%+v", v)
		}
	}
	if last := found.Violations[moves-1].Detail; !strings.Contains(last, machine.String()+" machine_registered registers machine "+machine.String()) {
		t.Errorf("of the last it is told: %s", last)
	}
	whole, err := json.MarshalIndent(found, "", "  ")
	if err != nil || out != string(whole)+"\n" {
		t.Errorf("%v\n%s\nis not as it would be printed in one piece:\n%s", err, out, whole)
	}
	text, err := execute(t, "recover", "--check-all", "--archive", spec, "--scratch", scratch)
	if exitCode(err) != exitDamage || strings.Count(text, "; later events: ") != moves || strings.Count(text, "  to go on past it: --waive known-machine@1.") != moves ||
		!strings.Contains(text, fmt.Sprintf("%d break a rule\n", moves)) || strings.Contains(text, "note: ") {
		t.Errorf("%v\n%s", err, text)
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// What is found by several views is listed in the order of the log.
func TestWhatViewsFindIsPutInTheOrderOfTheLog(t *testing.T) {
	f := &found{dir: t.TempDir(), views: map[string]*spill[projector.Violation]{}}
	var want []string
	for i := range eventlog.Seq(20) {
		for _, view := range []string{"block", "machine"} {
			if i%3 == 0 && view == "block" || i%5 == 0 {
				want = append(want, fmt.Sprintf("%d %s", i, view))
			}
		}
	}
	for _, view := range []string{"machine", "block"} {
		for _, line := range want {
			var v projector.Violation
			if _, err := fmt.Sscan(line, &v.Seq, &v.View); err != nil {
				t.Fatal(err)
			}
			v.Block, v.Detail, v.Err = []byte{0, byte(v.Seq)}, "detail of "+line, os.ErrInvalid
			if v.View == view && !f.tolerate(&v) {
				t.Fatal(f.err)
			}
		}
	}
	for range 2 { // it can be read again
		at := 0
		for v, err := range f.all() {
			if err != nil || fmt.Sprintf("%d %s", v.Seq, v.View) != want[at] || v.Detail != "detail of "+want[at] || v.Block[1] != byte(v.Seq) {
				t.Errorf("number %d is %+v, %v", at, v, err)
			}
			at++
		}
		if at != len(want) {
			t.Errorf("%d of %d", at, len(want))
		}
	}
	if err := f.close(); err != nil {
		t.Error(err)
	}
	for _, err := range f.all() {
		if err == nil {
			t.Error("a file that is gone is read")
		}
	}
	// What cannot be kept stops the view: nothing that is found is left out.
	f = &found{dir: filepath.Join(f.dir, "missing"), views: map[string]*spill[projector.Violation]{}}
	if f.tolerate(&projector.Violation{View: "block"}) || f.err == nil {
		t.Error("what cannot be kept is gone on past")
	}
}

// That not all later events were looked at is said.
func TestThatLaterEventsWereCutIsSaid(t *testing.T) {
	violations, err := newSpill[foundViolation](filepath.Join(t.TempDir(), "told"))
	if err != nil {
		t.Fatal(err)
	}
	r := &checkResult{Archive: "dir:a", Cut: 3, violations: violations}
	var text, doc strings.Builder
	if err := r.print(&text, false); err != nil || !strings.Contains(text.String(), "note: of 3 of them not all later events were looked at") {
		t.Errorf("%v\n%s", err, text.String())
	}
	var found checked
	if err := r.print(&doc, true); err != nil || json.Unmarshal([]byte(doc.String()), &found) != nil || found.Cut != 3 || found.Violations == nil {
		t.Errorf("%v\n%s", err, doc.String())
	}
	if err := violations.close(); err != nil {
		t.Error(err)
	}
}
