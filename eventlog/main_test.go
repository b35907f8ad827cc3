// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain runs the tests, or, when a test has started this binary again with
// driverEnv set, the driver whose system calls that test makes fail.
func TestMain(m *testing.M) {
	if root := os.Getenv(driverEnv); root != "" {
		drive(root)
	}
	CompressFooter(nil) // the encoder's channels must not belong to the bubble of one test
	goleak.VerifyTestMain(m)
}
