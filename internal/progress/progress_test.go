// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines logs into a buffer, without times.
func lines() (*bytes.Buffer, *slog.Logger) {
	var b bytes.Buffer
	return &b, slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

func TestALineIsLoggedEveryTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, log := lines()
		p := New(nil, log)
		p.Start("project", 4000)
		p.Bind("cpu")
		for range 25 {
			time.Sleep(750 * time.Millisecond)
			p.Add(100)
			p.AddBytes(1 << 20)
			time.Sleep(250 * time.Millisecond)
		}
		synctest.Wait()
		p.Done()
		p.Close()
		want := "msg=\"begins: project\"\n" +
			"msg=project done=1000 total=4000 per_second=100 elapsed=10s bytes=10485760 bytes_per_second=1048576 eta=30s binds=cpu\n" +
			"msg=project done=2000 total=4000 per_second=100 elapsed=20s bytes=20971520 bytes_per_second=1048576 eta=20s binds=cpu\n" +
			"msg=\"done: project\" done=2500 total=4000 per_second=100 elapsed=25s bytes=26214400 bytes_per_second=1048576 binds=cpu\n"
		if got := out.String(); got != want {
			t.Errorf("logged\n%swant\n%s", got, want)
		}
	})
}

func TestTheRateIsThatOfTheLastTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, log := lines()
		p := New(nil, log)
		defer p.Close()
		p.Start("list", 0)
		p.Add(1_000_000) // at once, long ago
		time.Sleep(time.Minute)
		for range 20 {
			p.Add(10)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		s := p.Snapshot()
		if math.Abs(s.PerSecond-10) > 1 || s.ETASeconds != 0 || s.Done != 1_000_200 || s.ElapsedSeconds != 80 {
			t.Errorf("snapshot %+v", s)
		}
	})
}

func TestTheTimeLeftIsKnownOnceSomethingIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, log := lines()
		p := New(nil, log)
		defer p.Close()
		p.Start("read", 100)
		time.Sleep(4 * time.Second)
		if s := p.Snapshot(); s.ETASeconds != 0 {
			t.Errorf("%v s left though nothing is done", s.ETASeconds)
		}
		p.Add(40)
		if s := p.Snapshot(); s.ETASeconds != 6 || s.PerSecond != 10 {
			t.Errorf("snapshot %+v, want 6 s left at 10/s", s)
		}
		p.Ahead(0.5) // of the ten seconds that all of it will have taken
		if s := p.Snapshot(); s.ETASeconds != 6 || s.EndSeconds != 11 || !strings.Contains(s.String(), "6s left, 11s to the end") {
			t.Errorf("%s: %+v", s, s)
		}
		p.Add(70) // more than was announced
		if s := p.Snapshot(); s.ETASeconds != 0 || s.Done != 110 {
			t.Errorf("snapshot %+v", s)
		}
	})
}

// What comes behind a phase takes as long as the cores need for it, not as long
// as the phase waits for its store; a disk that is too slow stays so.
func TestWhatComesBehindAPhaseIsToldByItsProcessorTime(t *testing.T) {
	cores := float64(runtime.GOMAXPROCS(0))
	ph := &phase{}
	s := Snapshot{Done: 25, Total: 100, ElapsedSeconds: 20, ETASeconds: 60, CPUSeconds: 3 * cores, Binds: "store latency"}
	if got := ph.behind(&s); got != 0 {
		t.Errorf("%v s behind a phase that nothing is known to follow", got)
	}
	times := 0.5
	ph.ahead.Store(&times)
	if got := ph.behind(&s); got != 6 {
		t.Errorf("%v s behind a phase that takes every core for 12 s, want 6", got)
	}
	s.Binds = "disk"
	if got := ph.behind(&s); got != 40 {
		t.Errorf("%v s behind a phase of 80 s which the disk binds, want 40", got)
	}
}

func TestPhasesFollowEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, log := lines()
		p := New(nil, log)
		p.Add(5) // no phase yet
		for i, name := range []string{"list", "read", "project"} {
			p.Start(name, 10)
			p.Add(int64(i + 1))
			time.Sleep(time.Second)
		}
		if s := p.Snapshot(); s.Phase != "project" || s.Done != 3 {
			t.Errorf("snapshot %+v", s)
		}
		p.Done()
		p.Done()
		if s := p.Snapshot(); s != (Snapshot{}) || s.String() != "nothing runs" {
			t.Errorf("snapshot %+v after the end", s)
		}
		p.Close()
		p.Close()
		phases := p.Phases()
		if len(phases) != 3 || phases[1].Phase != "read" || phases[1].Done != 2 || phases[1].ElapsedSeconds != 1 {
			t.Errorf("phases %+v", phases)
		}
	})
}

