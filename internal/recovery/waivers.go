// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/projector"
)

// waivers are the violations that a recovery goes on past. Which of them were
// needed is noted before the first event is passed, so that neither a resumed
// recovery nor its result can forget one.
type waivers struct {
	path    string
	found   bool // in path
	granted []archiver.Waiver
	log     *slog.Logger

	mu   sync.Mutex
	used []archiver.Waiver // as noted in path; owned by mu
	err  error             // why the note could not be written; owned by mu
}

const waiversName = "waivers.json"

// loadWaivers reads which waivers an interrupted recovery needed: it cannot be
// gone on with without them.
func loadWaivers(scratch string, granted []archiver.Waiver, log *slog.Logger) (w *waivers, err error) {
	w = &waivers{path: filepath.Join(scratch, waiversName), granted: granted, log: log}
	if w.found, err = readNote(w.path, &w.used); err != nil {
		return nil, err
	}
	for _, used := range w.used {
		if !slices.Contains(granted, used) {
			return nil, fmt.Errorf("the interrupted recovery went on past events that break rule %s, from %s to %s: waive the same again, or remove the directory and recover again",
				used.Rule, used.Scope.First, used.Scope.Last)
		}
	}
	return w, nil
}

// note writes that none was needed so far.
func (w *waivers) note() error { return writeNote(w.path, []archiver.Waiver{}) }

// tolerate goes on past what was waived.
func (w *waivers) tolerate(v *projector.Violation) bool {
	for _, waiver := range w.granted {
		if waiver.Rule == v.Rule.String() && waiver.Scope.Contains(v.Seq) {
			w.log.Warn("waived: the event changes nothing in this view", "rule", waiver.Rule, "seq", v.Seq.String(), "view", v.View, "violation", v.Error())
			return w.use(waiver)
		}
	}
	return false
}

// use notes a waiver that is needed.
func (w *waivers) use(waiver archiver.Waiver) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.Contains(w.used, waiver) {
		return true
	}
	used := append(slices.Clone(w.used), waiver)
	// A crash before this line leaves the event unapplied, to be met again;
	// after it the waiver counts as used, whether the event was passed or not.
	if err := writeNote(w.path, used); err != nil {
		w.err = err
		return false
	}
	w.used = used
	return true
}
