// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// lines is a log of what was logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer // owned by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// count is how many lines of a level say text.
func (l *lines) count(level slog.Level, text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, "level="+level.String()) && strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// Making a directory fails once, at every place, both not done and done: the
// next try makes it, and nobody notices.
func TestADirectoryThatCouldNotBePreparedIsPreparedAgainWhenItIsNeeded(t *testing.T) {
	for _, done := range []bool{false, true} {
		hits := 0
		for n := 1; ; n++ {
			s := fastState(t)
			f := &faulty{kind: "create", n: n, done: done}
			l := s.open(func(o *Options) { o.files = f.files; o.MaxEvents = 4 })
			contents := map[Seq][]byte{}
			for i := range 14 {
				c := content(uint64(i), i%2*maxCarried+i*100)
				contents[committed(t, store(t, l, c))] = c
			}
			must(t, l.Err())
			must(t, l.Close(true))
			checkSurvivors(t, s, contents, 14)
			if !f.hit {
				break
			}
			hits++
		}
		if hits < 3 {
			t.Errorf("done %v: the fault struck %d times: the test shows nothing", done, hits)
		}
	}
}

// stubborn fails to make directories as long as it has an error.
type stubborn struct {
	mu  sync.Mutex
	err error // owned by mu
}

func (s *stubborn) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *stubborn) files(dir string) (frameLog, payloadFile, error) {
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	if err != nil {
		// What a failure halfway leaves.
		return nil, nil, errors.Join(fmt.Errorf("injected: %w", err), os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, payloadName), []byte(ObjectMagic[:3]), 0o600))
	}
	return createFiles(dir)
}

// While no directory can be made, what needs one is refused, and nothing else;
// once one can be made, all goes on.
func TestALogThatCannotBeginAGenerationRefusesAndGoesOnLater(t *testing.T) {
	for _, c := range []struct {
		err  error
		want error
	}{
		{syscall.EMFILE, ErrNotNow}, {syscall.ENFILE, ErrNotNow}, {syscall.EACCES, ErrNotNow}, {syscall.EIO, ErrNotNow},
		{syscall.ENOSPC, ErrDiskFull}, {syscall.EDQUOT, ErrDiskFull},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			s, disk, logged := fastState(t), &stubborn{err: c.err}, &lines{}
			l := s.open(func(o *Options) { o.files = disk.files; o.MaxEvents = 4; o.Logger = logged.logger() })
			for range 5 {
				_, err := store(t, l, content(1, 100)).Wait()
				if !errors.Is(err, c.want) || !errors.Is(err, c.err) || errors.Is(err, ErrPoisoned) {
					t.Fatalf("an append gives %v, want %v and its cause", err, c.want)
				}
			}
			if err := l.Unprepared(); !errors.Is(err, c.err) {
				t.Errorf("why nothing is prepared is said to be %v", err)
			}
			if n := logged.count(slog.LevelError, "cannot be prepared"); n != 1 {
				t.Errorf("%d ERROR lines say it, want 1", n)
			}
			disk.set(nil)
			body := content(2, 100)
			contents := map[Seq][]byte{committed(t, store(t, l, body)): body}
			must(t, l.Err())
			must(t, l.Unprepared())
			if n := logged.count(slog.LevelInfo, "prepared again"); n != 1 {
				t.Errorf("%d lines say that it is over, want 1", n)
			}
			must(t, l.Close(true))
			checkSurvivors(t, s, contents, 1)
		})
	}
}

// With a full disk and something that drains, a retry will find room.
func TestAFullDiskOfWhichSomethingDrainsIsNotCalledFull(t *testing.T) {
	s, disk := fastState(t), &stubborn{}
	l := s.open(func(o *Options) { o.files = disk.files; o.MaxEvents = 1 })
	committed(t, store(t, l, content(1, 100)))
	disk.set(syscall.ENOSPC)
	eventually(t, "an event is refused", func() bool {
		_, err := store(t, l, content(2, 100)).Wait() // the first may find a directory that was ready
		if err != nil && (!errors.Is(err, ErrNotNow) || errors.Is(err, ErrDiskFull)) {
			t.Fatalf("an append gives %v, want ErrNotNow", err)
		}
		return err != nil
	})
	must(t, l.Close(true))
}

func TestAStopWhileNothingCanBePreparedIsClean(t *testing.T) {
	s, disk := fastState(t), &stubborn{err: syscall.EMFILE}
	l := s.open(func(o *Options) { o.files = disk.files })
	_, err := store(t, l, content(1, 100)).Wait()
	if !errors.Is(err, ErrNotNow) {
		t.Fatalf("an append gives %v", err)
	}
	within(t, "Close", func() { must(t, l.Close(true)) })
	checkSurvivors(t, s, nil, 0)
}

