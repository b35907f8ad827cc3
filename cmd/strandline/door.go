// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"io"
	"iter"
	"sync/atomic"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/blockstore"
	"github.com/strandline-project/strandline/internal/resticapi"
)

// door is the application as clients reach it: the Store of the moment, or a
// refusal while there is none. A start replaces it.
type door struct {
	store  atomic.Pointer[blockstore.Store]
	reason atomic.Pointer[string] // why there is none
}

var _ resticapi.Store = (*door)(nil)

func newDoor() *door {
	d := &door{}
	d.shut("the server is starting")
	return d
}

// open lets clients in to store.
func (d *door) open(store *blockstore.Store) { d.store.Store(store) }

// shut answers every request with 503 and the reason.
func (d *door) shut(reason string) {
	d.reason.Store(&reason)
	d.store.Store(nil)
}

// refusal says why nobody is let in.
func (d *door) refusal() error {
	return &blockstore.Unavailable{Reason: *d.reason.Load(), RetryAfter: 5 * time.Second}
}

func (d *door) Register(ctx context.Context, actor string, p blockstore.Path) error {
	if s := d.store.Load(); s != nil {
		return s.Register(ctx, actor, p)
	}
	return d.refusal()
}

func (d *door) Stat(ctx context.Context, p blockstore.Path, ref blockstore.Ref) (uint64, error) {
	if s := d.store.Load(); s != nil {
		return s.Stat(ctx, p, ref)
	}
	return 0, d.refusal()
}

func (d *door) Open(ctx context.Context, p blockstore.Path, ref blockstore.Ref, part blockstore.Part) (io.ReadCloser, error) {
	if s := d.store.Load(); s != nil {
		return s.Open(ctx, p, ref, part)
	}
	return nil, d.refusal()
}

func (d *door) List(ctx context.Context, p blockstore.Path, kind eventlog.Kind) (iter.Seq2[blockstore.Listed, error], error) {
	if s := d.store.Load(); s != nil {
		return s.List(ctx, p, kind)
	}
	return nil, d.refusal()
}

func (d *door) Put(ctx context.Context, actor string, p blockstore.Path, ref blockstore.Ref, body io.Reader, size int64) error {
	if s := d.store.Load(); s != nil {
		return s.Put(ctx, actor, p, ref, body, size)
	}
	return d.refusal()
}

func (d *door) Delete(ctx context.Context, actor string, p blockstore.Path, ref blockstore.Ref) error {
	if s := d.store.Load(); s != nil {
		return s.Delete(ctx, actor, p, ref)
	}
	return d.refusal()
}
