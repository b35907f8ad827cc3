// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/archiver/buckettest"
)

var noFaults buckettest.Hooks

// failing makes the calls of op fail, not done, whose keys begin with prefix.
func failing(op buckettest.Op, prefix string) buckettest.Hooks {
	return buckettest.Hooks{Before: func(_ context.Context, called buckettest.Op, key string) error {
		if called == op && strings.HasPrefix(key, prefix) {
			return fmt.Errorf("%s %s: %w", op, key, buckettest.ErrInjected)
		}
		return nil
	}}
}

func expectNone(t testing.TB, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if errors.Is(err, target) {
			t.Errorf("%v is %v", err, target)
		}
	}
}

func expectError(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("the error is %v; want %v", err, target)
	}
}
