// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
)

// Each manifest and each file is called absent when it is read first. That costs
// no checkpoint.
func TestACheckpointThatIsCalledAbsentOnceIsBegunFrom(t *testing.T) {
	for _, prefix := range []string{manifestPrefix, filePrefix} {
		w, _, newer, _ := twoCheckpoints(t, 205)
		faulty := buckettest.NewFaulty(w.bucket)
		var mu sync.Mutex
		told := map[string]bool{}
		faulty.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
			mu.Lock()
			defer mu.Unlock()
			if op != buckettest.Get || !strings.HasPrefix(key, prefix) || told[key] {
				return nil
			}
			told[key] = true
			return archiver.ErrNotFound
		}})
		result := w.recovered(w.options(faulty))
		if result.Checkpoint == nil || result.Checkpoint.Seq != newer.Seq || len(result.Fallbacks) > 0 || len(told) == 0 {
			t.Errorf("%s, %d wrong answers: from %+v after %+v", prefix, len(told), result.Checkpoint, result.Fallbacks)
		}
	}
}
