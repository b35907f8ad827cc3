// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fault stands in front of a store and spoils some of what passes.
type fault interface {
	before(next http.Handler) http.Handler
	// count is how often it did.
	count() int64
}

// faultyDoor opens a door to an S3 server: what comes there goes through the
// faults, the first one first, and then to the server. Whoever comes is not to
// write. It is closed when the test ends.
func faultyDoor(t testing.TB, endpoint string, faults ...fault) string {
	t.Helper()
	target, err := url.Parse(endpoint)
	must(t, err)
	transport := &http.Transport{MaxIdleConnsPerHost: 512, DisableCompression: true}
	var handler http.Handler = &httputil.ReverseProxy{
		// The host stays the one that the client has signed.
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		Transport: transport,
		ErrorLog:  log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil { // the client is there, the store is not
				t.Errorf("the door: %s %s: %v", r.Method, r.URL, err)
			}
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	for i := range faults {
		handler = faults[len(faults)-1-i].before(handler)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			t.Errorf("%s %s came to the door", r.Method, r.URL)
			w.WriteHeader(http.StatusForbidden)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		transport.CloseIdleConnections()
	})
	return server.URL
}

// kindOf is what a request asks for: a list, or the first part of a key. It
// takes an archive below one prefix.
func kindOf(r *http.Request) string {
	if r.URL.Query().Has("list-type") {
		return "list"
	}
	if parts := strings.Split(r.URL.Path, "/"); len(parts) > 3 { // /BUCKET/PREFIX/KEY
		return parts[3]
	}
	return r.URL.Path
}

// every picks of the requests of each kind the first one and then every nth, so
// that no kind gets through unharmed.
type every struct {
	n     int
	mu    sync.Mutex
	asked map[string]int // owned by mu
	hits  atomic.Int64
}

func everyNth(n int) every { return every{n: n, asked: map[string]int{}} }

func (e *every) hit(r *http.Request) bool {
	kind := kindOf(r)
	e.mu.Lock()
	before := e.asked[kind]
	e.asked[kind]++
	e.mu.Unlock()
	if before%e.n != 0 {
		return false
	}
	e.hits.Add(1)
	return true
}

func (e *every) count() int64 { return e.hits.Load() }

// refusals answer some requests with 503, in the words of S3.
type refusals struct{ every }

func refuses(n int) fault { return &refusals{everyNth(n)} }

const slowDown = `<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message><RequestId>17C5D3A1B2E4F600</RequestId><HostId>door</HostId></Error>`

func (f *refusals) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !f.hit(r) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/xml")
		w.Header().Set("X-Amz-Request-Id", "17C5D3A1B2E4F600")
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, slowDown) // whoever has gone does not need it
	})
}

// delays let every request wait.
type delays struct {
	each time.Duration
	hits atomic.Int64
}

func waits(each time.Duration) fault { return &delays{each: each} }

func (f *delays) count() int64 { return f.hits.Load() }

func (f *delays) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.hits.Add(1)
		timer := time.NewTimer(f.each)
		defer timer.Stop()
		select {
		case <-timer.C:
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
}

// cuts break some transfers off. Their answers announce the whole length.
type cuts struct {
	every
	at  func(length int64) int64 // how much is sent
	end func(w http.ResponseWriter) error
}

var errCut = errors.New("cut off")

// resets cuts transfers in their middle, with a reset of the connection.
func resets(n int) fault {
	return &cuts{everyNth(n), func(length int64) int64 { return length / 2 }, func(w http.ResponseWriter) error {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			err = errors.Join(conn.(*net.TCPConn).SetLinger(0), conn.Close())
		}
		return errors.Join(errCut, err)
	}}
}

// ends cuts transfers behind their last whole block of 4 KiB, with a connection
// that is closed in good order, as by a process that ends.
func ends(n int) fault {
	return &cuts{everyNth(n), func(length int64) int64 { return (length - 1) &^ 4095 }, func(http.ResponseWriter) error { return errCut }}
}

func (f *cuts) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&cutWriter{ResponseWriter: w, cuts: f, request: r, left: -1}, r)
	})
}

// cutWriter ends an answer early.
type cutWriter struct {
	http.ResponseWriter
	cuts    *cuts
	request *http.Request
	left    int64 // bytes until the cut; negative: there is none
}

func (w *cutWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *cutWriter) WriteHeader(status int) {
	length, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64)
	if err == nil && length > 0 && status < 300 && w.request.Method == http.MethodGet && w.cuts.hit(w.request) {
		w.left = w.cuts.at(length)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if w.left < 0 {
		return w.ResponseWriter.Write(p)
	}
	n, err := w.ResponseWriter.Write(p[:min(int64(len(p)), w.left)])
	if w.left -= int64(n); err == nil && n < len(p) {
		if err = http.NewResponseController(w.ResponseWriter).Flush(); err == nil { // what comes before the cut has left
			err = w.cuts.end(w.ResponseWriter) // the proxy breaks the answer off
		}
	}
	return n, err
}

// standstill is a store that stops: connections are taken, and nothing is
// answered, nor goes on being answered, until it goes on.
type standstill struct {
	kind  string
	nth   int64 // request of that kind at which it begins
	d     time.Duration
	asked atomic.Int64
	hits  atomic.Int64
	begun chan struct{} // closed when it stops
	begin func()
	again chan struct{} // closed when it goes on
}

func stops(kind string, nth int64, d time.Duration) *standstill {
	f := &standstill{kind: kind, nth: nth, d: d, begun: make(chan struct{}), again: make(chan struct{})}
	f.begin = sync.OnceFunc(func() {
		close(f.begun)
		time.AfterFunc(d, func() { close(f.again) })
	})
	return f
}

func (f *standstill) count() int64 { return f.hits.Load() }

func (f *standstill) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if kindOf(r) == f.kind && f.asked.Add(1) == f.nth {
			f.begin()
		}
		if f.hold(r.Context()) == nil {
			next.ServeHTTP(&heldWriter{w, r.Context(), f}, r)
		}
	})
}

// hold waits as long as the store stands still.
func (f *standstill) hold(ctx context.Context) error {
	select {
	case <-f.begun:
	default:
		return nil
	}
	select {
	case <-f.again:
		return nil
	default:
	}
	f.hits.Add(1)
	select {
	case <-f.again:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// heldWriter writes an answer while the store does not stand still.
type heldWriter struct {
	http.ResponseWriter
	ctx   context.Context
	fault *standstill
}

func (w *heldWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *heldWriter) Write(p []byte) (int, error) {
	if err := w.fault.hold(w.ctx); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(p)
}
