// SPDX-License-Identifier: Apache-2.0

// Package httpapi is the admin door: health, status, metrics and events for
// the operator and for programs on the same host, and the few things an
// operator may tell a running server. It has no log-in and belongs on
// loopback; what a browser could be tricked into is refused (requests from
// other sites, host names that are not ours).
//
//	GET  /healthz      200 while the process lives and the log is not poisoned, else 503
//	GET  /readyz       200 while clients are answered, else 503 with the reason
//	GET  /metrics      Prometheus
//	GET  /api/status   a Status
//	GET  /api/events   events as NDJSON: ?from=SEQ&follow=1&committed=1
//	GET  /api/views/V  a copy of the view V, all its rows as of one event
//	POST /api/release  ?machine=ACCOUNT/MACHINE lifts that machine's bar
//	POST /api/drill    ?mode=full|checkpoint&sample=N practises a recovery; NDJSON: progress, result
//	GET  /debug/pprof/ profiles, for go tool pprof
//
// Client speaks it, for the commands.
package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/blockstore"
)

// Server is what the admin door asks of the server. Its methods answer at
// once, whatever the server is doing.
type Server interface {
	// Status describes the server now.
	Status() Status
	// Health returns nil while nothing is broken that only a restart mends;
	// else what is.
	Health() error
	// Ready returns nil while clients are answered, else why they are not.
	Ready() error
	// Log returns the events, nil while there are none to be had yet.
	Log() Log
	// Copyable returns the views that can be copied, none while there are none
	// to be had yet.
	Copyable() []Copyable
	// Release lifts a machine's bar, as an event: it returns once that is
	// archived. ErrNotBarred, blockstore.ErrNoMachine and
	// *blockstore.Unavailable are answers of their own.
	Release(ctx context.Context, p blockstore.Path) error
	// Drill begins a drill, unless one runs: ErrDrillRuns. A server that is
	// not serving is *blockstore.Unavailable.
	Drill(ctx context.Context, r DrillRequest) (DrillRun, error)
}

// Log is the log as a reader of events sees it; *eventlog.Log is one.
type Log interface {
	Committed() (seq eventlog.Seq, ns int64)
	Archived() eventlog.Seq
	// ReadTo yields the events from a seq on up to the end of now.
	ReadTo(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error]
	// Follow goes on behind the end: there it calls wait with the last seq
	// yielded (0 for none), and looks again when that returns nil.
	Follow(ctx context.Context, from eventlog.Seq, wait func(context.Context, eventlog.Seq) error) iter.Seq2[eventlog.Batch, error]
	// WaitCommitted returns when an event after the given seq is committed.
	WaitCommitted(ctx context.Context, after eventlog.Seq) error
}

// ErrNotBarred says that there is nothing to release.
var ErrNotBarred = errors.New("the machine is not barred")

// Options are what New needs. Only Server must be set.
type Options struct {
	Server  Server
	Metrics http.Handler // nil: /metrics is 404
	Hosts   []string     // host names, besides localhost and addresses, under which the listener may be reached
	Logger  *slog.Logger // nil: slog.Default()
}

// maxBody bounds what is read of a request's body; none here needs one.
const maxBody = 64 << 10

type handler struct {
	server Server
	log    *slog.Logger
}

