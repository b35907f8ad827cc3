// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/blockstore"
	"github.com/strandline-project/strandline/internal/metrics"
	"github.com/strandline-project/strandline/internal/progress"
)

var update = flag.Bool("update", false, "write the golden files anew")

var now = time.Date(2026, 11, 23, 2, 0, 0, 0, time.UTC)

func fullStatus() Status {
	return Status{
		Version: "v0.1.0", Time: now, Started: now.Add(-90 * time.Minute), Uptime: 5400, Mode: ModeHold, Ready: true,
		Reason: "held by the operator",
		LogID:  eventlog.ID{1}, Epoch: 7, Writer: eventlog.ID{2}, Owner: "epoch 8, writer 0300, host b",
		Archive: "s3://backups/strandline?endpoint=http://127.0.0.1:9000", StateDir: "/var/lib/strandline", Listen: "127.0.0.1:8000",
		Lossy: true, LossyReason: "why", Committed: MarkAt(at(1234), now.UnixNano()), Archived: MarkAt(at(1200), now.Add(-time.Second).UnixNano()),
		ArchiveLag: Lag{34, 1.5},
		Views: []View{
			{Name: "machine", Version: 1, Applied: MarkAt(at(1234), now.UnixNano())},
			{Name: "block", Version: 2, Applied: MarkAt(at(1230), now.UnixNano()), Lag: Lag{4, 0.02}, Stopped: "store of a live block at 7.1231"},
		},
		Backlog:    Backlog{Bytes: 3 << 20, Limit: 8 << 30, Generations: 2},
		Checkpoint: &Checkpoint{Seq: eventlog.MakeSeq(7, 1000), At: "7.1000", Time: now, Bytes: 5 << 20, Uploaded: 6 << 20, Error: "no answer"},
		LastUpload: &Upload{Ordinal: 12, Time: now, Error: "dial tcp: connection refused"},
		Feed:       Feed{Server: "embedded", Connected: true, Published: 1000, Dropped: 3, Refused: 1},
		Progress: &progress.Snapshot{Phase: "project", Done: 10, Total: 40, PerSecond: 5, ETASeconds: 6, Binds: "cpu",
			Advice: "CPU: 3.9 of 4 cores are busy; faster or more of them would help", Reads: &progress.Reads{Limit: 12, Min: 2, Max: 64, InFlight: 9}},
		Drill: &Drill{
			Running: &progress.Snapshot{Phase: "read back random blocks", Done: 3, Total: 64}, Verdict: eventlog.DrillFailed, Reason: "ordinals 5 to 5", Mode: "checkpoint",
			Began: now.Add(-time.Hour), Ended: now.Add(-time.Minute), Upto: MarkAt(at(1100), 0), RTOSeconds: 12.5, Blocks: 64,
			Remarks: []string{"there was no checkpoint"}, LastSuccess: now.Add(-25 * time.Hour), Undone: "too little disk", Next: now.Add(time.Hour),
		},
		Barred:   []Barred{{"alice/laptop", at(4), at(1), "its session was cut off", now.Add(time.Hour)}},
		Warnings: []string{"the clock is 6 minutes off the store's"}, Stopped: "fenced by epoch 8",
		Notes: []string{NotePrune}, Next: []string{"reading is safe", "strandline release alice/laptop"},
	}
}

func TestTheStatusArrivesWhole(t *testing.T) {
	want := fullStatus()
	got, err := serve(t, &fakeServer{status: want}).Status(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got %+v\nwant %+v", *got, want)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is now\n%s\nwant\n%s", name, got, want)
	}
}

func TestTheStatusInJSONAndText(t *testing.T) {
	for name, status := range map[string]Status{
		"full":    fullStatus(),
		"drilled": {Version: "v0.1.0", Time: now, Started: now, Mode: ModeServing, Drill: &Drill{Verdict: eventlog.DrillPassed, Mode: "full", Ended: now, Upto: MarkAt(at(9), 0), RTOSeconds: 1.234, Blocks: 64, LastSuccess: now}},
		"fresh":   {Version: "v0.1.0", Time: now, Started: now, Mode: ModeStarting, Reason: "comparing the WAL with the archive"},
	} {
		data, err := json.MarshalIndent(status, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+".json", string(data)+"\n")
		var text strings.Builder
		if err := status.WriteText(&text); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", text.String())
	}
}

