// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
)

// looks is how often the server looks at itself within the time after which the
// service manager gives it up. Only when all of them find it stuck is it given up.
const looks = 4

// keepAlive tells the service manager again and again that the server works, as
// long as it does, if it wants to know that (WATCHDOG_USEC). The function
// returned ends it.
func (a *app) keepAlive() (stop func(), err error) {
	within, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, withCode(exitUsage, fmt.Errorf("the service manager's watchdog: %w; mend WatchdogSec= of the unit", err))
	}
	if within == 0 {
		return func() {}, nil
	}
	w := &watchdog{app: a, tell: a.notify}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.run(ctx, max(within/looks, time.Millisecond))
	}()
	return func() {
		cancel()
		<-ended // a look is bounded
	}, nil
}

// notify tells the service manager, if there is one.
func (a *app) notify(state string) {
	if err := progress.Notify(state); err != nil {
		a.log.Warn("the service manager is not told", "error", err)
	}
}

// watchdog looks whether the server moves. Its fields belong to one goroutine.
type watchdog struct {
	app             *app
	tell            func(state string)
	log             *eventlog.Log // that of the last look
	given, resolved uint64        // its promises then
}

// run looks again and again until ctx ends.
func (w *watchdog) run(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		w.look()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// look tells the service manager that the server works, or the log why not.
func (w *watchdog) look() {
	if err := w.stuck(); err != nil {
		w.app.log.Error("the server is stuck, and its service manager is not told that it works", "error", err)
		return
	}
	w.tell(daemon.SdNotifyWatchdog)
}

// stuck returns what hangs, nil for nothing: the server answers what the admin
// door asks, and what waited for its commit at the last look does not all wait still.
// A log that has stopped refuses, and is not stuck.
func (w *watchdog) stuck() error {
	log, err := w.app.logs.ask(func() *eventlog.Log { return w.app.snapshot().log })
	if err != nil && !errors.Is(err, errPanicked) { // a panic is an answer, and said where people ask
		return err
	}
	if _, err := w.app.statuses.ask(w.app.status); err != nil && !errors.Is(err, errPanicked) {
		return err
	}
	return w.unmoved(log)
}

// unmoved returns an error when promises of the log waited at the last look, and
// none has resolved since.
func (w *watchdog) unmoved(log *eventlog.Log) error {
	if log == nil {
		w.log = nil
		return nil
	}
	same, waited, before := log == w.log, w.given > w.resolved, w.resolved
	w.log = log
	w.given, w.resolved = log.Promises()
	if same && waited && w.resolved == before {
		return fmt.Errorf("the log commits nothing, and %d events wait: look at the disk of %s", w.given-w.resolved, w.app.cfg.Data)
	}
	return nil
}
