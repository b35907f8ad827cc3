// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memoryServer is a server of the protocol that checks what it is sent.
type memoryServer struct {
	mu     sync.Mutex
	blocks map[string][]byte
	counts map[string]int // by method and kind: "POST data"
	fault  func(w http.ResponseWriter, r *http.Request) bool
}

func newMemoryServer(t *testing.T) (*memoryServer, Target) {
	t.Helper()
	s := &memoryServer{blocks: map[string][]byte{}, counts: map[string]int{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	target, err := ParseTarget(strings.Replace(server.URL, "http://", "http://alice:secret@", 1) + "/alice/laptop")
	if err != nil {
		t.Fatal(err)
	}
	return s, target
}

func (s *memoryServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client went away
	}
	if user, password, _ := r.BasicAuth(); user != "alice" || password != "secret" {
		http.Error(w, "who?", http.StatusUnauthorized)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/alice/laptop/")
	kind, name, _ := strings.Cut(path, "/")
	s.counts[r.Method+" "+kind]++
	if s.fault != nil && s.fault(w, r) {
		return
	}
	have, exists := s.blocks[path]
	sum := sha256.Sum256(data)
	switch {
	case r.URL.RawQuery == "create=true":
	case r.Method == http.MethodPost && hex.EncodeToString(sum[:]) != name:
		http.Error(w, "hash mismatch", http.StatusBadRequest)
	case r.Method == http.MethodPost:
		s.blocks[path] = data
	case r.Method == http.MethodGet && name == "":
		fmt.Fprint(w, strings.Repeat("x", 100_000)) // chunked
	case !exists && r.Method == http.MethodGet:
		http.NotFound(w, r)
	case r.Method == http.MethodGet:
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(have))
	case r.Method == http.MethodDelete:
		delete(s.blocks, path)
	}
}

// setFault makes fault answer requests; it is called with s.mu held.
func (s *memoryServer) setFault(fault func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// count is how often a method was called on a kind.
func (s *memoryServer) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[what]
}

func small(op Op) Load {
	return Load{Op: op, Size: 1000, Clients: 3, Lock: true, Duration: time.Minute, MaxOps: 40, Stored: 40}
}

func TestEachOperationIsDoneAsOftenAsPlanned(t *testing.T) {
	for op, want := range map[Op]map[string]int{
		OpPut:    {"POST data": 40, "POST locks": 1},
		OpGet:    {"POST data": 40, "GET data": 40},
		OpRange:  {"POST data": 40, "GET data": 40},
		OpList:   {"POST data": 40, "GET data": 40},
		OpDelete: {"POST data": 40, "DELETE data": 40},
	} {
		server, target := newMemoryServer(t)
		report, err := Run(t.Context(), Plan{Peers: []Peer{Running("server", target), Files()}, Loads: []Load{small(op)}, Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		for what, n := range want {
			if server.count(what) != n {
				t.Errorf("%s: %d times %s, want %d", op, server.count(what), what, n)
			}
		}
		for i, r := range report.Rows[0].Results {
			if r.Ops != 40 || r.Errors != 0 || r.P50 <= 0 || r.P99 < r.P50 || r.Max < r.P99 || r.Elapsed <= 0 {
				t.Errorf("%s with %s: %+v", op, report.Peers[i], r)
			}
		}
	}
}

// A server behind TLS is measured, too, and only one whose certificate is
// trusted.
func TestAServerBehindTLSIsMeasured(t *testing.T) {
	server := httptest.NewUnstartedServer(&memoryServer{blocks: map[string][]byte{}, counts: map[string]int{}})
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of the one that hangs up
	server.StartTLS()
	defer server.Close()
	target, err := ParseTarget(strings.Replace(server.URL, "https://", "https://alice:secret@", 1) + "/alice/laptop")
	if err != nil {
		t.Fatal(err)
	}
	plan := Plan{Peers: []Peer{Running("server", target)}, Loads: []Load{small(OpPut), small(OpGet), small(OpRange)}, Dir: t.TempDir()}
	if _, err := Run(t.Context(), plan); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("measured, though nobody trusts it: %v", err)
	}
	plan.Peers = []Peer{Running("server", target.trusting(server.Certificate()))}
	report, err := Run(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range report.Rows {
		if r := row.Results[0]; r.Ops != 40 || r.Errors != 0 {
			t.Errorf("%s: %d operations, %d errors: %s", row.Name, r.Ops, r.Errors, r.FirstError)
		}
	}
}

// trusting is t with a server that proves itself by this certificate.
func (t Target) trusting(certificate *x509.Certificate) Target {
	t.roots = x509.NewCertPool()
	t.roots.AddCert(certificate)
	return t
}

func TestAMixedLoadFailsNothing(t *testing.T) {
	_, target := newMemoryServer(t)
	load := small(OpMixed)
	load.MaxOps, load.Stored = 400, 11
	report, err := Run(t.Context(), Plan{Peers: []Peer{Running("server", target), Files()}, Loads: []Load{load}, Dir: t.TempDir()})
	if err != nil || report.Failed() {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestALoadEndsWhenItsTimeIsOver(t *testing.T) {
	_, target := newMemoryServer(t)
	load := small(OpGet)
	load.Duration, load.MaxOps = 50*time.Millisecond, 1<<30
	report, err := Run(t.Context(), Plan{Peers: []Peer{Running("server", target)}, Loads: []Load{load}, Rounds: 3, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Rows[0].Results[0]; r.Elapsed < 150*time.Millisecond || r.Errors != 0 || r.Bytes != int64(r.Ops)*load.Size {
		t.Errorf("three rounds of 50 ms: %+v", r)
	}
}

func TestEveryErrorIsCountedAndShown(t *testing.T) {
	answers := map[string]func(http.ResponseWriter, *http.Request) bool{
		"a refusal": func(w http.ResponseWriter, _ *http.Request) bool { http.Error(w, "quota", 507); return true },
		"wrong bytes": func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = w.Write(bytes.Repeat([]byte("y"), 1000))
			return true
		},
		"too few bytes":   func(w http.ResponseWriter, _ *http.Request) bool { _, _ = w.Write([]byte("y")); return true },
		"a broken answer": func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
	}
	for name, answer := range answers {
		server, target := newMemoryServer(t)
		n := 0
		server.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet {
				return false
			}
			n++
			return n%4 == 0 && answer(w, r)
		})
		report, err := Run(t.Context(), Plan{Peers: []Peer{Running("server", target)}, Loads: []Load{small(OpGet)}, Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		var table bytes.Buffer
		if err := report.WriteTable(&table); err != nil {
			t.Fatal(err)
		}
		r := report.Rows[0].Results[0]
		if r.Ops != 30 || r.Errors != 10 || !report.Failed() || !strings.Contains(table.String(), "NOT A RESULT") || !strings.Contains(table.String(), "10 errors") {
			t.Errorf("%s: %+v\n%s", name, r, &table)
		}
	}
}

func TestWhatCannotBeMeasuredIsAnError(t *testing.T) {
	broken := Peer{Name: "broken", Start: func(context.Context, string) (*Instance, error) { return nil, errors.New("no such thing") }}
	server, target := newMemoryServer(t)
	server.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "locks") {
			http.Error(w, "barred", http.StatusForbidden)
			return true
		}
		return false
	})
	for name, c := range map[string]struct {
		peer Peer
		load Load
		want string
	}{
		"a peer that does not start":  {broken, small(OpPut), "no such thing"},
		"a lock that is refused":      {Running("server", target), small(OpPut), "barred"},
		"an operation that is none":   {Files(), Load{Op: "fly", Size: 16, Clients: 1, MaxOps: 1, Stored: 2, Duration: 1}, "unknown operation"},
		"blocks of nothing":           {Files(), Load{Op: OpPut, Clients: 1, MaxOps: 1, Duration: 1}, "at least 16 bytes"},
		"nobody to do it":             {Files(), Load{Op: OpPut, Size: 16, MaxOps: 1, Duration: 1}, "must be positive"},
		"nothing to read":             {Files(), Load{Op: OpGet, Size: 16, Clients: 1, MaxOps: 1, Duration: 1}, "stored before"},
		"more deletes than there are": {Files(), Load{Op: OpDelete, Size: 16, Clients: 1, MaxOps: 9, Stored: 2, Duration: 1}, "9 deletes of 2"},
	} {
		dir := t.TempDir()
		_, err := Run(t.Context(), Plan{Peers: []Peer{c.peer}, Loads: []Load{c.load}, Dir: dir})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%s: %s was left behind", name, left[0].Name())
		}
	}
}

func TestACancelledRunStopsItsServers(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	stopped := false
	peer := Files()
	start := peer.Start
	peer.Start = func(ctx context.Context, dir string) (*Instance, error) {
		instance, err := start(ctx, dir)
		instance.Stop = func() error { stopped = true; return nil }
		cancel()
		return instance, err
	}
	if _, err := Run(ctx, Plan{Peers: []Peer{peer}, Loads: []Load{small(OpPut)}, Dir: t.TempDir()}); !errors.Is(err, context.Canceled) || !stopped {
		t.Errorf("stopped: %v, %v", stopped, err)
	}
}

// Nobody is the first, or comes after the same one, in all rounds.
func TestPeersTakeTurns(t *testing.T) {
	var turns []string
	plan := Plan{Peers: []Peer{Files(), Files()}, Loads: []Load{small(OpPut)}, Rounds: 3, Dir: t.TempDir(), Progress: func(text string) { turns = append(turns, text) }}
	plan.Peers[1].Name = "other"
	if _, err := Run(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"files: @, round 1 of 3", "other: @, round 1 of 3", "other: @, round 2 of 3", "files: @, round 2 of 3", "files: @, round 3 of 3", "other: @, round 3 of 3"} {
		want = strings.Replace(want, "@", plan.Loads[0].String(), 1)
		if i >= len(turns) || turns[i] != want {
			t.Fatalf("turns: %q, want %q", turns, want)
		}
	}
}

func TestWhatWasMeasuredBeforeAnErrorIsReported(t *testing.T) {
	tired, starts := Files(), 0
	begin := tired.Start
	tired.Start = func(ctx context.Context, dir string) (*Instance, error) {
		if starts++; starts > 3 {
			return nil, errors.New("no more")
		}
		return begin(ctx, dir)
	}
	plan := Plan{Peers: []Peer{tired}, Loads: []Load{small(OpPut), small(OpGet)}, Rounds: 2, Dir: t.TempDir()}
	report, err := Run(t.Context(), plan)
	if err == nil || len(report.Rows) != 2 {
		t.Fatalf("%d rows, %v", len(report.Rows), err)
	}
	for i, turns := range []int{2, 1} {
		row := report.Rows[i]
		if len(row.turns) != turns || row.Results[0].Ops == 0 || row.Results[0].Max == 0 || (row.Error != "") != (turns == 1) {
			t.Errorf("row %d: %d turns, want %d; %q; %+v", i, len(row.turns), turns, row.Error, row.Results[0])
		}
	}
	var table, lines strings.Builder
	if err := errors.Join(report.WriteTable(&table), report.WriteBenchstat(&lines)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(table.String(), "NOT WHOLE: "+report.Rows[1].Name) || !strings.Contains(lines.String(), "# "+report.Rows[1].Name+": not all turns") {
		t.Errorf("nobody is told that a row is not whole:\n%s%s", &table, &lines)
	}
}

func TestContentsAreUniqueAndNamedAfterTheirHash(t *testing.T) {
	c := newContent(50, 100)
	seen := map[string]bool{}
	for i, name := range c.names {
		b := c.body(i)
		whole := append(b.head[:], b.tail...)
		sum := sha256.Sum256(whole)
		if name != hex.EncodeToString(sum[:]) || seen[name] || len(whole) != 100 || !b.equals(whole) {
			t.Errorf("block %d: name %s", i, name)
		}
		whole[len(whole)-1] ^= 1
		if seen[name] = true; b.equals(whole) || b.equals(whole[:99]) {
			t.Errorf("block %d equals another", i)
		}
	}
}

// A part of a block is known by its place.
func TestPartsOfContents(t *testing.T) {
	b := newContent(1, 100).body(0)
	whole := append(b.head[:], b.tail...)
	for at := range int64(100) {
		for n := range 101 - at {
			part := bytes.Clone(whole[at : at+n])
			if !b.has(part, at) {
				t.Fatalf("%d bytes at %d are not known", n, at)
			}
			if n == 0 {
				continue
			}
			part[n-1] ^= 1
			if b.has(part, at) {
				t.Fatalf("%d changed bytes at %d are taken for the block's", n, at)
			}
		}
	}
	if b.has(append(bytes.Clone(whole), 0), 0) || b.has(make([]byte, 2), 99) {
		t.Error("more bytes than it has are taken for the block's")
	}
}

// A large block's parts are asked for as parts, wherever they lie.
func TestRangesAreAskedForAndCompared(t *testing.T) {
	server, target := newMemoryServer(t)
	load := small(OpRange)
	load.Size, load.Stored = 3*rangeSize, 4
	var asked sync.Map
	server.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			asked.Store(r.Header.Get("Range"), true)
		}
		return false
	})
	report, err := Run(t.Context(), Plan{Peers: []Peer{Running("server", target), Files()}, Loads: []Load{load}, Dir: t.TempDir()})
	if err != nil || report.Failed() || report.Rows[0].Results[0].Bytes != 40*rangeSize {
		t.Fatalf("%+v, %v", report, err)
	}
	places := 0
	asked.Range(func(key, _ any) bool {
		places++
		return strings.HasPrefix(key.(string), "bytes=")
	})
	if places < 30 {
		t.Errorf("%d places were asked for", places)
	}
	server.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		r.Header.Del("Range") // as a server that knows no ranges
		return false
	})
	report, err = Run(t.Context(), Plan{Peers: []Peer{Running("server", target)}, Loads: []Load{load}, Dir: t.TempDir()})
	if err != nil || report.Rows[0].Results[0].Errors != 40 {
		t.Errorf("whole blocks instead: %+v, %v", report, err)
	}
}

