// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/durable"
)

// StateDir is a server's state directory, locked by this process: what makes
// a machine this log's server, and nothing that is not also in the archive or
// on its way there. It holds
//
//	LOCK         held by flock while a process uses the directory; names it
//	state.json   the State
//	wal/         generations, see eventlog
//	aside/       generations that did not become history, for salvage
//	spool/       bodies in flight
//	views/       one folder per view
type StateDir struct {
	path     string
	lock     *os.File
	identify func(path string) FileID // identify, or a test's
	here     Place                    // where it lies now; Record is not in it

	mu    sync.Mutex
	state State  // owned by mu
	moved string // owned by mu; what shows that it lies elsewhere than where it last served
}

// State is the durable record of a state directory. A field that is not known
// is absent, never zero.
type State struct {
	LogID        eventlog.ID `json:"log_id"`
	DirID        eventlog.ID `json:"directory_id"` // random; of this directory
	Archive      string      `json:"archive"`      // as given to init or recover; no credentials
	SingleWriter bool        `json:"single_writer,omitempty"`
	Phase        Phase       `json:"phase"`
	// Claims are the epochs that this directory claimed or tried to, with the
	// writer id of each, written before the claim was put.
	Claims []OwnClaim `json:"claims"`
	// Archived is the last object known to be in the archive for good; nil:
	// none is known. The WAL may begin right after it.
	Archived *ArchivedMark `json:"archived,omitempty"`
	// Lossy is set before a start drops anything, and stays until an
	// epoch_started that says so is archived.
	Lossy *LossyMark `json:"lossy,omitempty"`
	// Rotten is a generation that has rotted before it was archived; nil: none
	// is known. While it is rotten nothing is claimed.
	Rotten *RottenMark `json:"rotten,omitempty"`
	// AsOf is the event up to which the state was recovered, when that is not
	// the archive's end: it is for looking, and never served for writing.
	AsOf eventlog.Seq `json:"as_of,omitempty"`
	// Waivers are what this state went on past: the violations that its recovery
	// met, and payloads that rotted (RottenPayload),
	// until the events that say so are archived.
	Waivers []Waiver `json:"waivers,omitempty"`
	// Recovery is how this state was recovered, with the start and end of each
	// phase, until the event that says so is archived.
	Recovery *eventlog.Recovery `json:"recovery,omitempty"`
	// Clean says that the last server on this directory stopped in order.
	Clean bool `json:"clean"`
	// Served is where the directory lay when it last claimed an epoch.
	Served Place `json:"served,omitzero"`
	// Unwritten says that the last claim found the WAL without an event, and
	// that none was written since: it is no loss that it is empty.
	Unwritten bool `json:"wal_unwritten,omitempty"`
}

// Phase says what a state directory may be used for.
type Phase string

// The phases. Only a ready directory is served.
const (
	PhaseInitialising Phase = "initialising"
	PhaseRecovering   Phase = "recovering"
	PhaseReady        Phase = "ready"
)

// OwnClaim is an epoch that a directory claimed.
type OwnClaim struct {
	Epoch  uint32      `json:"epoch"`
	Writer eventlog.ID `json:"writer"`
}

// Waiver is a rule that was let go for a range of events.
type Waiver struct {
	Rule  string         `json:"rule"`
	Scope eventlog.Range `json:"scope"`
}

// ArchivedMark names an archived object and the last seq it covers.
type ArchivedMark struct {
	Ordinal uint64       `json:"ordinal"`
	Seq     eventlog.Seq `json:"seq"`
}

// LossyMark says that acknowledged events may have been lost, and why.
type LossyMark struct {
	Reason string `json:"reason"`
	// SetAside spans the seqs of the local events that did not become history;
	// a view that applied one is wrong. Zero: there were none.
	SetAside eventlog.Range `json:"set_aside"`
}

// RottenMark names a generation that is not archived and not what was written,
// and its first damaged event.
type RottenMark struct {
	Ordinal uint64       `json:"ordinal"`
	Seq     eventlog.Seq `json:"seq"`
}

// markLossy records reason unless an earlier one still holds. What the mark
// points to is never changed, only replaced.
func (s *State) markLossy(reason string, aside ...*eventlog.Generation) {
	mark := LossyMark{Reason: reason}
	if s.Lossy != nil {
		mark = *s.Lossy
	}
	for _, g := range aside {
		mark.add(g.Seqs())
	}
	s.Lossy = &mark
}

