// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// DefaultAddr is where a server's admin door is unless it was told otherwise.
const DefaultAddr = "127.0.0.1:8001"

const (
	requestTimeout = 2 * time.Minute // release waits for the archive
	maxAnswer      = 16 << 20        // bytes of a status
	maxLine        = 8 << 20         // bytes of an event in JSON; on the wire it has at most 1 MiB
)

// ErrNoServer says that nothing listens at the client's address.
var ErrNoServer = errors.New("is strandline serve running? --admin names its admin address")

// Client speaks to the admin door of a running server.
type Client struct {
	Addr string       // host:port; "" for DefaultAddr
	HTTP *http.Client // nil for one without proxy
}

// Status asks the server about itself.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var status Status
	if err := c.call(ctx, http.MethodGet, "/api/status", nil, &status); err != nil {
		return nil, fmt.Errorf("ask for the status: %w", err)
	}
	return &status, nil
}

// Release lifts the bar of a machine, written as ACCOUNT/MACHINE.
func (c *Client) Release(ctx context.Context, machine string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := c.call(ctx, http.MethodPost, "/api/release", url.Values{"machine": {machine}}, nil); err != nil {
		return fmt.Errorf("release %s: %w", machine, err)
	}
	return nil
}

// call makes a request and decodes its JSON answer into out, unless that is
// nil.
func (c *Client) call(ctx context.Context, method, path string, values url.Values, out any) error {
	resp, err := c.do(ctx, method, path, values)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", c.addr(), err)
	}
	if len(data) > maxAnswer {
		return fmt.Errorf("the answer of %s has more than %d bytes", c.addr(), maxAnswer)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("the answer of %s is not what a strandline server says: %w", c.addr(), err)
	}
	return nil
}

// do returns a response with status 200; the caller closes its body.
func (c *Client) do(ctx context.Context, method, path string, values url.Values) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: c.addr(), Path: path, RawQuery: values.Encode()}
	request, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("admin address %q: %w; write host:port", c.addr(), err)
	}
	resp, err := c.http().Do(request)
	if err != nil {
		return nil, c.unanswered(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return nil, fmt.Errorf("%s answers %s and breaks off: %w", c.addr(), resp.Status, err)
	}
	return nil, fmt.Errorf("%s answers %s: %s", c.addr(), resp.Status, bytes.TrimSpace(text))
}

// unanswered says why a request got no response.
func (c *Client) unanswered(ctx context.Context, err error) error {
	var dial *net.OpError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("no answer from %s: %w", c.addr(), context.Cause(ctx))
	case errors.As(err, &dial) && dial.Op == "dial":
		return fmt.Errorf("no server answers at %s; %w (%w)", c.addr(), ErrNoServer, dial.Err)
	}
	return fmt.Errorf("what answers at %s is no strandline server's admin listener: %w", c.addr(), errors.Unwrap(err))
}

func (c *Client) addr() string {
	if c.Addr == "" {
		return DefaultAddr
	}
	return strings.TrimSuffix(strings.TrimPrefix(c.Addr, "http://"), "/")
}

// direct asks no proxy: the admin door is on this host or near it.
var direct = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func (c *Client) http() *http.Client {
	if c.HTTP != nil {
		return c.HTTP
	}
	return direct
}

// EventQuery says which events to read.
type EventQuery struct {
	From      eventlog.Seq // 0: from the first
	Follow    bool         // go on behind the end, until the context ends
	Committed bool         // up to the committed watermark; what lies above the archived one can still be lost
}

// EventLine is one line of the stream.
type EventLine struct {
	Raw     []byte         // as it came, without the line's end; the reader's own
	Event   eventlog.Event // zero when Cleaned is set
	Cleaned eventlog.Range // events that were cleaned away here; zero for none
}

// Events yields the log's events in order. An error is yielded once, last; a
// stream that was broken off is one.
func (c *Client) Events(ctx context.Context, q EventQuery) iter.Seq2[EventLine, error] {
	return func(yield func(EventLine, error) bool) {
		resp, err := c.do(ctx, http.MethodGet, "/api/events", q.values())
		if err != nil {
			yield(EventLine{}, fmt.Errorf("read events: %w", err))
			return
		}
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(make([]byte, 64<<10), maxLine)
		for lines.Scan() {
			parsed, err := parseLine(lines.Bytes())
			if !yield(parsed, err) || err != nil {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(EventLine{}, fmt.Errorf("read events: the stream broke off: %w", err))
		}
	}
}

func (q EventQuery) values() url.Values {
	values := url.Values{}
	if q.From != 0 {
		values.Set("from", fmt.Sprint(uint64(q.From)))
	}
	if q.Follow {
		values.Set("follow", "1")
	}
	if q.Committed {
		values.Set("committed", "1")
	}
	return values
}

func parseLine(raw []byte) (EventLine, error) {
	var special line
	if err := json.Unmarshal(raw, &special); err != nil {
		return EventLine{}, fmt.Errorf("read events: a line that is no JSON: %w", err)
	}
	out := EventLine{Raw: bytes.Clone(raw)}
	switch {
	case special.Error != "":
		return EventLine{}, fmt.Errorf("read events: the server says: %s", special.Error)
	case special.Cleaned != nil:
		out.Cleaned = eventlog.Range{First: special.Cleaned.First, Last: special.Cleaned.Last}
		if !out.Cleaned.First.Valid() || !out.Cleaned.Last.Valid() || out.Cleaned.First > out.Cleaned.Last {
			return EventLine{}, fmt.Errorf("read events: %s is no range of events", out.Cleaned)
		}
		return out, nil
	}
	if err := json.Unmarshal(raw, &out.Event); err != nil {
		return EventLine{}, fmt.Errorf("read events: %w", err)
	}
	if !out.Event.Seq.Valid() {
		return EventLine{}, fmt.Errorf("read events: %d is no event's number", uint64(out.Event.Seq))
	}
	return out, nil
}