// The disk alone is measured by puts, and stays out of other rows.
func TestTheDiskAloneIsMeasuredByPuts(t *testing.T) {
	report, err := Run(t.Context(), Plan{Peers: []Peer{Files(), Disk()}, Loads: []Load{small(OpPut), small(OpGet)}, Dir: t.TempDir()})
	if err != nil || report.Failed() {
		t.Fatalf("%+v, %v", report, err)
	}
	if put, get := report.Rows[0].Results[1], report.Rows[1].Results[1]; put.Ops != 40 || put.Bytes != 40*1000 || get.Ops != 0 {
		t.Errorf("%+v, %+v", put, get)
	}
	var table bytes.Buffer
	if err := report.WriteTable(&table); err != nil || strings.Count(table.String(), "disk") != 1 {
		t.Errorf("%v\n%s", err, &table)
	}
}

// A load beside another is measured at half of its own rate, and errors of the
// other one count.
func TestALoadBesideAnother(t *testing.T) {
	load := Load{Op: OpPut, Size: 1000, Clients: 4, Lock: true, Duration: 3 * time.Second, MaxOps: 100_000,
		Beside: &Load{Op: OpPut, Size: 5000, Clients: 2, Duration: time.Hour, MaxOps: 100_000}}
	if want := "put 1000B @4 at half load beside put 5000B @2, no lock"; load.String()+", no lock" != want && load.String() != want {
		t.Errorf("it is called %q, not %q", load.String(), want)
	}
	for name, fault := range map[string]error{"both go on": nil, "the other fails": errors.New("500")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				instance := &Instance{Client: func() Client { return sluggish{fault} }}
				result, err := drive(t.Context(), instance, load)
				if err != nil {
					t.Fatal(err)
				}
				// Four clients do 400 operations a second; half of that for three.
				if result.Ops < 590 || result.Ops > 610 {
					t.Errorf("%d operations, want 600", result.Ops)
				}
				if (result.Errors > 0) != (fault != nil) || fault != nil && !strings.Contains(result.FirstError, "500") {
					t.Errorf("%d errors, the first is %q", result.Errors, result.FirstError)
				}
			})
		})
	}
}

