// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

// A store that refuses everything for 20 s, within the 30 s that a read is
// tried again, costs 20 s and some and no more, however the pauses of hundreds
// of reads fall.
func TestReadsOutlastAStoreThatRefusesFor20Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 600, 1)
		bucket := buckettest.NewFaulty(h)
		a := open(t, bucket)
		var refused atomic.Int64
		back := time.Now().Add(20 * time.Second)
		bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, _ string) error {
			if op == buckettest.Get && time.Now().Before(back) {
				refused.Add(1)
				return buckettest.ErrInjected
			}
			return nil
		}})
		entries, err := follow(t, a, eventlog.FirstSeq)
		if err != nil {
			t.Fatal(err)
		}
		expectEntries(t, entries, h.entries)
		if n := refused.Load(); n < 2 {
			t.Errorf("%d reads were refused", n)
		}
	})
}
