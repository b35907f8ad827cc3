// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
)

var update = flag.Bool("update", false, "write the golden files anew")

func example() State {
	return State{
		Mode: "hold", Ready: true,
		Committed: eventlog.MakeSeq(7, 1234), Archived: eventlog.MakeSeq(7, 1200),
		LagEvents: 34, LagTime: 1500 * time.Millisecond, BacklogBytes: 1 << 20, BacklogGenerations: 2,
		Views: []ViewState{
			{Name: "machine", Position: eventlog.MakeSeq(7, 1234)},
			{Name: "block", Position: eventlog.MakeSeq(7, 1230), LagEvents: 4, LagTime: 20 * time.Millisecond, Stopped: true},
		},
		FeedPublished: 1000, FeedDropped: 3, FeedRefused: 1, FeedConnected: true,
		IndexWritten: 7, IndexFailed: 2, IndexMissing: 1,
		Checkpoint: CheckpointState{Seq: eventlog.MakeSeq(7, 1000), Time: time.Unix(1_764_000_000, 0), Took: 1500 * time.Millisecond, Bytes: 5 << 20,
			Uploaded: 6 << 20, Taken: 3, Failures: 1},
		ArchiveUnsafe: true, ArchiveChanged: 2, Fenced: true, Lossy: true, Barred: 2, Warnings: 1,
		DrillRunning: true, DrillFailed: true, DrillLastSuccess: time.Unix(1795485600, 0), DrillRTO: 90 * time.Second, DrillsPassed: 3, DrillsFailed: 1, DrillsUndone: 2,
		Phase: "project", PhaseDone: 10, PhaseExpected: 40,
		PhaseEventsPerSecond: 250_000, PhaseBytesPerSecond: 3 << 20, PhaseLeft: 90 * time.Second, EndLeft: 150 * time.Second, PhaseBinds: "disk",
		ReadsLimit: 12, ReadsMin: 2, ReadsMax: 64, ReadsInFlight: 9,
	}
}

// busy returns Metrics on which everything has happened once.
func busy() *Metrics {
	m := New()
	m.Watch(example)
	m.Synced(0, time.Millisecond)
	m.Synced(2*time.Millisecond, time.Millisecond)
	m.BatchCommitted(3, 4096)
	m.ObserveArchive("PUT", time.Second, nil)
	m.ObserveArchive("head", time.Millisecond, fmt.Errorf("claim: %w", archiver.ErrNotFound))
	m.ObserveArchive("put", time.Millisecond, archiver.ErrExists)
	m.ObserveArchive("list", time.Millisecond, errors.New("refused"))
	m.Observe("POST", "data", 200, 4096, 0, time.Millisecond)
	m.Observe("GET", "data", 206, 0, 100, time.Millisecond)
	return m
}

