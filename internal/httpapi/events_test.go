// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
)

func at(n uint32) eventlog.Seq { return eventlog.MakeSeq(7, n) }

// read collects the counters of the events that q yields.
func read(t *testing.T, c *Client, q EventQuery) (counters []uint32, err error) {
	t.Helper()
	for l, err := range c.Events(testContext(t), q) {
		if err != nil {
			return counters, err
		}
		counters = append(counters, l.Event.Seq.Counter())
	}
	return counters, nil
}

func upTo(first, last uint32) (all []uint32) {
	for n := first; n <= last; n++ {
		all = append(all, n)
	}
	return all
}

func TestEventsReach(t *testing.T) {
	log := newLog(40)
	log.archive(at(25))
	c := serve(t, &fakeServer{log: log})
	empty := serve(t, &fakeServer{log: newLog(0)})
	tests := []struct {
		name   string
		client *Client
		q      EventQuery
		want   []uint32
	}{
		{"the archived watermark by default", c, EventQuery{}, upTo(1, 25)},
		{"the committed one when asked", c, EventQuery{Committed: true}, upTo(1, 40)},
		{"from a seq on", c, EventQuery{From: at(20)}, upTo(20, 25)},
		{"nothing above the archived watermark", c, EventQuery{From: at(26)}, nil},
		{"what is committed above it", c, EventQuery{From: at(26), Committed: true}, upTo(26, 40)},
		{"nothing above the end", c, EventQuery{From: at(41), Committed: true}, nil},
		{"everything from an earlier epoch on", c, EventQuery{From: eventlog.MakeSeq(3, 9)}, upTo(1, 25)},
		{"nothing in an empty log", empty, EventQuery{Committed: true}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := read(t, tt.client, tt.q); err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestBothWritingsOfASeqAndOfTheWatermark(t *testing.T) {
	log := newLog(5)
	log.archive(at(3))
	c := serve(t, &fakeServer{log: log})
	for path, want := range map[string]int{
		"/api/events?from=7.2":                             2,
		"/api/events?from=30064771074":                     2,
		"/api/events?from=0":                               3,
		"/api/events?archived=1":                           3,
		"/api/events?archived=0":                           5,
		"/api/events?committed=1&archived=0":               5,
		"/api/events?from=7.2&follow=false&committed=true": 4,
	} {
		status, head, body := ask(t, c, "GET", path, nil)
		if got := strings.Count(body, "\n"); status != 200 || got != want || head.Get("Content-Type") != "application/x-ndjson" {
			t.Errorf("%s: %d, %d lines, %s; want %d lines", path, status, got, head.Get("Content-Type"), want)
		}
	}
}

func TestALineIsTheEventInJSON(t *testing.T) {
	log := newLog(1)
	log.archive(at(1))
	want, err := json.Marshal(log.entries[0].Event)
	if err != nil {
		t.Fatal(err)
	}
	_, _, body := ask(t, serve(t, &fakeServer{log: log}), "GET", "/api/events", nil)
	if body != string(want)+"\n" {
		t.Errorf("got %s, want %s", body, want)
	}
}

func TestAFollowerGetsWhatIsCommittedLater(t *testing.T) {
	log := newLog(3)
	c := serve(t, &fakeServer{log: log})
	next, stop := pull(t, c, EventQuery{From: at(2), Follow: true, Committed: true})
	defer stop()
	for n := uint32(2); n <= 30; n++ {
		if n > 3 {
			log.append(at(n))
		}
		if got := next(); got != at(n) {
			t.Fatalf("got %s, want %s", got, at(n))
		}
	}
}

func TestAFollowerOfTheArchiveGetsNothingThatCouldBeLost(t *testing.T) {
	log := newLog(10)
	log.archive(at(4))
	c := serve(t, &fakeServer{log: log})
	next, stop := pull(t, c, EventQuery{Follow: true})
	defer stop()
	for n := uint32(1); n <= 10; n++ {
		if n > 4 {
			log.archive(at(n)) // one more; the batch it lies in was read long ago
		}
		got := next()
		if got != at(n) {
			t.Fatalf("got %s, want %s", got, at(n))
		}
		if got > log.Archived() {
			t.Fatalf("got %s above the archived watermark %s", got, log.Archived())
		}
	}
}

// pull reads a stream one event at a time.
func pull(t *testing.T, c *Client, q EventQuery) (next func() eventlog.Seq, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	lines := make(chan EventLine)
	ended := make(chan error, 1)
	go func() {
		defer close(lines)
		for l, err := range c.Events(ctx, q) {
			if err != nil {
				ended <- err
				return
			}
			select {
			case lines <- l:
			case <-ctx.Done():
				return
			}
		}
	}()
	next = func() eventlog.Seq {
		t.Helper()
		l, ok := <-lines
		if !ok {
			t.Fatalf("the stream ended: %v", <-ended)
		}
		return l.Event.Seq
	}
	return next, func() {
		cancel()
		for range lines {
		}
	}
}

func TestCleanedRangesAreStatedWhereTheyLie(t *testing.T) {
	log := newLog(3)
	log.append(at(10))
	log.append(at(11))
	log.cleaned = []eventlog.Range{{First: at(4), Last: at(9)}}
	log.archive(at(11))
	var got []string
	for l, err := range serve(t, &fakeServer{log: log}).Events(testContext(t), EventQuery{}) {
		if err != nil {
			t.Fatal(err)
		}
		if l.Cleaned != (eventlog.Range{}) {
			got = append(got, "cleaned "+l.Cleaned.String())
			continue
		}
		got = append(got, l.Event.Seq.String())
	}
	if want := []string{"7.1", "7.2", "7.3", "cleaned 7.4-7.9", "7.10", "7.11"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAReaderBelowTheHorizonMustStartAgain(t *testing.T) {
	log := newLog(9)
	log.horizon = at(5)
	log.archive(at(9))
	c := serve(t, &fakeServer{log: log})
	for _, query := range []string{"?from=7.3", "?from=7.3&follow=1"} {
		status, _, body := ask(t, c, "GET", "/api/events"+query, nil)
		if status != http.StatusGone || !strings.Contains(body, "start from the first") {
			t.Errorf("%s answered %d %q", query, status, body)
		}
	}
}

func TestABrokenStreamIsNeverTakenForAWholeOne(t *testing.T) {
	log := newLog(9)
	log.entries = log.entries[:5] // the watermark says 9
	log.archive(at(9))
	log.broken = errors.New("ordinal 12 is missing")
	c := serve(t, &fakeServer{log: log})
	got, err := read(t, c, EventQuery{})
	if err == nil || !strings.Contains(err.Error(), "ordinal 12 is missing") {
		t.Errorf("got %v, %v", got, err)
	}
	resp, err := direct.Get("http://" + c.Addr + "/api/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the body ends with %v, want a connection broken off", err)
	}
}

func TestAStreamThatTheServerEndsIsBrokenOff(t *testing.T) {
	log := newLog(3)
	log.waiting = make(chan struct{}, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	c := serveUntil(ctx, t, &fakeServer{log: log})
	go func() {
		<-log.waiting // the stream stands at the end of the log
		stop()
	}()
	got, err := read(t, c, EventQuery{Follow: true, Committed: true})
	if err == nil || !slices.Equal(got, upTo(1, 3)) {
		t.Errorf("got %v, %v; want three events and an error", got, err)
	}
}

func TestAStreamThatBreaksBeforeItsFirstEventIsAnError(t *testing.T) {
	log := newLog(0)
	log.archive(at(9))
	log.broken = errors.New("ordinal 1 is missing")
	status, _, body := ask(t, serve(t, &fakeServer{log: log}), "GET", "/api/events", nil)
	if status != 500 || !strings.Contains(body, "ordinal 1 is missing") {
		t.Errorf("answered %d %q", status, body)
	}
}

func TestMoreEventsThanTheBufferHolds(t *testing.T) {
	log := newLog(2000)
	log.perBatch = 1500
	log.archive(at(2000))
	got, err := read(t, serve(t, &fakeServer{log: log}), EventQuery{})
	if err != nil || !slices.Equal(got, upTo(1, 2000)) {
		t.Errorf("%d events, %v", len(got), err)
	}
}

func FuzzQuery(f *testing.F) {
	for _, seed := range []string{"", "from=7.1&follow=1", "from=x", "archived=0&committed=1", "from=99999999999999999999", "follow=%zz"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		values, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		if q, err := parseQuery(values); err == nil && !q.from.Valid() {
			t.Errorf("%q reads from %s", raw, q.from)
		}
	})
}

func FuzzLine(f *testing.F) {
	f.Add([]byte(`{"cleaned":{"first":30064771076,"last":30064771081}}`))
	f.Add([]byte(`{"error":"broken"}`))
	f.Add([]byte(`{"seq":30064771073,"type":"log_created"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := parseLine(raw)
		if isRange := l.Cleaned.First.Valid() && l.Cleaned.First <= l.Cleaned.Last; err == nil && l.Event.Seq.Valid() == isRange {
			t.Errorf("%q was taken for event %s, range %s", raw, l.Event.Seq, l.Cleaned)
		}
	})
}
