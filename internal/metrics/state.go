// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/strandline-project/strandline/eventlog"
)

// State is what a server is at one moment. A seq of 0 stands for none, and a
// lag that is not known is left at its zero value together with its seq.
type State struct {
	Mode  string // one of Modes
	Ready bool   // answers clients

	Committed, Archived eventlog.Seq  // watermarks
	LagEvents           uint64        // committed and not archived
	LagTime             time.Duration // age of the oldest of them; 0 for none
	BacklogBytes        uint64        // on this disk and not archived
	BacklogGenerations  int           // generations they lie in
	Views               []ViewState   // applied watermarks

	FeedPublished, FeedDropped, FeedRefused uint64
	FeedConnected                           bool

	IndexWritten, IndexFailed uint64 // index objects put, and tries that failed
	IndexMissing              int    // archived runs without one
	Checkpoint                CheckpointState

	ArchiveUnsafe  bool // its store does not keep put-if-absent: nothing is put
	ArchiveChanged int  // objects that are not what was archived

	Poisoned, Fenced, Lossy bool
	Barred                  int // machines
	Warnings                int

	DrillRunning     bool
	DrillFailed      bool          // the last one that came to a verdict
	DrillLastSuccess time.Time     // end of the last one that passed; zero: none did
	DrillRTO         time.Duration // that it measured; 0: none did
	DrillsPassed     uint64        // by this process
	DrillsFailed     uint64
	DrillsUndone     uint64 // that could not be done

	Phase         string // of a recovery or start that runs now; "" for none
	PhaseDone     int64  // units of the phase
	PhaseExpected int64  // units the phase will have; 0 when not known

	PhaseEventsPerSecond, PhaseBytesPerSecond float64       // of the last seconds
	PhaseLeft                                 time.Duration // until the phase ends; 0 when not known
	EndLeft                                   time.Duration // until the last phase ends; 0 when not known
	PhaseBinds                                string        // one of Binds; "" when nothing stands out

	// Reads of the archive that may be under way at once: now, and between
	// which bounds that is found out. 0: nothing bounds them.
	ReadsLimit, ReadsMin, ReadsMax int
	ReadsInFlight                  int
}

// ViewState is a view's applied watermark.
type ViewState struct {
	Name      string
	Position  eventlog.Seq
	LagEvents uint64        // committed and not applied
	LagTime   time.Duration // age of the oldest of them; 0 for none
	Stopped   bool          // by a violation or an error
}

// CheckpointState is the newest checkpoint of the views, and what this process
// did for all of them.
type CheckpointState struct {
	Seq   eventlog.Seq  // 0: there is none, and what follows is left out
	Time  time.Time     // when it was taken
	Took  time.Duration // 0: another process took it
	Bytes uint64        // of its files

	Uploaded, Taken, Failures uint64
}

// Modes a server can be in.
var Modes = []string{"starting", "serving", "hold", "read-only", "recovering", "standby", "fenced", "poisoned", "stopping"}

// Binds is what the phase of a recovery or start can wait for most.
var Binds = []string{"cpu", "disk", "network", "store"}

type stateCollector struct {
	source atomic.Pointer[func() State]

	drilled, checkpointed stamp

	mode, ready                       *prometheus.Desc
	committed, committedEpoch         *prometheus.Desc
	archived, archivedEpoch           *prometheus.Desc
	lagEvents, lagTime                *prometheus.Desc
	backlogBytes, backlogGenerations  *prometheus.Desc
	applied, appliedEpoch             *prometheus.Desc
	viewLag, viewLagTime, viewStopped *prometheus.Desc
	published, dropped, refused       *prometheus.Desc
	connected                         *prometheus.Desc
	indexWritten, indexFailed         *prometheus.Desc
	indexMissing                      *prometheus.Desc
	unsafe, changed                   *prometheus.Desc
	poisoned, fenced, hold, lossy     *prometheus.Desc
	barred, warnings                  *prometheus.Desc
	recoveryDone, recoveryExpected    *prometheus.Desc
	recoveryEvents, recoveryBytes     *prometheus.Desc
	recoveryLeft, recoveryEnd         *prometheus.Desc
	recoveryBinds                     *prometheus.Desc
	readsLimit, readsMin, readsMax    *prometheus.Desc
	readsInFlight                     *prometheus.Desc
	drillRunning, drillFailed         *prometheus.Desc
	drillSuccess, drillRTO, drills    *prometheus.Desc

	checkpointSeq, checkpointTime, checkpointTook, checkpointBytes *prometheus.Desc
	checkpointUploaded, checkpointTaken, checkpointFailures        *prometheus.Desc
}

