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
	"github.com/strandline-project/strandline/internal/blockstore"
	"github.com/strandline-project/strandline/internal/progress"
)

// DrillRequest asks for a drill now.
type DrillRequest struct {
	Mode   string // "full", "checkpoint"; "": the one whose turn it is
	Sample int    // random blocks to read back; negative: as the server was told
}

// DrillRun is a drill that the server does. It goes on whoever watches it.
type DrillRun interface {
	// Snapshot is how far it is.
	Snapshot() progress.Snapshot
	// Phases are those of it that have ended, in their order.
	Phases() []progress.Snapshot
	// Done is closed when it has ended.
	Done() <-chan struct{}
	// Result is what it found out, as JSON, once it has ended. An error means
	// that it could not be done; the code is what a command ends with then.
	Result() (result json.RawMessage, code int, err error)
}

// ErrDrillRuns says that a drill is under way already.
var ErrDrillRuns = errors.New("a drill is under way already: `strandline status` shows how far it is")

// Drill is the server's drills: the one that runs, the last one that came to a
// verdict, and the next one.
type Drill struct {
	Running     *progress.Snapshot `json:"running,omitempty"`
	Verdict     eventlog.Verdict   `json:"verdict,omitempty"` // of the last; "": there was none
	Reason      string             `json:"reason,omitempty"`  // why it failed
	Mode        string             `json:"mode,omitempty"`
	Began       time.Time          `json:"began,omitzero"`
	Ended       time.Time          `json:"ended,omitzero"`
	Upto        *Mark              `json:"up_to,omitempty"` // the last event that it rebuilt
	RTOSeconds  float64            `json:"rto_seconds,omitempty"`
	Blocks      uint64             `json:"blocks_read_back,omitempty"`
	Remarks     []string           `json:"remarks,omitempty"`
	LastSuccess time.Time          `json:"last_success,omitzero"`
	Undone      string             `json:"undone,omitempty"` // why one could not be done since
	Next        time.Time          `json:"next,omitzero"`    // zero: none is scheduled
}

// drillLine is one line of the answer to POST /api/drill.
type drillLine struct {
	Progress *progress.Snapshot `json:"progress,omitempty"`
	Result   json.RawMessage    `json:"result,omitempty"` // the last line of a drill that came to a verdict
	Error    string             `json:"error,omitempty"`  // the last line of one that could not be done
	Code     int                `json:"code,omitempty"`   // with Error
}

// drillPoll is how often a drill's progress is told to who watches it.
const drillPoll = time.Second

func parseDrill(values url.Values) (r DrillRequest, err error) {
	r.Mode, r.Sample = values.Get("mode"), -1
	if r.Mode != "" && r.Mode != "full" && r.Mode != "checkpoint" {
		return r, fmt.Errorf("mode=%q: write full or checkpoint", r.Mode)
	}
	if text := values.Get("sample"); text != "" {
		if r.Sample, err = strconv.Atoi(text); err != nil || r.Sample < 0 {
			return r, fmt.Errorf("sample=%q: write a number from 0 on", text)
		}
	}
	return r, nil
}

func (h *handler) drill(w http.ResponseWriter, r *http.Request) {
	request, err := parseDrill(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	run, err := h.server.Drill(r.Context(), request)
	var unavailable *blockstore.Unavailable
	switch {
	case err == nil:
		h.watchDrill(w, r, run)
	case errors.Is(err, ErrDrillRuns):
		http.Error(w, err.Error(), http.StatusConflict)
	case errors.As(err, &unavailable):
		w.Header().Set("Retry-After", fmt.Sprint(max(1, int(unavailable.RetryAfter.Seconds()))))
		http.Error(w, fmt.Sprintf("drill: %v", err), http.StatusServiceUnavailable)
	default:
		h.log.Error("a drill did not begin", "err", err)
		http.Error(w, fmt.Sprintf("drill: %v", err), http.StatusInternalServerError)
	}
}

// watchDrill tells how far a drill is, and of each phase how it ended, until it
// has ended or the client has left.
func (h *handler) watchDrill(w http.ResponseWriter, r *http.Request, run DrillRun) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := &lineWriter{w: w, control: http.NewResponseController(w)}
	ticker := time.NewTicker(drillPoll)
	defer ticker.Stop()
	told := 0 // phases
	tellEnded := func() {
		for _, ended := range run.Phases()[told:] {
			out.write(drillLine{Progress: &ended})
			told++
		}
	}
	for out.err == nil {
		select {
		case <-r.Context().Done():
			return
		case <-run.Done():
			tellEnded()
			last := drillLine{}
			var err error
			if last.Result, last.Code, err = run.Result(); err != nil {
				last.Error, last.Result = err.Error(), nil
			}
			out.write(last)
			if out.err != nil {
				h.log.Debug("a client of the admin door left", "err", out.err)
			}
			return
		case <-ticker.C:
			now := run.Snapshot()
			tellEnded()
			out.write(drillLine{Progress: &now})
		}
	}
	h.log.Debug("a client of the admin door left", "err", out.err)
}

// lineWriter writes JSON a line at a time; a client that takes nothing any
// more is given up.
type lineWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	err     error
}

func (l *lineWriter) write(v any) {
	if l.err == nil {
		l.err = l.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	}
	if l.err == nil {
		l.err = json.NewEncoder(l.w).Encode(v)
	}
	if l.err == nil {
		l.err = l.control.Flush()
	}
}

// DrillError is a drill that the server could not do.
type DrillError struct {
	Code int // that a command ends with
	Text string
}

// Error says why.
func (e *DrillError) Error() string { return e.Text }

// Drill asks for a drill and waits for its end, telling report, which may be
// nil, how far it is. The result is what the server's DrillRun said. That it
// could not be done is a *DrillError. When ctx ends, the drill goes on.
func (c *Client) Drill(ctx context.Context, r DrillRequest, report func(progress.Snapshot)) (json.RawMessage, error) {
	values := url.Values{}
	if r.Mode != "" {
		values.Set("mode", r.Mode)
	}
	if r.Sample >= 0 {
		values.Set("sample", strconv.Itoa(r.Sample))
	}
	resp, err := c.do(ctx, http.MethodPost, "/api/drill", values)
	if err != nil {
		return nil, fmt.Errorf("drill: %w", err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for lines.Scan() {
		var line drillLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("drill: a line that is no JSON: %w", err)
		}
		switch {
		case line.Error != "":
			return nil, &DrillError{Code: line.Code, Text: line.Error}
		case line.Result != nil:
			return line.Result, nil
		case line.Progress != nil && report != nil:
			report(*line.Progress)
		}
	}
	err = lines.Err()
	if err == nil {
		err = errors.New("the server ended it")
	}
	return nil, fmt.Errorf("drill: the stream broke off, see `strandline status`: %w", err)
}
