// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/blockstore"
	"github.com/strandline-project/strandline/internal/checkpoint"
	"github.com/strandline-project/strandline/internal/feed"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/projector"
)

// serving is a log that this process owns, with everything that runs on it.
type serving struct {
	app      *app
	head     eventlog.Head // of its epoch
	first    eventlog.Seq  // of its epoch: epoch_started
	log      *eventlog.Log
	store    *blockstore.Store
	recorder *blockstore.Recorder
	shipper  *archiver.Shipper
	janitor  *archiver.Janitor
	indexer  *archiver.Indexer
	taker    *checkpoint.Taker
	drills   *drills

	readers   sync.WaitGroup // views, their wakers, the publisher
	stopRead  context.CancelFunc
	shipping  sync.WaitGroup // shipper, janitor and indexer
	stopShip  context.CancelFunc
	stopClean context.CancelFunc // of janitor and indexer
	taking    sync.WaitGroup     // checkpoints
	stopTake  context.CancelFunc
	drilling  sync.WaitGroup
	stopDrill context.CancelFunc
	shipped   chan error // what the shipper ended with
	logEnded  func()     // of the parts
}

// newServing opens the log behind started. Nothing runs on it before begin.
func (a *app) newServing(started *archiver.Started) (*serving, error) {
	roster, err := blockstore.NewRoster(context.Background(), a.views.machine)
	if err != nil {
		return nil, err
	}
	log, err := eventlog.Open(eventlog.Options{
		Dir: a.dir.Path("wal"), Spool: a.dir.Path("spool"), Head: started.Head, Last: started.Last, LastTime: started.LastTime,
		NextOrdinal: started.NextOrdinal, Local: started.Local, Archived: started.Archived, History: a.history, Rules: roster,
		Limits: eventlog.Limits{
			BodyMemory: int64(a.cfg.BodyMemory), MaxBacklog: int64(a.cfg.MaxBacklog), DrainTime: a.cfg.AckTimeout / 2,
		},
		Observer: a.metrics, Logger: a.log,
	})
	if err != nil {
		return nil, err
	}
	s := &serving{app: a, head: started.Head, first: started.Last, log: log, shipped: make(chan error, 1)}
	s.store = a.newStore(log)
	s.recorder = a.newRecorder(log)
	s.shipper = &archiver.Shipper{Archive: a.archive, Log: log, Dir: a.dir, Epoch: started.Head.Epoch, Shipped: started.Shipped, Logger: a.log}
	s.indexer = &archiver.Indexer{Archive: a.archive, Log: log, Epoch: started.Head.Epoch, Scratch: a.dir.Path("spool"), Logger: a.log}
	s.indexer.Archived(started.Shipped)
	s.shipper.Archived = s.indexer.Archived
	s.janitor = &archiver.Janitor{Archive: a.archive, Log: log, Dir: a.dir, Budget: int64(a.cfg.CacheSize), Logger: a.log, Now: time.Now}
	s.taker = s.newTaker()
	s.drills = s.newDrills(clockwork.NewRealClock())
	return s, nil
}

// newStore is the application on a log, running or only read.
func (a *app) newStore(log *eventlog.Log) *blockstore.Store {
	acks := map[Ack]blockstore.Ack{AckCommitPoints: blockstore.AckCommitPoints, AckArchived: blockstore.AckArchived, AckCommitted: blockstore.AckCommitted}
	var views []blockstore.Progress
	for _, runner := range a.views.runners {
		views = append(views, runner)
	}
	return blockstore.New(blockstore.Options{
		Log: log, Machines: a.views.machine, Blocks: a.views.block, Views: views, Archive: a.archive,
		Gone:       func(err error) bool { return errors.Is(err, archiver.ErrNotFound) },
		AppendOnly: a.cfg.AppendOnly, MaxSize: uint64(a.cfg.MaxSize), MaxBody: int64(a.cfg.MaxBody),
		Ack: acks[a.cfg.Ack], AckTimeout: a.cfg.AckTimeout, Logger: a.log,
	})
}

// newRecorder puts the views' digests into the log now and then.
func (a *app) newRecorder(log *eventlog.Log) *blockstore.Recorder {
	var views []blockstore.Recorded
	var progress []blockstore.Progress
	for _, view := range a.views.views() {
		views = append(views, view)
		progress = append(progress, a.views.runners[view.Name()])
	}
	return blockstore.NewRecorder(log, views, progress, a.cfg.RecordEvery, a.log)
}

