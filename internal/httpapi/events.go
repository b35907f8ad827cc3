// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

const (
	// archivedPoll is how often a follower of archived events looks at the
	// watermark. It must not wait in the log for it: that would make the
	// server cut its generations short for every reader.
	archivedPoll = 100 * time.Millisecond
	// writeTimeout ends a stream whose reader takes nothing any more.
	writeTimeout = 30 * time.Second
)

// A line of the stream is one of
//
//	{"seq":…}                         an event (eventlog.Event in JSON)
//	{"cleaned":{"first":…,"last":…}}  events from first to last were cleaned away
//	{"error":"…"}                     the last line of a stream that broke
//
// A stream that ends well, without the last of them, is whole up to the
// watermark at the time of the request; any other is broken off, and so is a
// follower's when the server stops.
type line struct {
	Cleaned *cleanedRange `json:"cleaned,omitempty"`
	Error   string        `json:"error,omitempty"`
}

type cleanedRange struct {
	First eventlog.Seq `json:"first"`
	Last  eventlog.Seq `json:"last"`
}

// query is what a request for events asks.
type query struct {
	from      eventlog.Seq
	follow    bool
	committed bool // up to the committed watermark instead of the archived one
}

func parseQuery(values url.Values) (q query, err error) {
	q.from = eventlog.FirstSeq
	if text := values.Get("from"); text != "" && text != "0" {
		if q.from, err = eventlog.ParseSeq(text); err != nil {
			return q, fmt.Errorf("from: %w", err)
		}
	}
	if q.follow, err = parseFlag(values, "follow"); err != nil {
		return q, err
	}
	if q.committed, err = parseFlag(values, "committed"); err != nil {
		return q, err
	}
	archived := !q.committed
	if values.Has("archived") {
		if archived, err = parseFlag(values, "archived"); err != nil {
			return q, err
		}
	}
	if q.committed && archived {
		return q, errors.New("archived=1 and committed=1 exclude each other")
	}
	q.committed = !archived
	return q, nil
}

func parseFlag(values url.Values, name string) (bool, error) {
	text := values.Get(name)
	if text == "" {
		return false, nil
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("%s=%q: write 1 or 0", name, text)
	}
	return v, nil
}

func (h *handler) events(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	log := h.server.Log()
	if log == nil {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "no events to be had yet: "+string(h.server.Status().Mode), http.StatusServiceUnavailable)
		return
	}
	s := &stream{log: log, query: q, out: bufio.NewWriterSize(w, 64<<10), w: w, control: http.NewResponseController(w)}
	if err := s.run(r.Context()); err != nil {
		h.broken(r.Context(), s, err)
	}
}

// broken ends a stream that cannot go on, because the log cannot be read or
// the server stops, so that no reader takes it for a whole one.
func (h *handler) broken(ctx context.Context, s *stream, err error) {
	if !s.begun {
		status := http.StatusInternalServerError
		if errors.Is(err, eventlog.ErrCleaned) {
			status = http.StatusGone
		}
		http.Error(s.w, err.Error(), status)
		return
	}
	if ctx.Err() == nil {
		h.log.Warn("a stream of events broke", "after", s.last, "err", err)
	}
	if err := errors.Join(s.write(line{Error: err.Error()}), s.flush()); err != nil {
		h.log.Debug("a reader of events left", "err", err)
	}
	panic(http.ErrAbortHandler)
}

// stream is one answer to GET /api/events.
type stream struct {
	log     Log
	query   query
	out     *bufio.Writer
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
	last    eventlog.Seq // last one written
}

func (s *stream) run(ctx context.Context) error {
	end := s.watermark()
	events := s.log.ReadTo(ctx, s.query.from)
	if s.query.follow {
		events = s.log.Follow(ctx, s.query.from, s.wait)
	} else if end < s.query.from {
		return s.begin()
	}
	for batch, err := range events {
		if err != nil {
			return err
		}
		done, err := s.batch(ctx, batch, end)
		if err != nil || done {
			return err
		}
	}
	return s.begin() // a log that had nothing is an empty answer
}

// wait is where a follower stands at the log's end. The head of the answer
// goes out at the latest now, so that the reader knows it is connected.
func (s *stream) wait(ctx context.Context, after eventlog.Seq) error {
	if err := s.begin(); err != nil {
		return err
	}
	return s.log.WaitCommitted(ctx, after)
}

// watermark is how far the reader may read now.
func (s *stream) watermark() eventlog.Seq {
	if s.query.committed {
		seq, _ := s.log.Committed()
		return seq
	}
	return s.log.Archived()
}

// batch writes one batch and reports whether end is reached. A follower has
// no end, and waits with each event until it is below the watermark.
func (s *stream) batch(ctx context.Context, batch eventlog.Batch, end eventlog.Seq) (done bool, err error) {
	cleaned := batch.Cleaned
	for i := range batch.Entries {
		event := &batch.Entries[i].Event
		if event.Seq < s.query.from {
			continue
		}
		if s.query.follow && event.Seq > end {
			if end, err = s.await(ctx, event.Seq); err != nil {
				return false, err
			}
		}
		if event.Seq > end {
			return true, s.flush()
		}
		for len(cleaned) > 0 && cleaned[0].First < event.Seq {
			if err := s.write(line{Cleaned: &cleanedRange{cleaned[0].First, cleaned[0].Last}}); err != nil {
				return false, err
			}
			cleaned = cleaned[1:]
		}
		if err := s.write(event); err != nil {
			return false, err
		}
		s.last = event.Seq
	}
	for _, r := range cleaned {
		if !s.query.follow && r.Last > end {
			break
		}
		if err := s.write(line{Cleaned: &cleanedRange{r.First, r.Last}}); err != nil {
			return false, err
		}
	}
	return !s.query.follow && s.last >= end, s.flush()
}

// await returns the watermark once it has reached seq. What was written so far
// goes out first.
func (s *stream) await(ctx context.Context, seq eventlog.Seq) (eventlog.Seq, error) {
	if end := s.watermark(); end >= seq {
		return end, nil
	}
	if err := errors.Join(s.begin(), s.flush()); err != nil {
		return 0, err
	}
	poll := time.NewTicker(archivedPoll)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-poll.C:
		}
		if end := s.watermark(); end >= seq {
			return end, nil
		}
	}
}

// begin sends the head of the answer, once.
func (s *stream) begin() error {
	if s.begun {
		return nil
	}
	s.begun = true
	s.w.Header().Set("Content-Type", "application/x-ndjson")
	s.w.WriteHeader(http.StatusOK)
	return s.flush()
}

func (s *stream) write(v any) error {
	if err := s.begin(); err != nil {
		return err
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("event after %s in JSON: %w", s.last, err)
	}
	if err := s.writeLine(data); err != nil {
		return err
	}
	if s.out.Buffered() < s.out.Size()/2 {
		return nil
	}
	return s.flush()
}

func (s *stream) writeLine(data []byte) error {
	if _, err := s.out.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("send events: %w", err)
	}
	return nil
}

// flush sends what was written to the reader, which has writeTimeout to take
// it.
func (s *stream) flush() error {
	if err := s.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("bound the time of a write: %w", err)
	}
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("send events: %w", err)
	}
	if err := s.control.Flush(); err != nil {
		return fmt.Errorf("send events: %w", err)
	}
	return nil
}
