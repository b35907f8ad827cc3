// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"errors"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/httpapi"
)

func TestAServerWhoseShippingEndsBeforeItServesIsPoisonedNotStarting(t *testing.T) {
	a := &app{mode: httpapi.ModeStarting, reason: "starting", serving: &serving{log: new(eventlog.Log)}, stopped: errors.New("nothing is shipped any more")}
	if s := a.snapshot(); s.mode != httpapi.ModePoisoned || s.reason != a.stopped.Error() {
		t.Errorf("it says %s: %s", s.mode, s.reason)
	}
	a.serving = nil
	if s := a.snapshot(); s.mode != httpapi.ModeStarting {
		t.Errorf("before there is a log to ship it says %s", s.mode)
	}
}
