// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/blockstore"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/metrics"
	"github.com/strandline-project/strandline/internal/progress"
)

// recovering is a recovery as the admin door shows it: it answers status,
// health and metrics, and there is nothing else to be had.
type recovering struct {
	cfg      *Config
	logID    eventlog.ID
	bucket   *archiver.AdaptiveBucket
	progress *progress.Progress
	started  time.Time
	dir      string // that it writes to
	reason   string
}

var _ httpapi.Server = (*recovering)(nil)

// errRecovering says why clients are not answered.
var errRecovering = errors.New("recovering: the state is being built from the archive; clients are answered when it is served")

// serve answers on --admin until stop is called. A recovery does not need it:
// where the address cannot be had it goes on without.
func (r *recovering) serve() (stop func()) {
	if r.cfg.Admin == "" {
		return func() {}
	}
	ln, err := listen("admin", r.cfg.Admin)
	if err != nil {
		slog.Warn("the recovery goes on without status and metrics", "err", err)
		return func() {}
	}
	m := metrics.New()
	m.Watch(r.gauges)
	return serveAdmin(ln, httpapi.Options{Server: r, Metrics: m.Handler(slog.Default()), Logger: slog.Default()})
}

// serveAdmin serves an admin door; the function returned stops it.
func serveAdmin(ln net.Listener, options httpapi.Options) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	log := options.Logger
	server := httpapi.NewServer(ctx, httpapi.New(options), log)
	limitConnections(server, adminConnections, log)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Error("the admin listener stopped", "error", err)
		}
	}()
	return func() {
		cancel()
		if err := server.Close(); err != nil {
			log.Warn("closing the admin listener", "error", err)
		}
		<-done
	}
}

// Status implements httpapi.Server.
func (r *recovering) Status() httpapi.Status {
	status := httpapi.Status{
		Version: readVersion().Version, Time: time.Now().UTC(), Started: r.started.UTC(), Mode: httpapi.ModeRecovering, Reason: r.reason,
		LogID: r.logID, Archive: withoutSecrets(r.cfg.Archive), StateDir: r.dir,
		Next: []string{"wait until recover has ended; interrupted, the same command goes on", "to change how many reads are under way at once: a line MIN-MAX in the file " + boundsName + " of " + r.dir},
	}
	if now := r.progress.Snapshot(); now.Phase != "" {
		status.Progress = &now
	}
	return status
}

// gauges is what the metrics ask for at each scrape. The reads are those of
// now, whichever phase runs.
func (r *recovering) gauges() metrics.State {
	state := metrics.State{Mode: string(httpapi.ModeRecovering)}
	phaseGauges(&state, r.progress.Snapshot(), r.bucket.Stats())
	return state
}

// phaseGauges tells the metrics how far a recovery or a start is, and how it
// reads.
func phaseGauges(state *metrics.State, now progress.Snapshot, reads archiver.ReadStats) {
	state.ReadsLimit, state.ReadsMin, state.ReadsMax, state.ReadsInFlight = reads.Limit, reads.Min, reads.Max, reads.InFlight
	state.Phase, state.PhaseDone, state.PhaseExpected = now.Phase, now.Done, now.Total
	state.PhaseEventsPerSecond, state.PhaseBytesPerSecond = now.EventsPerSecond, now.BytesPerSecond
	state.PhaseLeft, state.EndLeft, state.PhaseBinds = seconds(now.ETASeconds), seconds(now.EndSeconds), bindsLabel(now.Binds)
}

// bindsLabel is what binds without what is said more of it: metrics have few
// values, which stay.
func bindsLabel(binds string) string {
	word, _, _ := strings.Cut(strings.ToLower(binds), " ") // "store latency"
	return strings.TrimSuffix(word, ",")                   // "CPU, not all cores"
}

// Health implements httpapi.Server: a recovery that fails ends.
func (r *recovering) Health() error { return nil }

// Ready implements httpapi.Server.
func (r *recovering) Ready() error { return errRecovering }

// Log implements httpapi.Server.
func (r *recovering) Log() httpapi.Log { return nil }

// Copyable implements httpapi.Server.
func (r *recovering) Copyable() []httpapi.Copyable { return nil }

// Release implements httpapi.Server.
func (r *recovering) Release(context.Context, blockstore.Path) error {
	return &blockstore.Unavailable{Reason: errRecovering.Error(), RetryAfter: awayPause}
}

// Drill implements httpapi.Server.
func (r *recovering) Drill(context.Context, httpapi.DrillRequest) (httpapi.DrillRun, error) {
	return nil, &blockstore.Unavailable{Reason: errRecovering.Error(), RetryAfter: awayPause}
}
