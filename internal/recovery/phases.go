// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
)

// phases are those of a recovery, of interrupted runs too. The start and the
// end of each is noted at once, so that neither a resumed recovery nor its
// report forgets what the run before it did.
type phases struct {
	path     string
	found    bool // in path
	progress *progress.Progress

	mu      sync.Mutex
	noted   notedPhases // as in path; owned by mu
	running bool        // the last of them; owned by mu
	err     error       // why one could not be noted; owned by mu
}

// notedPhases is the content of the note.
type notedPhases struct {
	Version int              `json:"version"`
	Began   time.Time        `json:"began"` // the first run
	Phases  []eventlog.Phase `json:"phases"`
}

const (
	phasesName    = "phases.json"
	phasesVersion = 1
)

// loadPhases reads those of the runs that were interrupted.
func loadPhases(scratch string, p *progress.Progress) (loaded *phases, err error) {
	loaded = &phases{path: filepath.Join(scratch, phasesName), progress: p}
	if loaded.found, err = readNote(loaded.path, &loaded.noted); err != nil {
		return nil, err
	}
	if loaded.found && (loaded.noted.Version != phasesVersion || loaded.noted.Began.IsZero()) {
		return nil, fmt.Errorf("%s: another version of this program began the recovery: remove the directory and recover again", loaded.path)
	}
	return loaded, nil
}

// start ends the phase that runs and begins one of total units, 0 when that is
// not known.
func (p *phases) start(name string, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLocked()
	p.progress.Start(name, total)
	now := time.Now().UTC()
	if p.noted.Version == 0 {
		p.noted = notedPhases{Version: phasesVersion, Began: now}
	}
	if drop := len(p.noted.Phases) + 1 - eventlog.MaxPhases; drop > 0 {
		p.noted.Phases = p.noted.Phases[drop:] // the oldest, after dozens of interruptions
	}
	p.noted.Phases = append(p.noted.Phases, eventlog.Phase{Name: name, Began: now})
	p.running = true
	p.noteLocked()
}

// end ends the phase that runs. The error is that of any note.
func (p *phases) end() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.endLocked() {
		p.noteLocked()
	}
	return p.err
}

// noting returns why a phase could not be noted; nil when all were.
func (p *phases) noting() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *phases) endLocked() (ended bool) {
	p.progress.Done()
	if !p.running {
		return false
	}
	p.running = false
	phase := &p.noted.Phases[len(p.noted.Phases)-1]
	phase.Ended = time.Now().UTC()
	if counted := p.progress.Phases(); len(counted) > 0 { // none without a Progress
		last := counted[len(counted)-1]
		phase.Done, phase.Events, phase.Bytes = uint64(max(last.Done, 0)), uint64(max(last.Events, 0)), uint64(max(last.Bytes, 0))
	}
	return true
}

// noteLocked writes what is known. A crash before it leaves a phase that is
// not in the note, or has no end there: nothing is built on either.
func (p *phases) noteLocked() {
	if err := writeNote(p.path, &p.noted); err != nil && p.err == nil {
		p.err = err
	}
}

// Recovery returns what the event of a recovery says of r.
func (r *Result) Recovery() *eventlog.Recovery {
	out := &eventlog.Recovery{
		Began: r.Began, Upto: r.Last, Objects: uint64(max(r.Objects, 0)), Bytes: uint64(max(r.Bytes, 0)), Events: r.Events, Phases: r.Phases,
	}
	if n := len(r.Phases); n > 0 {
		out.Ended = r.Phases[n-1].Ended
	}
	if r.Checkpoint != nil {
		out.Checkpoint, out.CheckpointSeq = r.Checkpoint.Name, r.Checkpoint.Seq
	}
	for _, view := range r.Views {
		out.Compared += view.Compared
		out.Skipped += view.Skipped
	}
	return out
}
