// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit/hostile"
)

func TestAStateDirectoryInUseNamesThePid(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		_, err := s.open()
		expectError(t, err, archiver.ErrInUse)
		if want := fmt.Sprintf("pid %d", os.Getpid()); !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v; want it to name %s", err, want)
		}
		s.stop()
		dir, err := s.open()
		w.must(err)
		w.must(dir.Close())
	})
}

func TestOnlyAnEmptyDirectoryBecomesAStateDirectory(t *testing.T) {
	path := t.TempDir()
	if err := os.WriteFile(filepath.Join(path, "letters"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := archiver.CreateStateDir(path, archiver.State{})
	if err == nil || !strings.Contains(err.Error(), "letters") {
		t.Errorf("a state directory was made among other files: %v", err)
	}
	_, err = archiver.OpenStateDir(path)
	expectError(t, err, archiver.ErrNoState)
	_, err = archiver.OpenStateDir(filepath.Join(path, "absent"))
	expectError(t, err, archiver.ErrNoState)
}

func TestADamagedOrEditedStateIsRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		name := filepath.Join(s.path, "state.json")
		whole, err := os.ReadFile(name)
		w.must(err)
		for i := range whole {
			for _, change := range []func([]byte) []byte{
				func(b []byte) []byte { b[i] ^= 1; return b },
				func(b []byte) []byte { return b[:i] },
			} {
				w.must(os.WriteFile(name, change(append([]byte(nil), whole...)), 0o600))
				state, err := archiver.ReadState(s.path)
				if err != nil {
					expectError(t, err, eventlog.ErrDamaged)
				} else if i < len(whole)-1 { // the last byte is a line's end
					t.Errorf("with byte %d changed or gone the state reads %+v", i, state)
				}
			}
		}
		edited := strings.Replace(string(whole), `"clean":true`, `"clean":false`, 1)
		w.must(os.WriteFile(name, []byte(edited), 0o600))
		expectError(t, s.start(false), eventlog.ErrDamaged)
	})
}

func TestTheStateSaysHowFarTheWALReaches(t *testing.T) {
	seq := eventlog.MakeSeq(5, 10)
	for _, c := range []struct {
		name    string
		state   archiver.State
		applied eventlog.Seq
		want    eventlog.Bounds
	}{
		{"nothing is known", archiver.State{}, 0, eventlog.Bounds{}},
		{"a view's position was committed", archiver.State{}, seq, eventlog.Bounds{Durable: seq}},
		{"what is archived lies before", archiver.State{Archived: &archiver.ArchivedMark{Ordinal: 3, Seq: seq}}, 0, eventlog.Bounds{Archived: 3, Base: seq}},
		{"a view of events set aside is no witness", archiver.State{Lossy: &archiver.LossyMark{SetAside: eventlog.Range{First: seq, Last: seq}}}, seq, eventlog.Bounds{}},
		{"other views of a lossy start are", archiver.State{Lossy: &archiver.LossyMark{SetAside: eventlog.Range{First: seq, Last: seq}}}, seq - 1, eventlog.Bounds{Durable: seq - 1}},
	} {
		if got := c.state.Bounds(c.applied); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func FuzzReadState(f *testing.F) {
	f.Add([]byte(`{"state":{"phase":"ready"},"crc32c":"00000000"}`))
	f.Add([]byte(`{"state":null,"crc32c":"00000000"}`))
	f.Add([]byte(`{`))
	for _, b := range hostile.Blocks(hostile.Facts{Epoch: 1, Ordinal: 1, Next: 1<<32 + 1, Offset: 8}, 0) {
		f.Add(b.Bytes)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		path := t.TempDir()
		if err := os.WriteFile(filepath.Join(path, "state.json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if state, err := archiver.ReadState(path); err == nil && state.Phase == archiver.PhaseReady {
			t.Logf("believed: %+v", state)
		}
	})
}

// In the outage that this program answers, a resumed recovery found a maximum
// that was never set, and took it for 0.
func TestAnUnknownMaximumIsNotReadAsZero(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	dir, err := archiver.CreateStateDir(path, archiver.State{LogID: archiver.NewID(), Phase: archiver.PhaseRecovering})
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(path, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "archived") {
		t.Errorf("a mark that is not known is written down: %s", text)
	}
	state, err := archiver.ReadState(path)
	if err != nil || state.Archived != nil {
		t.Fatalf("a mark that is not known is read as %+v, %v", state.Archived, err)
	}
	// Whoever asks for the maximum of such a directory is refused, see
	// TestADirectoryThatIsNotReadyIsNotServed; what can be asked says "nothing known".
	if bounds := state.Bounds(eventlog.MakeSeq(7, 9)); bounds.Archived != 0 || bounds.Base != 0 || bounds.Durable != eventlog.MakeSeq(7, 9) {
		t.Errorf("the bounds of the WAL are %+v", bounds)
	}
}
