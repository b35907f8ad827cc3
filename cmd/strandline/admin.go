// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/blockstore"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/metrics"
	"github.com/strandline-project/strandline/projector"
)

var _ httpapi.Server = (*app)(nil)

// notePlace is true where the file system keeps no identity of its files.
const notePlace = "where the state directory lies cannot be told on its file system: do not start a copy of it while this server may still run, nothing would refuse it"

// snapshot is what app's fields were at one moment.
type snapshot struct {
	mode     httpapi.Mode
	reason   string
	serving  *serving
	log      *eventlog.Log     // nil: none to be read yet
	store    *blockstore.Store // on log
	fenced   error
	stopped  error
	owner    string
	warnings []string
	lossy    string
}

func (a *app) snapshot() snapshot {
	a.mu.Lock()
	s := snapshot{
		mode: a.mode, reason: a.reason, serving: a.serving, log: a.reading, store: a.readStore,
		fenced: a.fenced, stopped: a.stopped, owner: a.owner, warnings: slices.Concat(a.standing, a.warnings), lossy: a.lossy,
	}
	if a.serving != nil {
		s.log, s.store = a.serving.log, a.serving.store
	}
	a.mu.Unlock() // before the log is asked: whoever wants a.mu waits for no disk
	if s.stopped == nil && s.log != nil && errors.Is(s.log.Err(), eventlog.ErrPoisoned) {
		s.stopped = s.log.Err()
	}
	begun := s.mode == httpapi.ModeServing || s.mode == httpapi.ModeStarting && s.serving != nil
	if begun && s.stopped != nil {
		s.mode, s.reason = httpapi.ModePoisoned, s.stopped.Error()
	}
	return s
}

// Health implements httpapi.Server.
func (a *app) Health() error { return inTime(&a.healths, a.health) }

// Ready implements httpapi.Server.
func (a *app) Ready() error { return inTime(&a.readies, a.ready) }

// inTime is the answer, or errStuck. A question that panicked panics here: this
// is the goroutine of a request.
func inTime(q *question[error], of func() error) error {
	said, err := q.ask(of)
	if errors.Is(err, errPanicked) {
		panic(err) // of the request, which answers 500
	}
	if err != nil {
		return err
	}
	return said
}

// Status implements httpapi.Server. When the server does not answer in time, it
// is the last status there was, with its time, and says so.
func (a *app) Status() httpapi.Status {
	status, err := a.statuses.ask(a.status)
	if err == nil {
		return status
	}
	if errors.Is(err, errPanicked) {
		panic(err) // of the request, which answers 500
	}
	if status.Time.IsZero() {
		status = httpapi.Status{Version: readVersion().Version, Time: time.Now().UTC(), Started: a.started.UTC(), Mode: httpapi.ModeStarting, StateDir: a.cfg.Data}
	}
	status.Ready, status.Reason = false, errStuck.Error()
	status.Warnings = append(status.Warnings[:len(status.Warnings):len(status.Warnings)], errStuck.Error())
	status.Next = []string{"look at the disk of " + a.cfg.Data, "stop the server: it ends within " + stopAtLast.String() + ", and what was acknowledged is kept"}
	return status
}

func (a *app) health() error {
	s := a.snapshot()
	if s.stopped != nil {
		return s.stopped
	}
	return s.viewError(a)
}

// viewError returns why a view has stopped, nil while none has.
func (s *snapshot) viewError(a *app) error {
	if s.serving == nil {
		return nil
	}
	return a.views.err()
}

func (a *app) ready() error {
	s := a.snapshot()
	if s.stopped != nil {
		return s.stopped
	}
	if s.mode == httpapi.ModeServing || s.mode == httpapi.ModeHold {
		return s.viewError(a)
	}
	return fmt.Errorf("%s: %s", s.mode, s.reason)
}

// Log implements httpapi.Server.
func (a *app) Log() httpapi.Log {
	if s := a.snapshot(); s.log != nil {
		return s.log
	}
	return nil
}

// Copyable implements httpapi.Server.
func (a *app) Copyable() []httpapi.Copyable {
	if a.snapshot().log == nil {
		return nil
	}
	var all []httpapi.Copyable
	for _, view := range a.views.views() {
		all = append(all, view)
	}
	return all
}

