// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// publisher puts every committed event on the feed, in order.
type publisher struct {
	log     publishedLog
	next    eventlog.Seq // the least that is not on the feed
	publish func(eventlog.Batch)
	pause   time.Duration // after a failed reading
	logger  *slog.Logger
}

// publishedLog is what a publisher needs of the log; *eventlog.Log is one.
type publishedLog interface {
	Follow(ctx context.Context, from eventlog.Seq, wait func(context.Context, eventlog.Seq) error) iter.Seq2[eventlog.Batch, error]
	WaitCommitted(ctx context.Context, after eventlog.Seq) error
	Err() error
}

// publishPause is how long the publisher rests after a failed reading.
const publishPause = time.Second

// run publishes until ctx or the log ends. A reading that fails is tried again
// from where it was.
func (p *publisher) run(ctx context.Context) {
	for {
		err := p.follow(ctx)
		switch {
		case ctx.Err() != nil || p.log.Err() != nil:
			return
		case errors.Is(err, eventlog.ErrCleaned):
			p.logger.Error("publishing to the feed has ended", "next", p.next.String(), "error", err)
			return
		}
		p.logger.Warn("events could not be read for the feed; trying again", "next", p.next.String(), "pause", p.pause, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(p.pause):
		}
	}
}

func (p *publisher) follow(ctx context.Context) error {
	for batch, err := range p.log.Follow(ctx, p.next, p.log.WaitCommitted) {
		if err != nil {
			return err
		}
		p.publish(batch)
		p.next = max(p.next, batch.Last()+1)
		if n := len(batch.Cleaned); n > 0 {
			p.next = max(p.next, batch.Cleaned[n-1].Last+1)
		}
	}
	return nil
}
