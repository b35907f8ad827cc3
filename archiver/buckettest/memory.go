// SPDX-License-Identifier: Apache-2.0

// Package buckettest has what tests of buckets need: one conformance suite
// for every driver (Run), a bucket in memory (Memory), and a wrapper that
// makes any bucket fail in every way that a real one can (Faulty).
package buckettest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
)

var _ archiver.Bucket = (*Memory)(nil)

// Memory is a bucket in memory. It is strict where a real store may be lax: a
// body whose size or checksum is wrong is refused. The methods beside those of
// archiver.Bucket do what an operator or a fault does behind everybody's back.
type Memory struct {
	mu      sync.Mutex
	objects map[string][]byte // a value is never changed, only replaced
}

// NewMemory returns an empty bucket.
func NewMemory() *Memory { return &Memory{objects: map[string][]byte{}} }

// String names the bucket.
func (m *Memory) String() string { return "memory:" }

// PutIfAbsent implements archiver.Bucket.
func (m *Memory) PutIfAbsent(ctx context.Context, key string, body archiver.Body) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	data, err := readBody(body)
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, exists := m.objects[key]; exists {
		return fmt.Errorf("put %s: %w", key, archiver.ErrExists)
	}
	m.objects[key] = data
	return nil
}

func readBody(body archiver.Body) ([]byte, error) {
	r, err := body.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != body.Size || eventlog.Checksum(data) != body.Checksum {
		return nil, fmt.Errorf("a body of %d bytes (%08x), said to be %d (%08x)", len(data), eventlog.Checksum(data), body.Size, body.Checksum)
	}
	return data, nil
}

// GetRange implements archiver.Bucket.
func (m *Memory) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, ok := m.Get(key)
	if !ok {
		return nil, fmt.Errorf("get %s: %w", key, archiver.ErrNotFound)
	}
	size := int64(len(data))
	if offset < 0 {
		offset = max(size+offset, 0)
	} else if offset >= size && offset > 0 {
		return nil, fmt.Errorf("get %s: offset %d of %d bytes", key, offset, size)
	}
	end := size
	if length >= 0 {
		end = min(offset+length, size)
	}
	return io.NopCloser(bytes.NewReader(data[offset:end])), nil
}

// Head implements archiver.Bucket.
func (m *Memory) Head(ctx context.Context, key string) (archiver.Info, error) {
	if err := ctx.Err(); err != nil {
		return archiver.Info{}, err
	}
	data, ok := m.Get(key)
	if !ok {
		return archiver.Info{}, fmt.Errorf("head %s: %w", key, archiver.ErrNotFound)
	}
	return archiver.Info{Key: key, Size: int64(len(data))}, nil
}

// List implements archiver.Bucket.
func (m *Memory) List(ctx context.Context, prefix, after string) iter.Seq2[archiver.Info, error] {
	return func(yield func(archiver.Info, error) bool) {
		for _, key := range m.Keys() {
			if err := ctx.Err(); err != nil {
				yield(archiver.Info{}, err)
				return
			}
			data, ok := m.Get(key)
			if !ok || !strings.HasPrefix(key, prefix) || key <= after {
				continue
			}
			if !yield(archiver.Info{Key: key, Size: int64(len(data))}, nil) {
				return
			}
		}
	}
}

// Delete implements archiver.Bucket.
func (m *Memory) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.Remove(key)
	return nil
}

// Keys returns all keys, sorted.
func (m *Memory) Keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := make([]string, 0, len(m.objects))
	for key := range m.objects {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// Get returns the content of key; it must not be changed.
func (m *Memory) Get(key string) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.objects[key]
	return data, ok
}

// Set makes data the content of key, whatever was there.
func (m *Memory) Set(key string, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[key] = bytes.Clone(data)
}

// Remove takes key away.
func (m *Memory) Remove(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
}

// Flip changes one bit of key's content.
func (m *Memory) Flip(key string, bit int) {
	data, ok := m.Get(key)
	if !ok {
		panic(fmt.Sprintf("buckettest: flip a bit of %s, which is absent", key))
	}
	data = bytes.Clone(data)
	data[bit/8] ^= 1 << (bit % 8)
	m.Set(key, data)
}

// Clone returns a copy of the bucket as it is now.
func (m *Memory) Clone() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	clone := NewMemory()
	for key, data := range m.objects {
		clone.objects[key] = data
	}
	return clone
}
