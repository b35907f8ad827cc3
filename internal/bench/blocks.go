// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Blocks are blocks that are stored once and read back from several places.
// Their contents cannot be compressed.
type Blocks struct {
	content *content
	size    int64
}

// NewBlocks makes n blocks of size bytes, at least 16.
func NewBlocks(n int, size int64) *Blocks { return &Blocks{newContent(n, size), size} }

// Names are the blocks' names, 64 hex digits each.
func (b *Blocks) Names() []string { return b.content.names }

// Bytes are those of all blocks.
func (b *Blocks) Bytes() int64 { return int64(len(b.content.names)) * b.size }

// Store registers the machine, stores a lock, and then the blocks, so many at
// once.
func (b *Blocks) Store(ctx context.Context, t Target, clients int) error {
	if err := t.create(ctx); err != nil {
		return fmt.Errorf("store blocks: %w", err)
	}
	d := &driver{load: Load{Op: OpGet, Lock: true, Stored: len(b.content.names)}, content: b.content}
	defer d.close()
	for range clients {
		d.clients = append(d.clients, t.client())
	}
	if err := d.prepare(ctx); err != nil {
		return fmt.Errorf("store blocks: %w", err)
	}
	return nil
}

// Reading is how blocks are read: each from its first byte to its last.
type Reading struct {
	Clients int // readers at once, each of a block of its own
	// A block is read in parts of Least to Most bytes, one after the other, as
	// restic reads a pack when it restores. The same numbers make the same
	// parts. Most 0: whole.
	Least, Most int64
}

// String names the reading.
func (r Reading) String() string {
	text := "whole blocks"
	if r.Most > 0 {
		text = fmt.Sprintf("parts of %s to %s in order", sizeText(r.Least), sizeText(r.Most))
	}
	return fmt.Sprintf("%s @%d", text, r.Clients)
}

// Opener opens n bytes of a block from the one at on. It is called by several
// goroutines.
type Opener func(ctx context.Context, block int, at, n int64) (io.ReadCloser, error)

// Read reads every block once, compares what comes, and returns the time that
// it took.
func (b *Blocks) Read(ctx context.Context, how Reading, open Opener) (time.Duration, error) {
	began := time.Now()
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range how.Clients {
		group.Go(func() error {
			buf := make([]byte, b.size)
			for i := int(next.Add(1) - 1); i < len(b.content.names); i = int(next.Add(1) - 1) {
				if err := b.readOne(ctx, i, how, open, buf); err != nil {
					return fmt.Errorf("read block %s: %w", b.content.names[i], err)
				}
			}
			return nil
		})
	}
	err := group.Wait()
	return time.Since(began), err
}

// readOne reads a block part by part.
func (b *Blocks) readOne(ctx context.Context, i int, how Reading, open Opener, buf []byte) error {
	body := b.content.body(i)
	sizes := rand.New(rand.NewPCG(uint64(i), 0))
	for at := int64(0); at < b.size; {
		n := b.size - at
		if how.Most > 0 {
			n = min(n, how.Least+sizes.Int64N(how.Most-how.Least+1))
		}
		r, err := open(ctx, i, at, n)
		if err != nil {
			return err
		}
		_, err = io.ReadFull(r, buf[:n])
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
		if !body.has(buf[:n], at) {
			return fmt.Errorf("%d bytes at %d: %w", n, at, errWrongBytes)
		}
		at += n
	}
	return nil
}

// From opens the blocks on a server, with the HTTP client that restic has, too.
// The function returned hangs up.
func (b *Blocks) From(t Target) (Opener, func()) {
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	client := &http.Client{Transport: transport}
	open := func(ctx context.Context, block int, at, n int64) (io.ReadCloser, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.addr+t.prefix+"data/"+b.content.names[block], nil)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, at+n-1))
		if t.auth != "" {
			r.Header.Set("Authorization", t.auth)
		}
		answer, err := client.Do(r)
		if err != nil {
			return nil, err
		}
		if answer.StatusCode != http.StatusPartialContent {
			return nil, errors.Join(fmt.Errorf("answered %s", answer.Status), answer.Body.Close())
		}
		return answer.Body, nil
	}
	return open, transport.CloseIdleConnections
}