// sluggish takes 10 ms for each block; large ones fail if they are to.
type sluggish struct{ fault error }

func (s sluggish) Put(_ context.Context, _ string, b body) error {
	time.Sleep(10 * time.Millisecond)
	if s.fault != nil && b.size() == 5000 {
		return s.fault
	}
	return nil
}

func (sluggish) Lock(context.Context) error                              { return nil }
func (sluggish) Get(context.Context, string, body) error                 { return nil }
func (sluggish) Range(context.Context, string, body, int64, int64) error { return nil }
func (sluggish) List(context.Context) error                              { return nil }
func (sluggish) Delete(context.Context, string) error                    { return nil }
func (sluggish) Close() error                                            { return nil }

// Turns are told apart for benchstat; those with errors, or ended by one, are no
// measurement.
func TestTurnsAreWrittenForBenchstat(t *testing.T) {
	report := Report{Version: "v1", Rows: []Row{{Name: "put 1KiB @32, no lock", turns: []turned{
		{"on MinIO", Result{Ops: 200, Elapsed: 100 * time.Millisecond, P50: 5, P99: 7, PeakRSS: 9}, true},
		{"on MinIO", Result{Ops: 200, Errors: 1, Elapsed: 100 * time.Millisecond}, true},
		{"on MinIO", Result{Ops: 100, Elapsed: 50 * time.Millisecond}, false},
	}}}}
	var lines bytes.Buffer
	if err := report.WriteBenchstat(&lines); err != nil {
		t.Fatal(err)
	}
	head := fmt.Sprintf("goos: %s\ngoarch: %s\ncores: %d\nversion: v1\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	want := head + "BenchmarkServe/load=put-1KiB-@32-no-lock/peer=on-MinIO 200 500000 ns/op 2000.0 ops/s 5 p50-ns 7 p99-ns 9 peak-bytes\n" +
		"# put 1KiB @32, no lock, on MinIO: 200 operations, 1 errors\n" +
		"# put 1KiB @32, no lock, on MinIO: 100 operations, 0 errors, cut short\n"
	if lines.String() != want {
		t.Errorf("%q, want %q", lines.String(), want)
	}
}

func TestQuantiles(t *testing.T) {
	var values []time.Duration
	for i := range 200 {
		values = append(values, time.Duration(i+1))
	}
	if quantile(values, 50) != 100 || quantile(values, 99) != 198 || quantile(values, 100) != 200 || quantile(values[:1], 50) != 1 || quantile(nil, 50) != 0 {
		t.Error(quantile(values, 50), quantile(values, 99), quantile(values, 100))
	}
}

func TestTheTableShowsTheFirstPeerAsAMultipleOfTheOthers(t *testing.T) {
	report := Report{Peers: []string{"a", "b"}, Rows: []Row{{Name: "put 1KiB @1", Results: []Result{
		{Ops: 300, Bytes: 3 << 20, Elapsed: time.Second, PeakRSS: 5 << 20, P50: 1500 * time.Microsecond},
		{Ops: 100, Bytes: 1 << 20, Elapsed: time.Second},
	}}}}
	var table, asJSON bytes.Buffer
	if err := errors.Join(report.WriteTable(&table), report.WriteJSON(&asJSON)); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(table.String(), "\n")
	if got := strings.Fields(lines[1]); !slices.Equal(got, []string{"put", "1KiB", "@1", "a", "300", "3.0", "1.5ms", "0s", "0s", "5", "MiB", "0"}) {
		t.Errorf("%q", got)
	}
	if got := strings.Fields(lines[2]); !slices.Equal(got, []string{"b", "100", "1.0", "0s", "0s", "0s", "0", "3.00", "x"}) {
		t.Errorf("%q", got)
	}
	var back Report
	if err := json.Unmarshal(asJSON.Bytes(), &back); err != nil || back.Rows[0].Results[0].Ops != 300 || back.Rows[0].Name != "put 1KiB @1" {
		t.Errorf("%s, %v", &asJSON, err)
	}
}

func TestAddressesToMeasure(t *testing.T) {
	for address, want := range map[string]Target{
		"http://h/a/b":        {addr: "h:http", prefix: "/a/b/"},
		"https://h/a/b/":      {addr: "h:https", secure: true, prefix: "/a/b/"},
		"http://[::1]/a/b":    {addr: "[::1]:http", prefix: "/a/b/"},
		"https://h:8443/a/b/": {addr: "h:8443", secure: true, prefix: "/a/b/"},
	} {
		if got, err := ParseTarget(address); err != nil || got != want {
			t.Errorf("%s: %+v, %v", address, got, err)
		}
	}
	for _, bad := range []string{"", "h:80", "ftp://h/", "http:///x"} {
		if _, err := ParseTarget(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestStandardLoadsAreValid(t *testing.T) {
	for _, load := range Standard(time.Second) {
		if err := load.check(); err != nil {
			t.Error(err)
		}
	}
}

func TestBaselineFilesAreWhereTheyBelong(t *testing.T) {
	dir := t.TempDir()
	instance, err := Files().Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	client, c := instance.Client(), newContent(2, 64)
	if err := client.Put(t.Context(), c.names[0], c.body(0)); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, c.names[0][:2], c.names[0]))
	if b := c.body(0); err != nil || !b.equals(got) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := client.Get(t.Context(), c.names[0], c.body(1)); !errors.Is(err, errWrongBytes) {
		t.Errorf("another block's bytes: %v", err)
	}
	if err := client.Get(t.Context(), c.names[1], c.body(1)); err == nil {
		t.Error("a block that is not there was read")
	}
}
