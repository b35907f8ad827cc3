// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"cmp"
	"log/slog"
	"net/http"
	"time"
)

// exchange is one request and its answer, owned by the goroutine that serves
// it.
type exchange struct {
	h       *Handler
	r       *http.Request
	w       *answer
	body    *requestBody
	started time.Time
	target  target
	user    string // proved by a password; empty in no-auth mode
	actor   string // for the events: "user:alice", "anonymous"
}

// begin wraps the two directions of a request with their pace and counters.
func (h *Handler) begin(w http.ResponseWriter, r *http.Request) *exchange {
	rc := http.NewResponseController(w)
	body := &requestBody{body: r.Body, rc: rc, pace: h.pace, left: h.pace.readGrace, max: h.maxBody}
	x := &exchange{h: h, r: r, started: time.Now(), body: body}
	x.w = &answer{ResponseWriter: w, rc: rc, pace: h.pace, body: body}
	x.w.keepAliveBegins()
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	return x
}

// end reports the request, also when it is left by a panic.
func (x *exchange) end() {
	if x.w.status == 0 {
		x.w.status = http.StatusInternalServerError
	}
	took := time.Since(x.started)
	x.h.access.write(x)
	if x.h.observer != nil {
		x.h.observer.Observe(methodLabel(x.r.Method), x.kindLabel(), x.w.status, x.body.n, x.w.n, took)
	}
}

// ok answers 200 without a body.
func (x *exchange) ok() {
	x.w.Header().Set("Content-Length", "0")
	x.w.WriteHeader(http.StatusOK)
}

// fail answers an error. Once the header is out there is only one honest
// answer left: break the connection, so that the client sees a body cut short.
func (x *exchange) fail(err error) {
	r := refuse(x.r.Context(), err)
	if x.w.status != 0 {
		level := slog.LevelError
		if x.w.err != nil || x.r.Context().Err() != nil { // the client left, or was dropped
			level = slog.LevelDebug
		}
		x.h.log.Log(x.r.Context(), level, "an answer was broken off", "method", x.r.Method, "path", x.r.URL.EscapedPath(), "err", err)
		panic(http.ErrAbortHandler)
	}
	if r.status >= http.StatusInternalServerError && r.status != http.StatusServiceUnavailable {
		x.h.log.Error("a request failed", "method", x.r.Method, "path", x.r.URL.EscapedPath(), "status", r.status, "err", err)
	}
	if x.r.ProtoMajor == 1 && x.body.leftover(x.r.ContentLength) {
		x.w.Header().Set("Connection", "close")
	}
	if err := r.write(x.w, x.r.Method); err != nil {
		x.h.log.Debug("the client did not take its answer", "err", err)
	}
}

func methodLabel(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete, http.MethodPut, http.MethodPatch, http.MethodOptions:
		return m
	}
	return "OTHER"
}

func (x *exchange) kindLabel() string {
	if x.target.what == wantMachine {
		return "repository"
	}
	return cmp.Or(x.target.folder, "none")
}
