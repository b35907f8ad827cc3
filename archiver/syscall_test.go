// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/archiver/dir"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit"
)

// The driver is this test's own binary, which with these variables set does
// one start on a directory and an archive in another directory, and ends.
const (
	driverState   = "STRANDLINE_TEST_START_STATE"
	driverArchive = "STRANDLINE_TEST_START_ARCHIVE"
)

// driverCalls are the system calls that change what a crash leaves.
var driverCalls = []string{"write", "fsync", "fdatasync", "renameat", "mkdirat", "linkat", "unlinkat"}

// drive is the driver's life. The whole start runs on one thread, because
// strace counts the calls of each thread by itself.
func drive() (driven bool, err error) {
	state, archive := os.Getenv(driverState), os.Getenv(driverArchive)
	if state == "" {
		return false, nil
	}
	runtime.LockOSThread()
	bucket, err := dir.Open(dir.Scheme + archive)
	if err != nil {
		return true, err
	}
	stateDir, err := archiver.OpenStateDir(state)
	if err != nil {
		return true, err
	}
	logID := stateDir.State().LogID
	views := openViews(state, func(string) {})
	saved := stateDir.State()
	wal, err := eventlog.ReadWAL(stateDir.Path("wal"), stateDir.Path("aside"), logID, saved.Bounds(views.position()))
	if err != nil {
		return true, err
	}
	start := archiver.Start{
		Dir: stateDir, Archive: archiver.At(bucket, logID), WAL: wal, Views: views, TakeOver: true,
		Host: "driver", Now: time.Now, Logger: quiet(),
	}
	_, err = start.Run(context.Background())
	return true, err
}

func TestAStartThatIsKilledAtAnySystemCallIsFinishedByTheNext(t *testing.T) {
	strace := testkit.Need(t, "strace")
	for _, situation := range situations {
		switch situation.name {
		case "a kill with a backlog", "a dead server that comes back", "a disk rolled back", "a WAL that differs":
			t.Run(situation.name, func(t *testing.T) { killAtEveryCall(t, strace, situation) })
		}
	}
}

// killAtEveryCall makes the situation once and starts a copy of it again and
// again, each time killed one call later, until a start comes to its end.
func killAtEveryCall(t *testing.T, strace string, situation situation) {
	inWorld(t, func(w *world) {
		s := situation.make(w)
		archive := filepath.Join(w.root, "archive")
		w.export(archive)
		kills := 0
		for _, call := range driverCalls {
			for n, killed := 1, true; killed; n++ {
				fork := w.fork(fmt.Sprintf("%s/fork-%s-%d", w.root, call, n))
				fork.t = annotated{w.t, fmt.Sprintf("killed at %s %d", call, n)}
				path, copied := fork.copyDir(s.path), filepath.Join(fork.root, "archive")
				fork.must(os.CopyFS(copied, os.DirFS(archive)))
				if killed = fork.runDriver(strace, call, n, path, copied); killed {
					kills++
				}
				fork.bucket = buckettest.NewMemory()
				fork.load(copied)
				fork.goOnAfterKill(situation, path)
				fork.must(os.RemoveAll(fork.root))
			}
		}
		t.Logf("killed %d times", kills)
	})
}

// runDriver starts on a directory under strace and reports whether the driver
// was killed, at the nth call of that name, before it came to its end.
func (w *world) runDriver(strace, call string, n int, state, archive string) bool {
	w.t.Helper()
	cmd := exec.Command(strace, "-f", "-qq", "-o", os.DevNull, "-e", "trace="+call,
		"-e", fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", call, n), os.Args[0])
	cmd.Env = append(os.Environ(), driverState+"="+state, driverArchive+"="+archive, "GOMAXPROCS=1")
	output, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status, ok := exit.Sys().(syscall.WaitStatus)
		if ok && (status.Signaled() && status.Signal() == syscall.SIGKILL || status.ExitStatus() == 128+int(syscall.SIGKILL)) {
			return true
		}
	}
	if err != nil {
		w.t.Fatalf("the driver ended with %v: %s", err, output)
	}
	return false
}

// goOnAfterKill starts on what the driver has left.
func (w *world) goOnAfterKill(situation situation, path string) {
	w.t.Helper()
	defer w.endAll()
	s := w.at(path)
	s.mustStart(true)
	s.store("after the kill")
	s.wait()
	s.check()
	s.expectBarred(situation.barred)
	s.stop()
}

// export writes the bucket into a directory archive.
func (w *world) export(path string) {
	w.t.Helper()
	bucket, err := dir.Create(dir.Scheme + path)
	w.must(err)
	for _, key := range w.bucket.Keys() {
		data, _ := w.bucket.Get(key)
		w.must(bucket.PutIfAbsent(context.Background(), key, archiver.BytesBody(data)))
	}
}

// load reads a directory archive into the bucket.
func (w *world) load(path string) {
	w.t.Helper()
	bucket, err := dir.Open(dir.Scheme + path)
	w.must(err)
	for info, err := range bucket.List(context.Background(), "", "") {
		w.must(err)
		data, err := os.ReadFile(filepath.Join(path, info.Key))
		w.must(err)
		w.bucket.Set(info.Key, data)
	}
}
