// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/internal/testkit"
)

// This file is what befalls the servers of a model: copies, stale lists,
// descriptors that run out, a WAL that is lost.

// seeds makes a test play as many random histories as its length allows, of
// which each is one seed; rapid prints that of a failure. A number given on the
// command line is kept.
func seeds(t *testing.T, short, long string) {
	t.Helper()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if given {
		return
	}
	checks := flag.Lookup("rapid.checks")
	before := checks.Value.String()
	t.Cleanup(func() { setFlag(t, checks, before) })
	if testkit.Long() {
		setFlag(t, checks, long)
	} else {
		setFlag(t, checks, short)
	}
}

func setFlag(t *testing.T, f *flag.Flag, value string) {
	if err := f.Value.Set(value); err != nil {
		t.Fatal(err)
	}
}

// any returns a server, running or not.
func (m *model) any(t *rapid.T) *server {
	return m.servers[rapid.IntRange(0, len(m.servers)-1).Draw(t, "server")]
}

// copy copies a directory, while its server may run and go on.
func (m *model) copy(t *rapid.T) {
	if len(m.servers) == maxServers {
		t.Skip("servers enough")
	}
	m.servers = append(m.servers, m.any(t).clone())
}

// putBack puts the directory of another moment, or of another server, over
// that of a server that does not run.
func (m *model) putBack(t *rapid.T) {
	s := m.pick(t, false)
	s.becomes(m.any(t))
	s.place.putBack++
}

// becomes gives s the content of another server's directory.
func (s *server) becomes(other *server) {
	synctest.Wait()
	s.path, s.walLost = s.w.copyDir(other.path), other.walLost
	s.views = openViews(s.path, s.stepped)
}

// snapshot makes a copy that nothing tells from its original, which may go on:
// it cannot know what that one acknowledges from here on, and has the same
// claims.
func (m *model) snapshot(t *rapid.T) {
	if len(m.servers) == maxServers {
		t.Skip("servers enough")
	}
	m.servers = append(m.servers, m.any(t).twin())
	m.w.copied = true
}

// rollBack gives a server that does not run the disk of another moment.
func (m *model) rollBack(t *rapid.T) {
	s, other := m.pick(t, false), m.any(t)
	s.becomes(other)
	*s.place = *other.place
	m.w.copied = true
}

// loseWAL removes a wal folder. Where views know of more, the start refuses.
func (m *model) loseWAL(t *rapid.T) {
	s := m.pick(t, false)
	m.w.must(os.RemoveAll(filepath.Join(s.path, "wal")))
	s.walLost = true
}

// staleLists are lists that show nothing which is put from here on.
func (m *model) staleLists() buckettest.Hooks {
	there := map[string]bool{}
	for _, key := range m.w.bucket.Keys() {
		there[key] = true
	}
	return buckettest.Hooks{Hide: func(key string) bool { return !there[key] }}
}

// laggingLists are lists that show what is put some seconds later.
func (m *model) laggingLists() buckettest.Hooks {
	var mu sync.Mutex
	seen := map[string]time.Time{}
	for _, key := range m.w.bucket.Keys() {
		seen[key] = time.Time{}
	}
	return buckettest.Hooks{Hide: func(key string) bool {
		mu.Lock()
		defer mu.Unlock()
		first, known := seen[key]
		if !known {
			first = time.Now()
			seen[key] = first
		}
		return time.Since(first) < 3*time.Second
	}}
}

// withoutDescriptors does something while this process may open hardly any
// file more. What else runs in it meets that, too.
func (m *model) withoutDescriptors(t *rapid.T, do func()) {
	m.short = true
	few := rapid.Uint64Range(0, 6).Draw(t, "descriptors")
	var before syscall.Rlimit
	m.w.must(syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	lowest, err := os.Open(os.DevNull)
	m.w.must(err)
	limit := before
	limit.Cur = uint64(lowest.Fd()) + few
	m.w.must(lowest.Close())
	m.w.must(syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
	defer func() { m.w.must(syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before)) }()
	do()
	synctest.Wait()
}

func isShort(err error) bool { return errors.Is(err, syscall.EMFILE) }

// startShort starts a server that can open hardly any file.
func (m *model) startShort(t *rapid.T) {
	s := m.pick(t, false)
	takeOver := rapid.Bool().Draw(t, "take over")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	m.withoutDescriptors(t, func() { err = s.startWithin(ctx, takeOver) })
	m.started(t, s, takeOver, err)
}

// appendShort stores a block, and lets the log close generations and ship them,
// while hardly any file can be opened.
func (m *model) appendShort(t *rapid.T) {
	s := m.pick(t, true)
	var err error
	m.withoutDescriptors(t, func() {
		_, err = s.append(someBlock, "a block")
		time.Sleep(7 * time.Second)
	})
	if err != nil && s.log.Err() == nil && !m.broken(s, err) {
		t.Fatalf("append: %v", err)
	}
}
