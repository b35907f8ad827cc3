// SPDX-License-Identifier: Apache-2.0

package buckettest_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemoryIsABucket(t *testing.T) {
	buckettest.Run(t, func(*testing.T) archiver.Bucket { return buckettest.NewMemory() })
}

func TestAFaultyBucketWithoutFaultsIsABucket(t *testing.T) {
	buckettest.Run(t, func(*testing.T) archiver.Bucket { return buckettest.NewFaulty(buckettest.NewMemory()) })
}