// Release implements httpapi.Server.
func (a *app) Release(ctx context.Context, p blockstore.Path) error {
	s := a.snapshot()
	if s.serving == nil {
		return &blockstore.Unavailable{Reason: "the server is not serving: " + s.reason, RetryAfter: awayPause}
	}
	lifted, err := s.store.Release(ctx, "operator", p)
	if err == nil && !lifted {
		return httpapi.ErrNotBarred
	}
	return err
}

func (a *app) status() httpapi.Status {
	s := a.snapshot()
	state := a.dir.State()
	status := httpapi.Status{
		Version: readVersion().Version, Time: time.Now().UTC(), Started: a.started.UTC(), Uptime: time.Since(a.started).Seconds(), Mode: s.mode, Reason: s.reason, Ready: a.ready() == nil,
		LogID: state.LogID, Archive: withoutSecrets(state.Archive), Policy: a.policy(), StateDir: a.cfg.Data, Listen: a.clients.Addr().String(), Lossy: s.lossy != "", LossyReason: s.lossy,
		Warnings: s.warnings, Notes: []string{httpapi.NotePrune}, Feed: a.feedStatus(),
	}
	if !a.dir.KnowsPlace() {
		status.Notes = append(status.Notes, notePlace)
	}
	if now := a.progress.Snapshot(); now.Phase != "" {
		status.Progress = &now
	}
	if s.fenced != nil {
		status.Owner, status.Stopped = s.owner, s.fenced.Error()
	}
	if s.log == nil {
		status.Next = []string{"wait until it has started; if the archive cannot be reached, see why"}
		return status
	}
	if s.serving != nil {
		status.Drill = s.serving.drills.status()
		status.Warnings = append(status.Warnings, s.serving.drills.warnings()...)
	}
	a.logStatus(&status, &s)
	a.storeStatus(&status, &s)
	if s.serving != nil {
		if index := s.serving.indexer.Stats(); index.Err != nil {
			status.Warnings = append(status.Warnings, fmt.Sprintf("index objects could not be written; it is tried again, and a recovery would read the objects of %d runs one by one: %v", index.Missing, index.Err))
		}
	}
	status.Next = nextSteps(&status)
	if a.dir.State().Rotten != nil { // another start would be refused, and rightly
		status.Next = []string{
			"look at the disk of " + status.StateDir, "keep that directory; the reason says how to give up the damaged blocks alone",
			"what was archived, strandline recover rebuilds in a new one",
		}
	}
	a.archiveStatus(&status)
	return status
}

// archiveStatus tells of an archive that cannot be trusted any more.
func (a *app) archiveStatus(status *httpapi.Status) {
	if n := a.archive.Changed(); n > 0 {
		status.Warnings = append(status.Warnings, fmt.Sprintf("%d archived objects were written over by somebody; the log names them: restore their earlier versions", n))
	}
	if err := a.archive.Unsafe(); err != nil {
		status.Warnings = append(status.Warnings, err.Error())
		status.Next = []string{
			"strandline archive probe --archive '" + status.Archive + "' shows what the store does not keep; undo what was changed at it",
			"the store is asked again every minute, and shipping goes on by itself; nothing is lost meanwhile, and what waits for the archive is answered with 503",
		}
	}
}

func (a *app) feedStatus() httpapi.Feed {
	stats := a.feed.Stats()
	server := "embedded"
	if a.cfg.NATSURL != "" {
		server = a.cfg.NATSURL // holds no credentials, see checkNATS
	}
	return httpapi.Feed{
		Server: server, Addr: a.feed.Addr(), Connected: stats.Connected,
		Published: stats.Published, Dropped: stats.Dropped, Refused: stats.Refused,
	}
}

