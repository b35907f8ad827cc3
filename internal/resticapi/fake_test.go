// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/blockstore"
)

// fakeStore keeps blocks in memory and holds to the contract of Store: hashes
// are checked, writes are seen at once, a config is not overwritten, locks can
// always be deleted.
type fakeStore struct {
	mu         sync.Mutex
	machines   map[blockstore.Path]map[blockstore.Ref][]byte
	actors     []string // of every write, in order
	appendOnly bool

	// before and after a call take effect; an error is the answer of the call:
	// failed and not done, failed but done. verb is the method's name.
	before, after func(verb string, ref blockstore.Ref) error
	breakAt       int64 // a read of this offset of any block fails; 0: none does
	breakList     int   // a list fails after so many rows; 0: none does
	readBody      func(io.Reader) ([]byte, error)
	received      func(context.Context) // runs when a body was received, before it is stored
}

var _ Store = (*fakeStore)(nil)

func newFakeStore() *fakeStore {
	return &fakeStore{machines: map[blockstore.Path]map[blockstore.Ref][]byte{}, readBody: io.ReadAll}
}

func (s *fakeStore) around(verb string, ref blockstore.Ref, do func() error) error {
	s.mu.Lock()
	before, after := s.before, s.after
	s.mu.Unlock()
	if before != nil {
		if err := before(verb, ref); err != nil {
			return err
		}
	}
	s.mu.Lock()
	err := do()
	s.mu.Unlock()
	if err == nil && after != nil {
		err = after(verb, ref)
	}
	return err
}

func (s *fakeStore) Register(_ context.Context, actor string, p blockstore.Path) error {
	return s.around("Register", blockstore.Ref{}, func() error {
		if s.machines[p] == nil {
			s.machines[p] = map[blockstore.Ref][]byte{}
		}
		s.actors = append(s.actors, actor)
		return nil
	})
}

// lookLocked returns a block's bytes.
func (s *fakeStore) lookLocked(p blockstore.Path, ref blockstore.Ref) ([]byte, error) {
	blocks, ok := s.machines[p]
	if !ok {
		return nil, fmt.Errorf("machine %s: %w", p, blockstore.ErrNoMachine)
	}
	content, ok := blocks[ref]
	if !ok {
		return nil, fmt.Errorf("block %s of %s: %w", ref, p, blockstore.ErrNotFound)
	}
	return content, nil
}

func (s *fakeStore) Stat(_ context.Context, p blockstore.Path, ref blockstore.Ref) (n uint64, err error) {
	err = s.around("Stat", ref, func() error {
		content, err := s.lookLocked(p, ref)
		n = uint64(len(content))
		return err
	})
	return n, err
}

func (s *fakeStore) Open(_ context.Context, p blockstore.Path, ref blockstore.Ref, part blockstore.Part) (r io.ReadCloser, err error) {
	err = s.around("Open", ref, func() error {
		content, err := s.lookLocked(p, ref)
		if err != nil {
			return err
		}
		offset, length, err := part(int64(len(content)))
		if err != nil {
			return err
		}
		end := int64(len(content))
		if length >= 0 {
			end = min(end, offset+length)
		}
		r = &fakeReader{content: content[:end], at: offset, breakAt: s.breakAt}
		return nil
	})
	return r, err
}

// fakeReader fails at breakAt, after all bytes before it.
type fakeReader struct {
	content     []byte
	at, breakAt int64
}

