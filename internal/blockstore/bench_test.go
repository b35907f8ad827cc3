// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
)

// BenchmarkPut stores small blocks within a session, from 32 clients, on a
// file system that need not sync where there is one: what the application
// itself costs.
func BenchmarkPut(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			w := newWorld(b, Options{})
			must(b, w.put(eventlog.KindLock, []byte("session")))
			var n atomic.Uint64
			b.SetBytes(int64(size))
			b.SetParallelism(16)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				content := make([]byte, size)
				for pb.Next() {
					binary.LittleEndian.PutUint64(content, n.Add(1))
					r := ref(eventlog.KindData, content)
					if err := w.Put(context.Background(), "test", laptop, r, bytes.NewReader(content), int64(size)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkGet reads blocks that are on this machine.
func BenchmarkGet(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			w := newWorld(b, Options{Ack: AckCommitted})
			content := bytesOf(1, size)
			must(b, w.put(eventlog.KindData, content))
			r := ref(eventlog.KindData, content)
			b.SetBytes(int64(size))
			b.ResetTimer()
			for range b.N {
				body, err := w.Open(context.Background(), laptop, r, bytesFrom(0, -1))
				must(b, err)
				_, err = io.Copy(io.Discard, body)
				must(b, err)
				must(b, body.Close())
			}
		})
	}
}
