// SPDX-License-Identifier: Apache-2.0

// Package metrics is what the server tells Prometheus. It is the only
// importer of the Prometheus client.
//
// What happens is observed by calls (a sync, a request); what is, such as the
// three watermarks, is asked for at each scrape, so that one scrape shows one
// moment. Metrics meets the small observer interfaces that other packages
// declare; none of them imports this one.
package metrics

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/strandline-project/strandline/archiver"
)

const namespace = "strandline"

// Metrics holds a registry of its own. All methods are safe for concurrent
// use and do nothing on nil.
type Metrics struct {
	registry *prometheus.Registry
	state    *stateCollector

	fsync       *prometheus.HistogramVec // file
	batchEvents prometheus.Histogram
	batchBytes  prometheus.Histogram
	archive     *prometheus.HistogramVec // op, outcome
	requests    *prometheus.CounterVec   // method, kind, status
	bytesIn     *prometheus.CounterVec   // method, kind
	bytesOut    *prometheus.CounterVec   // method, kind
	took        *prometheus.HistogramVec // method, kind
}

// New returns Metrics with everything registered, the Go runtime's, the
// process's and the build's own metrics included. Every series that can be
// known from the start exists with value zero.
func New() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), state: newStateCollector()}
	m.fsync = histogram("wal_fsync_seconds", "Time of one sync of the write-ahead log, by file.", latencies, "file")
	m.batchEvents = single("wal_batch_events", "Events made durable by one sync.", prometheus.ExponentialBuckets(1, 4, 9))
	m.batchBytes = single("wal_batch_bytes", "Payload bytes made durable by one sync.", prometheus.ExponentialBuckets(1<<10, 4, 11))
	m.archive = histogram("archive_request_seconds", "Time of one request to the archive's bucket, by operation and outcome.",
		latencies, "op", "outcome")
	m.requests = counter("http_requests_total", "Requests on the client listener, by method, kind of block and status.", "method", "kind", "status")
	m.bytesIn = counter("http_request_bytes_total", "Bytes of request bodies received on the client listener.", "method", "kind")
	m.bytesOut = counter("http_response_bytes_total", "Bytes of response bodies sent on the client listener.", "method", "kind")
	m.took = histogram("http_request_seconds", "Time of one request on the client listener, from its head to its end.",
		latencies, "method", "kind")
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
		m.fsync, m.batchEvents, m.batchBytes, m.archive, m.requests, m.bytesIn, m.bytesOut, m.took, m.state,
	)
	for _, file := range []string{"payload", "frames"} {
		m.fsync.WithLabelValues(file)
	}
	return m
}

// latencies reach from a tenth of a millisecond to two minutes: the ack
// timeout and the longest upload lie inside.
var latencies = prometheus.ExponentialBuckets(0.0001, 2.5, 16)

func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(histogramOpts(name, help, buckets), labels)
}

func single(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(histogramOpts(name, help, buckets))
}

// histogramOpts asks for classic buckets and native ones, for whichever the
// scraper understands.
func histogramOpts(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Namespace: namespace, Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
	}
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

// Synced observes the syncs of one batch: of the payload file, 0 when the
// batch had no payload, and of the frames.
func (m *Metrics) Synced(payload, frames time.Duration) {
	if m == nil {
		return
	}
	if payload > 0 {
		m.fsync.WithLabelValues("payload").Observe(payload.Seconds())
	}
	m.fsync.WithLabelValues("frames").Observe(frames.Seconds())
}

// BatchCommitted observes the size of one batch: events, and bytes of their
// payloads.
func (m *Metrics) BatchCommitted(events int, bytes int64) {
	if m == nil {
		return
	}
	m.batchEvents.Observe(float64(events))
	m.batchBytes.Observe(float64(bytes))
}

// ObserveArchive observes one request to the bucket; op is "put", "get",
// "head", "list" or "delete". An answer that an object exists or does not is
// an outcome of its own, no error.
func (m *Metrics) ObserveArchive(op string, d time.Duration, err error) {
	if m == nil {
		return
	}
	m.archive.WithLabelValues(known(strings.ToLower(op), archiveOps), outcome(err)).Observe(d.Seconds())
}

func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, archiver.ErrExists):
		return "exists"
	case errors.Is(err, archiver.ErrNotFound):
		return "absent"
	}
	return "error"
}

// Observe observes one finished request on the client listener: its HTTP
// method, the kind of block (or "repository", "none"), the status, the bytes
// of both bodies and the time it took.
func (m *Metrics) Observe(method, kind string, status int, in, out int64, d time.Duration) {
	if m == nil {
		return
	}
	method, kind = known(method, methods), known(kind, kinds)
	m.requests.WithLabelValues(method, kind, strconv.Itoa(status)).Inc()
	m.bytesIn.WithLabelValues(method, kind).Add(float64(max(in, 0)))
	m.bytesOut.WithLabelValues(method, kind).Add(float64(max(out, 0)))
	m.took.WithLabelValues(method, kind).Observe(d.Seconds())
}

// The values a label may have; a client must not be able to make up more.
var (
	archiveOps = set("put", "get", "head", "list", "delete")
	methods    = set("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
	kinds      = set("data", "index", "root", "snapshots", "key", "keys", "lock", "locks", "config", "repository", "none")
)

func set(values ...string) map[string]bool {
	all := make(map[string]bool, len(values))
	for _, v := range values {
		all[v] = true
	}
	return all
}

func known(value string, values map[string]bool) string {
	if values[value] {
		return value
	}
	return "other"
}

// Watch makes state the answer to what is, asked for at every scrape; it must
// be quick and safe for concurrent use. The last call counts; before the
// first, those metrics are absent.
func (m *Metrics) Watch(state func() State) {
	if m == nil {
		return
	}
	m.state.source.Store(&state)
}

// Handler answers a scrape, in OpenMetrics when the scraper asks for it. A
// metric that cannot be gathered is logged and answered with 500, never left
// out silently. A nil log is slog.Default().
func (m *Metrics) Handler(log *slog.Logger) http.Handler {
	if log == nil {
		log = slog.Default()
	}
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true,
		ErrorLog:          errorLog{log},
		Registry:          m.registry,
	})
}

type errorLog struct{ log *slog.Logger }

func (l errorLog) Println(v ...any) { l.log.Error("metrics", "err", fmt.Sprint(v...)) }