func (r *fakeReader) Read(p []byte) (int, error) {
	if r.breakAt > 0 && r.at <= r.breakAt && r.breakAt < int64(len(r.content)) {
		if r.at == r.breakAt {
			return 0, fmt.Errorf("chunk at %d: %w", r.at, blockstore.ErrDamaged)
		}
		p = p[:min(int64(len(p)), r.breakAt-r.at)]
	}
	n := copy(p, r.content[r.at:])
	r.at += int64(n)
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (r *fakeReader) Close() error { return nil }

func (s *fakeStore) List(_ context.Context, p blockstore.Path, kind eventlog.Kind) (rows iter.Seq2[blockstore.Listed, error], err error) {
	err = s.around("List", blockstore.Ref{Kind: kind}, func() error {
		blocks, ok := s.machines[p]
		if !ok {
			return fmt.Errorf("machine %s: %w", p, blockstore.ErrNoMachine)
		}
		rows = s.rows(kind, maps.Clone(blocks))
		return nil
	})
	return rows, err
}

func (s *fakeStore) rows(kind eventlog.Kind, blocks map[blockstore.Ref][]byte) iter.Seq2[blockstore.Listed, error] {
	refs := slices.SortedFunc(maps.Keys(blocks), func(a, b blockstore.Ref) int { return bytes.Compare(a.Name[:], b.Name[:]) })
	return func(yield func(blockstore.Listed, error) bool) {
		n := 0
		for _, ref := range refs {
			if ref.Kind != kind {
				continue
			}
			if s.breakList > 0 && n == s.breakList {
				yield(blockstore.Listed{}, errors.New("the view broke"))
				return
			}
			n++
			if !yield(blockstore.Listed{Name: ref.Name, Length: uint64(len(blocks[ref]))}, nil) {
				return
			}
		}
	}
}

func (s *fakeStore) Put(ctx context.Context, actor string, p blockstore.Path, ref blockstore.Ref, body io.Reader, size int64) error {
	content, err := s.readBody(body)
	if err != nil {
		return fmt.Errorf("receive %s: %w", ref, err)
	}
	if size >= 0 && int64(len(content)) != size {
		return blockstore.ErrShortBody
	}
	if s.received != nil {
		s.received(ctx)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("store %s: %w", ref, err)
	}
	return s.around("Put", ref, func() error {
		old, err := s.lookLocked(p, ref)
		exists := err == nil
		if err != nil && !errors.Is(err, blockstore.ErrNotFound) {
			return err
		}
		matches := ref.Kind != eventlog.KindConfig && sha256.Sum256(content) == ref.Name
		switch {
		case exists && bytes.Equal(old, content):
			return nil
		case exists:
			return fmt.Errorf("store %s: %w", ref, blockstore.ErrExists)
		case ref.Kind != eventlog.KindConfig && !matches:
			return fmt.Errorf("store %s: %w", ref, blockstore.ErrMismatch)
		}
		s.machines[p][ref] = content
		s.actors = append(s.actors, actor)
		return nil
	})
}

func (s *fakeStore) Delete(_ context.Context, actor string, p blockstore.Path, ref blockstore.Ref) error {
	return s.around("Delete", ref, func() error {
		if s.appendOnly && ref.Kind != eventlog.KindLock {
			return fmt.Errorf("delete %s: %w", ref, blockstore.ErrAppendOnly)
		}
		if _, err := s.lookLocked(p, ref); errors.Is(err, blockstore.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		delete(s.machines[p], ref)
		s.actors = append(s.actors, actor)
		return nil
	})
}

// set changes the fake while it is in use.
func (s *fakeStore) set(change func(*fakeStore)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// failWith makes every call of verb fail, not done or done.
func (s *fakeStore) failWith(verb string, done bool, err error) {
	hook := func(v string, _ blockstore.Ref) error {
		if v == verb {
			return err
		}
		return nil
	}
	s.set(func(s *fakeStore) {
		s.before, s.after = nil, nil
		if done {
			s.after = hook
		} else {
			s.before = hook
		}
	})
}

// syncBuffer is a bytes.Buffer for several goroutines.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// troubleOnce makes the first try of each verb on each block fail: not done for
// one half of the blocks, done for the other.
func (s *fakeStore) troubleOnce() {
	type try struct {
		verb string
		ref  blockstore.Ref
	}
	tried := map[try]bool{}
	fail := func(half byte) func(string, blockstore.Ref) error {
		return func(verb string, ref blockstore.Ref) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			writes := verb == "Put" || verb == "Delete"
			if !writes || ref.Kind == eventlog.KindLock || ref.Name[0]%2 != half || tried[try{verb, ref}] {
				return nil
			}
			tried[try{verb, ref}] = true
			return &blockstore.Unavailable{Reason: "trouble that passes"}
		}
	}
	s.set(func(s *fakeStore) { s.before, s.after = fail(0), fail(1) })
}
