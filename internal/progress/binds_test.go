// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatBindsIsWhatIsWaitedFor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	slow := Reading{Requests: 100, Bytes: 50e6, InFlight: 10, Latency: 90 * time.Millisecond}     // 100 ms each
	narrow := Reading{Requests: 100, Bytes: 500e6, InFlight: 100, Latency: 90 * time.Millisecond} // 1 s each
	for _, test := range []struct {
		name          string
		shares        shares
		speed, eta    float64
		binds, advice string
	}{
		{"nothing is known", shares{}, 0, 0, "", ""},
		{"nothing stands out", shares{seconds: 1, cpu: 0.1}, 0, 0, "", ""},
		{"slow answers", shares{seconds: 1, waited: 0.9, cpu: 0.1, reading: slow}, 0, 9, "store latency", "store: an answer takes 90ms, 10 reads at once; a machine nearer to the store would be faster"},
		{"a narrow way", shares{seconds: 1, waited: 0.9, reading: narrow}, 0, 9, "network", "network: 500.0 MB/s come in with 100 reads at once; a faster way to the store would help"},
		{"a store that says nothing", shares{seconds: 1, waited: 0.9}, 0, 9, "store", ""},
		{"a busy processor", shares{seconds: 1, cpu: 0.9, waited: 0.2, written: 50e6}, 0, 9, "CPU", "CPU: 3.6 of 4 cores are busy; faster or more of them would help"},
		{"one busy core", shares{seconds: 1, cpu: 0.24, waited: 0.2}, 0, 9, "CPU, not all cores", "CPU: 1.0 of 4 cores are busy; faster or more of them would help"},
		{"a disk that was not tried", shares{seconds: 1, cpu: 0.2, written: 50e6}, 0, 9, "disk", "disk: 50 MB/s are written"},
		{"a slow disk", shares{seconds: 1, cpu: 0.2, stalled: 0.8, written: 120e6}, 118e6, 107, "disk", "disk: 120 MB/s of 118 available; a volume with 590 MB/s would finish in 0:21 instead of 1:47"},
		{"a disk and a processor", shares{seconds: 1, cpu: 0.9, stalled: 0.8, written: 120e6}, 118e6, 107, "disk", "disk: 120 MB/s of 118 available"},
		{"a disk, for hours", shares{seconds: 1, cpu: 0.5, stalled: 0.8, written: 120e6}, 120e6, 7326, "disk", "disk: 120 MB/s of 120 available; a volume with 240 MB/s would finish in 1:01:03 instead of 2:02:06"},
	} {
		binds := test.shares.binds()
		if advice := test.shares.advice(binds, test.speed, test.eta); binds != test.binds || advice != test.advice {
			t.Errorf("%s: %q, %q, want %q, %q", test.name, binds, advice, test.binds, test.advice)
		}
	}
}

// A phase that waits for the store says so, with what was read meanwhile, and
// so does its record.
func TestAPhaseThatWaitsForTheStoreSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reading atomic.Pointer[Reading]
		reading.Store(&Reading{Requests: 50, Bytes: 1 << 20, InFlight: 4, Latency: 100 * time.Millisecond})
		out, log := lines()
		p := New(nil, log)
		p.Explain(func() Reading { return *reading.Load() }, t.TempDir())
		p.Start("project objects", 100)
		over := p.Waiting()
		time.Sleep(2900 * time.Millisecond)
		over()
		time.Sleep(1100 * time.Millisecond)
		p.Add(40)
		p.AddEvents(4000)
		reading.Store(&Reading{Requests: 150, Bytes: 5 << 20, InFlight: 4, Latency: 100 * time.Millisecond})
		s := p.Snapshot()
		if s.Binds != "store latency" || s.Advice == "" || s.Bytes != 4<<20 || s.EventsPerSecond != 1000 || s.BytesPerSecond != 1<<20 || s.ETASeconds != 6 {
			t.Errorf("%+v", s)
		}
		if text := s.String(); !strings.Contains(text, "1000 events/s, 1.0 MiB/s, 6s left, binds: store latency") {
			t.Errorf("printed %q", text)
		}
		p.Done()
		p.Close()
		s = p.Phases()[0]
		if s.Binds != "store latency" || s.Advice != "" || s.Ended.Sub(s.Began) != 4*time.Second || s.Events != 4000 {
			t.Errorf("%+v", s)
		}
		if !strings.Contains(out.String(), "binds=\"store latency\"") {
			t.Errorf("logged %s", out)
		}
	})
}

