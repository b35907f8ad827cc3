// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"testing"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
)

// What was learned of an archive on one way to its bucket is known on the
// other.
func TestAnArchiveThroughAnotherBucketKnowsTheSame(t *testing.T) {
	h := newHistory(t, 3, 2)
	a := open(t, h)
	calls := buckettest.NewFaulty(h)
	through := a.Through(calls)
	if objects, err := through.Objects(t.Context(), 1); err != nil || len(objects) != 3 || calls.Calls(buckettest.List) == 0 {
		t.Fatalf("%d objects, %v", len(objects), err)
	}
	a.Expect(4)
	_, err := through.Objects(t.Context(), 1)
	expectError(t, err, archiver.ErrHole)
}
