// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestTheChecksumsOfChunksMakeThatOfAll(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, length := range []int{0, 1, 100, ChunkSize - 1, ChunkSize, ChunkSize + 1, 2 * ChunkSize, 5*ChunkSize + 12345, 16 << 20} {
		payload := make([]byte, length)
		for i := range payload {
			payload[i] = byte(random.Uint32())
		}
		var sums []byte
		for chunk := range slices.Chunk(payload, ChunkSize) {
			sums = binary.LittleEndian.AppendUint32(sums, Checksum(chunk))
		}
		if got, want := JoinedChecksum(sums, uint64(length)), Checksum(payload); got != want {
			t.Errorf("%d bytes: %08x, want %08x", length, got, want)
		}
		if length == 0 {
			continue
		}
		sums[random.IntN(len(sums))] ^= 1 << random.IntN(8)
		if JoinedChecksum(sums, uint64(length)) == Checksum(payload) {
			t.Errorf("%d bytes: a flipped bit of a chunk's checksum is not seen", length)
		}
	}
}

func BenchmarkJoinedChecksum(b *testing.B) {
	sums := make([]byte, 4*Chunks(16<<20))
	for b.Loop() {
		JoinedChecksum(sums, 16<<20-1)
	}
}
