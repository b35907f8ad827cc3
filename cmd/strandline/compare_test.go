// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

func TestWhatAnArchiveIsAsOf(t *testing.T) {
	when := time.Date(2026, 11, 23, 2, 55, 48, 0, time.UTC)
	for spec, want := range map[string]struct {
		name string
		at   moment
	}{
		"dir:/mnt/backup":                      {"dir:/mnt/backup", moment{}},
		"dir:/mnt/backup@7.1234":               {"dir:/mnt/backup", moment{seq: eventlog.MakeSeq(7, 1234)}},
		"dir:/mnt/backup@30064772306":          {"dir:/mnt/backup", moment{seq: eventlog.MakeSeq(7, 1234)}},
		"dir:/mnt/backup@2026-11-23T02:55:48Z": {"dir:/mnt/backup", moment{time: when}},
		"dir:/mnt/me@home/backup":              {"dir:/mnt/me@home/backup", moment{}},
		"dir:/mnt/me@home/backup@7.1":          {"dir:/mnt/me@home/backup", moment{seq: eventlog.MakeSeq(7, 1)}},
		"s3://b/p?endpoint=http://h:1@7.1":     {"s3://b/p?endpoint=http://h:1", moment{seq: eventlog.MakeSeq(7, 1)}},
		"s3://b/p?endpoint=http://u@h:1/x":     {"s3://b/p?endpoint=http://u@h:1/x", moment{}},
	} {
		name, at, err := splitAsOf(spec)
		if err != nil || name != want.name || at.seq != want.at.seq || !at.time.Equal(want.at.time) {
			t.Errorf("%s: %s %v, %v", spec, name, at, err)
		}
		if _, again, err := splitAsOf("dir:x" + at.String()); err != nil || again.seq != at.seq || !again.time.Equal(at.time) {
			t.Errorf("%s: %s reads back as %v, %v", spec, at, again, err)
		}
	}
	for _, spec := range []string{"dir:/mnt@", "dir:/mnt@0", "dir:/mnt@7.0", "dir:/mnt@yesterday", "dir:/mnt@2026-11-23"} {
		if _, _, err := splitAsOf(spec); exitCode(err) != exitUsage {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

func TestWhatIsTakenForAServersAddress(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("odd:8001", 0o700); err != nil {
		t.Fatal(err)
	}
	for spec, want := range map[string]string{
		"http://127.0.0.1:8001": "127.0.0.1:8001", "127.0.0.1:8001": "127.0.0.1:8001", "localhost:8001": "localhost:8001", "[::1]:8001": "[::1]:8001",
		"/var/lib/strandline": "", "state": "", "odd:8001": "", "a:b": "", "host:99999": "", ".": "",
	} {
		if address, live := liveAddress(spec); live != (want != "") || live && address != want {
			t.Errorf("%s: %q, %v", spec, address, live)
		}
	}
}

// batches is a log in batches of three.
type batches []eventlog.Entry

func (b batches) Follow(_ context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		for i := 0; i < len(b); i += 3 {
			chunk := b[i:min(i+3, len(b))]
			if chunk[len(chunk)-1].Event.Seq >= from && !yield(eventlog.Batch{Entries: chunk}, nil) {
				return
			}
		}
		yield(eventlog.Batch{}, errors.New("the end of the log"))
	}
}

// A history that is cut is not read beyond the cut, where it may be broken.
func TestACutEndsBehindItsLastEvent(t *testing.T) {
	var log batches
	for i := range 10 {
		log = append(log, eventlog.Entry{Event: eventlog.Event{Seq: eventlog.MakeSeq(1, uint32(i+1))}})
	}
	for last := uint32(1); last <= 10; last++ {
		var got []eventlog.Seq
		for batch, err := range recovery.UpTo(log, eventlog.MakeSeq(1, last)).Follow(t.Context(), eventlog.FirstSeq) {
			if err != nil {
				t.Fatalf("up to %d: %v", last, err)
			}
			if len(batch.Entries) == 0 {
				t.Errorf("up to %d: an empty batch", last)
			}
			for _, entry := range batch.Entries {
				got = append(got, entry.Event.Seq)
			}
		}
		if len(got) != int(last) || got[last-1] != eventlog.MakeSeq(1, last) {
			t.Errorf("up to %d: %v", last, got)
		}
	}
	for range recovery.UpTo(log, eventlog.FirstSeq).Follow(t.Context(), eventlog.FirstSeq+1) {
		t.Error("something behind the cut")
	}
	errs := 0
	for _, err := range recovery.UpTo(log, eventlog.MakeSeq(2, 1)).Follow(t.Context(), eventlog.FirstSeq) {
		if err != nil {
			errs++
		}
	}
	if errs != 1 {
		t.Errorf("a log that breaks before the cut: %d errors", errs)
	}
}

// sickServer is an admin listener whose copies of views are what views says.
func sickServer(t *testing.T, status httpapi.Status, views map[string][]byte) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/status", func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(status); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("GET /api/views/{name}", func(w http.ResponseWriter, r *http.Request) {
		copied, ok := views[r.PathValue("name")]
		if !ok {
			http.Error(w, "no views to be had yet: starting", http.StatusServiceUnavailable)
			return
		}
		if _, err := w.Write(copied); err != nil {
			t.Error(err)
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// emptyCopy is a copy of a view that has applied nothing but one event.
func emptyCopy(t *testing.T, p projector.Projector) []byte {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	view, err := projector.Open(kv.InMemory(quiet), p.Name(), p, projector.Live, quiet)
	if err != nil {
		t.Fatal(err)
	}
	first := eventlog.Event{Seq: eventlog.FirstSeq, Type: eventlog.EpochStarted, Writer: eventlog.ID{1}}
	entry := eventlog.Entry{Event: first, Raw: eventlog.AppendEvent(nil, &first)}
	var out bytes.Buffer
	err = errors.Join(projector.NewRunner(view, quiet).CatchUp(t.Context(), recovery.UpTo(batches{entry}, first.Seq)), view.Export(t.Context(), &out), view.Close())
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestARunningServerThatDoesNotAnswerWell(t *testing.T) {
	ours := httpapi.Status{LogID: eventlog.ID{7}, Mode: httpapi.ModeServing}
	block, machine := emptyCopy(t, projector.Blocks()), emptyCopy(t, projector.Machines())
	for name, test := range map[string]struct {
		status httpapi.Status
		views  map[string][]byte
		code   int
		says   string
	}{
		"it has no log yet":                {httpapi.Status{Mode: httpapi.ModeStarting}, nil, exitUnavailable, "it is starting"},
		"it has no views yet":              {ours, nil, exitError, "no views to be had yet"},
		"it dies while it copies":          {ours, map[string][]byte{"block": block[:len(block)-1], "machine": machine}, exitUnavailable, "breaks off"},
		"it dies before it copies":         {ours, map[string][]byte{"block": block, "machine": nil}, exitUnavailable, "does not begin like one"},
		"it sends another view":            {ours, map[string][]byte{"block": machine, "machine": machine}, exitError, "the strandline that the server runs"},
		"its log is not that of the other": {ours, map[string][]byte{"block": block, "machine": machine}, exitUsage, "of log"},
	} {
		t.Run(name, func(t *testing.T) {
			other := httpapi.Status{LogID: eventlog.ID{8}, Mode: httpapi.ModeServing}
			good := sickServer(t, other, map[string][]byte{"block": block, "machine": machine})
			scratch := t.TempDir()
			out, err := execute(t, "compare", sickServer(t, test.status, test.views), good, "--scratch", scratch)
			if err == nil || exitCode(err) != test.code || !strings.Contains(err.Error(), test.says) {
				t.Errorf("exit code %d, %v\n%s", exitCode(err), err, out)
			}
			if left, err := filepath.Glob(filepath.Join(scratch, "*")); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}

func TestCompareThatIsInterruptedLeavesNothing(t *testing.T) {
	status := httpapi.Status{LogID: eventlog.ID{7}, Mode: httpapi.ModeServing}
	block, machine := emptyCopy(t, projector.Blocks()), emptyCopy(t, projector.Machines())
	server := sickServer(t, status, map[string][]byte{"block": block, "machine": machine})
	ctx, cancel := context.WithCancel(t.Context())
	stuck := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}))
	t.Cleanup(stuck.Close)
	scratch := t.TempDir()
	err := runCompare(ctx, &globals{}, [2]string{server, stuck.URL}, scratch, &readBounds{}, &bytes.Buffer{})
	if exitCode(err) != exitInterrupted {
		t.Errorf("exit code %d: %v", exitCode(err), err)
	}
	if left, err := filepath.Glob(filepath.Join(scratch, "*")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// Two sides that diverge are compared as of their own ends: a view in which
// nothing happened since is not said to differ.
func TestAViewWithTheSameRowsAsOfOtherEventsIsSaidToHaveThem(t *testing.T) {
	same, other := projector.Digest{1}, projector.Digest{2}
	side := func(position eventlog.Seq, kept, rows projector.Digest) projector.Side {
		return projector.Side{Position: position, Kept: kept, Rows: rows}
	}
	for _, test := range []struct {
		a, b projector.Side
		want string
	}{
		{side(7, same, same), side(7, same, same), "block view: equal at"},
		{side(7, same, same), side(9, same, same), "block view: the same rows, A as of seq 0.7, B as of seq 0.9"},
		{side(7, same, same), side(9, other, other), "block view: DIFFERS"},
		{side(7, other, same), side(9, other, same), "block view: DIFFERS"}, // what the digests say is not there
	} {
		var text strings.Builder
		(&printer{w: &text}).difference(&projector.Difference{View: "block", A: test.a, B: test.b}, nil)
		if !strings.HasPrefix(text.String(), test.want) {
			t.Errorf("it says %q, want %q", text.String(), test.want)
		}
	}
}

// What was before a fork is told before what is now, and whether it differed.
func TestWhatWasBeforeAForkIsSaid(t *testing.T) {
	one, other := projector.Digest{1}, projector.Digest{2}
	common, fork := eventlog.MakeSeq(3, 9), eventlog.MakeSeq(4, 1)
	at := func(seq eventlog.Seq, digest projector.Digest) projector.Side {
		return projector.Side{Position: seq, Kept: digest, Rows: digest}
	}
	stand := []*projector.Difference{{View: "block", A: at(fork, one), B: at(fork, other)}}
	yes, no := true, false
	for name, test := range map[string]struct {
		common *commonReport
		want   string
	}{
		"equal": {&commonReport{Seq: common, Equal: &yes, Views: []*projector.Difference{{View: "block", A: at(common, one), B: at(common, one)}}},
			"as of seq 3.9, the newest event that both have, the views built from their logs are EQUAL:\nblock view: equal at seq 3.9"},
		"not equal": {&commonReport{Seq: common, Equal: &no, Views: []*projector.Difference{{View: "block", A: at(common, one), B: at(common, other)}}},
			"as of seq 3.9, the newest event that both have, the views built from their logs DIFFER already:\nblock view: DIFFERS\n  A at seq 3.9"},
		"not known":         {&commonReport{Seq: common}, "as they stand:"},
		"nothing in common": {nil, "as they stand:"},
	} {
		t.Run(name, func(t *testing.T) {
			event := &eventlog.Event{Seq: fork, Type: eventlog.EpochStarted}
			r := &compareResult{Verdict: verdictDiverged, A: &side{label: "A"}, B: &side{label: "B"}, Views: stand, Fork: &forkReport{Seq: fork, A: event, B: event, Common: test.common}}
			var text strings.Builder
			err := printComparison(&text, r)
			_, after, found := strings.Cut(text.String(), "  B says "+eventLine(event)+"\n")
			if err != nil || !found || !strings.HasPrefix(after, test.want) || !strings.Contains(after, "as they stand:\nblock view: DIFFERS\n  A at seq 4.1") {
				t.Errorf("%v\n%s", err, text.String())
			}
		})
	}
}
