// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"golang.org/x/sys/unix"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/drill"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/metrics"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/internal/testkit"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

// stage has a server's drills with a clock and an outcome of the test's own.
type stage struct {
	*drills
	t      *testing.T
	clock  *clockwork.FakeClock
	began  chan *drillRun           // each drill that begins
	finish chan func(*drill.Result) // what comes of it; nil: it could not be done
	events []eventlog.Event
	putErr error
	stop   context.CancelFunc
	ended  chan struct{}
}

func newStage(t *testing.T, dir string, now time.Time) *stage {
	t.Helper()
	state, err := archiver.OpenStateDir(dir)
	if errors.Is(err, archiver.ErrNoState) {
		state, err = archiver.CreateStateDir(dir, archiver.State{DirID: eventlog.ID{7}, Phase: archiver.PhaseReady})
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, clock: clockwork.NewFakeClockAt(now), began: make(chan *drillRun), finish: make(chan func(*drill.Result)), ended: make(chan struct{})}
	a := &app{cfg: &Config{DrillEvery: day, DrillAt: "03:00"}, dir: state, log: slog.New(slog.DiscardHandler)}
	s.drills = (&serving{app: a}).newDrills(s.clock)
	s.practise = func(ctx context.Context, run *drillRun) (*drill.Result, error) {
		s.began <- run
		result := &drill.Result{Recovery: &eventlog.Recovery{Upto: eventlog.FirstSeq}, Drill: eventlog.Drill{
			Verdict: eventlog.DrillPassed, Mode: string(run.mode), Ended: s.clock.Now().UTC(), RTO: time.Minute,
		}}
		select {
		case change := <-s.finish:
			if change == nil {
				return nil, errors.New("the store is away")
			}
			change(result)
			return result, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	s.put = func(e eventlog.Event) (eventlog.Seq, error) {
		s.events = append(s.events, e)
		return eventlog.MakeSeq(2, uint32(len(s.events))), s.putErr
	}
	ctx, stop := context.WithCancel(t.Context())
	s.stop = stop
	go func() {
		defer close(s.ended)
		s.run(ctx)
	}()
	return s
}

// close ends the drills as the end of a process does.
func (s *stage) close() {
	s.stop()
	<-s.ended
	if err := s.app.dir.Close(); err != nil {
		s.t.Error(err)
	}
}

// pass lets time pass until a drill begins.
func (s *stage) pass() *drillRun {
	s.t.Helper()
	must(s.t, s.clock.BlockUntilContext(s.t.Context(), 1))
	s.clock.Advance(s.status().Next.Sub(s.clock.Now()))
	return <-s.began
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func passed(*drill.Result) {}

func failed(r *drill.Result) {
	r.Drill.Verdict, r.Drill.Reason = eventlog.DrillFailed, "ordinals 5 to 5 are missing"
}

// A server drills night after night, from the first event and from a
// checkpoint in turns; restarts neither skip nor repeat a drill, and what is
// known of the last one outlives them.
func TestTheScheduleOutlivesRestarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	now := at(1, 12, 0)
	modes := ""
	for night := 2; night < 8; night++ {
		s := newStage(t, dir, now)
		run := s.pass()
		if begins := s.clock.Now(); begins.Before(at(night, 3, 0)) || begins.After(at(night, 5, 0)) {
			t.Errorf("night %d: it begins at %v", night, begins)
		}
		s.finish <- passed
		<-run.Done()
		modes += string(run.mode) + " "
		must(t, s.clock.BlockUntilContext(t.Context(), 1))
		now = s.clock.Now().Add(time.Hour)
		s.close()
		if len(s.events) != 1 || s.events[0].Type != eventlog.DrillCompleted || s.events[0].Actor != "server" || s.events[0].Drill.Verdict != eventlog.DrillPassed || s.events[0].Recovery == nil {
			t.Errorf("night %d: %+v", night, s.events)
		}
	}
	if modes != strings.Repeat("full checkpoint ", 3) {
		t.Error(modes)
	}
	s := newStage(t, dir, now)
	defer s.close()
	var gauges metrics.State
	s.gauges(&gauges)
	if status := s.status(); status.Verdict != eventlog.DrillPassed || status.RTOSeconds != 60 || gauges.DrillRTO != time.Minute || !gauges.DrillLastSuccess.Equal(status.Ended) || len(s.warnings()) > 0 {
		t.Errorf("%+v, %+v, %q", status, gauges, s.warnings())
	}
}

// A drill that the end of the process cut off is done again soon, and one that
// could not be done an hour later; neither is a verdict.
func TestADrillWithoutAVerdictIsDoneAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := newStage(t, dir, at(1, 12, 0))
	s.pass()
	cut := s.clock.Now()
	s.close() // in the middle of it
	s = newStage(t, dir, cut.Add(5*time.Minute))
	run := s.pass()
	if again := s.clock.Now(); !again.Equal(cut.Add(drillRetry)) {
		t.Errorf("cut off at %v, again at %v", cut, again)
	}
	s.finish <- nil
	<-run.Done()
	if _, code, err := run.Result(); code != exitError || err == nil {
		t.Error(code, err)
	}
	if run = s.pass(); !s.clock.Now().Equal(cut.Add(2 * drillRetry)) {
		t.Errorf("again at %v", s.clock.Now())
	}
	if status := s.status(); status.Verdict != "" || !strings.Contains(status.Undone, "away") || status.Running == nil {
		t.Errorf("%+v", status)
	}
	s.finish <- passed
	<-run.Done()
	var gauges metrics.State
	s.gauges(&gauges)
	if status := s.status(); status.Undone != "" || len(s.events) != 1 || gauges.DrillsUndone != 1 || gauges.DrillsPassed != 1 {
		t.Errorf("%+v, %d events, %+v", status, len(s.events), gauges)
	}
	s.close()
}

// A drill that failed is loud until one passes, also after a restart; so is
// that none passes any more.
func TestAFailedDrillIsLoud(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := newStage(t, dir, at(1, 12, 0))
	s.putErr = errors.New("poisoned") // it is loud all the same
	run := s.pass()
	s.finish <- failed
	<-run.Done()
	now := s.clock.Now()
	s.close()
	s = newStage(t, dir, now.Add(time.Hour))
	defer s.close()
	var gauges metrics.State
	s.gauges(&gauges)
	if warnings := s.warnings(); len(warnings) != 1 || !strings.Contains(warnings[0], "ordinals 5 to 5") || !gauges.DrillFailed || !gauges.DrillLastSuccess.IsZero() {
		t.Errorf("%q, %+v", warnings, gauges)
	}
	asked := newDrillRun("", 3, "operator")
	must(t, s.ask(asked))
	if run := <-s.began; run != asked {
		t.Error("another drill began")
	}
	if err := s.ask(newDrillRun("", 3, "operator")); !errors.Is(err, httpapi.ErrDrillRuns) {
		t.Errorf("a second one at a time: %v", err)
	}
	s.finish <- passed
	if raw, _, err := asked.Result(); err != nil || !strings.Contains(string(raw), `"passed"`) {
		t.Errorf("%s, %v", raw, err)
	}
	if len(s.warnings()) != 0 {
		t.Errorf("%q", s.warnings())
	}
	s.clock.Advance(4 * day)
	<-s.began
	if warnings := s.warnings(); len(warnings) != 1 || !strings.Contains(warnings[0], "no drill has passed since") {
		t.Errorf("%q", warnings)
	}
}

// Who asks a server that stops is told so.
func TestADrillAskedForAtTheEndIsNotWaitedForInVain(t *testing.T) {
	s := newStage(t, filepath.Join(t.TempDir(), "data"), at(1, 12, 0))
	must(t, s.ask(newDrillRun("", 0, "operator")))
	<-s.began
	s.close()
	last := newDrillRun("", 0, "operator")
	if err := s.ask(last); err == nil {
		if _, code, err := last.Result(); code != exitUnavailable || err == nil {
			t.Error(code, err)
		}
	}
	late := &drills{asked: make(chan *drillRun, 1), idle: make(chan struct{}, 1)}
	late.idle <- struct{}{}
	must(t, late.ask(last))
	late.end()
	if _, code, err := last.Result(); code != exitUnavailable || err == nil {
		t.Error(code, err)
	}
}

// process is a server that runs as a program of its own.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	admin string
}

