// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// A clock that is set back puts what was recorded before into the future. In
// the incident in which a store refuses requests for that reason, the lag is
// what tells.
func TestALagIsNotNegativeAfterTheClockWasSetBack(t *testing.T) {
	ahead := time.Hour
	log, err := eventlog.Open(eventlog.Options{
		Dir: filepath.Join(t.TempDir(), "wal"), Spool: filepath.Join(t.TempDir(), "spool"),
		Head: eventlog.Head{LogID: eventlog.ID{1}, Writer: eventlog.ID{2}, Epoch: 2}, Last: eventlog.MakeSeq(1, 2), NextOrdinal: 1,
		Wall: func(now time.Time) time.Time { return now.Add(ahead) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close(false) //nolint:errcheck // nothing was archived
	var seqs []eventlog.Seq
	for range 2 {
		seq, err := log.Append(eventlog.Event{Type: eventlog.AccountOpened, Name: "a"}, nil).Wait()
		if err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, seq)
	}
	ahead = 0 // set back
	began := time.Now()
	behind := lagBetween(log, seqs[0], seqs[1])
	if behind.Events != 1 || behind.Seconds < 0 {
		t.Fatalf("the lag is %+v", behind)
	}
	time.Sleep(20 * time.Millisecond)
	later := lagBetween(log, seqs[0], seqs[1])
	if least := behind.Seconds + (20 * time.Millisecond).Seconds(); later.Seconds < least {
		t.Errorf("%v later the lag is %v s, before %v s", time.Since(began), later.Seconds, behind.Seconds)
	}
}