// New returns the admin door's handler.
func New(o Options) http.Handler {
	h := &handler{server: o.Server, log: o.Logger}
	if h.log == nil {
		h.log = slog.Default()
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", h.answered(h.healthz))
	mux.HandleFunc("GET /readyz", h.answered(h.readyz))
	mux.HandleFunc("GET /api/status", h.answered(h.status))
	mux.HandleFunc("GET /api/events", h.events)
	mux.HandleFunc("GET /api/views/{name}", h.copyView)
	mux.HandleFunc("POST /api/release", h.release)
	mux.HandleFunc("POST /api/drill", h.drill)
	if o.Metrics != nil {
		mux.HandleFunc("GET /metrics", h.answered(o.Metrics.ServeHTTP))
	}
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	bounded := http.MaxBytesHandler(mux, maxBody)
	return guard(o.Hosts, http.NewCrossOriginProtection().Handler(bounded))
}

// NewServer returns an HTTP server for the handler with the limits of the
// admin door. When ctx ends, so do the streams it serves; the caller shuts it
// down.
func NewServer(ctx context.Context, h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second,
		// No ReadTimeout: when it passes, net/http ends the context of a
		// stream that still runs. Bodies are bounded by New.
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// answered makes a panic an answer, 500, and a line of the log. It is for
// handlers that write nothing before they know all: a stream that panics is cut
// off by net/http, so that nobody takes it for whole.
func (h *handler) answered(by http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if cause := recover(); cause != nil {
				h.log.Error("an answer of the admin door ended in a panic; please report it", "path", r.URL.Path, "cause", fmt.Sprint(cause), "stack", string(debug.Stack()))
				http.Error(w, "the answer ended in a panic; the server's log has it", http.StatusInternalServerError)
			}
		}()
		by(w, r)
	}
}

// guard refuses requests for host names that are not ours: a page whose name
// was rebound to this address would pass for the same origin.
func guard(hosts []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Cache-Control", "no-store")
		header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		if !allowedHost(r.Host, hosts) {
			http.Error(w, fmt.Sprintf("the admin listener does not answer to the name %q, only to addresses, to localhost and to names it was given", r.Host),
				http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func allowedHost(hostport string, hosts []string) bool {
	host := hostport
	if name, _, err := net.SplitHostPort(hostport); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if _, err := netip.ParseAddr(host); err == nil {
		return true // an address cannot be rebound
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	for _, name := range hosts {
		if strings.EqualFold(host, name) {
			return true
		}
	}
	return false
}

func (h *handler) healthz(w http.ResponseWriter, _ *http.Request) { h.verdict(w, h.server.Health()) }
func (h *handler) readyz(w http.ResponseWriter, _ *http.Request)  { h.verdict(w, h.server.Ready()) }

func (h *handler) verdict(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	h.write(w, []byte("ok\n"))
}

func (h *handler) status(w http.ResponseWriter, _ *http.Request) {
	h.writeJSON(w, h.server.Status())
}

func (h *handler) release(w http.ResponseWriter, r *http.Request) {
	machine := r.URL.Query().Get("machine")
	account, name, whole := strings.Cut(machine, "/")
	p := blockstore.Path{Account: account, Machine: name}
	if err := p.Check(); err != nil || !whole {
		http.Error(w, fmt.Sprintf("machine=%q: write it as ACCOUNT/MACHINE", machine), http.StatusBadRequest)
		return
	}
	err := h.server.Release(r.Context(), p)
	var unavailable *blockstore.Unavailable
	switch {
	case err == nil:
		h.log.Info("bar lifted by the operator", "machine", p.String())
		h.writeJSON(w, map[string]string{"released": p.String()})
	case errors.Is(err, blockstore.ErrNoMachine):
		http.Error(w, fmt.Sprintf("%s: %v", p, err), http.StatusNotFound)
	case errors.Is(err, ErrNotBarred):
		http.Error(w, fmt.Sprintf("%s: %v", p, err), http.StatusConflict)
	case errors.As(err, &unavailable):
		w.Header().Set("Retry-After", fmt.Sprint(max(1, int(unavailable.RetryAfter.Seconds()))))
		http.Error(w, fmt.Sprintf("%s: %v", p, err), http.StatusServiceUnavailable)
	default:
		h.log.Error("release failed", "machine", p.String(), "err", err)
		http.Error(w, fmt.Sprintf("release %s: %v", p, err), http.StatusInternalServerError)
	}
}

func (h *handler) writeJSON(w http.ResponseWriter, v any) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		h.log.Error("answer in JSON", "err", err)
		http.Error(w, "the answer has no JSON form: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	h.write(w, append(data, '\n'))
}

// write sends a whole answer; a client that has gone is nobody's trouble.
func (h *handler) write(w http.ResponseWriter, data []byte) {
	if _, err := w.Write(data); err != nil {
		h.log.Debug("a client of the admin door left", "err", err)
	}
}
