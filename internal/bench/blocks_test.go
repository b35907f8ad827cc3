// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
)

func TestBlocksAreReadOnceInPartsAsLongAsAsked(t *testing.T) {
	const size = 10_000
	server, target := newMemoryServer(t)
	blocks := NewBlocks(7, size)
	if err := blocks.Store(t.Context(), target, 3); err != nil {
		t.Fatal(err)
	}
	if server.count("POST data") != 7 || server.count("POST locks") != 1 {
		t.Fatalf("%v", server.counts)
	}
	open, hangUp := blocks.From(target)
	defer hangUp()
	for _, how := range []Reading{{Clients: 1}, {Clients: 3, Least: 100, Most: 3000}} {
		var mu sync.Mutex
		read := map[int]int64{} // by block, from its beginning on
		_, err := blocks.Read(t.Context(), how, func(ctx context.Context, block int, at, n int64) (io.ReadCloser, error) {
			mu.Lock()
			defer mu.Unlock()
			most := how.Most
			if most == 0 {
				most = size
			}
			if at != read[block] || n > most || n < how.Least && at+n != size {
				t.Errorf("%s: %d bytes at %d after %d", how, n, at, read[block])
			}
			read[block] += n
			return open(ctx, block, at, n)
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 7 {
			if read[i] != size {
				t.Errorf("%s: %d bytes of block %d", how, read[i], i)
			}
		}
	}
}

func TestWrongBytesOfABlockAreNoResult(t *testing.T) {
	for name, answer := range map[string]string{"other bytes": strings.Repeat("x", 100), "fewer": "x"} {
		_, err := NewBlocks(1, 100).Read(t.Context(), Reading{Clients: 1}, func(context.Context, int, int64, int64) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(answer)), nil
		})
		if !errors.Is(err, errWrongBytes) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestABlockThatIsNotThereIsNoResult(t *testing.T) {
	_, target := newMemoryServer(t)
	blocks := NewBlocks(1, 100)
	open, hangUp := blocks.From(target)
	defer hangUp()
	if _, err := blocks.Read(t.Context(), Reading{Clients: 1}, open); err == nil || !strings.Contains(err.Error(), "404") {
		t.Error(err)
	}
}
