// SPDX-License-Identifier: Apache-2.0

package buckettest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/strandline-project/strandline/archiver"
)

var _ archiver.Bucket = (*Faulty)(nil)

// Op is one of the calls of a bucket.
type Op string

// The calls of a bucket.
const (
	Put    Op = "put"
	Get    Op = "get"
	Head   Op = "head"
	List   Op = "list"
	Delete Op = "delete"
)

// ErrInjected is the error of calls that were made to fail.
var ErrInjected = errors.New("injected failure")

// Hooks say how a Faulty fails; each may be nil. They are called from many
// goroutines at once and may block, which is a slow store, until ctx ends.
type Hooks struct {
	// Before runs before a call has its effect: an error is a call that
	// failed and was not done.
	Before func(ctx context.Context, op Op, key string) error
	// After runs when a call has had its effect: an error is a call that
	// failed but was done, a lost response.
	After func(ctx context.Context, op Op, key string) error
	// Ignore makes puts of a key replace what is there: the store, or a proxy
	// before it, overlooks the condition.
	Ignore func(key string) bool
	// Hide leaves a key out of lists.
	Hide func(key string) bool
	// Cut breaks the transfer of a get after that many bytes; negative does not.
	Cut func(key string) int64
}

// Faulty is one client's way to a bucket, with faults on it. Several clients
// share a bucket through a Faulty each.
type Faulty struct {
	bucket archiver.Bucket

	mu    sync.Mutex
	hooks Hooks
	calls map[Op]int
	late  map[string]bool // keys whose next put lands late
	lost  map[string][]archiver.Body
}

// NewFaulty returns a client of bucket without any fault yet.
func NewFaulty(bucket archiver.Bucket) *Faulty {
	return &Faulty{bucket: bucket, calls: map[Op]int{}, late: map[string]bool{}, lost: map[string][]archiver.Body{}}
}

// Set replaces the hooks; the zero Hooks end all faults.
func (f *Faulty) Set(hooks Hooks) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hooks = hooks
}

// FailNext makes the next n calls of op fail: done says whether they have
// their effect all the same. It replaces the hooks.
func (f *Faulty) FailNext(op Op, n int, done bool) {
	var mu sync.Mutex
	fail := func(_ context.Context, called Op, key string) error {
		mu.Lock()
		defer mu.Unlock()
		if called != op || n <= 0 {
			return nil
		}
		n--
		return fmt.Errorf("%s %s: %w", called, key, ErrInjected)
	}
	if done {
		f.Set(Hooks{After: fail})
	} else {
		f.Set(Hooks{Before: fail})
	}
}

// Away makes every call fail, not done, until the hooks are set anew.
func (f *Faulty) Away() {
	f.Set(Hooks{Before: func(_ context.Context, op Op, key string) error {
		return fmt.Errorf("%s %s: the bucket is away: %w", op, key, ErrInjected)
	}})
}

// Calls returns how many calls of op there were.
func (f *Faulty) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

// Late makes the next put of key fail at once; its bytes are still on their
// way and arrive when Land is called.
func (f *Faulty) Late(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.late[key] = true
}

// Land lets the late puts of key arrive and returns what the bucket said to
// each, in the order in which they were made.
func (f *Faulty) Land(ctx context.Context, key string) []error {
	f.mu.Lock()
	bodies := f.lost[key]
	delete(f.lost, key)
	f.mu.Unlock()
	var results []error
	for _, body := range bodies {
		results = append(results, f.bucket.PutIfAbsent(ctx, key, body))
	}
	return results
}

// String names the bucket behind.
func (f *Faulty) String() string { return f.bucket.String() }

// enter counts a call and returns the hooks that apply to it.
func (f *Faulty) enter(ctx context.Context, op Op, key string) (Hooks, error) {
	f.mu.Lock()
	f.calls[op]++
	hooks := f.hooks
	f.mu.Unlock()
	if hooks.Before != nil {
		return hooks, hooks.Before(ctx, op, key)
	}
	return hooks, nil
}

// leave decides what the caller learns of a call that had its effect.
func (h Hooks) leave(ctx context.Context, op Op, key string, err error) error {
	if h.After != nil {
		if lost := h.After(ctx, op, key); lost != nil {
			return lost
		}
	}
	return err
}

// PutIfAbsent implements archiver.Bucket.
func (f *Faulty) PutIfAbsent(ctx context.Context, key string, body archiver.Body) error {
	hooks, err := f.enter(ctx, Put, key)
	if err != nil {
		return err
	}
	if held, err := f.holdBack(key, body); held || err != nil {
		return errors.Join(err, fmt.Errorf("put %s: no answer yet: %w", key, ErrInjected))
	}
	if hooks.Ignore != nil && hooks.Ignore(key) {
		if err := f.bucket.Delete(ctx, key); err != nil {
			return err
		}
	}
	return hooks.leave(ctx, Put, key, f.bucket.PutIfAbsent(ctx, key, body))
}

// holdBack keeps the body of a put that is to land late.
func (f *Faulty) holdBack(key string, body archiver.Body) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.late[key] {
		return false, nil
	}
	delete(f.late, key)
	data, err := readBody(body) // a file may be gone by the time it lands
	if err != nil {
		return false, err
	}
	f.lost[key] = append(f.lost[key], archiver.BytesBody(data))
	return true, nil
}

// GetRange implements archiver.Bucket.
func (f *Faulty) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	hooks, err := f.enter(ctx, Get, key)
	if err != nil {
		return nil, err
	}
	r, err := f.bucket.GetRange(ctx, key, offset, length)
	if err = hooks.leave(ctx, Get, key, err); err != nil {
		if r != nil {
			err = errors.Join(err, r.Close())
		}
		return nil, err
	}
	if hooks.Cut != nil {
		if n := hooks.Cut(key); n >= 0 {
			return &cutReader{ReadCloser: r, left: n}, nil
		}
	}
	return r, nil
}

// cutReader is a transfer that breaks.
type cutReader struct {
	io.ReadCloser
	left int64
}

// Read gives what is left before the break.
func (c *cutReader) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// Head implements archiver.Bucket.
func (f *Faulty) Head(ctx context.Context, key string) (archiver.Info, error) {
	hooks, err := f.enter(ctx, Head, key)
	if err != nil {
		return archiver.Info{}, err
	}
	info, err := f.bucket.Head(ctx, key)
	return info, hooks.leave(ctx, Head, key, err)
}

// List implements archiver.Bucket.
func (f *Faulty) List(ctx context.Context, prefix, after string) iter.Seq2[archiver.Info, error] {
	return func(yield func(archiver.Info, error) bool) {
		hooks, err := f.enter(ctx, List, prefix)
		if err != nil {
			yield(archiver.Info{}, err)
			return
		}
		for info, err := range f.bucket.List(ctx, prefix, after) {
			if err == nil && hooks.Hide != nil && hooks.Hide(info.Key) {
				continue
			}
			if !yield(info, err) {
				return
			}
		}
		if err := hooks.leave(ctx, List, prefix, nil); err != nil {
			yield(archiver.Info{}, err)
		}
	}
}

// Delete implements archiver.Bucket.
func (f *Faulty) Delete(ctx context.Context, key string) error {
	hooks, err := f.enter(ctx, Delete, key)
	if err != nil {
		return err
	}
	return hooks.leave(ctx, Delete, key, f.bucket.Delete(ctx, key))
}
