// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatABucketWarnsOfIsAskedAgainWhileTheServerRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const unasked, skew = "the lifecycle rules cannot be read", "the clock is 6 minutes off"
		var logged bytes.Buffer
		a := &app{log: slog.New(slog.NewTextHandler(&logged, nil))}
		answers := [][]string{{unasked}, {unasked}, {skew}, nil}
		ctx, cancel := context.WithCancel(t.Context())
		asked := 0
		a.warning.Go(func() {
			a.keepWarnings(ctx, func(context.Context) []string {
				answer := answers[min(asked, len(answers)-1)]
				asked++
				return answer
			})
		})
		for i, want := range answers {
			synctest.Wait()
			a.mu.Lock()
			got := a.warnings
			a.mu.Unlock()
			if !slices.Equal(got, want) {
				t.Errorf("after %d answers it warns of %q, want %q", i+1, got, want)
			}
			time.Sleep(warnAgain)
		}
		cancel()
		a.warning.Wait()
		for _, text := range []string{unasked, skew} {
			if n := strings.Count(logged.String(), text); n != 1 {
				t.Errorf("%q was logged %d times", text, n)
			}
		}
	})
}
