// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"math/rand/v2"
	"testing"
)

func TestFilterKnowsWhatWasAddedAndSeldomMore(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var f filter
	if f.mayHave(7) {
		t.Error("an empty filter has a key")
	}
	added := make([]uint64, 2_000_000)
	for i := range added {
		added[i] = rng.Uint64()
		f.add(added[i])
	}
	for _, hash := range added {
		if !f.mayHave(hash) {
			t.Fatalf("key %x was added and is absent", hash)
		}
	}
	wrong := 0
	for range 1_000_000 {
		if f.mayHave(rng.Uint64()) {
			wrong++
		}
	}
	t.Logf("%d of 1,000,000 strangers taken for known, %d layers", wrong, len(f.layers))
	if wrong > 50_000 {
		t.Errorf("%d of 1,000,000 strangers taken for known", wrong)
	}
}
