// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"syscall"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
)

// shakyLog has so many events, and fails to be read behind each third of them
// once. Then it ends, or is cleaned.
type shakyLog struct {
	events int
	failed map[eventlog.Seq]bool
	ended  error
	last   error // what a reading ends with behind the last event
}

func (l *shakyLog) Err() error { return l.ended }

func (l *shakyLog) WaitCommitted(context.Context, eventlog.Seq) error { return l.ended }

func (l *shakyLog) Follow(_ context.Context, from eventlog.Seq, _ func(context.Context, eventlog.Seq) error) iter.Seq2[eventlog.Batch, error] {
	return func(yield func(eventlog.Batch, error) bool) {
		for seq := from; seq <= eventlog.MakeSeq(1, uint32(l.events)); seq++ {
			if seq.Counter()%3 == 0 && !l.failed[seq] {
				l.failed[seq] = true
				yield(eventlog.Batch{}, fmt.Errorf("reading the footer: %w", syscall.EMFILE))
				return
			}
			if !yield(eventlog.Batch{Entries: []eventlog.Entry{{Event: eventlog.Event{Seq: seq}}}}, nil) {
				return
			}
		}
		if l.last == nil {
			l.ended = eventlog.ErrClosed
			l.last = l.ended
		}
		yield(eventlog.Batch{}, l.last)
	}
}

// A reading that fails is tried again where it was: every event is published,
// once, in order.
func TestAPublisherOutlivesReadingsThatFail(t *testing.T) {
	log := &shakyLog{events: 10, failed: map[eventlog.Seq]bool{}}
	var got []eventlog.Seq
	p := &publisher{
		log: log, next: eventlog.FirstSeq, logger: slog.New(slog.DiscardHandler),
		publish: func(batch eventlog.Batch) { got = append(got, batch.Last()) },
	}
	p.run(t.Context())
	var want []eventlog.Seq
	for i := range 10 {
		want = append(want, eventlog.MakeSeq(1, uint32(i+1)))
	}
	if !slices.Equal(got, want) || len(log.failed) != 3 {
		t.Errorf("published %v with %d failures, want %v with 3", got, len(log.failed), want)
	}
}

// What was cleaned away will not be there at the next try either.
func TestAPublisherEndsWhereTheLogIsCleaned(t *testing.T) {
	log := &shakyLog{events: 2, failed: map[eventlog.Seq]bool{}, last: fmt.Errorf("reading: %w", eventlog.ErrCleaned)}
	p := &publisher{log: log, next: eventlog.FirstSeq, logger: slog.New(slog.DiscardHandler), publish: func(eventlog.Batch) {}}
	p.run(t.Context())
	if p.next != eventlog.MakeSeq(1, 3) || errors.Is(log.Err(), eventlog.ErrClosed) {
		t.Errorf("it ended at %s", p.next)
	}
}
