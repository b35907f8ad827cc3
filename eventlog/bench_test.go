// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// BenchmarkAppend stores blocks with real syncs, each goroutine waiting for
// its last answer before it sends the next. The hash of the body is part of
// it. A generation is archived, and dropped, as soon as it is closed.
func BenchmarkAppend(b *testing.B) {
	for _, bm := range []struct{ size, clients int }{{1 << 10, 32}, {64 << 10, 16}, {16 << 20, 5}} {
		b.Run(fmt.Sprintf("%dKiB-%d", bm.size>>10, bm.clients), func(b *testing.B) {
			s := newState(b)
			s.history = &fakeHistory{}
			l := s.open(func(o *Options) { o.Limits.DrainTime = -1 })
			ctx, cancel := context.WithCancel(context.Background())
			var shipper sync.WaitGroup
			shipper.Go(func() { shipAndDrop(ctx, l) })
			c := content(1, bm.size)
			b.SetBytes(int64(bm.size))
			b.ReportAllocs()
			b.ResetTimer()
			appendFrom(b, l, c, bm.clients)
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			cancel()
			shipper.Wait()
			must(b, l.Close(false))
		})
	}
}

func shipAndDrop(ctx context.Context, l *Log) {
	for after := uint64(0); ; {
		g, err := l.NextClosed(ctx, after)
		if err != nil {
			return
		}
		after = g.Ordinal
		l.MarkArchived(g, time.Second)
		if err := l.Drop(g); err != nil {
			return
		}
	}
}

// appendFrom stores b.N blocks from that many clients.
func appendFrom(b *testing.B, l *Log, c []byte, clients int) {
	block := storeEvent(c)
	work := make(chan struct{}, b.N)
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for range work {
				body, err := l.Receive(context.Background(), bytes.NewReader(c), int64(len(c)), 1<<30)
				if err != nil {
					b.Error(err)
					return
				}
				ev := block
				ev.Checksum = body.Checksum
				if _, err := l.Append(ev, body).Wait(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}
