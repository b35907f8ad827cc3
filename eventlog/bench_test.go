// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
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

// BenchmarkDecodeFooter reads the footer of an object with 10,000 events.
func BenchmarkDecodeFooter(b *testing.B) {
	const events = 10000
	entries := make([]Entry, 0, events)
	offset := footerFirstByte
	for i := range events {
		name := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		ev := Event{Seq: MakeSeq(1, uint32(i+1)), Time: 1763900000_000000000 + int64(i)*1e6, Type: BlockStored, Account: MakeSeq(1, 3), Machine: MakeSeq(1, 4), Actor: "user:alice",
			Kind: KindData, Block: name[:], Length: 4096, Checksum: binary.LittleEndian.Uint32(name[:])}
		raw := AppendEvent(nil, &ev)
		entries = append(entries, Entry{Event: ev, Raw: raw, Placement: Placement{Ordinal: 1, Offset: offset, Length: 4096, Sums: name[4:8]}})
		offset += 4096
	}
	raw := AppendFooter(nil, entries, nil, 0)
	compressed := CompressFooter(raw)
	t := &Trailer{LogID: ID{1}, Epoch: 1, Writer: ID{2}, FirstOrdinal: 1, LastOrdinal: 1, First: 1<<32 + 1, Last: 1<<32 + events, Events: events,
		FooterOffset: offset, FooterSize: uint64(len(compressed)), FooterRawSize: uint64(len(raw)), FooterSum: Checksum(compressed), ClosedAt: 1, PayloadBytes: events * 4096}
	b.SetBytes(int64(len(raw)))
	b.ReportMetric(float64(len(compressed))/events, "B/event")
	b.ResetTimer()
	for range b.N {
		if _, err := DecodeFooter(t, compressed); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*events/b.Elapsed().Seconds(), "events/s")
}
