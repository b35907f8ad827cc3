// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/internal/testkit"
)

// minio is the program that the benchmarks start.
func minio(t *testing.T) string {
	t.Helper()
	if !testkit.All() {
		t.Skip("needs MinIO; all tests are run by:", testkit.Command)
	}
	path, err := testkit.PathOf("minio")
	must(t, err)
	return path
}

// The benchmark of the server measures every peer that it is told of.
func TestTheServerIsMeasuredNextToItsPeers(t *testing.T) {
	w := newWorld(t)
	var report struct {
		Peers []string
		Rows  []struct {
			Load    string
			Results []struct{ Ops, Errors int }
		}
	}
	text := w.ok("bench", "serve", "--minio", minio(t), "--only", "put 1KiB @32$", "--time", "100ms", "--rounds", "1", "--dir", w.dir, "--json")
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		t.Fatal(err)
	}
	if want := []string{"strandline", "on MinIO", "rclone", "files", "disk"}; !slices.Equal(report.Peers, want) {
		t.Fatalf("peers %q, want %q", report.Peers, want)
	}
	if len(report.Rows) != 1 {
		t.Fatalf("%+v", report.Rows)
	}
	for i, result := range report.Rows[0].Results {
		if result.Errors != 0 || result.Ops == 0 {
			t.Errorf("%s: %+v", report.Peers[i], result)
		}
	}
}

// resticReport is what `bench restic --json` prints, as far as tests look at it.
type resticReport struct {
	Peers []string
	Rows  []struct {
		Step    string
		Results [][]struct {
			Seconds       float64
			Server, Store *struct {
				Peak int64 `json:"peak_rss_bytes"`
			}
			Traffic *struct {
				Requests int64
				Received int64 `json:"received_bytes"`
			}
		}
	}
}

func (w *world) benchRestic(flags ...string) (report resticReport) {
	w.t.Helper()
	args := append([]string{"bench", "restic", "--small-files", "30", "--small-bytes", "200KB", "--large-bytes", "3MB", "--rounds", "1", "--dir", w.dir, "--json"}, flags...)
	must(w.t, json.Unmarshal([]byte(w.ok(args...)), &report))
	return report
}

// The benchmark of whole backups does all of its steps. Each run of restic
// spends half a second on its password, so only one peer does.
func TestEveryStepOfResticIsMeasured(t *testing.T) {
	testkit.Need(t, "restic")
	report := newWorld(t).benchRestic("--rclone", "")
	if len(report.Rows) != 7 || len(report.Peers) != 1 {
		t.Fatalf("%+v", report)
	}
	for _, row := range report.Rows {
		if r := row.Results[0][0]; r.Seconds <= 0 || r.Server == nil || r.Server.Peak == 0 || r.Traffic == nil || r.Traffic.Requests == 0 {
			t.Errorf("%s: %+v", row.Step, r)
		}
	}
}

// The benchmark of whole backups knows of each of its peers what is to be
// known of it.
func TestResticIsMeasuredWithTheServerAndItsPeers(t *testing.T) {
	testkit.Need(t, "restic")
	report := newWorld(t).benchRestic("--minio", minio(t), "--until", "backup small")
	if want := []string{"strandline", "rclone", "on MinIO", "restic on MinIO"}; !slices.Equal(report.Peers, want) || len(report.Rows) != 1 {
		t.Fatalf("peers %q, want %q; %d steps", report.Peers, want, len(report.Rows))
	}
	for i, peer := range report.Peers {
		r, onMinIO := report.Rows[0].Results[i][0], strings.HasSuffix(peer, "on MinIO")
		if r.Seconds <= 0 {
			t.Errorf("%s: %f s", peer, r.Seconds)
		}
		if measured := r.Server != nil && r.Server.Peak > 0; measured == (peer == "restic on MinIO") {
			t.Errorf("%s: its server took %+v", peer, r.Server)
		}
		if measured := r.Store != nil && r.Store.Peak > 0; measured != onMinIO {
			t.Errorf("%s: MinIO took %+v", peer, r.Store)
		}
		if counted := r.Traffic != nil && r.Traffic.Requests > 0; counted == (peer == "rclone") {
			t.Errorf("%s: traffic %+v", peer, r.Traffic)
		}
		if onMinIO && r.Traffic.Received < 50_000 { // 200 KB of text, compressed
			t.Errorf("%s: MinIO received %d bytes", peer, r.Traffic.Received)
		}
	}
}

// The benchmark of a recovery says each of its figures, with its goal.
func TestARecoveryIsMeasured(t *testing.T) {
	w := newWorld(t)
	text := w.ok("bench", "recover", "--minio", minio(t), "--events", "20000", "--machines", "3", "--large", "40000", "--ingest", "0", "--dir", w.dir)
	for _, part := range []string{
		"recovery of 20000 events from the first one", "of plain batches", "50ms added", "from a checkpoint until the server serves",
		"recovery of 40000 events", "under 1,024",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("it does not say %q:\n%s", part, text)
		}
	}
}

// The benchmark of a server that holds much says each of its figures.
func TestAServerThatHoldsMuchIsMeasured(t *testing.T) {
	w := newWorld(t)
	var figures []struct {
		Name, Goal string
		Value      float64
	}
	text := w.ok("bench", "scale", "--minio", minio(t), "--events", "5000", "--machines", "2", "--names", "2000", "--blocks", "500", "--packs", "2",
		"--clients", "2", "--time", "100ms", "--rounds", "1", "--dir", w.dir, "--json")
	must(t, json.Unmarshal([]byte(text), &figures))
	goals := map[string]int{}
	for _, f := range figures {
		if f.Value < 0 {
			t.Errorf("%+v", f)
		}
		goals[f.Goal]++
	}
	want := map[string]int{"under 5": 2, "at least 0.7": 2, "under 20": 2, "1,000,000": 1, "under 32": 1, "under 0.001": 1, "at least 0.9": 4, "under 512": 1}
	for goal, n := range want {
		if goals[goal] != n {
			t.Errorf("%d figures are held to %q, want %d:\n%s", goals[goal], goal, n, text)
		}
	}
}