// A store that stops is seen while it has stopped, not when it goes on.
func TestAStoreThatStopsIsSeenWhileItHasStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reading := func() Reading {
			return Reading{Requests: 50, Bytes: 1 << 20, InFlight: 8, Latency: 100 * time.Millisecond, Limit: 12, Min: 2, Max: 64}
		}
		out, log := lines()
		p := New(nil, log)
		defer p.Close()
		p.Explain(reading, t.TempDir())
		p.Start("project objects", 100)
		for range 10 { // it answers well
			over := p.Waiting()
			time.Sleep(100 * time.Millisecond)
			over()
			time.Sleep(900 * time.Millisecond)
			p.Add(5)
		}
		if s := p.Snapshot(); s.Binds != "" || s.Advice != "" {
			t.Errorf("while it answers: %+v", s)
		}
		over, also := p.Waiting(), p.Waiting() // as two views would, which is one wait
		time.Sleep(stopsAfter - time.Millisecond)
		if s := p.Snapshot(); s.Binds != "" {
			t.Errorf("after less than %s: %+v", stopsAfter, s)
		}
		time.Sleep(time.Millisecond)
		if s := p.Snapshot(); s.Binds != "store" || s.Advice == "" {
			t.Errorf("after %s: %+v", stopsAfter, s)
		}
		time.Sleep(20*time.Second - stopsAfter)
		s := p.Snapshot()
		if want := "store: nothing has come for 20s, 8 reads are under way; see whether the store and the way to it are well"; s.Binds != "store" || s.Advice != want || s.PerSecond != 0 {
			t.Errorf("while it has stopped: %+v, want the advice %q", s, want)
		}
		if text := s.String(); !strings.Contains(text, "12 of 2-64 reads at once, binds: store") {
			t.Errorf("printed %q", text)
		}
		synctest.Wait()
		if !strings.Contains(out.String(), `reads_at_once="12 of 2-64" binds=store advice="store: nothing has come for`) {
			t.Errorf("logged %s", out)
		}
		over()
		if s := p.Snapshot(); s.Binds != "store" {
			t.Errorf("one view still waits: %+v", s)
		}
		also()
		time.Sleep(time.Second)
		if s := p.Snapshot(); s.Advice != "" && strings.Contains(s.Advice, "nothing has come") {
			t.Errorf("it goes on: %+v", s)
		}
		p.Done()
		if s := p.Phases()[0]; s.Reads != nil || s.ElapsedSeconds != 31 {
			t.Errorf("%+v", s)
		}
	})
}

func TestWhatAPhaseWillHaveMayShowLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, log := lines()
		p := New(nil, log)
		defer p.Close()
		p.Expect(7) // of no phase
		p.Start("verify", 0)
		time.Sleep(time.Second)
		p.Expect(10)
		p.Expect(20)
		p.Add(10)
		if s := p.Snapshot(); s.Total != 30 || s.Done != 10 || s.ETASeconds != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestWhatThisProcessUsesIsMeasured(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells")
	}
	before := measureUsage()
	speed, err := probeDisk(t.TempDir())
	if err != nil || speed <= 0 {
		t.Fatalf("%v bytes a second, %v", speed, err)
	}
	after := measureUsage()
	if after.cpu <= before.cpu {
		t.Errorf("the processor was used for %v, then for %v", before.cpu, after.cpu)
	}
	if field("/nowhere", "x") != 0 || field("/proc/self/io", "no such field") != 0 || field("/proc/self/status", "Name:") != 0 {
		t.Error("what is not told is not zero")
	}
}

func TestTryingADiskLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if _, err := probeDisk(dir); err != nil {
		t.Fatal(err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("left %v, %v", names, err)
	}
	if _, err := probeDisk(filepath.Join(dir, "missing")); err == nil {
		t.Error("a directory that is not there was tried")
	}
}

// A service manager that reads nothing, and whose socket is full, holds nobody.
func TestAServiceManagerThatDoesNotReadIsNotWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	for range 10_000 {
		if err = Notify("WATCHDOG=1"); err != nil {
			break
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it says %v", err)
	}
}

func TestTheServiceManagerIsToldOfEachPhase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	_, log := lines()
	p := New(nil, log)
	defer p.Close()
	p.Start("list", 7)
	told := make([]byte, 1000)
	n, err := socket.Read(told)
	if err != nil {
		t.Fatal(err)
	}
	if want := "STATUS=list 0/7, 0/s\nEXTEND_TIMEOUT_USEC=60000000"; string(told[:n]) != want {
		t.Errorf("told %q, want %q", told[:n], want)
	}
	t.Setenv("NOTIFY_SOCKET", path+".gone")
	if err := Notify("READY=1"); err == nil {
		t.Error("a service manager that does not listen was told")
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Notify("READY=1"); err != nil {
		t.Errorf("without a service manager: %v", err)
	}
}
