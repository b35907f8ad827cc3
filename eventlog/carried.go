// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"cmp"
	"io"
	"slices"
)

// carried are the payloads that a generation's frames carry, by their offset in
// its payload file, ascending. They share the segment's memory.
type carried []carriedPayload

type carriedPayload struct {
	offset uint64
	bytes  []byte
}

func carriedBy(s *segment) (all carried) {
	for i := range s.frames {
		if f := &s.frames[i]; len(f.payload) > 0 {
			all = append(all, carriedPayload{f.offset, f.payload})
		}
	}
	return all
}

// carriedPayloads is a payload file of which frames carry a part. That part was
// committed with them, and never synced in the file: after a power cut
// anything may stand there, or nothing.
type carriedPayloads struct {
	file    io.ReaderAt
	carried carried
}

// ReadAt reads within one payload, or chunks of one, as all do who know where payloads lie.
func (c *carriedPayloads) ReadAt(p []byte, offset int64) (int, error) {
	i, found := slices.BinarySearchFunc(c.carried, uint64(offset), func(p carriedPayload, offset uint64) int {
		return cmp.Compare(p.offset, offset)
	})
	if !found {
		i--
	}
	if i >= 0 {
		if at, in := c.carried[i], uint64(offset)-c.carried[i].offset; in < uint64(len(at.bytes)) {
			n := copy(p, at.bytes[in:])
			if n == len(p) {
				return n, nil
			}
			return n, io.EOF
		}
	}
	return c.file.ReadAt(p, offset)
}
