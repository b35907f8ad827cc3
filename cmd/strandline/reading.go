// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/blockstore"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/progress"
)

// hold serves what is here and writes nothing: no claim, no event, no object.
// Clients' locks are kept in memory, because they need one to read.
func (a *app) hold(ctx context.Context) error {
	wal, err := readWAL(a.dir, a.views.positions()...)
	if err != nil {
		return err
	}
	if damage := wal.Damage(); damage != nil {
		a.log.Warn("holding a damaged WAL", "damage", damage)
	}
	a.learnEnd(ctx)
	if err := a.views.Build(ctx); err != nil {
		return err
	}
	reason := "the server was started with --hold: it serves reads and writes nothing; start it without --hold to go on"
	return a.openReading(ctx, wal, blockstore.Holding, httpapi.ModeHold, reason)
}

// learnEnd reads the trailer of the last object that this directory knows, so
// that the views' place in the log is found without a look at all the objects
// before, one of which may be lost: its blocks cannot be read then, all others
// can.
func (a *app) learnEnd(ctx context.Context) {
	mark := a.dir.State().Archived
	if mark == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, firstTry)
	defer cancel()
	object := archiver.Shipped(mark.Ordinal)
	info, err := a.bucket.Head(ctx, object.Key())
	if err == nil {
		object.Size = info.Size
		_, _, err = a.archive.Metadata(ctx, object)
	}
	if err != nil {
		a.log.Warn("the last object that this directory knows cannot be read", "object", object.String(), "error", err)
	}
}

// serveReads serves what is here while the archive does not answer, until it
// does.
func (a *app) serveReads(ctx context.Context, cause error) error {
	if err := a.views.open(); err != nil {
		return errors.Join(cause, err)
	}
	wal, err := readWAL(a.dir, a.views.positions()...)
	if err != nil {
		return err
	}
	reason := fmt.Sprintf("the archive cannot be reached, so nothing can be claimed or written: %v", cause)
	switch {
	case errors.Is(cause, archiver.ErrNotTaken):
		reason = fmt.Sprintf("the archive is read and takes nothing, so nothing can be claimed or written: %v", cause)
	case errors.Is(cause, archiver.ErrOlderState):
		reason = fmt.Sprintf("the archive contradicts itself, so nothing can be claimed or written: %v", cause)
	}
	if err := a.openReading(ctx, wal, blockstore.Reading, httpapi.ModeStarting, reason); err != nil {
		// Not even what is here is known for certain.
		a.log.Warn("reads are refused too until the archive answers", "error", err)
		a.setMode(httpapi.ModeStarting, reason)
		a.door.shut(reason)
	}
	if errors.Is(cause, archiver.ErrNotTaken) || errors.Is(cause, archiver.ErrOlderState) {
		a.notTaken++
	}
	pause := min(awayPause<<min(a.notTaken, 16), longestPause)
	if errors.Is(cause, archiver.ErrNotTaken) && errors.Is(cause, archiver.ErrDenied) {
		pause = longestPause // a right that is missing does not come back by itself, and each try refuses reads
	}
	return a.awaitArchive(ctx, pause)
}

// longestPause is the longest between two starts at a bucket that takes nothing
// of what a start puts though it seems to take objects (it is full, say), or
// that contradicts itself: each start may claim an epoch.
const longestPause = 10 * time.Minute

// awaitArchive returns when the archive answers and takes objects, but not
// before the pause is over. Clients are served meanwhile.
func (a *app) awaitArchive(ctx context.Context, pause time.Duration) error {
	ticker := time.NewTicker(awayPause)
	defer ticker.Stop()
	for began := time.Now(); ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		a.notify("STATUS=waiting for the archive\n" + progress.Extension)
		try, cancel := context.WithTimeout(ctx, awayPause)
		_, err := archiver.Open(try, a.bucket)
		if err == nil {
			_, err = a.archive.HighestClaim(try)
		}
		if err == nil {
			err = a.archive.Writable(try)
		}
		cancel()
		if errors.Is(err, archiver.ErrUnsupported) || errors.Is(err, archiver.ErrDenied) {
			err = nil // the start judges it
		}
		if err == nil && time.Since(began) >= pause {
			return nil
		}
	}
}

// openReading lets clients read the WAL and what the views know of the rest.
func (a *app) openReading(ctx context.Context, wal *eventlog.WAL, mode blockstore.Mode, shown httpapi.Mode, reason string) error {
	log, err := wal.Reader(a.history, slices.Max(a.views.positions()), fmt.Errorf("nothing is written: %s", reason))
	if err != nil {
		return err
	}
	catchUp, cancel := context.WithTimeout(ctx, firstTry)
	defer cancel()
	if err := a.views.CatchUpHere(catchUp, standing{log}); err != nil {
		return err
	}
	store := a.newStore(log)
	store.SetMode(mode, reason)
	a.mu.Lock()
	a.reading, a.readStore = log, store
	a.mu.Unlock()
	a.setMode(shown, reason)
	a.door.open(store)
	a.announce()
	return nil
}

// closeReading ends what openReading began. Clients are shut out before.
func (a *app) closeReading() {
	a.mu.Lock()
	store := a.readStore
	a.reading, a.readStore = nil, nil
	a.mu.Unlock()
	if store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopRequests)
	defer cancel()
	if err := store.Close(ctx); err != nil {
		a.log.Warn("some reads did not end", "error", err)
	}
}

// openAccessLog opens the file for a line per request.
func (a *app) openAccessLog() (io.Writer, func(), error) {
	switch a.cfg.AccessLog {
	case "":
		return nil, func() {}, nil
	case "-":
		return os.Stdout, func() {}, nil
	}
	f, err := os.OpenFile(a.cfg.AccessLog, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, withCode(exitUsage, fmt.Errorf("--access-log: %w", err))
	}
	return f, func() {
		if err := f.Close(); err != nil {
			a.log.Warn("closing the access log", "error", err)
		}
	}, nil
}
