// SPDX-License-Identifier: Apache-2.0

package projector

import "math/bits"

// filter remembers which keys a store that began empty may have, so that
// looking for a new one need not read it: a Bloom filter in layers, each four
// times as large as the one before. What it does not know is surely absent.
// Beyond its last layer it only errs more often towards a look-up.
//
// Within a layer the bits of a key lie in one 64-byte line.
type filter struct {
	layers []filterLayer
	fresh  int // keys in the last layer
}

type filterLayer [][8]uint64

const (
	filterFirst   = 1 << 14 // lines of the first layer: 1 MiB
	filterLayers  = 4       // 85 MiB in all, about 70 million keys
	filterPerLine = 51      // keys, at ten bits each
	filterBits    = 6       // set for a key
)

// add notes a key by its hash.
func (f *filter) add(hash uint64) {
	n := len(f.layers)
	if n == 0 || (f.fresh >= filterPerLine*len(f.layers[n-1]) && n < filterLayers) {
		f.layers = append(f.layers, make(filterLayer, filterFirst<<(2*n)))
		f.fresh, n = 0, n+1
	}
	f.fresh++
	line, pattern := f.layers[n-1].line(hash)
	for range filterBits {
		line[pattern>>6&7] |= 1 << (pattern & 63)
		pattern = bits.RotateLeft64(pattern, -9)
	}
}

// mayHave reports whether the key may have been added.
func (f *filter) mayHave(hash uint64) bool {
	for _, layer := range f.layers {
		if layer.has(hash) {
			return true
		}
	}
	return false
}

func (l filterLayer) has(hash uint64) bool {
	line, pattern := l.line(hash)
	for range filterBits {
		if line[pattern>>6&7]&(1<<(pattern&63)) == 0 {
			return false
		}
		pattern = bits.RotateLeft64(pattern, -9)
	}
	return true
}

// line returns the line of a key, and what its bits are taken from, nine by
// nine.
func (l filterLayer) line(hash uint64) (*[8]uint64, uint64) {
	pattern := hash * 0x9e3779b97f4a7c15
	at, _ := bits.Mul64(hash, uint64(len(l)))
	return &l[at], pattern ^ pattern>>29
}
