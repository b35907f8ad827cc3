// SPDX-License-Identifier: Apache-2.0

package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"golang.org/x/time/rate"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/projector"
)

// Limits are what a drill may take of store and disk. The zero value of a
// field is no limit.
type Limits struct {
	Requests float64 // to the store, a second
	Read     uint64  // bytes from the store, a second
	Write    uint64  // bytes of rows to the disk, a second
}

// ErrReadOnly says that a drill was about to write to the archive.
var ErrReadOnly = errors.New("a drill writes nothing to the archive")

// Bucket returns bucket with at most so many requests and bytes read. Puts and
// deletes are refused without asking it.
func (l Limits) Bucket(bucket archiver.Bucket) archiver.Bucket {
	return &limited{bucket: bucket, requests: limiter(l.Requests, 1), bytes: limiter(float64(l.Read), burst(l.Read))}
}

// burst is a tenth of a second's bytes, and a chunk at least.
func burst(perSecond uint64) int { return int(max(perSecond/10, 64<<10)) }

// limiter returns one that never waits for a rate of 0.
func limiter(perSecond float64, burst int) *rate.Limiter {
	if perSecond <= 0 {
		return rate.NewLimiter(rate.Inf, 1)
	}
	return rate.NewLimiter(rate.Limit(perSecond), burst)
}

// wait takes n tokens, however many that is.
func wait(ctx context.Context, l *rate.Limiter, n int) error {
	if l.Limit() == rate.Inf {
		return nil
	}
	for n > 0 {
		part := min(n, l.Burst())
		if err := l.WaitN(ctx, part); err != nil {
			return fmt.Errorf("waiting for what the drill may take: %w", err)
		}
		n -= part
	}
	return nil
}

type limited struct {
	bucket          archiver.Bucket
	requests, bytes *rate.Limiter
}

var _ archiver.Bucket = (*limited)(nil)

func (b *limited) PutIfAbsent(_ context.Context, key string, _ archiver.Body) error {
	return fmt.Errorf("put %s: %w", key, ErrReadOnly)
}

func (b *limited) Delete(_ context.Context, key string) error {
	return fmt.Errorf("delete %s: %w", key, ErrReadOnly)
}

func (b *limited) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := wait(ctx, b.requests, 1); err != nil {
		return nil, err
	}
	r, err := b.bucket.GetRange(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	return &limitedReader{ReadCloser: r, ctx: ctx, bytes: b.bytes}, nil
}

func (b *limited) Head(ctx context.Context, key string) (archiver.Info, error) {
	if err := wait(ctx, b.requests, 1); err != nil {
		return archiver.Info{}, err
	}
	return b.bucket.Head(ctx, key)
}

// keysPerRequest is how many keys a store lists at once.
const keysPerRequest = 1000

func (b *limited) List(ctx context.Context, prefix, after string) iter.Seq2[archiver.Info, error] {
	return func(yield func(archiver.Info, error) bool) {
		n := 0
		for info, err := range b.bucket.List(ctx, prefix, after) {
			if n%keysPerRequest == 0 && err == nil {
				err = wait(ctx, b.requests, 1)
			}
			n++
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}

func (b *limited) String() string { return b.bucket.String() }

// limitedReader hands out bytes at the pace that is allowed. It belongs to one
// goroutine.
type limitedReader struct {
	io.ReadCloser
	ctx   context.Context // of the request
	bytes *rate.Limiter
}

func (r *limitedReader) Read(p []byte) (int, error) {
	if most := r.bytes.Burst(); len(p) > most && r.bytes.Limit() != rate.Inf {
		p = p[:most]
	}
	n, err := r.ReadCloser.Read(p)
	if waited := wait(r.ctx, r.bytes, n); waited != nil {
		return 0, waited
	}
	return n, err
}

// Engine returns engine with table files, which are most of what a rebuild
// writes, written at the pace that is allowed; ctx ends the waiting. Sorted
// runs are written as fast as is read.
func (l Limits) Engine(ctx context.Context, engine projector.Engine) projector.Engine {
	if l.Write == 0 {
		return engine
	}
	return &pacedEngine{engine, ctx, limiter(float64(l.Write), burst(l.Write))}
}

type pacedEngine struct {
	projector.Engine
	ctx   context.Context // of the drill
	bytes *rate.Limiter
}

func (e *pacedEngine) Open(dir string, use projector.Use) (projector.Store, error) {
	store, err := e.Engine.Open(dir, use)
	if err != nil {
		return nil, err
	}
	return &pacedStore{store, e}, nil
}

type pacedStore struct {
	projector.Store
	engine *pacedEngine
}

func (s *pacedStore) NewTable(name string) (projector.TableFile, error) {
	file, err := s.Store.NewTable(name)
	if err != nil {
		return nil, err
	}
	return &pacedFile{TableFile: file, engine: s.engine}, nil
}

// pacedFile waits once for every so many bytes.
type pacedFile struct {
	projector.TableFile
	engine *pacedEngine
	bytes  int // written and not waited for
}

const paceBytes = 64 << 10

func (f *pacedFile) Set(key, value []byte) error {
	if f.bytes += len(key) + len(value); f.bytes >= paceBytes {
		if err := wait(f.engine.ctx, f.engine.bytes, f.bytes); err != nil {
			return err
		}
		f.bytes = 0
	}
	return f.TableFile.Set(key, value)
}