// A directory that was there before the log is nobody's to remove.
func TestAForeignDirectoryInTheWayIsKept(t *testing.T) {
	s := fastState(t)
	l := s.open(nil)
	committed(t, store(t, l, content(1, 100)))
	must(t, l.Close(true))
	foreign := filepath.Join(s.wal(), generationName(3, 0))
	l = s.open(func(o *Options) { o.MaxEvents = 1 })
	must(t, os.MkdirAll(foreign, 0o700))
	must(t, os.WriteFile(filepath.Join(foreign, "mine"), []byte("kept"), 0o600))
	eventually(t, "the foreign directory is met", func() bool {
		_, err := store(t, l, content(2, 100)).Wait()
		return err != nil && errors.Is(err, fs.ErrExist)
	})
	must(t, l.Close(true))
	if _, err := os.ReadFile(filepath.Join(foreign, "mine")); err != nil {
		t.Error(err)
	}
}

// A process that can open nothing any more closes its open generation, refuses
// what needs another, and goes on once there are descriptors again.
func TestAMomentWithoutDescriptorsPoisonsNothing(t *testing.T) {
	s := fastState(t)
	l := s.open(func(o *Options) { o.MaxEvents = 4 })
	contents := map[Seq][]byte{}
	keep := func(i int) error {
		c := content(uint64(i), i%2*maxCarried+i*10)
		seq, err := store(t, l, c).Wait()
		if err == nil {
			contents[seq] = c
		}
		return err
	}
	must(t, keep(0))
	restore := withoutDescriptors(t)
	refused := 0
	for i := 1; i < 20; i++ {
		if err := keep(i); err != nil {
			if refused++; !errors.Is(err, ErrNotNow) || !errors.Is(err, syscall.EMFILE) {
				t.Fatalf("event %d gives %v, want ErrNotNow", i, err)
			}
		}
	}
	restore()
	must(t, l.Err())
	if refused == 0 || len(contents) < 4 {
		t.Errorf("%d events were refused and %d taken: the test shows nothing", refused, len(contents))
	}
	must(t, keep(100))
	must(t, l.Close(true))
	for _, g := range l.Local() {
		if !g.closed() {
			t.Errorf("%s is not closed", g)
		}
	}
	checkSurvivors(t, s, contents, len(contents))
}

// withoutDescriptors lets this process open nothing, until the function returned
// is called.
func withoutDescriptors(t *testing.T) (restore func()) {
	t.Helper()
	var limit syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 3, Max: limit.Max}))
	return sync.OnceFunc(func() { must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)) })
}

// What cannot be removed now goes with the next that is dropped.
func TestADroppedGenerationThatCannotBeRemovedIsRemovedLater(t *testing.T) {
	s := fastState(t)
	l := s.open(func(o *Options) { o.MaxEvents = 1 })
	for i := range 3 {
		committed(t, store(t, l, content(uint64(i), 10)))
	}
	eventually(t, "all are closed", func() bool {
		gens := l.Local()
		return len(gens) == 3 && gens[2].closed()
	})
	gens := l.Local()
	l.MarkArchived(gens[2], time.Second)
	restore := withoutDescriptors(t)
	err := l.Drop(gens[0])
	restore()
	if !errors.Is(err, syscall.EMFILE) {
		t.Fatalf("dropping without descriptors gives %v", err)
	}
	if _, ok, err := gens[0].acquire(); ok || err != nil {
		t.Errorf("the dropped generation is still read here: %v, %v", ok, err)
	}
	must(t, l.Drop(gens[1]))
	for _, g := range gens[:2] {
		if _, err := os.Stat(g.dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", g.dir, err)
		}
	}
	must(t, l.Close(true))
}

// That the log is poisoned is an ERROR line of its own, with the cause.
func TestAPoisonedLogSaysSoOnce(t *testing.T) {
	s, logged := fastState(t), &lines{}
	f := &faulty{kind: "frames", n: 2}
	l := s.open(func(o *Options) { o.files = f.files; o.Logger = logged.logger() })
	for i := range 3 {
		store(t, l, content(uint64(i), 10)).Wait() //nolint:errcheck // it is the second that fails
		if l.Err() != nil {
			break
		}
	}
	if err := l.Close(true); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("Close gives %v", err)
	}
	if n := logged.count(slog.LevelError, errDisk.Error()); n != 1 {
		t.Errorf("%d ERROR lines name the cause, want 1", n)
	}
}