func TestManyGoroutinesMayReport(t *testing.T) {
	_, log := lines()
	p := New(nil, log)
	defer p.Close()
	p.Start("read", 8000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				p.Add(1)
				p.AddBytes(2)
				p.Bind("bucket")
				_ = p.Snapshot().String()
			}
		})
	}
	wg.Wait()
	if s := p.Snapshot(); s.Done != 8000 || s.Bytes != 16000 || s.Binds != "bucket" {
		t.Errorf("snapshot %+v", s)
	}
}

func TestNilDoesNothingAndCostsNothing(t *testing.T) {
	var p *Progress
	p.Start("x", 1)
	p.Bind("x")
	p.Done()
	if p.Snapshot() != (Snapshot{}) || p.Phases() != nil {
		t.Error("nil has a state")
	}
	p.Close()
	if n := testing.AllocsPerRun(100, func() { p.Add(1); p.AddBytes(1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestAddDoesNotAllocate(t *testing.T) {
	_, log := lines()
	p := New(nil, log)
	defer p.Close()
	p.Start("x", 1)
	if n := testing.AllocsPerRun(100, func() { p.Add(1); p.AddBytes(1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestBarsShowEachPhaseAndItsEnd(t *testing.T) {
	var screen bytes.Buffer // read only after Close
	out, log := lines()
	p := newForced(&screen, log)
	p.Start("list", 0)
	p.Add(7)
	p.Start("project", 4000)
	p.Add(4000)
	p.Bind("disk")
	p.Done()
	p.Start("verify", 10)
	p.Add(1)
	p.Close()
	for _, want := range []string{"list", "project", "verify", "7, ", "4000/4000", "binds: disk", "1/10"} {
		if !strings.Contains(screen.String(), want) {
			t.Errorf("the terminal does not show %q:\n%s", want, screen.String())
		}
	}
	if out.Len() != 0 {
		t.Errorf("logged beside the bars: %s", out)
	}
}

// The advice on the disk is said when the disk's own speed is known, once; when
// that cannot be found out, what is known is said.
func TestTheDiskIsAdvisedOnOnceItWasTried(t *testing.T) {
	for _, test := range []struct{ name, disk, want string }{
		{"a disk that can be tried", t.TempDir(), " available"},
		{"a disk that cannot", t.TempDir() + "/missing", " are written"},
		{"no disk", "", " are written"},
	} {
		var screen bytes.Buffer // read only after the bars are drawn
		_, log := lines()
		p := &Progress{log: log, bars: newBars(&screen, true)} // nobody watches but this test
		p.Explain(nil, test.disk)
		p.Start("merge rows", 100)
		ph := p.current.Load()
		p.mu.Lock()
		ph.samples[0].at = ph.samples[0].at.Add(-10 * time.Second)
		ph.samples[0].written -= 1e9 // since then; it may wrap around
		p.mu.Unlock()
		if test.disk != "" {
			p.advise(ph) // while it is tried
			p.probe(1e8)
		}
		p.advise(ph)
		p.advise(ph)
		p.Done()
		p.bars.wait()
		if text := screen.String(); strings.Count(text, "disk: 1") != 1 || !strings.Contains(text, test.want) {
			t.Errorf("%s: the terminal shows\n%s", test.name, text)
		}
	}
}

func TestAFileIsNoTerminal(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, log := lines()
	p := New(f, log)
	p.Start("list", 1)
	p.Add(1)
	p.Done()
	p.Close()
	if info, err := f.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("bars in a file: %v, %v", info.Size(), err)
	}
	if !strings.Contains(out.String(), "done: list") {
		t.Errorf("the end is not logged: %q", out)
	}
}

func TestRatesPrintInFewDigits(t *testing.T) {
	for rate, want := range map[float64]string{0: "0", 9_999: "9999", 12_345: "12k", 999_400: "999k", 1_234_567: "1.2M", 99_000_000: "99M"} {
		if got := compact(rate); got != want {
			t.Errorf("%v is printed as %s, want %s", rate, got, want)
		}
	}
}

func TestSnapshotsPrint(t *testing.T) {
	s := Snapshot{Phase: "project", Done: 1200, Total: 4000, PerSecond: 350, BytesPerSecond: 3 << 19, ETASeconds: 8, Binds: "cpu"}
	if got, want := s.String(), "project 1200/4000, 350/s, 1.5 MiB/s, 8s left, binds: cpu"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"phase":"project","done":1200,"total":4000,"per_second":350,"bytes_per_second":1572864,"elapsed_seconds":0,"eta_seconds":8,"binds":"cpu"}`
	if string(data) != want {
		t.Errorf("JSON %s, want %s", data, want)
	}
}
