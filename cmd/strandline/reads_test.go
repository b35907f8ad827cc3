// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/drill"
	"github.com/strandline-project/strandline/internal/progress"
)

// readArchive makes an archive with two whole runs, and a state directory that
// was recovered from it.
func readArchive(t *testing.T) (spec, data string) {
	t.Helper()
	spec, data = "dir:"+filepath.Join(t.TempDir(), "archive"), filepath.Join(t.TempDir(), "data")
	for _, args := range [][]string{
		{"bench", "archive", "--archive", spec, "--events", "2044", "--machines", "3", "--objects", "511", "--dir", t.TempDir()},
		{"recover", "--archive", spec, "--data", data, "--admin", ""},
	} {
		if _, err := execute(t, args...); err != nil {
			t.Fatal(err)
		}
	}
	return spec, data
}

// holdsGets lets gets of the keys that are held wait until opens is closed.
func holdsGets(opens <-chan struct{}, held func(key string) bool) buckettest.Hooks {
	return buckettest.Hooks{Before: func(ctx context.Context, op buckettest.Op, key string) error {
		if op != buckettest.Get || !held(key) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-opens:
			return nil
		}
	}}
}

// notified collects what a service manager is told.
type notified struct {
	mu       sync.Mutex
	messages []string
}

func newNotified(t *testing.T) *notified {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	n := &notified{}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for message := make([]byte, 1000); ; {
			size, err := socket.Read(message)
			if err != nil {
				return
			}
			n.mu.Lock()
			n.messages = append(n.messages, string(message[:size]))
			n.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		if err := socket.Close(); err != nil {
			t.Error(err)
		}
		<-ended
	})
	return n
}

func (n *notified) has(text string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Contains(strings.Join(n.messages, "\n"), text)
}

// Every command that reads much of an archive shows how many reads may be
// under way at once, and between which bounds; where it writes to a directory
// that was named, the file there counts.
func TestWhatReadsAnArchiveShowsItsReads(t *testing.T) {
	spec, data := readArchive(t)
	aside := t.TempDir()
	for name, test := range map[string]struct {
		args []string
		file string // with bounds
	}{
		"recover --check-all":       {args: []string{"recover", "--check-all", "--archive", spec, "--admin", ""}},
		"rebuild":                   {args: []string{"rebuild", "--data", data, "--view", "machine"}},
		"rebuild, by the file":      {args: []string{"rebuild", "--data", data, "--view", "machine"}, file: filepath.Join(data, boundsName)},
		"rebuild --to":              {args: []string{"rebuild", "--archive", spec, "--view", "machine", "--to", filepath.Join(t.TempDir(), "to")}},
		"rebuild --to, by the file": {args: []string{"rebuild", "--archive", spec, "--view", "machine", "--to", aside}, file: filepath.Join(aside, boundsName)},
		"compare of archives":       {args: []string{"compare", spec + "@1.100", spec}},
		"compare of directories":    {args: []string{"compare", data, spec}},
		"index verify":              {args: []string{"index", "verify", "--archive", spec}},
		"index rebuild":             {args: []string{"index", "rebuild", "--archive", spec}},
		"drill --archive":           {args: []string{"drill", "--archive", spec}},
	} {
		t.Run(name, func(t *testing.T) {
			told, want := newNotified(t), " of 3-9 reads at once"
			args := append(test.args, "--read-concurrency", "3-9")
			if test.file != "" {
				want = " of 5-7 reads at once"
				if err := os.WriteFile(test.file, []byte("5-7\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				defer os.Remove(test.file)
			}
			if out, err := execute(t, args...); err != nil && exitCode(err) != exitBehind {
				t.Fatalf("%v\n%s", err, out)
			}
			eventually(t, "the progress shows"+want, func() bool { return told.has(want) })
		})
	}
}

// change writes bounds into the file that an operation obeys, which runs in a
// directory of a made-up name in parent, and waits until they are shown.
func change(t *testing.T, parent, pattern string, now func() progress.Snapshot) {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(parent, pattern))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("%v, %v", dirs, err)
	}
	if reads := now().Reads; reads == nil || reads.Max != 512 {
		t.Errorf("before: %+v", reads)
	}
	if err := os.WriteFile(filepath.Join(dirs[0], boundsName), []byte("2-3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new bounds are shown", func() bool {
		reads := now().Reads
		return reads != nil && reads.Min == 2 && reads.Max == 3 && reads.Limit <= 3
	})
}

func TestTheBoundsOfAComparisonCanBeChanged(t *testing.T) {
	spec, _ := readArchive(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	arrived := sync.OnceFunc(func() { close(asked) })
	stuck := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived()
		<-answer
	}))
	t.Cleanup(stuck.Close)
	parent := t.TempDir()
	scratch, err := os.MkdirTemp(parent, "comparison-")
	if err != nil {
		t.Fatal(err)
	}
	c, stop := newComparison(t.Context(), scratch, &readBounds{})
	defer stop()
	ended := make(chan error, 1)
	go func() {
		_, err := c.run(t.Context(), [2]string{spec, stuck.URL})
		ended <- err
	}()
	<-asked // A is open
	c.progress.Start("wait for B", 0)
	change(t, parent, "comparison-*", c.progress.Snapshot)
	opened, err := openBucket(spec, false)
	if err != nil {
		t.Fatal(err)
	}
	if s := c.archives.adaptive(opened).Stats(); s.Min != 2 || s.Max != 3 {
		t.Errorf("an archive that is opened later has %d-%d", s.Min, s.Max)
	}
	close(answer)
	if err := <-ended; exitCode(err) != exitUnavailable && exitCode(err) != exitError {
		t.Errorf("with a server that does not answer well: %v", err)
	}
}