func startServer(t *testing.T, data string, more ...string) *process {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &process{t: t, admin: listener.Addr().String()}
	must(t, listener.Close())
	p.cmd = exec.Command("/proc/self/exe")
	p.cmd.Args = append([]string{"strandline", "serve", "--data", data, "--no-auth", "--listen", "127.0.0.1:0", "--admin", p.admin, "--drill-every", "0"}, more...)
	must(t, p.cmd.Start())
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.end(os.Kill)
		}
	})
	eventually(t, "ready", func() bool {
		status, err := (&httpapi.Client{Addr: p.admin}).Status(t.Context())
		return err == nil && status.Mode == httpapi.ModeServing
	})
	return p
}

func (p *process) end(how os.Signal) {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(how))
	if err := p.cmd.Wait(); err != nil && how != os.Kill {
		p.t.Error(err)
	}
}

func (p *process) drill(r httpapi.DrillRequest) (*drill.Result, error) {
	raw, err := (&httpapi.Client{Addr: p.admin}).Drill(p.t.Context(), r, nil)
	if err != nil {
		return nil, err
	}
	var result drill.Result
	return &result, json.Unmarshal(raw, &result)
}

func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.Now().Add(testkit.Patience)
	for !so() {
		if time.Now().After(deadline) {
			t.Fatalf("it does not come about: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// synthetic is a state directory with a synthetic archive of its own.
func synthetic(t *testing.T, events int) (data, spec string) {
	t.Helper()
	data, spec = filepath.Join(t.TempDir(), "data"), "dir:"+filepath.Join(t.TempDir(), "archive")
	if _, err := execute(t, "bench", "archive", "--archive", spec, "--events", strconv.Itoa(events), "--machines", "5", "--objects", "8", "--dir", t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if _, err := execute(t, "recover", "--data", data, "--archive", spec); err != nil {
		t.Fatal(err)
	}
	return data, spec
}

// child finds the process that a server drills with. It is not the only one: when
// Go starts its first process, it tries out on another, which ends at once, how
// it can wait for one.
func child(t *testing.T, server int) int {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", server))
	must(t, err)
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the thread has ended
		}
		must(t, err)
		for _, field := range strings.Fields(string(text)) {
			if command, err := os.ReadFile("/proc/" + field + "/cmdline"); err != nil || !strings.Contains(string(command), childCommand) {
				continue // gone, or not begun
			}
			pid, err := strconv.Atoi(field)
			must(t, err)
			return pid
		}
	}
	return 0
}

// A server that is killed in the middle of a drill takes the drill with it;
// what is left harms nothing and is removed by the next start.
func TestADrillEndsWithItsServerAndLeavesNothingHarmful(t *testing.T) {
	if _, err := os.Stat("/proc/self/task"); err != nil {
		t.Skip("needs /proc, as Linux has it")
	}
	data, _ := synthetic(t, 20000)
	server := startServer(t, data, "--take-over", "--drill-read-rate", "64KiB")
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() {
		if _, err := server.drill(httpapi.DrillRequest{Sample: 1}); err == nil {
			t.Error("the drill came to an end")
		}
	})
	drilling := 0
	eventually(t, "a drill", func() bool { drilling = child(t, server.cmd.Process.Pid); return drilling != 0 })
	running, err := os.FindProcess(drilling)
	must(t, err)
	// Every thread of the drill has the lowest priority, none of the server.
	if priority, err := unix.Getpriority(unix.PRIO_PROCESS, drilling); err != nil || 20-priority != 19 {
		t.Errorf("the drill's niceness is %d, %v", 20-priority, err)
	}
	if class, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, 1, uintptr(drilling), 0); errno != 0 || class>>13 != 3 {
		t.Errorf("the drill's disk priority is of class %d, %v", class>>13, errno)
	}
	own, err := unix.Getpriority(unix.PRIO_PROCESS, os.Getpid())
	must(t, err)
	if priority, err := unix.Getpriority(unix.PRIO_PROCESS, server.cmd.Process.Pid); err != nil || priority != own {
		t.Errorf("the server's niceness is %d, %v", 20-priority, err)
	}
	server.end(os.Kill)
	eventually(t, "the end of the drill", func() bool { return running.Signal(unix.Signal(0)) != nil })
	left, err := filepath.Glob(filepath.Join(data, "drill", "strandline-drill-*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left: %q, %v", left, err)
	}
	server = startServer(t, data)
	eventually(t, "what is left to be removed", func() bool { _, err := os.Stat(left[0]); return errors.Is(err, fs.ErrNotExist) })
	if result, err := server.drill(httpapi.DrillRequest{Sample: 0}); err != nil || result.Drill.Verdict != eventlog.DrillPassed {
		t.Errorf("%+v, %v", result, err)
	}
	server.end(os.Interrupt)
}

