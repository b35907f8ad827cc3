// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/strandline-project/strandline/internal/blockstore"
)

// refusal is an answer that the door gives by itself.
type refusal struct {
	status     int
	text       string
	allow      string        // 405: the methods that would do
	retryAfter time.Duration // 429, 503
	challenge  bool          // 401: ask for user and password
	err        error         // the cause, may be nil
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.err }

func notFound(text string) error {
	return &refusal{status: http.StatusNotFound, text: text}
}

func methodNotAllowed(allow string) error {
	return &refusal{status: http.StatusMethodNotAllowed, text: "only " + allow + " here", allow: allow}
}

var (
	errBarePath = notFound("Nothing here. A repository is at /<account>/<machine>/, for example:\n" +
		"  restic -r rest:http://HOST:PORT/alice/laptop/ init")
	errAsOf = notFound("this server does not yet show a repository as of an earlier time: leave out the @ and what follows it")

	errUnauthorised = &refusal{status: http.StatusUnauthorized, text: "user and password, please", challenge: true}
	errForeign      = &refusal{status: http.StatusForbidden, text: "this path belongs to another account: it begins with the user's name"}
	errSlowClient   = &refusal{status: http.StatusRequestTimeout, text: "the body came too slowly, nothing was stored"}
	errClientGone   = &refusal{status: statusClientGone, text: "the client has gone"}
)

// statusClientGone is what nginx logs for a client that hung up; nobody is
// left to read it.
const statusClientGone = 499

// retryDefault is the Retry-After of a 503 that does not say.
const retryDefault = 5 * time.Second

// statuses maps what the application knows for certain. Order does not
// matter: no error is two of these.
var statuses = []struct {
	err    error
	status int
}{
	{blockstore.ErrNoMachine, http.StatusNotFound},
	{blockstore.ErrNotFound, http.StatusNotFound},
	{blockstore.ErrBadName, http.StatusNotFound},
	{blockstore.ErrExists, http.StatusForbidden},
	{blockstore.ErrAppendOnly, http.StatusForbidden},
	{blockstore.ErrReadOnly, http.StatusForbidden},
	{blockstore.ErrMismatch, http.StatusBadRequest},
	{blockstore.ErrShortBody, http.StatusBadRequest},
	{blockstore.ErrTooLarge, http.StatusRequestEntityTooLarge},
	{blockstore.ErrBadRange, http.StatusRequestedRangeNotSatisfiable},
	{blockstore.ErrQuota, http.StatusInsufficientStorage},
	{blockstore.ErrDiskFull, http.StatusInsufficientStorage},
}

// refuse turns any error into an answer. Trouble and doubt come first, so that
// a 404 hidden inside an Unavailable is still a 503.
func refuse(ctx context.Context, err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	if u, ok := errors.AsType[*blockstore.Unavailable](err); ok {
		return &refusal{status: http.StatusServiceUnavailable, text: u.Reason, retryAfter: max(u.RetryAfter, time.Second), err: err}
	}
	if errors.Is(err, blockstore.ErrDamaged) {
		return &refusal{status: http.StatusInternalServerError, text: blockstore.ErrDamaged.Error() + ": nothing was sent, the server's log says more", err: err}
	}
	if b, ok := errors.AsType[*blockstore.Barred](err); ok {
		return &refusal{status: http.StatusForbidden, text: b.Reason, err: err}
	}
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return &refusal{status: s.status, text: err.Error(), err: err}
		}
	}
	return refuseUnknown(ctx, err)
}

// refuseUnknown answers an error that is no sentinel's.
func refuseUnknown(ctx context.Context, err error) *refusal {
	switch {
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return errClientGone
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, os.ErrDeadlineExceeded):
		return &refusal{status: http.StatusServiceUnavailable, text: "this took too long: a retry is safe", retryAfter: retryDefault, err: err}
	}
	return &refusal{status: http.StatusInternalServerError, text: "the server failed, its log says why", err: err}
}

// write sends r as plain text, without the text if the request was a HEAD. The
// header must not have been written.
func (r *refusal) write(w http.ResponseWriter, method string) error {
	h := w.Header()
	h.Del("Content-Encoding")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if r.allow != "" {
		h.Set("Allow", r.allow)
	}
	if r.challenge {
		h.Set("WWW-Authenticate", `Basic realm="strandline", charset="UTF-8"`)
	}
	if r.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(r.retryAfter.Seconds()))))
	}
	body := r.text + "\n"
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(r.status)
	if method == http.MethodHead {
		return nil
	}
	if _, err := w.Write([]byte(body)); err != nil {
		return fmt.Errorf("send the %d answer: %w", r.status, err)
	}
	return nil
}