func TestNamesAndUnitsFollowPrometheusRules(t *testing.T) {
	problems, err := testutil.GatherAndLint(busy().registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// The golden file is the list that dashboards and alert rules are written
// against: every name of ours, its help and its labels' values.
func TestTheExportedMetrics(t *testing.T) {
	names := []string{
		"strandline_applied_epoch", "strandline_applied_seq", "strandline_archive_changed_objects", "strandline_archive_lag_events", "strandline_archive_lag_seconds", "strandline_archive_unsafe",
		"strandline_archived_epoch", "strandline_archived_seq", "strandline_backlog_bytes", "strandline_backlog_generations",
		"strandline_barred_machines", "strandline_checkpoint_bytes", "strandline_checkpoint_duration_seconds", "strandline_checkpoint_failures_total",
		"strandline_checkpoint_last_success_timestamp_seconds", "strandline_checkpoint_seq", "strandline_checkpoint_uploaded_bytes_total",
		"strandline_checkpoints_total", "strandline_committed_epoch", "strandline_committed_seq", "strandline_drill_failed",
		"strandline_drill_last_success_timestamp_seconds", "strandline_drill_rto_seconds", "strandline_drill_running", "strandline_drills_total", "strandline_feed_connected",
		"strandline_feed_dropped_total", "strandline_feed_published_total", "strandline_feed_refused_total", "strandline_fenced",
		"strandline_hold", "strandline_index_objects_failed_total", "strandline_index_objects_missing",
		"strandline_index_objects_written_total", "strandline_http_request_bytes_total", "strandline_http_requests_total",
		"strandline_http_response_bytes_total", "strandline_lossy_start", "strandline_mode", "strandline_poisoned",
		"strandline_reads_in_flight", "strandline_reads_limit", "strandline_reads_max", "strandline_reads_min",
		"strandline_ready", "strandline_recovery_binds", "strandline_recovery_bytes_per_second", "strandline_recovery_done",
		"strandline_recovery_end_seconds", "strandline_recovery_events_per_second", "strandline_recovery_expected", "strandline_recovery_left_seconds", "strandline_view_lag_events",
		"strandline_view_lag_seconds", "strandline_view_stopped", "strandline_wal_batch_events", "strandline_warnings",
	}
	golden := filepath.Join("testdata", "metrics.txt")
	m := busy()
	if *update {
		text, err := testutil.CollectAndFormat(m.registry, expfmt.TypeTextPlain, names...)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.Open(golden)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	if err := testutil.GatherAndCompare(m.registry, want, names...); err != nil {
		t.Error(err)
	}
}

func TestObservationsAreCounted(t *testing.T) {
	m := busy()
	for name, want := range map[string]int{
		"strandline_wal_fsync_seconds":       2, // payload, frames
		"strandline_archive_request_seconds": 4, // put ok, put exists, head absent, list error
		"strandline_http_request_seconds":    2,
		"strandline_wal_batch_bytes":         1,
		"go_goroutines":                      1,
		"go_build_info":                      1,
		"process_open_fds":                   1,
	} {
		if got, err := testutil.GatherAndCount(m.registry, name); err != nil || got != want {
			t.Errorf("%s has %d series (%v), want %d", name, got, err, want)
		}
	}
}

func TestAClientCannotMakeUpLabels(t *testing.T) {
	m := New()
	for i := range 100 {
		m.Observe(fmt.Sprintf("BREW%d", i), fmt.Sprintf("tea%d", i), 405, -1, -1, 0)
		m.ObserveArchive(fmt.Sprintf("op%d", i), 0, nil)
	}
	if got := testutil.ToFloat64(m.requests.WithLabelValues("other", "other", "405")); got != 100 {
		t.Errorf("%v requests counted as other, want 100", got)
	}
	if got := testutil.CollectAndCount(m.archive); got != 1 {
		t.Errorf("%d series, want 1", got)
	}
}

func TestWithoutAStateItsMetricsAreAbsent(t *testing.T) {
	m := New()
	if got, err := testutil.GatherAndCount(m.registry, "strandline_committed_seq"); err != nil || got != 0 {
		t.Errorf("an unknown watermark is shown (%d series, %v)", got, err)
	}
	m.Watch(func() State { return State{Committed: eventlog.FirstSeq} })
	m.Watch(example)
	if got, err := testutil.GatherAndCount(m.registry, "strandline_applied_seq"); err != nil || got != 2 {
		t.Errorf("%d views (%v), want those of the last Watch", got, err)
	}
}

func TestNilMetricsDoNothing(t *testing.T) {
	var m *Metrics
	m.Synced(1, 1)
	m.BatchCommitted(1, 1)
	m.ObserveArchive("put", 1, nil)
	m.Observe("GET", "data", 200, 1, 1, 1)
	m.Watch(example)
}

func TestScrapesWhileThingsHappen(t *testing.T) {
	m := busy()
	server := httptest.NewServer(m.Handler(slog.New(slog.DiscardHandler)))
	defer server.Close()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				m.Synced(1, 1)
				m.Observe("GET", "data", 200, 0, 1, 1)
			}
		})
	}
	for range 5 {
		if body := scrape(t, server.URL, ""); !strings.Contains(body, "strandline_committed_seq 3.0064772306e+10") {
			t.Fatal("the scrape lacks the committed watermark")
		}
	}
	wg.Wait()
	if body := scrape(t, server.URL, "application/openmetrics-text"); !strings.HasSuffix(body, "# EOF\n") {
		t.Error("no OpenMetrics for a scraper that asks for it")
	}
}

func scrape(t *testing.T, url, accept string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("status %s, %v", resp.Status, err)
	}
	return string(body)
}
