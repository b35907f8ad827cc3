// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"testing"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

// BenchmarkFollow reads 20 objects of 16,384 events each.
func BenchmarkFollow(b *testing.B) {
	const objects, perObject = 20, 16_384
	h := &history{Memory: buckettest.NewMemory(), logID: testLog}
	if err := archiver.Init(b.Context(), h, h.logID, testTime); err != nil {
		b.Fatal(err)
	}
	for range objects {
		h.ship(1, perObject)
	}
	a, err := archiver.Open(b.Context(), h)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range a.Follow(b.Context(), eventlog.FirstSeq) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(objects*perObject)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