func TestEveryModeIsAMetric(t *testing.T) {
	modes := []Mode{ModeStarting, ModeServing, ModeHold, ModeReadOnly, ModeRecovering, ModeStandby, ModeFenced, ModePoisoned, ModeStopping}
	if len(modes) != len(metrics.Modes) {
		t.Errorf("%d modes, %d in metrics", len(modes), len(metrics.Modes))
	}
	for i, mode := range modes {
		if string(mode) != metrics.Modes[i] {
			t.Errorf("mode %s is %s in metrics", mode, metrics.Modes[i])
		}
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestPrintingReportsItsError(t *testing.T) {
	s := fullStatus()
	if err := s.WriteText(fullDisk{}); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("got %v", err)
	}
}

func TestRelease(t *testing.T) {
	server := &fakeServer{barred: map[blockstore.Path]bool{laptop: true}}
	c := serve(t, server)
	if err := c.Release(testContext(t), "alice/laptop"); err != nil || server.releases != 1 {
		t.Errorf("%v, %d releases", err, server.releases)
	}
	if err := c.Release(testContext(t), "alice/laptop"); err == nil || !strings.Contains(err.Error(), "not barred") {
		t.Errorf("a second release: %v", err)
	}
}

func TestNoServerIsSaidClearly(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c := &Client{Addr: addr}
	_, statusErr := c.Status(testContext(t))
	_, eventsErr := read(t, c, EventQuery{})
	for name, err := range map[string]error{"status": statusErr, "events": eventsErr, "release": c.Release(testContext(t), "a/b")} {
		want := "no server answers at " + addr + "; is strandline serve running? --admin names its admin address"
		if !errors.Is(err, ErrNoServer) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

func TestAnAddressMayBeAURL(t *testing.T) {
	c := serve(t, &fakeServer{status: Status{Mode: ModeServing}})
	for _, addr := range []string{"http://" + c.Addr, "http://" + c.Addr + "/"} {
		if s, err := (&Client{Addr: addr}).Status(testContext(t)); err != nil || s.Mode != ModeServing {
			t.Errorf("%s: %v", addr, err)
		}
	}
	if got := (&Client{}).addr(); got != DefaultAddr {
		t.Errorf("the default is %s", got)
	}
	if _, err := (&Client{Addr: "a b"}).Status(testContext(t)); err == nil || !strings.Contains(err.Error(), "write host:port") {
		t.Errorf("got %v", err)
	}
}

// say answers; whether the client listens to the end is its own business.
func say(w io.Writer, text string) { _, _ = io.WriteString(w, text) }

func TestAnswersThatAreNotOurs(t *testing.T) {
	tests := map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"another program": {func(w http.ResponseWriter, _ *http.Request) { say(w, "<html>") }, "not what a strandline server says"},
		"an endless answer": {func(w http.ResponseWriter, _ *http.Request) {
			for range maxAnswer/4096 + 1 {
				say(w, strings.Repeat(" ", 4096))
			}
		}, "more than"},
		"a refusal": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "go away", 403) }, "403 Forbidden: go away"},
		"a broken one": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			say(w, "{")
		}, "unexpected EOF"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(tt.handler)
			defer server.Close()
			_, err := (&Client{Addr: server.Listener.Addr().String()}).Status(testContext(t))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestLinesThatAreNotOurs(t *testing.T) {
	for body, want := range map[string]string{
		"hello\n":                       "no JSON",
		`{"seq":1,"type":"tea"}` + "\n": `"tea" is no name`,
		`{"type":"log_created"}` + "\n": "no event's number",
		`{"cleaned":{}}` + "\n":         "no range",
		`{"error":"gone"}` + "\n":       "the server says: gone",
		strings.Repeat("x", maxLine+1):  "too long",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { say(w, body) }))
		_, err := read(t, &Client{Addr: server.Listener.Addr().String()}, EventQuery{})
		server.Close()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestWhatSpeaksNoHTTPIsNoServerOfOurs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := conn.Read(make([]byte, 4096)); err != nil {
			t.Error(err)
		}
		say(conn, "SSH-2.0-OpenSSH_9.2\r\n")
	}()
	_, err = (&Client{Addr: l.Addr().String()}).Status(testContext(t))
	<-done
	if err == nil || errors.Is(err, ErrNoServer) || !strings.Contains(err.Error(), "no strandline server's admin listener") {
		t.Errorf("got %v", err)
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	release := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		cancel()
		<-release
	}))
	defer server.Close()
	defer close(release)
	_, err := (&Client{Addr: server.Listener.Addr().String()}).Status(ctx)
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrNoServer) {
		t.Errorf("got %v, want the context's error", err)
	}
}