// The bounds of index commands can be changed, and what binds them is shown.
func TestTheBoundsOfAnIndexCommandCanBeChanged(t *testing.T) {
	spec, _ := readArchive(t)
	opened, err := openBucket(spec, false)
	if err != nil {
		t.Fatal(err)
	}
	slow := buckettest.NewFaulty(opened)
	work := newIndexWork(slow, &readBounds{}, io.Discard)
	if work.Archive, err = archiver.Open(t.Context(), work.bucket); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	err = (&globals{}).checkRuns(t.Context(), work, dir, func(ctx context.Context, each func(archiver.RunReport) error) error {
		opens := make(chan struct{})
		slow.Set(holdsGets(opens, func(string) bool { return true }))
		ended := make(chan error, 1)
		go func() { ended <- work.VerifyIndex(ctx, 1, each) }()
		bar := work.waited.progress
		change(t, filepath.Dir(dir), filepath.Base(dir), bar.Snapshot)
		eventually(t, "the store binds", func() bool { return strings.HasPrefix(bar.Snapshot().Binds, "store") })
		close(opens)
		return <-ended
	})
	if err != nil {
		t.Error(err)
	}

	// Verifying needs no place to write to.
	t.Setenv("TMPDIR", filepath.Join(dir, "absent"))
	if out, err := execute(t, "index", "verify", "--archive", spec); exitCode(err) != exitOK && exitCode(err) != exitDiffers {
		t.Errorf("without a directory for temporary files: %v\n%s", err, out)
	}
}

