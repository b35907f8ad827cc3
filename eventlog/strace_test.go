// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

const (
	driverEnv    = "STRANDLINE_EVENTLOG_DRIVER" // the state directory that the driver works on
	driverEvents = 14
	driverBefore = 5 // events of the life before, left unclosed
)

// drive is a server in small, run under strace: it starts on the WAL at root,
// appends events one by one, prints each seq when it is committed, and ends
// in order. Writer and committer stay on a thread each, because strace counts
// calls per thread.
func drive(root string) {
	if err := driveLog(root); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func driveLog(root string) error {
	wal := filepath.Join(root, "wal")
	w, err := ReadWAL(wal, filepath.Join(root, "aside"), testLogID, Bounds{})
	if err != nil {
		return err
	}
	if err := w.CloseTail(time.Now()); err != nil {
		return err
	}
	last, lastTime, err := w.Last()
	if err != nil {
		return err
	}
	l, err := Open(Options{
		Dir: wal, Spool: filepath.Join(root, "spool"), Head: Head{LogID: testLogID, Writer: testWriter, Epoch: 2},
		Last: last, LastTime: lastTime, NextOrdinal: 2, Local: w.Generations(), MaxEvents: 5, lockThread: true,
	})
	if err != nil {
		return err
	}
	for i := range driverEvents {
		c := driverContent(i)
		body, err := l.Receive(context.Background(), bytes.NewReader(c), int64(len(c)), 1<<20)
		if err != nil {
			return err
		}
		seq, err := l.Append(storeEvent(c), body).Wait()
		if err != nil {
			return err
		}
		fmt.Println(seq)
	}
	return l.Close(true)
}

func driverContent(i int) []byte { return content(uint64(1000+i), i%2*maxCarried+1+i*300) }

// straced is a driver's life under strace, and the start after it.
type straced struct {
	*testing.T
	strace   string
	template *testState // its WAL holds the first events, as a killed process left them
}

func newStraced(t *testing.T) *straced {
	t.Helper()
	s := &straced{T: t, strace: testkit.Need(t, "strace")}
	first := newState(t)
	l := first.open(nil)
	for i := range driverBefore {
		committed(t, store(t, l, content(uint64(i), 500)))
	}
	s.template = first.copyState(t)
	// A torn tail, so that the driver's start has files to set aside.
	segment, err := os.OpenFile(filepath.Join(s.template.wal(), generationName(1, 0), segmentName), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = segment.WriteString("torn")
	must(t, errors.Join(err, segment.Close()))
	must(t, l.Close(false))
	return s
}

// run lets a driver live under strace with the given arguments, and reports
// what it acknowledged and whether it came to its end.
func (s *straced) run(args ...string) (state *testState, acked []Seq, finished bool) {
	s.Helper()
	state = fastState(s)
	must(s, os.CopyFS(state.root, os.DirFS(s.template.root)))
	cmd := exec.Command(s.strace, append(args, os.Args[0])...)
	cmd.Env = append(os.Environ(), driverEnv+"="+state.root, "GOMAXPROCS=2")
	var out bytes.Buffer
	cmd.Stdout = &out
	finished = cmd.Run() == nil
	for lines := bufio.NewScanner(&out); lines.Scan(); {
		if seq, err := ParseSeq(lines.Text()); err == nil {
			acked = append(acked, seq)
		}
	}
	return state, acked, finished
}

// expectAll starts after the driver's end and wants every event that it
// acknowledged, those of the life before, and no invented one.
func (s *straced) expectAll(state *testState, acked []Seq, what string) {
	s.Helper()
	bounds := Bounds{Durable: MakeSeq(1, driverBefore)}
	if len(acked) > 0 {
		bounds.Durable = acked[len(acked)-1]
	}
	entries, blocks, err := start(s.T, state, bounds)
	if err != nil {
		s.Fatalf("%s, %d acknowledged: the next start is refused: %v", what, len(acked), err)
	}
	expectContiguous(s, entries, FirstSeq)
	if n := len(entries); n < driverBefore+len(acked) || n > driverBefore+len(acked)+1 {
		s.Fatalf("%s: %d events came back, %d were acknowledged", what, n-driverBefore, len(acked))
	}
	for i, e := range entries {
		want := content(uint64(i), 500)
		if i >= driverBefore {
			want = driverContent(i - driverBefore)
		}
		if !bytes.Equal(blocks[e.Event.Seq], want) {
			s.Fatalf("%s: the payload of %s is not what was stored", what, e.Event.Seq)
		}
	}
	must(s, os.RemoveAll(state.root))
}

func TestEveryFailingSyncLeavesWhatWasAcknowledged(t *testing.T) {
	s := newStraced(t)
	failures := 0
	for _, call := range []string{"fsync", "fdatasync", "fsync,fdatasync"} {
		for n := 1; ; n++ {
			inject := fmt.Sprintf("inject=%s:error=EIO:when=%d", call, n)
			state, acked, finished := s.run("-f", "-qq", "-o", os.DevNull, "-e", inject)
			s.expectAll(state, acked, inject)
			if finished && len(acked) == driverEvents {
				break
			}
			failures++
		}
	}
	t.Logf("%d failing syncs", failures)
	if failures < 2*driverEvents {
		t.Errorf("only %d syncs failed: the test shows nothing", failures)
	}
}

func TestAKillAtEverySystemCallLeavesWhatWasAcknowledged(t *testing.T) {
	s := newStraced(t)
	kills := 0
	for _, call := range []string{"write", "pwrite64", "fsync", "fdatasync", "openat", "renameat", "unlinkat", "mkdirat", "close"} {
		n := 1
		for ; ; n++ {
			inject := fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", call, n)
			state, acked, finished := s.run("-f", "-qq", "-o", os.DevNull, "-e", inject)
			s.expectAll(state, acked, inject)
			if finished {
				break
			}
		}
		t.Logf("%s: %d kills", call, n-1)
		kills += n - 1
	}
	if kills < 100 {
		t.Errorf("only %d kills: the test shows nothing", kills)
	}
}

func TestEveryGenerationsNameAndItsFilesNamesAreSynced(t *testing.T) {
	s := newStraced(t)
	trace := filepath.Join(t.TempDir(), "trace")
	state, acked, finished := s.run("-f", "-qq", "-y", "-o", trace, "-e", "trace=mkdirat,fsync,fdatasync,pwrite64,write")
	if !finished || len(acked) != driverEvents {
		t.Fatalf("the driver did not finish: %d acknowledged", len(acked))
	}
	calls, err := os.ReadFile(trace)
	must(t, err)
	made := regexp.MustCompile(`mkdirat\(.*"(`+regexp.QuoteMeta(state.wal())+`/[0-9.]+)", 0700`).FindAllSubmatchIndex(calls, -1)
	if len(made) < 4 {
		t.Fatalf("%d generations were made, want 4 or more", len(made))
	}
	used := 0
	for _, m := range made {
		dir := string(calls[m[2]:m[3]])
		before, _, written := strings.Cut(string(calls[m[1]:]), "<"+dir+"/"+segmentName+">, \"") // the first batch of frames
		if !written {
			continue // prepared, never used
		}
		used++
		for _, synced := range []string{state.wal(), dir, dir + "/" + segmentName, dir + "/" + payloadName, dir + "/" + closedName} {
			if !regexp.MustCompile(`f(data)?sync\(\d+<` + regexp.QuoteMeta(synced) + `>`).MatchString(before) {
				t.Errorf("%s was not synced before the first event of %s", synced, filepath.Base(dir))
			}
		}
	}
	if used < 3 {
		t.Errorf("only %d generations were written to: the test shows nothing", used)
	}
	s.expectAll(state, acked, "no fault")
}
