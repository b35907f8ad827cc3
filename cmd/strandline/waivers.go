// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
)

// recordWaivers puts what the recovery of this state went on past into the
// log, and forgets it once that is archived.
func (s *serving) recordWaivers(ctx context.Context) {
	waivers := s.app.dir.State().Waivers
	if len(waivers) == 0 {
		return
	}
	var last eventlog.Seq
	for _, w := range waivers {
		var err error
		last, err = s.log.Append(eventlog.Event{
			Type: eventlog.WaiverGranted, Actor: "operator", Name: w.Rule, From: w.Scope.First, To: w.Scope.Last, Cause: "recover --waive",
		}, nil).Wait()
		if err != nil {
			s.app.log.Warn("the recovery's waivers are not recorded; the next start does it", "err", err)
			return
		}
	}
	s.shipping.Go(func() { s.forgetWaivers(ctx, last) })
}

func (s *serving) forgetWaivers(ctx context.Context, last eventlog.Seq) {
	err := s.log.WaitArchived(ctx, last)
	if err == nil {
		// A crash before this line leaves the waivers to be recorded once
		// more, which says nothing new; after it the archive knows them.
		err = s.app.dir.Update(func(state *archiver.State) { state.Waivers = nil })
	}
	if err != nil && ctx.Err() == nil {
		s.app.log.Warn("the recovery's waivers are recorded again at the next start", "err", err)
	}
}