// Stopping a server ends its drill, without a verdict.
func TestAServerThatStopsDoesNotWaitForItsDrill(t *testing.T) {
	data, spec := synthetic(t, 20000)
	server := startServer(t, data, "--take-over", "--drill-read-rate", "64KiB")
	var asking sync.WaitGroup
	asking.Go(func() {
		if _, err := server.drill(httpapi.DrillRequest{Sample: 1}); err == nil {
			t.Error("the drill came to an end")
		}
	})
	eventually(t, "a drill", func() bool {
		left, err := filepath.Glob(filepath.Join(data, "drill", "strandline-drill-*", "views"))
		return err == nil && len(left) == 1
	})
	server.end(os.Interrupt)
	asking.Wait()
	if left, err := filepath.Glob(filepath.Join(data, "drill", "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	for _, e := range archived(t, spec) {
		if e.Type == eventlog.DrillCompleted {
			t.Errorf("%+v", e)
		}
	}
}

// A row that was changed in the live view, behind its digest's back, and a
// byte that was changed in the archive: a server's drill finds both, says so
// in the log, and says it after a restart.
func TestAServersDrillFindsWhatIsWrong(t *testing.T) {
	data, _ := synthetic(t, 3000)
	store, err := kv.OnDisk(slog.New(slog.DiscardHandler)).Open(filepath.Join(data, "views", "block"), projector.Live)
	must(t, err)
	snapshot := store.Snapshot()
	cursor, err := snapshot.Range([]byte{1}, []byte{2})
	must(t, err)
	if !cursor.Next() {
		t.Fatal("no row")
	}
	key, value := append([]byte(nil), cursor.Key()...), append([]byte(nil), cursor.Value()...)
	value[12]++
	batch := store.NewBatch()
	must(t, errors.Join(cursor.Close(), snapshot.Close(), batch.Set(key, value), batch.Commit(), batch.Close(), store.Close()))

	server := startServer(t, data, "--take-over")
	result, err := server.drill(httpapi.DrillRequest{Sample: 0})
	if err != nil || result.Drill.Verdict != eventlog.DrillFailed || len(result.Differences) != 1 || !strings.Contains(result.Drill.Reason, "than its own digest says") {
		t.Fatalf("%+v, %v", result, err)
	}
	if code := exitCode(judgeDrill(result)); code != exitDiffers {
		t.Errorf("exit code %d", code)
	}
	server.end(os.Interrupt)
	server = startServer(t, data)
	status, err := (&httpapi.Client{Addr: server.admin}).Status(t.Context())
	if err != nil || status.Drill == nil || status.Drill.Verdict != eventlog.DrillFailed || !strings.Contains(strings.Join(status.Warnings, " "), "THE LAST DRILL FAILED") {
		t.Errorf("%+v, %v", status, err)
	}
	server.end(os.Interrupt)
}

// The child refuses to be what it is not.
func TestADrillsProcessIsForServersOnly(t *testing.T) {
	if err := workAsChild(t.Context(), strings.NewReader(""), os.Stdout); exitCode(err) != exitUsage {
		t.Error(err)
	}
	if err := workAsChild(t.Context(), strings.NewReader("nonsense\n"), os.Stdout); err == nil {
		t.Error("nonsense is taken for a request")
	}
	var out strings.Builder
	if err := workAsChild(t.Context(), strings.NewReader(`{"archive":"dir:/nowhere"}`+"\n"), &out); err != nil || !strings.Contains(out.String(), `"error"`) {
		t.Error(out.String(), err)
	}
	var line childLine
	for _, text := range []string{"nonsense", `{"result":`} {
		if err := readChild(strings.NewReader(text+"\n"), &line, nil); err == nil {
			t.Errorf("%q is taken for a child's line", text)
		}
	}
}

// A child tells of each phase how it ended, also of one that was shorter than
// what lies between two lines, and who asked shows all of it.
func TestADrillsChildTellsOfEachPhaseToItsEnd(t *testing.T) {
	bar := progress.New(nil, slog.New(slog.DiscardHandler))
	bar.Start("read back", 256)
	bar.Add(206)
	bar.Add(50)
	bar.Start("compare", 2)
	bar.Add(2)
	bar.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	(&childWriter{out: json.NewEncoder(&out)}).tell(ctx, bar)
	run := newDrillRun("", -1, "operator")
	var last childLine
	if err := readChild(&out, &last, run.report); err != nil {
		t.Fatal(err)
	}
	ended := run.Phases()
	if len(ended) != 1 || ended[0].Phase != "read back" || ended[0].Done != 256 || ended[0].Ended.IsZero() {
		t.Fatalf("%+v", ended)
	}
	shown := newDrillWatch(nil, slog.New(slog.DiscardHandler))
	shown.show(progress.Snapshot{Phase: "read back", Began: ended[0].Began, Done: 206, Total: 256})
	shown.show(ended[0])
	shown.show(ended[0]) // the server says it once more until the next begins
	shown.close()
	if phases := shown.bar.Phases(); len(phases) != 1 || phases[0].Done != 256 {
		t.Errorf("%+v", phases)
	}
}
