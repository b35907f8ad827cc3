// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"runtime"
	"sync"
)

// stampSize is the part of a block that makes it unique: 8 random bytes of the
// content and the block's number.
const stampSize = 16

// content makes blocks that differ from each other and are hashed ahead of the
// clock, in little memory: each is a stamp of its own followed by the same
// random tail.
type content struct {
	names []string
	salt  [8]byte
	tail  []byte // shared by all bodies, never changed
}

// body is one block: head, then tail. It is not copied anywhere.
type body struct {
	head [stampSize]byte
	tail []byte
}

func (b *body) size() int64 { return int64(len(b.head) + len(b.tail)) }

// newContent prepares n blocks of size bytes.
func newContent(n int, size int64) *content {
	c := &content{names: make([]string, n), tail: make([]byte, size-stampSize)}
	rand.Read(c.salt[:])
	rand.Read(c.tail)
	var group sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		group.Go(func() {
			for i := w; i < n; i += workers {
				c.names[i] = hashBody(c.body(i))
			}
		})
	}
	group.Wait()
	return c
}

// body returns block i.
func (c *content) body(i int) body {
	b := body{tail: c.tail}
	copy(b.head[:], c.salt[:])
	binary.BigEndian.PutUint64(b.head[len(c.salt):], uint64(i))
	return b
}

func hashBody(b body) string {
	h := sha256.New()
	h.Write(b.head[:])
	h.Write(b.tail)
	return hex.EncodeToString(h.Sum(nil))
}
