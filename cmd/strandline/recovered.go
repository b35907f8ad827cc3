// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
)

// recordRecovery puts how this state was recovered, and what that went on
// past, into the log, and forgets it once that is archived.
func (s *serving) recordRecovery(ctx context.Context) {
	events := recoveryEvents(s.app.dir.State())
	if len(events) == 0 {
		return
	}
	var last eventlog.Seq
	for _, event := range events {
		var err error
		if last, err = s.log.Append(event, nil).Wait(); err != nil {
			s.app.log.Warn("how this state was recovered is not recorded; the next start does it", "err", err)
			return
		}
	}
	s.shipping.Go(func() { s.forgetRecovery(ctx, last) })
}

// recoveryEvents are those that a recovery has left to be written.
func recoveryEvents(state archiver.State) []eventlog.Event {
	var events []eventlog.Event
	for _, w := range state.Waivers {
		cause := "recover --waive"
		if w.Rule == archiver.RottenPayload {
			cause = "serve --waive"
		}
		events = append(events, eventlog.Event{
			Type: eventlog.WaiverGranted, Actor: "operator", Name: w.Rule, From: w.Scope.First, To: w.Scope.Last, Cause: cause,
		})
	}
	if state.Recovery != nil {
		events = append(events, eventlog.Event{Type: eventlog.RecoveryCompleted, Actor: "operator", Recovery: state.Recovery})
	}
	return events
}

func (s *serving) forgetRecovery(ctx context.Context, last eventlog.Seq) {
	err := s.log.WaitArchived(ctx, last)
	if err == nil {
		// A crash before this line leaves the same to be recorded once more,
		// which says nothing new (a reader knows it again by when it began);
		// after it the archive knows.
		err = s.app.dir.Update(func(state *archiver.State) { state.Waivers, state.Recovery = nil, nil })
	}
	if err != nil && ctx.Err() == nil {
		s.app.log.Warn("how this state was recovered is recorded again at the next start", "err", err)
	}
}
