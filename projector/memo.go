// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"sync"
	"sync/atomic"
)

// tableChanges counts, for each table, the commits that changed its live rows.
// A commit is counted before the view says that it stands at its events, so
// whoever waited for an event and asks then sees the count that goes with it.
type tableChanges [tableMachineSums]atomic.Uint64

// memo remembers what was looked up in tables that change rarely, until one of
// them does. Its zero value is empty.
type memo[K comparable, V any] struct {
	mu    sync.Mutex
	as    uint64 // what the tables' changes added up to
	known map[K]V
}

// memoLimit bounds what one memo remembers: whoever asks for names that are
// not there must not fill the memory.
const memoLimit = 1 << 12

// get returns what is remembered of key, or what look finds. An error is not
// remembered.
func (m *memo[K, V]) get(key K, changes *tableChanges, tables []*Table, look func() (V, error)) (V, error) {
	// Before the look: what it finds is as of then or later, and a change that
	// is counted after this is after it.
	as := uint64(0)
	for _, table := range tables {
		as += changes[table.ID].Load()
	}
	m.mu.Lock()
	found, ok := m.known[key]
	ok = ok && m.as == as
	m.mu.Unlock()
	if ok {
		return found, nil
	}
	found, err := look()
	if err != nil {
		return found, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || m.as < as || len(m.known) >= memoLimit {
		m.as, m.known = as, map[K]V{}
	}
	if m.as == as {
		m.known[key] = found
	}
	return found, nil
}