// logStatus fills in the watermarks, their lags and the backlog.
func (a *app) logStatus(status *httpapi.Status, s *snapshot) {
	committed, at := s.log.Committed()
	archived := s.log.Archived()
	status.Committed = httpapi.MarkAt(committed, at)
	if s.serving != nil {
		status.Epoch, status.Writer = s.serving.head.Epoch, s.serving.head.Writer
		lag := lagBetween(s.log, archived, committed)
		status.ArchiveLag = lag.Lag
		status.Archived = httpapi.MarkAt(archived, lag.at)
		bytes, _ := s.log.Backlog()
		status.Backlog = httpapi.Backlog{Bytes: uint64(bytes), Limit: uint64(a.cfg.MaxBacklog), Generations: unarchived(s.log, archived)}
		status.LastUpload = lastUpload(s.serving.shipper)
		status.Checkpoint = checkpointStatus(s.serving.taker)
	}
	if err := s.log.Unprepared(); err != nil {
		status.Warnings = append(status.Warnings, fmt.Sprintf("writes are refused for want of a new generation of the log; the server goes on by itself once this is cured: %v", err))
	}
	if err := s.log.Err(); err != nil && s.serving != nil && status.Stopped == "" {
		status.Stopped = err.Error()
	}
	for _, view := range a.views.views() {
		position, digest := view.Digest()
		v := httpapi.View{
			Name: view.Name(), Version: view.Version(), Digest: digest.String(), Applied: httpapi.MarkAt(position, view.LastTime().UnixNano()),
		}
		v.Lag = lagBetween(s.log, position, committed).Lag
		if err := a.views.stopped(view.Name()); err != nil && s.serving != nil && s.mode != httpapi.ModeStopping {
			v.Stopped = err.Error()
		}
		status.Views = append(status.Views, v)
	}
}

// lastUpload describes what the shipper did last, nil before it did anything.
func lastUpload(shipper *archiver.Shipper) *httpapi.Upload {
	away, since := shipper.Away()
	if away != nil {
		return &httpapi.Upload{Time: since.UTC(), Error: away.Error()}
	}
	ordinal, at := shipper.Last()
	if at.IsZero() {
		return nil
	}
	return &httpapi.Upload{Ordinal: ordinal, Time: at.UTC()}
}

// lag is a Lag with the time of the lower watermark's event.
type lag struct {
	httpapi.Lag
	at int64
}

// maxLagCount bounds how many events a status counts one by one.
const maxLagCount = 1 << 20

// lagBetween counts the events of the local log after from.
func lagBetween(log *eventlog.Log, from, to eventlog.Seq) lag {
	var l lag
	if from == 0 {
		return l
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for batch, err := range log.ReadTo(ctx, from) {
		if err != nil || l.Events >= maxLagCount {
			break // a bound from below is what can be said in a second
		}
		for i := range batch.Entries {
			ev := &batch.Entries[i].Event
			switch {
			case ev.Seq == from:
				l.at = ev.Time
			case ev.Seq <= to:
				if l.Events++; l.Events == 1 {
					l.Seconds = log.Age(ev).Seconds()
				}
			}
		}
	}
	return l
}

func unarchived(log *eventlog.Log, archived eventlog.Seq) int {
	n := 0
	for _, g := range log.Local() {
		if _, last := g.Seqs(); last > archived {
			n++
		}
	}
	return n
}

func (a *app) storeStatus(status *httpapi.Status, s *snapshot) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	bars, err := s.store.Bars(ctx)
	if err != nil {
		status.Warnings = append(status.Warnings, fmt.Sprintf("which machines are barred could not be found out: %v", err))
		return
	}
	for _, bar := range bars {
		since, _, err := a.views.barred(bar.Machine)
		if err != nil {
			status.Warnings = append(status.Warnings, fmt.Sprintf("why %s is barred could not be found out: %v", bar.Path, err))
		}
		status.Barred = append(status.Barred, httpapi.Barred{
			Machine: bar.Path.String(), ID: bar.Machine, Since: since, Until: bar.Until,
			Reason: barReason(bar),
		})
	}
}

func barReason(bar blockstore.Bar) string {
	reason := fmt.Sprintf("its session was cut off when the server lost its last seconds, at %s", bar.Lost.UTC().Format(time.RFC3339))
	if bar.Waiting {
		reason += "; its old locks are gone, and its next session's lock ends the bar"
	}
	return reason
}

