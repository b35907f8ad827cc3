// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/strandline-project/strandline/eventlog"
)

// Bounds of the locks in memory.
const (
	maxMemoryLock  = 64 << 10 // bytes of one
	maxMemoryLocks = 4096
)

// memoryLocks are the locks of the modes in which nothing is written: clients
// need one to read. They are seen beside those of the view, and end with the
// process. A deleted lock of the view is only hidden.
type memoryLocks struct {
	mu     sync.Mutex
	stored map[memoryLock][]byte   // owned by mu; contents are never changed
	hidden map[memoryLock]struct{} // owned by mu
}

type memoryLock struct {
	machine eventlog.Seq
	name    [32]byte
}

func newMemoryLocks() memoryLocks {
	return memoryLocks{stored: map[memoryLock][]byte{}, hidden: map[memoryLock]struct{}{}}
}

// putInMemory stores a lock that is not to be written.
func (s *Store) putInMemory(ctx context.Context, w *put, body io.Reader, size int64) error {
	if size > maxMemoryLock {
		return fmt.Errorf("%w: a lock of %d bytes", ErrTooLarge, size)
	}
	content, err := io.ReadAll(io.LimitReader(body, maxMemoryLock+1))
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrShortBody, err)
	case len(content) > maxMemoryLock:
		return fmt.Errorf("%w: a lock of more than %d bytes", ErrTooLarge, maxMemoryLock)
	case size >= 0 && int64(len(content)) != size:
		return fmt.Errorf("%w: %d of %d bytes", ErrShortBody, len(content), size)
	}
	if sha256.Sum256(content) == w.ref.Name {
		return s.memory.put(w.machine.id, w.ref.Name, content)
	}
	_, err = s.Stat(ctx, w.path, w.ref)
	switch {
	case err == nil:
		return ErrExists
	case errors.Is(err, ErrNotFound):
		return ErrMismatch
	}
	return err
}

func (l *memoryLocks) put(machine eventlog.Seq, name [32]byte, content []byte) error {
	key := memoryLock{machine, name}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, there := l.stored[key]; !there && len(l.stored) >= maxMemoryLocks {
		return errMemoryLocks()
	}
	l.stored[key] = content
	return nil
}

func errMemoryLocks() error {
	return &Unavailable{Reason: fmt.Sprintf("this server keeps at most %d locks in memory", maxMemoryLocks), RetryAfter: retryLong}
}

// removeInMemory deletes a lock, of the view or in memory, without writing it.
func (s *Store) removeInMemory(m machine, ref Ref) error {
	_, live, err := s.opts.Blocks.Live(m.id, ref.Kind, ref.Bytes())
	if err != nil {
		return fmt.Errorf("looking for the lock: %w", err)
	}
	return s.memory.remove(m.id, ref.Name, live)
}

// remove deletes a lock in memory and hides that of the view.
func (l *memoryLocks) remove(machine eventlog.Seq, name [32]byte, inView bool) error {
	key := memoryLock{machine, name}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.stored, key)
	if !inView {
		return nil
	}
	if len(l.hidden) >= maxMemoryLocks {
		return errMemoryLocks()
	}
	l.hidden[key] = struct{}{}
	return nil
}

// get returns a lock's content. hides says that one of the view, if there is
// one, counts as deleted.
func (l *memoryLocks) get(machine eventlog.Seq, name [32]byte) (content []byte, ok, hides bool) {
	key := memoryLock{machine, name}
	l.mu.Lock()
	defer l.mu.Unlock()
	content, ok = l.stored[key]
	_, hides = l.hidden[key]
	return content, ok, hides
}

// list returns a machine's locks in memory, in the order of their names.
func (l *memoryLocks) list(machine eventlog.Seq) []Listed {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Listed
	for key, content := range l.stored {
		if key.machine == machine {
			all = append(all, Listed{Name: key.name, Length: uint64(len(content))})
		}
	}
	slices.SortFunc(all, func(a, b Listed) int { return slices.Compare(a.Name[:], b.Name[:]) })
	return all
}