func TestTheBoundsOfADrillCanBeChanged(t *testing.T) {
	spec, _ := readArchive(t)
	opened, err := openBucket(spec, false)
	if err != nil {
		t.Fatal(err)
	}
	opens := make(chan struct{})
	slow := buckettest.NewFaulty(opened)
	bars := make(chan *progress.Progress, 1)
	work := &drillWork{
		drillRequest: drillRequest{Archive: spec, Sample: 1, Mode: drill.Full}, log: slog.New(slog.DiscardHandler), watch: func(bar *progress.Progress) { bars <- bar },
	}
	parent := t.TempDir()
	if work.Scratch, err = os.MkdirTemp(parent, "drill-"); err != nil {
		t.Fatal(err)
	}
	slow.Set(holdsGets(opens, func(key string) bool { return strings.HasPrefix(key, "index/") }))
	ended := make(chan error, 1)
	go func() {
		_, err := work.do(t.Context(), slow)
		ended <- err
	}()
	bar := <-bars
	eventually(t, "the drill is in a phase", func() bool { return bar.Snapshot().Phase != "" })
	change(t, parent, "drill-*", bar.Snapshot)
	close(opens)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Who asks a server for a drill is shown its reads, from its own process on.
func TestTheReadsOfAServersDrillAreShown(t *testing.T) {
	bar := progress.New(nil, slog.New(slog.DiscardHandler))
	bar.Explain(func() progress.Reading { return progress.Reading{Limit: 3, Min: 1, Max: 4, InFlight: 2, Bytes: 100} }, "")
	bar.Start("read back", 256)
	defer bar.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	run := newDrillRun("", -1, "operator")
	in, out := io.Pipe()
	told := make(chan error, 1)
	go func() {
		var last childLine
		told <- readChild(in, &last, run.report)
	}()
	(&childWriter{out: json.NewEncoder(out)}).tell(ctx, bar)
	if err := errors.Join(out.Close(), <-told); err != nil {
		t.Fatal(err)
	}
	now := run.Snapshot()
	if now.Reads == nil || *now.Reads != (progress.Reads{Limit: 3, Min: 1, Max: 4, InFlight: 2}) {
		t.Fatalf("the server knows of %+v", now.Reads)
	}
	now.Binds = "store latency"
	shown := newDrillWatch(nil, slog.New(slog.DiscardHandler))
	shown.show(now)
	if text := shown.bar.Snapshot().String(); !strings.Contains(text, "3 of 1-4 reads at once, binds: store latency") {
		t.Errorf("it shows %s", text)
	}
	now.Ended = time.Now()
	now.Reads = nil
	shown.show(now)
	shown.close()
	if phases := shown.bar.Phases(); len(phases) != 1 || phases[0].Reads != nil || phases[0].Bytes != now.Bytes {
		t.Errorf("%+v", phases)
	}
}

// Of several archives the one is shown that most reads are under way from, and
// what was read of all.
func TestTheReadsOfSeveralArchivesAreAddedUp(t *testing.T) {
	all := &archives{bounds: archiver.AdaptiveOptions{Min: 1, Max: 4}}
	if r := all.reading(); r != (progress.Reading{}) {
		t.Errorf("of none: %+v", r)
	}
	var buckets []*archiver.AdaptiveBucket
	for range 2 {
		opened, err := openBucket("dir:"+filepath.Join(t.TempDir(), "bucket"), true)
		if err != nil {
			t.Fatal(err)
		}
		bucket := all.adaptive(opened)
		if err := bucket.PutIfAbsent(t.Context(), "strandline.json", archiver.Body{Bytes: []byte("body"), Size: 4, Checksum: eventlog.Checksum([]byte("body"))}); err != nil {
			t.Fatal(err)
		}
		buckets = append(buckets, bucket)
	}
	if err := buckets[0].SetBounds(7, 8); err != nil {
		t.Fatal(err)
	}
	if r := all.reading(); r.Min != 1 || r.Max != 4 {
		t.Errorf("while nothing is read: %+v", r)
	}
	reader, err := buckets[0].GetRange(t.Context(), "strandline.json", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if r := all.reading(); r.Min != 7 || r.Max != 8 || r.InFlight != 1 {
		t.Errorf("while the first is read: %+v", r)
	}
	if _, err := io.Copy(io.Discard, reader); err != nil {
		t.Error(err)
	}
	if err := reader.Close(); err != nil {
		t.Error(err)
	}
	if _, err := buckets[1].Head(t.Context(), "strandline.json"); err != nil {
		t.Error(err)
	}
	if r := all.reading(); r.Requests != 2 || r.Bytes != 4 || r.InFlight != 0 {
		t.Errorf("afterwards: %+v", r)
	}
	if err := all.SetBounds(3, 2); err == nil {
		t.Error("bounds the wrong way round are taken")
	}
}
