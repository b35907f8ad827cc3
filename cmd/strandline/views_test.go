// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"log/slog"
	"testing"

	"github.com/strandline-project/strandline/projector"
)

// The race detector says whether the admin door may look while a start throws
// views away; without it a concurrent use of the map ends the test now and then.
func TestTheAdminDoorLooksAtViewsThatAStartThrowsAway(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	views, err := openViews(t.TempDir(), projector.Live, quiet)
	if err != nil {
		t.Fatal(err)
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, view := range views.views() {
				view.Digest()
				if err := views.stopped(view.Name()); err != nil {
					t.Error(err)
				}
			}
			if _, _, err := views.barred(1); err != nil {
				continue // it was closed under our hands, and says so
			}
			if err := views.err(); err != nil {
				t.Error(err)
			}
		}
	}()
	for range 20 {
		for _, view := range views.views() {
			if err := views.discard(view); err != nil {
				t.Fatal(err)
			}
		}
		if err := views.open(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	<-ended
	if err := views.Close(); err != nil {
		t.Fatal(err)
	}
}