// begin starts everything that runs on the log, and opens it for writing.
func (s *serving) begin() {
	reading, stopRead := context.WithCancel(context.Background())
	s.stopRead = stopRead
	parts := &s.app.parts
	s.logEnded = parts.begin("the log")
	for name, runner := range s.app.views.runners {
		waker := s.app.feed.Waker()
		s.readers.Go(func() { parts.do("the view "+name, func() { s.runView(reading, runner) }) })
		s.readers.Go(func() { parts.do("the waker of "+name, func() { wakeView(reading, runner, waker) }) })
	}
	s.readers.Go(func() { parts.do("the publisher", func() { s.publish(reading) }) })
	ship, stopShip := context.WithCancel(context.Background())
	s.stopShip = stopShip
	s.shipping.Go(func() { parts.do("the shipper", func() { s.ship(ship) }) })
	clean, stopClean := context.WithCancel(context.Background())
	s.stopClean = stopClean
	s.shipping.Go(func() { parts.do("the janitor", func() { s.janitor.Run(clean) }) })
	s.shipping.Go(func() { parts.do("the indexer", func() { s.indexer.Run(clean) }) })
	take, stopTake := context.WithCancel(context.Background())
	s.stopTake = stopTake
	s.taking.Go(func() { parts.do("checkpoints", func() { s.taker.Run(take) }) })
	// The first record stands in the log before anybody can write.
	s.recorder.Begin()
	s.recordRecovery(clean)
	drill, stopDrill := context.WithCancel(context.Background())
	s.stopDrill = stopDrill
	s.drilling.Go(func() { parts.do("drills", func() { s.drills.run(drill) }) })
	s.app.unlessEnded(func() { s.store.SetMode(blockstore.Serving, "") })
}

// standing is a log's events up to the end of now: what a view takes in until
// it is woken again.
type standing struct{ log *eventlog.Log }

func (l standing) Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error] {
	return l.log.ReadTo(ctx, from)
}

// runView keeps one view up with the log. A view that stops is loud, and stops
// all writes (the Store watches it); the process goes on serving what is sure.
func (s *serving) runView(ctx context.Context, runner *projector.Runner) {
	if err := runner.Run(ctx, standing{s.log}); err != nil && ctx.Err() == nil {
		s.app.log.Error("a view has stopped: writes are refused until the server is started again", "error", err)
	}
}

// wakeView lets the feed tell a view when to look.
func wakeView(ctx context.Context, runner *projector.Runner, waker *feed.Waker) {
	defer waker.Close()
	for waker.Wait(ctx, runner.Position) == nil {
		runner.Wake()
	}
}

// publish puts every committed event of the epoch on the feed, in order.
func (s *serving) publish(ctx context.Context) {
	p := &publisher{
		log: s.log, next: s.first, pause: publishPause, logger: s.app.log,
		publish: func(batch eventlog.Batch) { s.app.feed.Publish(batch.Entries, s.log.Archived()) },
	}
	p.run(ctx)
}

// ship ships until the log has ended and everything is archived.
func (s *serving) ship(ctx context.Context) {
	err := s.shipper.Run(ctx)
	s.shipped <- err
	a := s.app
	if errors.Is(err, archiver.ErrFenced) {
		a.log.Error("fenced: another server owns this log now. Nothing is acknowledged any more; stop this process", "error", err)
		a.end(func() { a.fenced = err })
		s.store.SetMode(blockstore.Fenced, err.Error())
		a.setMode(httpapi.ModeFenced, err.Error())
		a.findOwner(ctx)
		return
	}
	if err == nil || ctx.Err() != nil || errors.Is(err, eventlog.ErrPoisoned) {
		return
	}
	// Nothing is archived any more, and nobody looks whether the log is still
	// ours: nothing may be acknowledged.
	err = fmt.Errorf("nothing is shipped to the archive any more: %w", err)
	var rot *eventlog.Rot
	if errors.As(err, &rot) { // another start cannot help: reads go on here
		a.log.Error("what was to be shipped has rotted on this disk: writes are refused", "seq", rot.Seq.String(), "error", err)
		a.end(func() { a.stopped = err }) // for health
		s.store.SetMode(blockstore.Holding, err.Error())
		a.setMode(httpapi.ModeHold, err.Error())
		s.log.Fence(err)
		return
	}
	a.log.Error("shipping has ended: writes are refused until the server is started again", "error", err)
	a.end(func() { a.stopped = err })
	s.log.Fence(err)
}

// end notes why nothing is shipped any more. Whoever finds that out may do so
// while the server is still beginning to serve: then it never does, see unlessEnded.
func (a *app) end(note func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	note()
}

