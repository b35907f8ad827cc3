// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/httpapi"
)

func TestAServerThatSleptThroughATakeOverIsFenced(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	a := w.serve("a", "--ack-timeout", "20s")
	d := a.door("alice", "laptop")
	d.create()
	kept := d.store("data", []byte("before the sleep"))
	lock := d.store("locks", []byte("a lock"))
	a.awaitArchived()

	a.signal(syscall.SIGSTOP)
	late := sendLate(d)
	w.recover("b", 1)
	b := w.serve("b", "--take-over")
	a.signal(syscall.SIGCONT)

	for _, request := range late.wait() {
		if request.commitPoint && request.answer.status == 200 {
			t.Errorf("the old server acknowledged %s after it was overtaken", request.path)
		}
	}
	eventually(t, "the old server knows that it is fenced", func() error {
		err := a.ready()
		if err == nil {
			return errors.New("it is ready")
		}
		if !strings.Contains(err.Error(), "fenced") {
			return err
		}
		return nil
	})
	eventually(t, "the status says who owns the log", func() error {
		status := a.status()
		if status.Mode != httpapi.ModeFenced || status.Ready || !strings.Contains(status.Owner, "epoch 3, claimed by") {
			return fmt.Errorf("mode %s, ready %v, owner %q", status.Mode, status.Ready, status.Owner)
		}
		return nil
	})
	if out := w.ok("status", "--admin", a.admin); !strings.Contains(out, "fenced") {
		t.Errorf("strandline status says %s", out)
	}
	for _, request := range []struct{ method, path string }{{"POST", kept}, {"GET", kept}, {"DELETE", lock}, {"GET", "locks/"}, {"HEAD", "config"}, {"POST", "?create=true"}} {
		if got := d.wants(503, request.method, request.path, []byte("before the sleep")); got.header.Get("Retry-After") == "" {
			t.Errorf("%s %s: 503 without Retry-After", request.method, request.path)
		}
	}
	if code := a.stop(); code != 3 {
		t.Errorf("the fenced server ended with code %d, want 3", code)
	}
	nothingLateInTheLog(t, b, late)
	a.refusesToStart(8, "--take-over")
	b.door("alice", "laptop").wants(200, "GET", kept, nil)
	b.endsCleanly()
}

// lateRequests are on their way to a server that sleeps.
type lateRequests struct {
	done sync.WaitGroup
	all  []*lateRequest
}

type lateRequest struct {
	path        string
	commitPoint bool
	answer      answer // of status 0: none came
}

func sendLate(d *door) *lateRequests {
	l := &lateRequests{}
	for _, kind := range []string{"data", "index", "snapshots", "locks", "keys"} {
		body := []byte("too late: " + kind)
		r := &lateRequest{path: named(kind, body), commitPoint: kind != "data"}
		l.all = append(l.all, r)
		l.done.Go(func() {
			r.answer, _ = d.try(context.Background(), "POST", r.path, body) // no answer is one too
		})
	}
	return l
}

func (l *lateRequests) wait() []*lateRequest {
	l.done.Wait()
	return l.all
}

// nothingLateInTheLog makes sure that the log goes from the cut straight to
// the new server's epoch, and that it holds none of the late requests.
func nothingLateInTheLog(t *testing.T, b *server, late *lateRequests) {
	t.Helper()
	var last, cut eventlog.Seq
	epochs := 0
	for _, line := range b.events() {
		e := line.Event
		if e.Seq <= last {
			t.Errorf("%s after %s", e.Seq, last)
		}
		if e.Type == eventlog.EpochStarted {
			if epochs++; e.Previous != last {
				t.Errorf("epoch %d begins behind %s, the event before it is %s", e.Seq.Epoch(), e.Previous, last)
			}
			cut = last
		}
		for _, r := range late.all {
			if strings.HasSuffix(r.path, fmt.Sprintf("/%x", e.Block)) {
				t.Errorf("%s of the old server is in the log as %s", r.path, e.Seq)
			}
		}
		last = e.Seq
	}
	if status := b.status(); last.Epoch() != status.Epoch || cut.Epoch() >= status.Epoch {
		t.Errorf("the log ends at %s, its last cut is %s, the new epoch is %d", last, cut, status.Epoch)
	}
	if epochs != 3 { // of init, of the old server, of the new one
		t.Errorf("the log has %d epochs", epochs)
	}
	for _, r := range late.all {
		b.door("alice", "laptop").wants(404, "GET", r.path, nil)
	}
}
