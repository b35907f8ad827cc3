// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"maps"
	"math/bits"
	"slices"
)

// runBuffer gathers the records of a run. They are laid out roughly in order
// as they come: each group of keys is cut into buckets by the bits that
// follow, so that a bucket is sorted and written while it is in a core's cache.
type runBuffer struct {
	size    int    // bytes of records
	records uint64 //
	groups  map[string]*runGroup
	free    [][]byte // chunks of maxChunk, to be used again

	refs []recordRef // see sorted
	ends []uint32
}

// runGroup has the records whose keys begin alike.
type runGroup struct {
	shift   int // of the 8 bytes behind the group, to the number of a bucket
	buckets []runBucket
}

// runBucket has some records of a group.
type runBucket struct {
	refs   []recordRef
	chunks [][]byte // whole records
}

// recordRef is one record in a runBucket.
type recordRef struct {
	next      uint64 // see leading
	chunk, at uint32
}

const (
	cutGroups   = 64   // groups that are cut into buckets; where there are more, each is small
	cutBits     = 4    // they are cut by
	keptGroups  = 4096 // that are kept for the next run
	maxCellBits = 12   // that a bucket is cut by when it is sorted
	minChunk    = 1 << 10
	maxChunk    = 32 << 10
)

func newRunBuffer() *runBuffer { return &runBuffer{groups: map[string]*runGroup{}} }

// join takes in all records of other, which are of later events.
func (b *runBuffer) join(other *recordBuffer) {
	groups := make([]*runGroup, len(other.names))
	for i, name := range other.names {
		groups[i] = b.group(name)
	}
	for _, ref := range other.refs {
		record := other.bytes[ref.at:]
		record = record[:recordSizeSize+binary.BigEndian.Uint32(record)]
		g := groups[ref.group]
		b.add(&g.buckets[ref.next>>g.shift], ref.next, record)
	}
	b.size += len(other.bytes)
	b.records += uint64(len(other.refs))
}

func (b *runBuffer) group(name string) *runGroup {
	g := b.groups[name]
	if g == nil {
		bits := 0
		if len(b.groups) < cutGroups {
			bits = cutBits
		}
		g = &runGroup{shift: 64 - bits, buckets: make([]runBucket, 1<<bits)}
		b.groups[name] = g
	}
	return g
}

func (b *runBuffer) add(bucket *runBucket, next uint64, record []byte) {
	n := len(bucket.chunks)
	if n == 0 || len(bucket.chunks[n-1])+len(record) > cap(bucket.chunks[n-1]) {
		size := minChunk
		if n > 0 {
			size = min(2*cap(bucket.chunks[n-1]), maxChunk)
		}
		bucket.chunks = append(bucket.chunks, b.chunk(max(size, len(record))))
		n++
	}
	chunk := &bucket.chunks[n-1]
	bucket.refs = append(bucket.refs, recordRef{next: next, chunk: uint32(n - 1), at: uint32(len(*chunk))})
	*chunk = append(*chunk, record...)
}

func (b *runBuffer) chunk(size int) []byte {
	if n := len(b.free); n > 0 && size == maxChunk {
		chunk := b.free[n-1]
		b.free = b.free[:n-1]
		return chunk
	}
	return make([]byte, 0, size)
}

// each calls use with every record, in the order of their keys, those of one
// key as they came: by seq.
func (b *runBuffer) each(use func(record []byte)) {
	for _, name := range slices.Sorted(maps.Keys(b.groups)) {
		g := b.groups[name]
		for i := range g.buckets {
			bucket := &g.buckets[i]
			for _, ref := range b.sorted(bucket, g.shift) {
				record := bucket.chunks[ref.chunk][ref.at:]
				use(record[:recordSizeSize+binary.BigEndian.Uint32(record)])
			}
		}
	}
}

// sorted returns the bucket's refs in order. The bits that follow those of the
// bucket's number part them into cells of a few, hashes being spread evenly,
// so that little is left to compare.
func (b *runBuffer) sorted(bucket *runBucket, shift int) []recordRef {
	n := len(bucket.refs)
	if n == 0 {
		return nil
	}
	width := min(bits.Len(uint(n)), maxCellBits)
	cell := func(ref *recordRef) uint64 { return ref.next << (64 - shift) >> (64 - width) }
	ends := append(b.ends[:0], make([]uint32, 1<<width)...)
	for i := range bucket.refs {
		ends[cell(&bucket.refs[i])]++
	}
	for i, sum := 0, uint32(0); i < len(ends); i++ {
		ends[i], sum = sum, sum+ends[i]
	}
	refs := append(b.refs[:0], bucket.refs...)
	for i := range bucket.refs {
		end := &ends[cell(&bucket.refs[i])]
		refs[*end] = bucket.refs[i]
		*end++
	}
	from := uint32(0)
	for _, end := range ends {
		slices.SortFunc(refs[from:end], bucket.compare)
		from = end
	}
	b.refs, b.ends = refs, ends
	return refs
}

func (b *runBucket) compare(x, y recordRef) int {
	if x.next != y.next {
		return cmp.Compare(x.next, y.next)
	}
	if order := bytes.Compare(recordKey(b.chunks[x.chunk][x.at:]), recordKey(b.chunks[y.chunk][y.at:])); order != 0 {
		return order
	}
	return cmp.Or(cmp.Compare(x.chunk, y.chunk), cmp.Compare(x.at, y.at))
}

// reset empties the buffer, and keeps its memory.
func (b *runBuffer) reset() {
	b.size, b.records = 0, 0
	for _, g := range b.groups {
		for i := range g.buckets {
			bucket := &g.buckets[i]
			for _, chunk := range bucket.chunks {
				if cap(chunk) == maxChunk {
					b.free = append(b.free, chunk[:0])
				}
			}
			clear(bucket.chunks)
			bucket.chunks, bucket.refs = bucket.chunks[:0], bucket.refs[:0]
		}
	}
	if len(b.groups) > keptGroups {
		clear(b.groups)
	}
}
