// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/metrics"
	"github.com/strandline-project/strandline/internal/progress"
)

// While a recovery runs it is asked how far it is; while its store has stopped
// it says so, and its bounds can be changed and are shown.
func TestARecoveryIsAskedHowFarItIs(t *testing.T) {
	spec := "dir:" + filepath.Join(t.TempDir(), "archive")
	if _, err := execute(t, "bench", "archive", "--archive", spec, "--events", "2000", "--seed", "1"); err != nil {
		t.Fatal(err)
	}
	opened, err := openBucket(spec, false)
	if err != nil {
		t.Fatal(err)
	}
	slow := buckettest.NewFaulty(opened)
	bucket := archiver.Adaptive(slow, archiver.AdaptiveOptions{Min: 1, Max: 4})
	archive, err := archiver.Open(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	cfg := defaultConfig()
	cfg.Data, cfg.Archive, cfg.Admin = filepath.Join(t.TempDir(), "new"), spec, Address(scriptAddress())
	bar := newBar(bucket, cfg.Data)
	defer bar.Close()
	var goOn atomic.Bool
	opens := make(chan struct{})
	slow.Set(holdsGets(opens, func(string) bool { return !goOn.Load() && strings.HasPrefix(bar.Snapshot().Phase, "project") }))
	ended := make(chan error, 1)
	go func() {
		_, err := recoverInto(t.Context(), &cfg, &recoverFlags{full: true}, bucket, archive, bar)
		ended <- err
	}()
	status := awaitStatus(t, &cfg, ended, func(s *httpapi.Status) bool {
		return s.Progress != nil && s.Progress.Binds == "store" && s.Progress.Advice != ""
	})
	p := status.Progress
	if status.Mode != httpapi.ModeRecovering || status.Ready || status.LogID != archive.LogID() || status.StateDir != cfg.Data || p.Total == 0 || p.Reads == nil || p.Reads.Min != 1 || p.Reads.Max != 4 {
		t.Errorf("%+v, %+v", status, p)
	}
	out, err := execute(t, "status", "--admin", string(cfg.Admin))
	if err != nil || !strings.Contains(out, "recovering: ") || !strings.Contains(out, "of 1-4 reads at once, binds: store") || !strings.Contains(out, "nothing has come for") {
		t.Errorf("%v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(cfg.Data, boundsName), []byte("2-3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, &cfg, ended, func(s *httpapi.Status) bool {
		return s.Progress != nil && s.Progress.Reads != nil && s.Progress.Reads.Min == 2 && s.Progress.Reads.Max == 3
	})
	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": "recovering: ", "/api/events": "", "/metrics": "strandline_reads_max 3\n",
	} {
		if got := get(t, "http://"+string(cfg.Admin)+path); !strings.Contains(got, want) {
			t.Errorf("%s answers %s", path, got)
		}
	}
	phase := `{phase="` + p.Phase + `"}`
	for _, want := range []string{`strandline_recovery_binds{binds="store",phase="` + p.Phase + `"} 1`, "strandline_recovery_events_per_second" + phase, "strandline_recovery_bytes_per_second" + phase} {
		if got := get(t, "http://"+string(cfg.Admin)+"/metrics"); !strings.Contains(got, want) {
			t.Errorf("the metrics lack %s:\n%s", want, got)
		}
	}
	if out, err := execute(t, "drill", "--admin", string(cfg.Admin)); err == nil || !strings.Contains(err.Error(), errRecovering.Error()) {
		t.Errorf("a recovery drills: %v\n%s", err, out)
	}
	if _, err := execute(t, "release", "alice/laptop", "--admin", string(cfg.Admin)); err == nil || !strings.Contains(err.Error(), errRecovering.Error()) {
		t.Errorf("a recovery lifts a bar: %v", err)
	}
	goOn.Store(true)
	close(opens)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if _, err := execute(t, "status", "--admin", string(cfg.Admin)); exitCode(err) != exitUnavailable {
		t.Errorf("somebody answers when it has ended: %v", err)
	}
}

// Whatever a progress says that binds has a label that is exported.
func TestTheMetricsTellHowFarAPhaseIs(t *testing.T) {
	for binds, want := range map[string]string{
		"": "", "CPU": "cpu", "CPU, not all cores": "cpu", "disk": "disk", "network": "network", "store": "store", "store latency": "store",
	} {
		var state metrics.State
		phaseGauges(&state, progress.Snapshot{
			Phase: "project objects", Done: 3, Total: 9, EventsPerSecond: 4000, BytesPerSecond: 1e6, ETASeconds: 1.5, EndSeconds: 4, Binds: binds,
		}, archiver.ReadStats{Limit: 5, Min: 1, Max: 9, InFlight: 3})
		if want != "" && !slices.Contains(metrics.Binds, want) {
			t.Errorf("%q is not exported", want)
		}
		if want := (metrics.State{
			Phase: "project objects", PhaseDone: 3, PhaseExpected: 9, PhaseEventsPerSecond: 4000, PhaseBytesPerSecond: 1e6,
			PhaseLeft: 1500 * time.Millisecond, EndLeft: 4 * time.Second, PhaseBinds: want, ReadsLimit: 5, ReadsMin: 1, ReadsMax: 9, ReadsInFlight: 3,
		}); !reflect.DeepEqual(state, want) {
			t.Errorf("%q: %+v, want %+v", binds, state, want)
		}
	}
}

// A start is measured by what it reads of the archive, too.
func TestTheMetricsOfAStartTellWhatItReads(t *testing.T) {
	cfg := defaultConfig()
	cfg.Data, cfg.Archive = filepath.Join(t.TempDir(), "data"), "dir:"+filepath.Join(t.TempDir(), "archive")
	if _, err := execute(t, "init", "--data", cfg.Data, "--archive", cfg.Archive); err != nil {
		t.Fatal(err)
	}
	cfg.Listen, cfg.Admin = "127.0.0.1:0", "127.0.0.1:0"
	a := newApp(&cfg, slog.New(slog.DiscardHandler))
	if err := a.open(t.Context()); err != nil {
		t.Fatal(errors.Join(err, a.closeAll()))
	}
	a.progress.Start("bring the views up to date (batches)", 0)
	if _, err := archiver.Open(t.Context(), a.reads); err != nil {
		t.Error(err)
	}
	if state := a.gauges(); state.Phase == "" || state.PhaseBytesPerSecond <= 0 {
		t.Errorf("%+v", state)
	}
	a.progress.Done()
	if err := a.closeAll(); err != nil {
		t.Error(err)
	}
}

// awaitStatus asks for the status until it is as wanted.
func awaitStatus(t *testing.T, cfg *Config, ended <-chan error, wanted func(*httpapi.Status) bool) *httpapi.Status {
	t.Helper()
	deadline := time.Now().Add(scriptPatience)
	for {
		var status httpapi.Status
		out, err := execute(t, "status", "--admin", string(cfg.Admin), "--json")
		if err == nil {
			err = json.Unmarshal([]byte(out), &status)
		}
		if err == nil && wanted(&status) {
			return &status
		}
		select {
		case err := <-ended:
			t.Fatalf("the recovery ended: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// A recovery is not kept from its work by who has the address, and does not
// listen when it is not to.
func TestARecoveryGoesOnWithoutAListener(t *testing.T) {
	spec := "dir:" + filepath.Join(t.TempDir(), "archive")
	if _, err := execute(t, "init", "--data", filepath.Join(t.TempDir(), "data"), "--archive", spec); err != nil {
		t.Fatal(err)
	}
	taken, err := listen("admin", Address(scriptAddress()))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, admin := range []string{taken.Addr().String(), ""} {
		if _, err := execute(t, "recover", "--data", filepath.Join(t.TempDir(), "new"), "--archive", spec, "--admin", admin); err != nil {
			t.Errorf("--admin %q: %v", admin, err)
		}
	}
}