// unlessEnded calls serve, which lets clients in, unless shipping has ended.
// serve must not take mu.
func (a *app) unlessEnded(serve func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fenced == nil && a.stopped == nil {
		serve()
	}
}

// findOwner finds out, for the status, who owns the log now. The mode was
// changed before: nobody waits for this.
func (a *app) findOwner(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, firstTry)
	defer cancel()
	claim, err := a.archive.HighestClaim(ctx)
	if err != nil || claim == nil {
		a.log.Warn("who owns the log now could not be found out", "error", err)
		return
	}
	a.mu.Lock()
	a.owner = claim.String()
	a.mu.Unlock()
}

// stop ends in order: writes, a last record of the views' digests, the log,
// its shipping until the deadline, and a last checkpoint, if there is time left
// for one. What cannot be shipped by then stays in the WAL for the next start.
func (s *serving) stop(deadline time.Time) error {
	a := s.app
	a.waitsFor("the drill")
	s.stopDrill()
	s.drilling.Wait()
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	a.waitsFor("the checkpoint")
	s.stopTake()
	s.taking.Wait()
	a.waitsFor("writes that are under way")
	if err := s.store.Close(ctx); err != nil {
		a.log.Warn("some writes did not end", "error", err)
	}
	a.waitsFor("the record of the digests")
	recordErr := s.recorder.Close(ctx)
	if recordErr != nil {
		a.log.Warn("the views' digests were not recorded at the end", "error", recordErr)
	}
	a.waitsFor("the views")
	s.awaitViews(ctx)
	a.waitsFor("the log to be closed")
	closeErr := s.log.Close(true)
	s.logEnded()
	s.stopRead()
	a.waitsFor("views and publisher")
	s.readers.Wait()
	s.stopClean()
	a.waitsFor("shipping")
	shipErr := s.finishShipping(ctx)
	a.waitsFor("janitor and indexer")
	s.shipping.Wait()
	a.mu.Lock()
	fenced := a.fenced
	a.mu.Unlock()
	if fenced != nil {
		return fenced
	}
	if err := errors.Join(closeErr, shipErr); err != nil {
		return err
	}
	a.log.Info("stopped in order", "archived", s.log.Archived().String())
	if err := s.markClean(); err != nil {
		return err
	}
	s.lastCheckpoint(ctx)
	return nil
}

// awaitViews waits until the views have applied all that is committed, the last
// record too: a directory that was stopped in order compares equal to what is
// recovered from its archive. One that does not get there catches up when it is
// opened again.
func (s *serving) awaitViews(ctx context.Context) {
	end, _ := s.log.Committed()
	for name, runner := range s.app.views.runners {
		if err := runner.WaitApplied(ctx, end); err != nil {
			s.app.log.Warn("a view was stopped before the log's end; the next start brings it up", "view", name, "error", err)
		}
	}
}

// finishShipping waits for the shipper, but not for ever.
func (s *serving) finishShipping(ctx context.Context) error {
	defer s.stopShip()
	select {
	case err := <-s.shipped:
		return err
	case <-ctx.Done():
	}
	s.stopShip()
	committed, _ := s.log.Committed()
	events, err := countEvents(s.log, s.log.Archived())
	if err != nil {
		return err
	}
	s.app.log.Warn(fmt.Sprintf("%d events unshipped: the archive did not take them within %s; they are safe in %s and the next start ships them", events, stopShipping, s.app.dir.Path("wal")),
		"archived", s.log.Archived().String(), "committed", committed.String())
	return nil
}

// countEvents counts the events after a seq.
func countEvents(log *eventlog.Log, after eventlog.Seq) (int, error) {
	n := 0
	for batch, err := range log.ReadTo(context.Background(), after+1) {
		if err != nil {
			return n, fmt.Errorf("counting the events after %s: %w", after, err)
		}
		n += len(batch.Entries)
	}
	return n, nil
}

// markClean records that this server stopped in order and how far the archive
// got.
func (s *serving) markClean() error {
	mark := s.archivedMark()
	return s.app.dir.Update(func(state *archiver.State) {
		state.Clean = true
		if mark != nil && (state.Archived == nil || state.Archived.Ordinal < mark.Ordinal) {
			state.Archived = mark
		}
	})
}

// archivedMark names the last archived generation that is at hand.
func (s *serving) archivedMark() *archiver.ArchivedMark {
	archived := s.log.Archived()
	var mark *archiver.ArchivedMark
	for _, g := range s.log.Local() {
		if _, last := g.Seqs(); last <= archived {
			mark = &archiver.ArchivedMark{Ordinal: g.Ordinal, Seq: last}
		}
	}
	return mark
}
