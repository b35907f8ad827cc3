// SPDX-License-Identifier: Apache-2.0

package plainclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// mediaV2 is the type of a version 2 listing; the answer's must be equal to
// it byte for byte.
const mediaV2 = "application/vnd.x.restic.rest.v2"

const (
	maxMetaBytes = 1 << 30 // index, snapshots, locks, config: what a server takes at most
	maxListBytes = 4 << 30 // about 45 million names
)

// StatusError is an answer other than the one that was hoped for.
type StatusError struct {
	Method, Path string
	Status       int
	Reason       string        // first line of the answer's body, may be empty
	RetryAfter   time.Duration // what the server asked for, 0 if nothing
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%s %s: %d %s", e.Method, e.Path, e.Status, http.StatusText(e.Status))
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// permanent reports whether a repetition is pointless: the client's own
// faults, and 507 (restic gives up on it too).
func (e *StatusError) permanent() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	}
	return e.Status < 500 || e.Status == http.StatusInsufficientStorage
}

// errDamaged marks bytes that do not hash to their name.
var errDamaged = errors.New("the bytes do not match the block's name")

func isNotFound(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Status == http.StatusNotFound
}

func newHTTPClient(transport http.RoundTripper) *http.Client {
	if transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		own.MaxIdleConnsPerHost = 16
		own.DisableCompression = true // bodies are checked by length and hash
		transport = own
	}
	return &http.Client{
		Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // a redirect would drop the credentials or the body
		},
	}
}

// listed is one row of a version 2 listing.
type listed struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// create registers the machine.
func (c *Client) create(ctx context.Context) error {
	_, err := c.do(ctx, request{method: http.MethodPost, query: "create=true"})
	return err
}

// post stores body as kind/name. Storing the same block twice is no error.
func (c *Client) post(ctx context.Context, kind, name string, body []byte) error {
	_, err := c.do(ctx, request{method: http.MethodPost, kind: kind, name: name, body: body})
	if err == nil {
		c.opts.Stored(kind, name, int64(len(body)))
	}
	return err
}

// put stores body under the name that it hashes to and returns that name.
func (c *Client) put(ctx context.Context, kind string, body []byte) (string, error) {
	sum := sha256.Sum256(body)
	name := hex.EncodeToString(sum[:])
	return name, c.post(ctx, kind, name, body)
}

// get returns the body of kind/name, at most limit bytes of it, verified
// against the name (a config has none).
func (c *Client) get(ctx context.Context, kind, name string, limit int64) ([]byte, error) {
	return c.do(ctx, request{method: http.MethodGet, kind: kind, name: name, limit: limit, verify: name != ""})
}

// list returns the names and lengths of the blocks of a kind.
func (c *Client) list(ctx context.Context, kind string) ([]listed, error) {
	body, err := c.do(ctx, request{method: http.MethodGet, kind: kind, limit: maxListBytes, list: true})
	if err != nil {
		return nil, err
	}
	var rows []listed
	if err := json.Unmarshal(body, &rows); err != nil {
		return nil, fmt.Errorf("list %s: %w", kind, err)
	}
	if rows == nil {
		return nil, fmt.Errorf("list %s: the answer is null, not a list", kind)
	}
	for _, row := range rows {
		if !validName(row.Name) || row.Size < 0 {
			return nil, fmt.Errorf("list %s: row %q with %d bytes is not a block's", kind, row.Name, row.Size)
		}
	}
	return rows, nil
}

// remove deletes kind/name; that it was absent is no error.
func (c *Client) remove(ctx context.Context, kind, name string) error {
	_, err := c.do(ctx, request{method: http.MethodDelete, kind: kind, name: name})
	if isNotFound(err) {
		return nil
	}
	return err
}

// request is one verb of the protocol; it can be sent any number of times.
type request struct {
	method, kind, name, query string
	body                      []byte
	limit                     int64 // of the answer's body in bytes
	list                      bool  // a listing: the path ends with a slash
	verify                    bool  // the answer's body must hash to name
}

