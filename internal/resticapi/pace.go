// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/strandline-project/strandline/internal/blockstore"
)

// pace is how slow a client may be. Only the time in which the server waits
// for the client counts, never the time in which the Store makes it wait.
type pace struct {
	rate       int64         // bytes a second
	readGrace  time.Duration // what a client may fall behind while it sends
	writeGrace time.Duration // what it may leave an answer unread, longer than readGrace; restic itself gives up after five minutes
}

var defaultPace = pace{rate: 1 << 10, readGrace: 30 * time.Second, writeGrace: 5 * time.Minute}

// worth is the time that n bytes may take at the lowest rate.
func (p pace) worth(n int) time.Duration {
	return time.Duration(int64(n) * int64(time.Second) / p.rate)
}

// unreadLimit is how much of an unread body net/http reads by itself to keep a
// connection alive; with more than that left it is closed.
const unreadLimit = 256 << 10

// requestBody is a request's body: counted, limited to max bytes, and dropped
// when it comes too slowly. It remembers why it ended, because what a Store
// makes of a read error need not say so.
type requestBody struct {
	body io.ReadCloser
	rc   *http.ResponseController
	pace pace
	left time.Duration // how long the next Read may wait: used by waiting, earned by bytes
	max  int64
	n    int64 // bytes read
	err  error // what ended it; io.EOF if all is well
}

// Read reads within the limit and the pace.
func (b *requestBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if room := b.max - b.n + 1; int64(len(p)) > room {
		p = p[:room]
	}
	n, err := b.readInTime(p)
	b.n += int64(n)
	if b.n > b.max {
		n, err = n-1, fmt.Errorf("after %d bytes: %w", b.max, blockstore.ErrTooLarge)
	}
	b.err = err
	return n, err
}

// readInTime is one Read under a deadline. The deadline is lifted afterwards:
// left in place it would end the connection's own watch for a client that
// hangs up, while the Store works.
func (b *requestBody) readInTime(p []byte) (int, error) {
	start := time.Now()
	if err := b.setDeadline(start.Add(b.left)); err != nil {
		return 0, err
	}
	n, err := b.body.Read(p)
	b.left = min(b.pace.readGrace, b.left-time.Since(start)+b.pace.worth(n))
	if err == nil && b.left <= 0 {
		return n, os.ErrDeadlineExceeded
	}
	if err := errors.Join(err, b.setDeadline(time.Time{})); err != nil {
		return n, plainEOF(err)
	}
	return n, nil
}

func plainEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return err
}

// setDeadline does nothing where the connection knows no deadlines (tests
// without a network).
func (b *requestBody) setDeadline(t time.Time) error {
	if err := b.rc.SetReadDeadline(t); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("set the deadline of a body: %w", err)
	}
	return nil
}

// explain returns what the client should hear when Put failed with err: if the
// body itself failed, that.
func (b *requestBody) explain(err error) error {
	switch {
	case b.err == nil || errors.Is(b.err, io.EOF):
		return err
	case errors.Is(b.err, blockstore.ErrTooLarge):
		return b.err
	case errors.Is(b.err, os.ErrDeadlineExceeded):
		return errSlowClient
	}
	return fmt.Errorf("%w: %w", blockstore.ErrShortBody, b.err)
}

// leftover says whether so much of a body of the declared length (-1: not
// declared) is unread, or will never come, that the connection cannot be used
// again.
func (b *requestBody) leftover(declared int64) bool {
	if b.ended() || declared == 0 {
		return false
	}
	return b.err != nil || declared < 0 || declared-b.n > unreadLimit
}

func (b *requestBody) ended() bool { return b.body == http.NoBody || errors.Is(b.err, io.EOF) }

// answer is the response: its status and bytes counted, each write under a
// deadline.
type answer struct {
	http.ResponseWriter
	rc     *http.ResponseController
	pace   pace
	body   *requestBody
	status int // 0: the header is not written
	n      int64
	err    error // of a write: the client's doing, or the network's
}

// keepAliveBegins lifts the deadline that the connection's last answer left.
func (a *answer) keepAliveBegins() { a.deadline(a.rc.SetWriteDeadline, time.Time{}) }

// WriteHeader sends the header. What is still unread of the body is read by
// net/http, before the answer goes out, so it too gets a deadline.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
	if !a.body.ended() {
		a.deadline(a.rc.SetReadDeadline, time.Now().Add(a.pace.readGrace))
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write sends p, or fails when the client does not take it in time.
func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	a.deadline(a.rc.SetWriteDeadline, time.Now().Add(a.pace.writeGrace+a.pace.worth(len(p))))
	n, err := a.ResponseWriter.Write(p)
	a.n += int64(n)
	a.err = errors.Join(a.err, err)
	return n, err
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// deadline sets one where it can be set. It fails on a connection that is
// already broken, and then the next write says so.
func (a *answer) deadline(set func(time.Time) error, t time.Time) { _ = set(t) }
