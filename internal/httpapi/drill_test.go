// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/blockstore"
	"github.com/strandline-project/strandline/internal/progress"
)

func TestADrillIsAskedForAndWatched(t *testing.T) {
	s := &fakeServer{drill: &fakeDrill{done: make(chan struct{}), result: `{"drill":{"verdict":"passed"}}`}}
	c := serve(t, s)
	told := 0
	result, err := c.Drill(testContext(t), DrillRequest{Mode: "full", Sample: 5}, func(now progress.Snapshot) {
		if now.Phase != "list" || now.Done != 7 {
			t.Errorf("%+v", now)
		}
		if told++; told == 1 {
			close(s.drill.done)
		}
	})
	if err != nil || string(result) != s.drill.result || told == 0 {
		t.Errorf("%s, %v, told %d times", result, err, told)
	}
	if s.asked != (DrillRequest{Mode: "full", Sample: 5}) {
		t.Errorf("asked %+v", s.asked)
	}
	if _, err := c.Drill(testContext(t), DrillRequest{Sample: -1}, nil); err != nil || s.asked != (DrillRequest{Sample: -1}) {
		t.Errorf("asked %+v, %v", s.asked, err)
	}
}

// However short a phase is, it is told how it ended, once.
func TestADrillsPhasesAreToldToTheirEnd(t *testing.T) {
	done := make(chan struct{})
	close(done)
	ended := time.Unix(1_795_485_600, 0).UTC()
	s := &fakeServer{drill: &fakeDrill{done: done, result: "{}", ended: []progress.Snapshot{
		{Phase: "list", Done: 7, Total: 7, Ended: ended}, {Phase: "verify", Done: 256, Total: 256, Ended: ended},
	}}}
	var told []progress.Snapshot
	_, err := serve(t, s).Drill(testContext(t), DrillRequest{Sample: -1}, func(now progress.Snapshot) { told = append(told, now) })
	if err != nil || !slices.Equal(told, s.drill.ended) {
		t.Errorf("told %+v, %v", told, err)
	}
}

func TestADrillThatCannotBeDoneSaysWhy(t *testing.T) {
	done := make(chan struct{})
	close(done)
	s := &fakeServer{drill: &fakeDrill{done: done, code: 7, err: errors.New("the archive does not answer")}}
	c := serve(t, s)
	_, err := c.Drill(testContext(t), DrillRequest{Sample: -1}, nil)
	var undone *DrillError
	if !errors.As(err, &undone) || undone.Code != 7 || undone.Error() != "the archive does not answer" {
		t.Errorf("%v", err)
	}
	for fail, want := range map[error]string{
		ErrDrillRuns: "409", &blockstore.Unavailable{Reason: "starting"}: "503", errors.New("odd"): "500",
	} {
		s.fail = fail
		if _, err := c.Drill(testContext(t), DrillRequest{Sample: -1}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", fail, err)
		}
	}
	for _, query := range []string{"mode=half", "sample=-1", "sample=x"} {
		w := httptest.NewRecorder()
		New(Options{Server: s}).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "http://127.0.0.1/api/drill?"+query, nil))
		if w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d", query, w.Code)
		}
	}
}

// Who watches may leave; a stream that ends without a result is none.
func TestAWatcherOfADrillMayLeave(t *testing.T) {
	s := &fakeServer{drill: &fakeDrill{done: make(chan struct{})}}
	ctx, stop := context.WithCancel(t.Context())
	c := serveUntil(ctx, t, s)
	_, err := c.Drill(testContext(t), DrillRequest{Sample: -1}, func(progress.Snapshot) { stop() })
	if err == nil || !strings.Contains(err.Error(), "broke off") {
		t.Error(err)
	}
}