// add extends SetAside over first to last.
func (m *LossyMark) add(first, last eventlog.Seq) {
	if m.SetAside.First == 0 || first < m.SetAside.First {
		m.SetAside.First = first
	}
	m.SetAside.Last = max(m.SetAside.Last, last)
}

// ErrInUse says that another process has the state directory.
var ErrInUse = errors.New("in use")

// ErrNotEmpty says that a directory holds something else already.
var ErrNotEmpty = errors.New("the directory is not empty")

// ErrNoState says that a directory is no state directory.
var ErrNoState = errors.New("no state directory")

const (
	lockName  = "LOCK"
	stateName = "state.json"
)

// CreateStateDir makes path, which must not hold anything yet, a state
// directory with the given first state. A crash before state.json is in place
// leaves a directory that holds at most LOCK, which counts as empty.
func CreateStateDir(path string, first State) (*StateDir, error) {
	return createStateDir(path, first, identify)
}

func createStateDir(path string, first State, identify func(string) FileID) (*StateDir, error) {
	if err := durable.Mkdir(path, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	d, err := lockDir(path, identify)
	if err != nil {
		return nil, err
	}
	names, err := os.ReadDir(path)
	for _, name := range names {
		if name.Name() != lockName && !strings.HasPrefix(name.Name(), durable.TempPrefix) {
			err = fmt.Errorf("%s: %w: it holds %s; name a new directory", path, ErrNotEmpty, name.Name())
			break
		}
	}
	if err == nil {
		err = d.Update(func(s *State) { *s = first })
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// OpenStateDir locks the state directory path and reads its state. ErrInUse
// names the process that has it, ErrNoState says that there is none.
func OpenStateDir(path string) (*StateDir, error) { return openStateDir(path, identify) }

func openStateDir(path string, identify func(string) FileID) (*StateDir, error) {
	if _, err := os.Stat(filepath.Join(path, stateName)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w; `strandline init` makes one, `strandline recover` rebuilds one from an archive", path, ErrNoState)
	}
	d, err := lockDir(path, identify)
	if err != nil {
		return nil, err
	}
	if d.state, err = ReadState(path); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	now := d.here
	now.Record = identify(filepath.Join(path, stateName))
	d.moved = now.differs(&d.state.Served)
	return d, nil
}

func lockDir(path string, identify func(string) FileID) (*StateDir, error) {
	name := filepath.Join(path, lockName)
	lock, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the state directory: %w", err)
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		owner, readErr := os.ReadFile(name)
		who := strings.ReplaceAll(strings.TrimSpace(string(owner)), "\n", ", ")
		return nil, errors.Join(fmt.Errorf("%s: %w by pid %s", path, ErrInUse, who), readErr, lock.Close())
	}
	if err == nil {
		if err = lock.Truncate(0); err == nil {
			_, err = lock.WriteAt(lockText(), 0)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking the state directory %s: %w", path, err), lock.Close())
	}
	here := Place{Directory: identify(path), Lock: identify(name), Machine: machineOf("/")}
	return &StateDir{path: path, lock: lock, identify: identify, here: here}, nil
}

// lockText says who holds the lock. In a container the pid says little; the
// host is the container's name.
func lockText() []byte {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	text := fmt.Appendf(nil, "%d\nhost %s\n", os.Getpid(), host)
	if boot := bootID(); boot != "" {
		text = fmt.Appendf(text, "boot %s\n", boot)
	}
	return text
}

// checkedState is the form of state.json: the state and the CRC32C of its
// bytes, so that a record cut short or edited by hand is not believed.
type checkedState struct {
	State  json.RawMessage `json:"state"`
	CRC32C string          `json:"crc32c"`
}

// ReadState reads the state of the directory path without locking it.
func ReadState(path string) (State, error) {
	name := filepath.Join(path, stateName)
	var state State
	text, err := os.ReadFile(name)
	if err != nil {
		return state, fmt.Errorf("reading the state: %w", err)
	}
	var checked checkedState
	if err := json.Unmarshal(text, &checked); err != nil {
		return state, fmt.Errorf("%s: %w: %w; `strandline recover` builds a new directory from the archive", name, eventlog.ErrDamaged, err)
	}
	if checked.CRC32C == "" {
		return state, fmt.Errorf("%s: %w: it holds no checksum; `strandline recover` builds a new directory from the archive", name, eventlog.ErrDamaged)
	}
	if sum := stateSum(checked.State); sum != checked.CRC32C {
		return state, fmt.Errorf("%s: %w: CRC32C %s, stated %s; it was damaged or edited by hand. `strandline recover` builds a new directory from the archive",
			name, eventlog.ErrDamaged, sum, checked.CRC32C)
	}
	if err := json.Unmarshal(checked.State, &state); err != nil {
		return state, fmt.Errorf("%s: %w", name, err)
	}
	return state, nil
}

func stateSum(raw []byte) string { return fmt.Sprintf("%08x", eventlog.Checksum(raw)) }

// Update changes the state and makes it durable before it returns.
func (d *StateDir) Update(change func(*State)) error { return d.update(change, false) }

// updateHere is Update by a server that is about to serve: it records where
// the directory lies now, and a copy becomes a directory of its own. What its
// original claimed, claims or will claim is another's from here on.
func (d *StateDir) updateHere(change func(*State)) error { return d.update(change, true) }

func (d *StateDir) update(change func(*State), serves bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := d.state
	next.Claims = append([]OwnClaim(nil), d.state.Claims...)
	if serves {
		if d.copiedLocked() != "" {
			next.DirID, next.Claims = NewID(), nil
		}
		next.Served = d.here
	}
	change(&next)
	name := filepath.Join(d.path, stateName)
	err := durable.WriteFileWith(name, 0o600, func(temp string) ([]byte, error) {
		// A copy stays one until it serves.
		if next.Served.known() && (serves || d.moved == "") {
			next.Served.Record = d.identify(temp)
		}
		return encodeState(&next)
	})
	if err != nil {
		return fmt.Errorf("recording the state: %w", err)
	}
	d.state = next
	if serves {
		d.moved = ""
	}
	return nil
}

func encodeState(state *State) ([]byte, error) {
	raw, err := json.Marshal(state)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(checkedState{State: raw, CRC32C: stateSum(raw)})
	return append(text, '\n'), err
}

// Copied says what shows that the directory is a copy of the one that last
// served, "" when it is that one or nothing tells. After an end in order any
// place will do: whoever moved the directory had it to himself.
func (d *StateDir) Copied() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.copiedLocked()
}

func (d *StateDir) copiedLocked() string {
	if d.state.Clean {
		return ""
	}
	return d.moved
}

// KnowsPlace reports whether a copy of this directory could be told from it.
func (d *StateDir) KnowsPlace() bool { return d.here.known() }

// recordArchived moves the mark of what is archived forward, never back.
func recordArchived(d *StateDir, mark ArchivedMark) error {
	if known := d.State().Archived; known != nil && known.Ordinal >= mark.Ordinal {
		return nil
	}
	return d.Update(func(state *State) { state.Archived = &mark })
}

// State returns the state as last recorded.
func (d *StateDir) State() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

// Path returns a path in the directory: wal, aside, spool, views.
func (d *StateDir) Path(name ...string) string {
	return filepath.Join(append([]string{d.path}, name...)...)
}

// Close gives up the lock.
func (d *StateDir) Close() error {
	if err := d.lock.Close(); err != nil {
		return fmt.Errorf("unlocking the state directory: %w", err)
	}
	return nil
}

// owns reports whether the directory made the claim of epoch by writer.
func (s *State) owns(epoch uint32, writer eventlog.ID) bool {
	for _, claim := range s.Claims {
		if claim.Epoch == epoch && claim.Writer == writer {
			return true
		}
	}
	return false
}

// Bounds is what the state says of the WAL's extent, for eventlog.ReadWAL, and
// the views, whose positions are given: an event that a view has applied was
// committed. Only one that a lossy start set aside, or was about to, is no
// witness: the view that applied it is to be projected again.
func (s *State) Bounds(applied ...eventlog.Seq) eventlog.Bounds {
	var bounds eventlog.Bounds
	if s.Archived != nil {
		bounds.Archived, bounds.Base = s.Archived.Ordinal, s.Archived.Seq
	}
	for _, seq := range applied {
		if s.Lossy == nil || !s.Lossy.SetAside.Contains(seq) {
			bounds.Durable = max(bounds.Durable, seq)
		}
	}
	return bounds
}
