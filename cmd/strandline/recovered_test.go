// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/dir"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/drill"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/internal/testkit"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

// brokenArchive makes an archive whose second object opens an account twice,
// with event 1.4, and a third time with 1.6.
func brokenArchive(t *testing.T) (spec string) {
	t.Helper()
	spec = "dir:" + filepath.Join(t.TempDir(), "archive")
	if _, err := execute(t, "init", "--data", filepath.Join(t.TempDir(), "data"), "--archive", spec); err != nil {
		t.Fatal(err)
	}
	extendArchive(t, spec, "alice", "alice", "bob", "bob", "carol")
	return spec
}

// extendArchive puts an object that opens accounts behind an archive's last.
func extendArchive(t *testing.T, spec string, names ...string) {
	t.Helper()
	extendArchiveBy(t, spec, func(next eventlog.Seq) (events []eventlog.Event) {
		for i, name := range names {
			events = append(events, eventlog.Event{Type: eventlog.AccountOpened, Account: next + eventlog.Seq(i), Name: name})
		}
		return events
	})
}

// extendArchiveBy puts an object with events that have no payload behind an
// archive's last; next is the seq that the first of them gets.
func extendArchiveBy(t *testing.T, spec string, make func(next eventlog.Seq) []eventlog.Event) {
	t.Helper()
	bucket, err := dir.Open(spec)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := archiver.Open(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := archive.Objects(t.Context(), 1)
	if err != nil || len(objects) == 0 {
		t.Fatalf("%v, %v", objects, err)
	}
	trailer, _, err := archive.Metadata(t.Context(), objects[len(objects)-1])
	if err != nil {
		t.Fatal(err)
	}
	var entries []eventlog.Entry
	events := make(trailer.Last + 1)
	for i, e := range events {
		e.Seq, e.Time, e.Actor = trailer.Last+1+eventlog.Seq(i), time.Now().UnixNano(), "anonymous"
		entries = append(entries, eventlog.Entry{Event: e, Raw: eventlog.AppendEvent(nil, &e)})
	}
	next := *trailer
	ordinal := trailer.LastOrdinal + 1
	next.FirstOrdinal, next.LastOrdinal, next.First, next.Last = ordinal, ordinal, trailer.Last+1, trailer.Last+eventlog.Seq(len(events))
	next.PayloadSum = eventlog.Checksum([]byte(eventlog.ObjectMagic))
	object := eventlog.AppendMetadata([]byte(eventlog.ObjectMagic), &next, entries, nil, 0)
	err = bucket.PutIfAbsent(t.Context(), archiver.Shipped(ordinal).Key(), archiver.Body{Bytes: object, Size: int64(len(object)), Checksum: eventlog.Checksum(object)})
	if err != nil {
		t.Fatal(err)
	}
}

// What breaks a rule is listed in one pass, stops a recovery, and is gone on
// past by its waiver alone; the server that follows says so in the log.
func TestAWaiverIsNarrowAndIsItselfAnEvent(t *testing.T) {
	spec := brokenArchive(t)
	out, err := execute(t, "recover", "--check-all", "--archive", spec, "--json")
	var checked checked
	if json.Unmarshal([]byte(out), &checked) != nil || exitCode(err) != exitDamage || len(checked.Violations) != 2 {
		t.Fatalf("%v\n%s", err, out)
	}
	first, second := checked.Violations[0], checked.Violations[1]
	if first.Seq.String() != "1.4" || second.Seq.String() != "1.6" || first.Waive != first.Rule+"@1.4" {
		t.Errorf("%+v", checked.Violations)
	}
	if !strings.Contains(first.Detail, "later events: ") {
		t.Errorf("what later events say is not told: %s", first.Detail)
	}
	data := filepath.Join(t.TempDir(), "data")
	plan := []string{"recover", "--plan", "--data", data, "--archive", spec}
	if out, err := execute(t, plan...); exitCode(err) != exitDamage || !strings.Contains(out, "BROKEN") || !strings.Contains(out, "1.4") || !strings.Contains(out, "none is missing") {
		t.Errorf("planned without a waiver: %v\n%s", err, out)
	}
	if out, err := execute(t, append(plan, "--waive", first.Waive, "--waive", second.Waive)...); err != nil || strings.Contains(out, "BROKEN") || !strings.Contains(out, "sampled") {
		t.Errorf("planned with waivers: %v\n%s", err, out)
	}
	recover := func(more ...string) error {
		_, err := execute(t, append([]string{"recover", "--data", data, "--archive", spec}, more...)...)
		return err
	}
	if err := recover(); exitCode(err) != exitDamage || !strings.Contains(err.Error(), "1.4") {
		t.Errorf("without a waiver: %v", err)
	}
	if err := recover("--waive", first.Waive); exitCode(err) != exitDamage || !strings.Contains(err.Error(), "1.6") {
		t.Errorf("with the first alone: %v", err)
	}
	if err := recover("--waive", second.Waive); err == nil || !strings.Contains(err.Error(), "waive the same again") {
		t.Errorf("with the second alone: %v", err)
	}
	if err := recover("--waive", first.Waive, "--waive", second.Waive, "--waive", "well-formed@1.1-1.9"); err != nil {
		t.Fatal(err)
	}
	state, err := archiver.ReadState(data)
	if err != nil || len(state.Waivers) != 2 || state.Phase != archiver.PhaseReady {
		t.Fatalf("%+v, %v", state, err)
	}
	report, err := os.ReadFile(filepath.Join(data, reportName))
	if err != nil || !strings.Contains(string(report), `"waived"`) || !strings.Contains(string(report), `"waivers_not_needed"`) {
		t.Errorf("%v\n%s", err, report)
	}
	// Until they are in the log, the waivers of the state count.
	if out, err := execute(t, "rebuild", "--data", data, "--view", "machine"); err != nil || strings.Count(out, "WAIVED") != 2 {
		t.Errorf("%v\n%s", err, out)
	}
	if err := os.RemoveAll(filepath.Join(data, "views", "machine")); err != nil {
		t.Fatal(err)
	}
	serveUntil(t, data, func() bool {
		state, err := archiver.ReadState(data)
		return err == nil && len(state.Waivers) == 0
	})
	granted := 0
	for _, e := range archived(t, spec) {
		if e.Type == eventlog.WaiverGranted {
			granted++
			if e.Name != first.Rule || e.From != e.To || e.From != first.Seq && e.From != second.Seq {
				t.Errorf("%+v", e)
			}
		}
	}
	if granted != 2 {
		t.Errorf("%d waivers in the log, want 2", granted)
	}
	waiversAreHonoured(t, spec, data, first, second)
}

// waiversAreHonoured checks that whatever projects the log again goes on past
// what the log waives, says so, and goes on past nothing else.
func waiversAreHonoured(t *testing.T, spec, data string, violations ...foundViolation) {
	t.Helper()
	var want []archiver.Waiver
	for _, v := range violations {
		want = append(want, archiver.Waiver{Rule: v.Rule, Scope: eventlog.Range{First: v.Seq, Last: v.Seq}})
	}
	run := func(result any, args ...string) {
		t.Helper()
		out, err := execute(t, append(args, "--json")...)
		if err != nil || json.Unmarshal([]byte(out), result) != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	machine := func(args ...string) projector.Digest {
		t.Helper()
		var built rebuildResult
		run(&built, append([]string{"rebuild", "--view", "machine"}, args...)...)
		if !slices.Equal(built.Waived, want) {
			t.Errorf("%v waived %v, want %v", args, built.Waived, want)
		}
		return built.Digest
	}
	var drilled drill.Result
	run(&drilled, "drill", "--archive", spec, "--full", "--scratch", t.TempDir())
	if drilled.Drill.Verdict != eventlog.DrillPassed || !slices.Equal(drilled.Waived, want) {
		t.Errorf("the drill: %+v", drilled)
	}
	equal := func() {
		t.Helper()
		var compared compareResult
		run(&compared, "compare", data, spec)
		if compared.Verdict != verdictEqual || len(compared.A.Waived) > 0 || !slices.Equal(compared.B.Waived, want) {
			t.Errorf("the comparison: %+v, A %+v, B %+v", compared, compared.A, compared.B)
		}
	}
	equal()
	aside, inPlace := machine("--archive", spec, "--to", t.TempDir()), machine("--data", data)
	if aside != inPlace {
		t.Errorf("the machine view is %s beside the server's and %s in its place", aside, inPlace)
	}
	machine("--archive", spec, "--to", t.TempDir(), "--as-of", violations[1].Seq.String())
	if out, err := execute(t, "drill", "--archive", spec, "--full"); err != nil || !strings.Contains(out, "WAIVED by the log itself: rule "+want[0].Rule) {
		t.Errorf("%v\n%s", err, out)
	}
	if err := os.RemoveAll(filepath.Join(data, "views")); err != nil {
		t.Fatal(err)
	}
	serveUntil(t, data, func() bool {
		return slices.ContainsFunc(archived(t, spec), func(e eventlog.Event) bool { return e.Type == eventlog.EpochStarted && e.Seq.Epoch() == 3 })
	})
	equal()
	_, err := execute(t, "recover", "--full", "--archive", spec, "--data", filepath.Join(t.TempDir(), "strict"))
	if exitCode(err) != exitDamage || !strings.Contains(err.Error(), "--waive "+violations[0].Waive+" --waive "+violations[1].Waive) {
		t.Errorf("a recovery without waivers: %v", err)
	}
	extendArchive(t, spec, "carol")
	for _, args := range [][]string{
		{"drill", "--archive", spec, "--full"}, {"compare", spec, spec},
		{"rebuild", "--archive", spec, "--view", "machine", "--to", t.TempDir()},
	} {
		if _, err := execute(t, args...); exitCode(err) != exitDamage || !strings.Contains(err.Error(), want[0].Rule) {
			t.Errorf("%v goes on past what nothing waives: %v", args, err)
		}
	}
}

// serveUntil serves data until done says that it is enough.
func serveUntil(t *testing.T, data string, done func() bool) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	root := newRoot()
	root.SetArgs([]string{"serve", "--data", data, "--no-auth", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--take-over"})
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	deadline := time.After(testkit.Patience)
	for tick := time.NewTicker(20 * time.Millisecond); !done(); {
		select {
		case <-tick.C:
		case err := <-ended:
			t.Fatalf("serve ended: %v", err)
		case <-deadline:
			t.Fatal("it does not come about")
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("serve: %v", err)
	}
}

func archived(t *testing.T, spec string) (events []eventlog.Event) {
	t.Helper()
	bucket, err := dir.Open(spec)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := archiver.Open(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	for batch, err := range archive.Follow(t.Context(), eventlog.FirstSeq) {
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range batch.Entries {
			events = append(events, entry.Event)
		}
	}
	return events
}

// A recovery that ended but for the last step is no state yet: it is not
// served, and the same command ends it.
func TestARecoveryThatWasNotFinishedIsNotServed(t *testing.T) {
	spec, data := brokenArchive(t), filepath.Join(t.TempDir(), "data")
	bucket, err := dir.Open(spec)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := archiver.Open(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	until, err := eventlog.ParseSeq("1.3")
	if err != nil {
		t.Fatal(err)
	}
	state, err := recoveryDir(&Config{Data: data, Archive: spec}, archive.LogID())
	if err != nil {
		t.Fatal(err)
	}
	opts := recovery.Options{Archive: archive, Engine: kv.OnDisk(slog.New(slog.DiscardHandler)), Dir: state.Path("views"), Scratch: state.Path(recoveryScratch), Until: until, Log: slog.New(slog.DiscardHandler)}
	if _, err := recovery.Run(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	if _, err := execute(t, "recover", "--data", data, "--archive", spec, "--until", "1.3"); exitCode(err) != exitInUse {
		t.Errorf("while it is in use: %v", err)
	}
	if err := state.Close(); err != nil { // the process dies here
		t.Fatal(err)
	}
	if _, err := execute(t, "serve", "--data", data, "--no-auth", "--hold"); exitCode(err) != exitUsage || !strings.Contains(err.Error(), "finish") {
		t.Errorf("served: %v", err)
	}
	if _, err := execute(t, "recover", "--data", data, "--archive", spec); err == nil || !strings.Contains(err.Error(), "ask for the same") {
		t.Errorf("up to another event: %v", err)
	}
	if _, err := execute(t, "recover", "--data", data, "--archive", brokenArchive(t), "--until", "1.3"); exitCode(err) != exitUsage || !strings.Contains(err.Error(), "name a new directory") {
		t.Errorf("from another log: %v", err)
	}
	if _, err := execute(t, "recover", "--data", data, "--archive", spec, "--until", "1.3"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(data, recoveryScratch)); !os.IsNotExist(err) {
		t.Errorf("the scratch folder is left: %v", err)
	}
	checkReport(t, data)
	// What stands in the report is for people: it changes nothing.
	if err := os.WriteFile(filepath.Join(data, reportName), []byte(`{"version":99,"result":{"last_seq":1}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if read, err := archiver.ReadState(data); err != nil || read.AsOf != until || read.Phase != archiver.PhaseReady {
		t.Errorf("%+v, %v", read, err)
	}
}

// checkReport checks the report of a recovery that two processes made.
func checkReport(t *testing.T, data string) {
	t.Helper()
	report, err := readReport(data)
	if err != nil {
		t.Fatal(err)
	}
	lists := 0
	for i, phase := range report.Phases {
		ended := !phase.Ended.IsZero() // not in the run that was refused
		if phase.Began.IsZero() || ended && phase.Ended.Before(phase.Began) || i > 0 && phase.Began.Before(report.Phases[i-1].Ended) {
			t.Errorf("phase %d: %+v", i, phase)
		}
		if phase.Name == "list" && ended {
			lists++
		}
	}
	if lists != 2 || !report.Began.Equal(report.Phases[0].Began) || report.Ended.Before(report.Phases[len(report.Phases)-1].Ended) {
		t.Errorf("%d phases list, from %s to %s: %+v", lists, report.Began, report.Ended, report.Phases)
	}
	if _, err := execute(t, "inspect", "recovery", "--data", data); err != nil {
		t.Error(err)
	}
	path := filepath.Join(data, reportName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.Replace(string(text), `"objects": 2`, `"objects": 1`, 1)
	if edited == string(text) {
		t.Fatalf("nothing to edit in %s", text)
	}
	for name, change := range map[string]string{"edited": edited, "cut": string(text[:len(text)/2]), "of another form": "{}", "empty": ""} {
		if err := os.WriteFile(path, []byte(change), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := execute(t, "inspect", "recovery", "--data", data); exitCode(err) != exitDamage || !strings.Contains(err.Error(), "recovery_completed") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := execute(t, "inspect", "recovery", "--data", t.TempDir()); exitCode(err) != exitUsage {
		t.Errorf("without a report: %v", err)
	}
}

// How a state was recovered, phase by phase, is an event of the log that goes
// on with it, once.
func TestARecoveryIsAnEventOfTheLogThatGoesOn(t *testing.T) {
	spec, data := "dir:"+filepath.Join(t.TempDir(), "archive"), filepath.Join(t.TempDir(), "data")
	if _, err := execute(t, "init", "--data", filepath.Join(t.TempDir(), "lost"), "--archive", spec); err != nil {
		t.Fatal(err)
	}
	if _, err := execute(t, "recover", "--data", data, "--archive", spec); err != nil {
		t.Fatal(err)
	}
	report, err := readReport(data)
	if err != nil {
		t.Fatal(err)
	}
	recorded := func() bool {
		state, err := archiver.ReadState(data)
		return err == nil && state.Recovery == nil
	}
	if recorded() {
		t.Fatal("the state does not say that it was recovered")
	}
	serveUntil(t, data, recorded)
	serveUntil(t, data, func() bool {
		state, err := archiver.ReadState(data)
		return err == nil && len(state.Claims) == 2
	})
	var found []*eventlog.Recovery
	for _, e := range archived(t, spec) {
		if e.Type == eventlog.RecoveryCompleted {
			found = append(found, e.Recovery)
		}
	}
	if len(found) != 1 || !reflect.DeepEqual(found[0].Phases, report.Phases) || found[0].Upto != report.Result.Last || found[0].Objects != uint64(report.Result.Objects) || !found[0].Began.Equal(report.Began) {
		t.Errorf("the log says %+v, the report %+v", found, report)
	}
	if _, err := execute(t, "recover", "--data", filepath.Join(t.TempDir(), "then"), "--archive", spec, "--until", "1.2"); err != nil {
		t.Error(err)
	}
}

func FuzzCheckedFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "file")
	if err := writeChecked(path, map[string]int{"a": 1}); err != nil {
		f.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var content map[string]int
		if decodeChecked(text, &content) != nil {
			return
		}
		if err := writeChecked(path, content); err != nil {
			t.Fatal(err)
		}
		var again map[string]int
		if err := readChecked(path, &again); err != nil || !reflect.DeepEqual(content, again) {
			t.Errorf("%v, %v", again, err)
		}
	})
}