// nextSteps says what is safe to do now.
func nextSteps(s *httpapi.Status) []string {
	switch {
	case s.Mode == httpapi.ModeFenced:
		return []string{"stop this server; it ends with exit code 3", "the log goes on at its new owner"}
	case s.Mode == httpapi.ModePoisoned:
		return []string{"look at the disk of " + s.StateDir, "start the server again: what was acknowledged is kept"}
	case s.Mode == httpapi.ModeHold:
		return []string{"look around; then start without --hold"}
	case s.Mode == httpapi.ModeStarting:
		return []string{"bring the archive back: " + s.Archive, "the server goes on by itself"}
	}
	for _, view := range s.Views {
		if view.Stopped != "" {
			return []string{fmt.Sprintf("stop the server; strandline rebuild --data %s --view %s", s.StateDir, view.Name)}
		}
	}
	if s.LastUpload != nil && s.LastUpload.Error != "" {
		return []string{"bring the archive back; nothing is lost meanwhile, and what waits for it is answered with 503"}
	}
	return nil
}

// gauges is what the metrics ask for at each scrape; what was answered last when
// the server does not answer. No panic leaves it: nobody would catch it.
func (a *app) gauges() metrics.State {
	state, err := a.gauged.ask(a.measure)
	if err != nil {
		a.log.Error("what the metrics show is old", "error", err)
		state.Ready = false
	}
	return state
}

func (a *app) measure() metrics.State {
	s := a.snapshot()
	stats := a.feed.Stats()
	state := metrics.State{
		Mode: string(s.mode), Ready: a.ready() == nil, Lossy: s.lossy != "", Fenced: s.fenced != nil, Poisoned: s.mode == httpapi.ModePoisoned,
		Warnings: len(s.warnings), FeedPublished: stats.Published, FeedDropped: stats.Dropped, FeedRefused: stats.Refused, FeedConnected: stats.Connected,
		ArchiveUnsafe: a.archive.Unsafe() != nil, ArchiveChanged: a.archive.Changed(),
	}
	phaseGauges(&state, a.progress.Snapshot(), a.reads.Stats())
	if s.serving == nil {
		return state
	}
	s.serving.drills.gauges(&state)
	state.Warnings += len(s.serving.drills.warnings())
	if state.ArchiveUnsafe {
		state.Warnings++
	}
	if state.ArchiveChanged > 0 {
		state.Warnings++
	}
	state.Committed, _ = s.log.Committed()
	state.Archived = s.log.Archived()
	behind := lagBetween(s.log, state.Archived, state.Committed)
	state.LagEvents, state.LagTime = behind.Events, seconds(behind.Seconds)
	bytes, _ := s.log.Backlog()
	state.BacklogBytes, state.BacklogGenerations = uint64(bytes), unarchived(s.log, state.Archived)
	for _, view := range a.views.views() {
		state.Views = append(state.Views, a.viewGauge(&s, view, state.Committed))
	}
	index := s.serving.indexer.Stats()
	state.IndexWritten, state.IndexFailed, state.IndexMissing = index.Written, index.Failed, index.Missing
	state.Checkpoint = checkpointGauge(s.serving.taker)
	state.Barred = a.refused(&s)
	return state
}

// refused counts the barred machines whose next session would be refused: those
// with locks from before the loss.
func (a *app) refused(s *snapshot) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	bars, err := s.store.Bars(ctx)
	if err != nil {
		a.log.Warn("which machines are barred could not be found out", "error", err)
	}
	n := 0
	for _, bar := range bars {
		if !bar.Waiting {
			n++
		}
	}
	return n
}

func (a *app) viewGauge(s *snapshot, view *projector.View, committed eventlog.Seq) metrics.ViewState {
	behind := lagBetween(s.log, view.Position(), committed)
	return metrics.ViewState{
		Name: view.Name(), Position: view.Position(), LagEvents: behind.Events, LagTime: seconds(behind.Seconds),
		Stopped: a.views.stopped(view.Name()) != nil,
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// serveAdmin serves the admin listener; the function returned stops it.
func (a *app) serveAdmin() (stop func()) {
	return serveAdmin(a.admin, httpapi.Options{Server: a, Metrics: a.metrics.Handler(a.log), Hosts: strings.Split(a.cfg.AdminHosts, ","), Logger: a.log})
}