func newStateCollector() *stateCollector {
	return &stateCollector{
		mode:               desc("mode", "1 for the mode the server is in, 0 for the others.", "mode"),
		ready:              desc("ready", "1 while clients are answered."),
		committed:          desc("committed_seq", "Last event fsynced on this machine: epoch * 2^32 + counter."),
		committedEpoch:     desc("committed_epoch", "Epoch of strandline_committed_seq."),
		archived:           desc("archived_seq", "Last event in the bucket, proven ours: epoch * 2^32 + counter."),
		archivedEpoch:      desc("archived_epoch", "Epoch of strandline_archived_seq."),
		lagEvents:          desc("archive_lag_events", "Events committed and not archived; they would be lost with this machine."),
		lagTime:            desc("archive_lag_seconds", "Age of the oldest event that is committed and not archived."),
		backlogBytes:       desc("backlog_bytes", "Bytes on this disk that are not archived."),
		backlogGenerations: desc("backlog_generations", "Generations on this disk that are not archived."),
		applied:            desc("applied_seq", "Last event that a view has applied: epoch * 2^32 + counter.", "view"),
		appliedEpoch:       desc("applied_epoch", "Epoch of strandline_applied_seq.", "view"),
		viewLag:            desc("view_lag_events", "Events committed and not applied by a view.", "view"),
		viewLagTime:        desc("view_lag_seconds", "Age of the oldest event that is committed and not applied by a view.", "view"),
		viewStopped:        desc("view_stopped", "1 when a violation or an error has stopped the view.", "view"),
		published:          desc("feed_published_total", "Events handed to NATS."),
		dropped:            desc("feed_dropped_total", "Events not published: NATS was away or slow. Readers find them in the log."),
		refused:            desc("feed_refused_total", "Messages to the server's own views that could not be read."),
		connected:          desc("feed_connected", "1 while NATS answers."),
		indexWritten:       desc("index_objects_written_total", "Index objects put into the archive, each with the footers of 256 objects."),
		indexFailed:        desc("index_objects_failed_total", "Tries to write an index object that failed. They are made again; nothing waits for them."),
		indexMissing:       desc("index_objects_missing", "Runs of 256 archived objects without an index object: a recovery reads them one by one."),
		unsafe:             desc("archive_unsafe", "1 while the archive's store does not keep put-if-absent: nothing is put into it."),
		changed:            desc("archive_changed_objects", "Archived objects that were found to be others than those that were put."),
		poisoned:           desc("poisoned", "1 after a failed write or sync: nothing is committed any more."),
		fenced:             desc("fenced", "1 when another server owns the log."),
		hold:               desc("hold", "1 while writes are held."),
		lossy:              desc("lossy_start", "1 when this start may have lost something acknowledged."),
		barred:             desc("barred_machines", "Machines whose writes are refused until their interrupted session is over."),
		warnings:           desc("warnings", "Warnings that status shows now."),
		recoveryDone:       desc("recovery_done", "Units done of the phase that runs now.", "phase"),
		recoveryExpected:   desc("recovery_expected", "Units that the phase running now will have.", "phase"),
		recoveryEvents:     desc("recovery_events_per_second", "Events that the phase running now takes in.", "phase"),
		recoveryBytes:      desc("recovery_bytes_per_second", "Bytes that the phase running now takes in.", "phase"),
		recoveryEnd:        desc("recovery_end_seconds", "Time until the recovery's last phase ends, as it goes now; absent while that is not known."),
		recoveryLeft:       desc("recovery_left_seconds", "Time until the phase running now ends, at its rate; absent while that is not known.", "phase"),
		recoveryBinds:      desc("recovery_binds", "1 for what the phase running now waits for most, 0 for the others.", "phase", "binds"),
		readsLimit:         desc("reads_limit", "Reads of the archive that building views may have under way at once now; found out, between the bounds."),
		readsMin:           desc("reads_min", "Lower bound of strandline_reads_limit."),
		readsMax:           desc("reads_max", "Upper bound of strandline_reads_limit."),
		readsInFlight:      desc("reads_in_flight", "Reads of the archive that building views has under way."),
		checkpointSeq:      desc("checkpoint_seq", "Event as of which the newest checkpoint of the views is: epoch * 2^32 + counter."),
		checkpointTime:     desc("checkpoint_last_success_timestamp_seconds", "When the newest checkpoint of the views was taken."),
		checkpointTook:     desc("checkpoint_duration_seconds", "How long the newest checkpoint took; 0 when an earlier process took it."),
		checkpointBytes:    desc("checkpoint_bytes", "Bytes of the newest checkpoint, which a recovery transfers."),
		checkpointUploaded: desc("checkpoint_uploaded_bytes_total", "Bytes uploaded for checkpoints: what the archive lacked."),
		checkpointTaken:    desc("checkpoints_total", "Checkpoints taken."),
		checkpointFailures: desc("checkpoint_failures_total", "Checkpoints, or removals of old ones, that failed."),
		drillRunning:       desc("drill_running", "1 while a drill is under way."),
		drillFailed:        desc("drill_failed", "1 when the last drill that came to a verdict failed."),
		drillSuccess:       desc("drill_last_success_timestamp_seconds", "When the last drill that passed ended; absent while none has."),
		drillRTO:           desc("drill_rto_seconds", "Time from nothing to verified views in the last drill that passed, under its limits: a recovery is faster."),
		drills:             desc("drills_total", "Drills by this process: passed, failed, undone (could not be done).", "verdict"),
	}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.mode, c.ready, c.committed, c.committedEpoch, c.archived, c.archivedEpoch, c.lagEvents, c.lagTime,
		c.backlogBytes, c.backlogGenerations, c.applied, c.appliedEpoch, c.viewLag, c.viewLagTime, c.viewStopped,
		c.published, c.dropped, c.refused, c.connected, c.indexWritten, c.indexFailed, c.indexMissing, c.unsafe, c.changed, c.poisoned, c.fenced, c.hold, c.lossy, c.barred, c.warnings,
		c.recoveryDone, c.recoveryExpected, c.recoveryEvents, c.recoveryBytes, c.recoveryLeft, c.recoveryEnd, c.recoveryBinds, c.readsLimit, c.readsMin, c.readsMax, c.readsInFlight,
		c.checkpointSeq, c.checkpointTime, c.checkpointTook, c.checkpointBytes, c.checkpointUploaded, c.checkpointTaken, c.checkpointFailures,
		c.drillRunning, c.drillFailed, c.drillSuccess, c.drillRTO, c.drills,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector: one look at the state for all of
// its metrics.
func (c *stateCollector) Collect(out chan<- prometheus.Metric) {
	source := c.source.Load()
	if source == nil {
		return
	}
	s := (*source)()
	c.collectLog(out, &s)
	c.collectViews(out, &s)
	c.collectFeed(out, &s)
	count(out, c.indexWritten, s.IndexWritten)
	count(out, c.indexFailed, s.IndexFailed)
	gauge(out, c.indexMissing, float64(s.IndexMissing))
	c.collectCheckpoint(out, &s.Checkpoint)
	c.collectHealth(out, &s)
	c.collectPhase(out, &s)
	c.collectDrills(out, &s)
}

func (c *stateCollector) collectLog(out chan<- prometheus.Metric, s *State) {
	gauge(out, c.committed, float64(s.Committed))
	gauge(out, c.committedEpoch, float64(s.Committed.Epoch()))
	gauge(out, c.archived, float64(s.Archived))
	gauge(out, c.archivedEpoch, float64(s.Archived.Epoch()))
	gauge(out, c.lagEvents, float64(s.LagEvents))
	gauge(out, c.lagTime, s.LagTime.Seconds())
	gauge(out, c.backlogBytes, float64(s.BacklogBytes))
	gauge(out, c.backlogGenerations, float64(s.BacklogGenerations))
}

func (c *stateCollector) collectViews(out chan<- prometheus.Metric, s *State) {
	for _, v := range s.Views {
		gauge(out, c.applied, float64(v.Position), v.Name)
		gauge(out, c.appliedEpoch, float64(v.Position.Epoch()), v.Name)
		gauge(out, c.viewLag, float64(v.LagEvents), v.Name)
		gauge(out, c.viewLagTime, v.LagTime.Seconds(), v.Name)
		gauge(out, c.viewStopped, truth(v.Stopped), v.Name)
	}
}

func (c *stateCollector) collectFeed(out chan<- prometheus.Metric, s *State) {
	count(out, c.published, s.FeedPublished)
	count(out, c.dropped, s.FeedDropped)
	count(out, c.refused, s.FeedRefused)
	gauge(out, c.connected, truth(s.FeedConnected))
}

func (c *stateCollector) collectCheckpoint(out chan<- prometheus.Metric, s *CheckpointState) {
	count(out, c.checkpointUploaded, s.Uploaded)
	count(out, c.checkpointTaken, s.Taken)
	count(out, c.checkpointFailures, s.Failures)
	if s.Seq == 0 {
		return
	}
	gauge(out, c.checkpointSeq, float64(s.Seq))
	gauge(out, c.checkpointTime, float64(c.checkpointed.shown(s.Time, time.Now()).UnixMilli())/1000)
	gauge(out, c.checkpointTook, s.Took.Seconds())
	gauge(out, c.checkpointBytes, float64(s.Bytes))
}

func (c *stateCollector) collectHealth(out chan<- prometheus.Metric, s *State) {
	for _, mode := range Modes {
		gauge(out, c.mode, truth(mode == s.Mode), mode)
	}
	gauge(out, c.ready, truth(s.Ready))
	gauge(out, c.unsafe, truth(s.ArchiveUnsafe))
	gauge(out, c.changed, float64(s.ArchiveChanged))
	gauge(out, c.poisoned, truth(s.Poisoned))
	gauge(out, c.fenced, truth(s.Fenced))
	gauge(out, c.hold, truth(s.Mode == "hold"))
	gauge(out, c.lossy, truth(s.Lossy))
	gauge(out, c.barred, float64(s.Barred))
	gauge(out, c.warnings, float64(s.Warnings))
}

func (c *stateCollector) collectPhase(out chan<- prometheus.Metric, s *State) {
	if s.Phase != "" {
		gauge(out, c.recoveryDone, float64(s.PhaseDone), s.Phase)
		gauge(out, c.recoveryExpected, float64(s.PhaseExpected), s.Phase)
		gauge(out, c.recoveryEvents, s.PhaseEventsPerSecond, s.Phase)
		gauge(out, c.recoveryBytes, s.PhaseBytesPerSecond, s.Phase)
		if s.PhaseLeft > 0 {
			gauge(out, c.recoveryLeft, s.PhaseLeft.Seconds(), s.Phase)
		}
		if s.EndLeft > 0 {
			gauge(out, c.recoveryEnd, s.EndLeft.Seconds())
		}
		for _, what := range Binds {
			gauge(out, c.recoveryBinds, truth(what == s.PhaseBinds), s.Phase, what)
		}
	}
	if s.ReadsLimit > 0 {
		gauge(out, c.readsLimit, float64(s.ReadsLimit))
		gauge(out, c.readsMin, float64(s.ReadsMin))
		gauge(out, c.readsMax, float64(s.ReadsMax))
		gauge(out, c.readsInFlight, float64(s.ReadsInFlight))
	}
}

func (c *stateCollector) collectDrills(out chan<- prometheus.Metric, s *State) {
	gauge(out, c.drillRunning, truth(s.DrillRunning))
	gauge(out, c.drillFailed, truth(s.DrillFailed))
	if !s.DrillLastSuccess.IsZero() {
		gauge(out, c.drillSuccess, float64(c.drilled.shown(s.DrillLastSuccess, time.Now()).UnixMilli())/1000)
		gauge(out, c.drillRTO, s.DrillRTO.Seconds())
	}
	count(out, c.drills, s.DrillsPassed, "passed")
	count(out, c.drills, s.DrillsFailed, "failed")
	count(out, c.drills, s.DrillsUndone, "undone")
}

func gauge(out chan<- prometheus.Metric, d *prometheus.Desc, value float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func count(out chan<- prometheus.Metric, d *prometheus.Desc, value uint64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
