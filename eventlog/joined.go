// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"encoding/binary"
	"hash/crc32"
)

// JoinedChecksum returns the CRC32C of a payload of length bytes whose chunks
// have the CRC32Cs in sums, see Placement.Sums: 4 bytes for each of its Chunks,
// which the caller has checked. So what a placement says of a payload can be held
// against what its event says without reading the payload.
//
// The formula is zlib's (crc32_combine in crc32.c, since 1.2.12): the CRC of A
// followed by B is crc(A) times x^(8 |B|), modulo the polynomial, plus crc(B).
func JoinedChecksum(sums []byte, length uint64) uint32 {
	if len(sums) == 4 {
		return binary.LittleEndian.Uint32(sums)
	}
	var joined uint32
	for ; length > ChunkSize; length -= ChunkSize {
		joined = shiftedByChunk(joined) ^ binary.LittleEndian.Uint32(sums)
		sums = sums[4:]
	}
	if len(sums) == 0 {
		return joined // of no bytes
	}
	return appendedChecksum(joined, binary.LittleEndian.Uint32(sums), length)
}

// appendedChecksum returns the CRC32C of what a covers followed by the length
// bytes that b covers.
func appendedChecksum(a, b uint32, length uint64) uint32 {
	return multiplied(powerOfX(8*length), a) ^ b
}

// chunkShift has crc times x^(8 ChunkSize) for each byte of crc.
var chunkShift = func() (table [4][256]uint32) {
	shift := powerOfX(8 * ChunkSize)
	for i := range table {
		for b := range table[i] {
			table[i][b] = multiplied(shift, uint32(b)<<(8*i))
		}
	}
	return table
}()

func shiftedByChunk(crc uint32) uint32 {
	return chunkShift[0][byte(crc)] ^ chunkShift[1][byte(crc>>8)] ^ chunkShift[2][byte(crc>>16)] ^ chunkShift[3][byte(crc>>24)]
}

// multiplied returns a times b modulo the polynomial of castagnoli. The highest
// bit is that of x^0.
func multiplied(a, b uint32) (product uint32) {
	for bit := uint32(1) << 31; a != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
			a &^= bit
		}
		if b&1 != 0 {
			b = b>>1 ^ crc32.Castagnoli
		} else {
			b >>= 1
		}
	}
	return product
}

// squares has x^(2^i) modulo the polynomial.
var squares = func() (powers [64]uint32) {
	powers[0] = 1 << 30 // x^1
	for i := 1; i < len(powers); i++ {
		powers[i] = multiplied(powers[i-1], powers[i-1])
	}
	return powers
}()

// powerOfX returns x^n modulo the polynomial.
func powerOfX(n uint64) uint32 {
	power := uint32(1) << 31 // x^0
	for i := 0; n > 0; i, n = i+1, n>>1 {
		if n&1 != 0 {
			power = multiplied(power, squares[i])
		}
	}
	return power
}
