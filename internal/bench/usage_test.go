// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAMeterReadsWhatAProcessTakes(t *testing.T) {
	m, err := newMeter(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if m == nil {
		t.Skip("this system does not tell")
	}
	block := make([]byte, 32<<20)
	for began := worked(t); worked(t) < began+100*time.Millisecond; {
		for i := range block {
			block[i]++
		}
	}
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, block, 0o600); err != nil {
		t.Fatal(err)
	}
	use, err := m.read()
	if err != nil || use.CPU < 0.02 || use.CPU > 60 || use.PeakRSS < 32<<20 {
		t.Errorf("%+v, %v", use, err)
	}
	if m, err := newMeter(0); m != nil || err != nil {
		t.Errorf("no process: %+v, %v", m, err)
	}
}

// worked is how long this process has run on a core: a busy machine may let it
// run seldom.
func worked(t *testing.T) time.Duration {
	t.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func TestMetricsAreAddedUpOverTheirLabels(t *testing.T) {
	text := "# HELP a what it is\n# TYPE a counter\na{op=\"put\",text=\"a } b 7\"} 3\na{op=\"get\"} 4 1700000000\nb 2.5e+02\n"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(text))
	}))
	defer server.Close()
	seen, err := scrape(t.Context(), server.URL+"/metrics")
	if err != nil || len(seen) != 2 || seen["a"] != 7 || seen["b"] != 250 {
		t.Errorf("%v, %v", seen, err)
	}
	var n int64
	if err := seen.get("c", &n); err == nil {
		t.Error("a metric that is not there was found")
	}
	if _, err := scrape(t.Context(), server.URL+"/other"); err == nil {
		t.Error("404 is no answer")
	}
	text = "a is not a number\n"
	if _, err := scrape(t.Context(), server.URL+"/metrics"); err == nil {
		t.Error("what is no metric was read as one")
	}
}