func (r request) path() string {
	switch {
	case r.list:
		return r.kind + "/"
	case r.name != "":
		return r.kind + "/" + r.name
	}
	return r.kind
}

// do sends r until it is answered for good or Options.GiveUp has passed, with
// growing pauses, and returns the answer's body.
func (c *Client) do(ctx context.Context, r request) ([]byte, error) {
	var last error
	damaged := 0
	attempt := func() ([]byte, error) {
		body, err := c.try(ctx, r)
		if err == nil {
			return body, nil
		}
		last = err
		var status *StatusError
		switch {
		case errors.Is(err, errDamaged):
			if damaged++; damaged == 3 { // a transfer may go wrong, not three
				return nil, backoff.Permanent(err)
			}
			return nil, err
		case !errors.As(err, &status):
			return nil, err
		case status.permanent():
			return nil, backoff.Permanent(err)
		case status.RetryAfter > 0:
			return nil, &backoff.RetryAfterError{Duration: min(status.RetryAfter, time.Minute)}
		}
		return nil, err
	}
	body, err := backoff.Retry(ctx, attempt,
		backoff.WithMaxElapsedTime(c.opts.GiveUp),
		backoff.WithNotify(func(_ error, wait time.Duration) { c.opts.Retrying(last, wait) }))
	if err == nil {
		return body, nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(last, cause) {
		return nil, fmt.Errorf("%w (last: %w)", cause, last)
	}
	return nil, last
}

// try sends r once.
func (c *Client) try(ctx context.Context, r request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.TryTimeout)
	defer cancel()
	req, err := c.newRequest(ctx, r)
	if err != nil {
		return nil, backoff.Permanent(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.method, r.path(), err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, statusError(r, resp)
	}
	body, err := readBody(r, resp)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.method, r.path(), err)
	}
	return body, nil
}

func (c *Client) newRequest(ctx context.Context, r request) (*http.Request, error) {
	u := *c.base
	u.Path += r.path()
	u.RawQuery = r.query
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.method, r.path(), err)
	}
	req.Header.Set("Accept", mediaV2)
	if r.method == http.MethodPost {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	if c.opts.User != "" || c.opts.Password != "" {
		req.SetBasicAuth(c.opts.User, c.opts.Password)
	}
	return req, nil
}

// readBody returns the whole body of an answer with status 200, or an error:
// a body that ends early, is too long or has another hash is none.
func readBody(r request, resp *http.Response) ([]byte, error) {
	if r.list && resp.Header.Get("Content-Type") != mediaV2 {
		return nil, backoff.Permanent(fmt.Errorf("the listing is of type %q, not %s: the server does not speak version 2 of the protocol",
			resp.Header.Get("Content-Type"), mediaV2))
	}
	var body bytes.Buffer
	if n := resp.ContentLength; n > 0 && n <= min(r.limit, maxBlock) {
		body.Grow(int(n))
	}
	n, err := body.ReadFrom(io.LimitReader(resp.Body, r.limit+1))
	if err != nil {
		return nil, err
	}
	if n > r.limit && r.limit > 0 {
		return nil, backoff.Permanent(fmt.Errorf("the answer is longer than %d bytes", r.limit))
	}
	if sum := sha256.Sum256(body.Bytes()); r.verify && hex.EncodeToString(sum[:]) != r.name {
		return nil, errDamaged
	}
	return body.Bytes(), nil
}

func statusError(r request, resp *http.Response) *StatusError {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // the status is the news, its text only a comfort
	reason, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After")) // absent or a date: the usual pauses
	return &StatusError{
		Method: r.method, Path: r.path(), Status: resp.StatusCode, Reason: reason,
		RetryAfter: time.Duration(max(seconds, 0)) * time.Second,
	}
}

// validName reports whether name is a SHA-256 in lower-case hex.
func validName(name string) bool {
	if len(name) != 2*sha256.Size || strings.ToLower(name) != name {
		return false
	}
	_, err := hex.DecodeString(name)
	return err == nil
}
