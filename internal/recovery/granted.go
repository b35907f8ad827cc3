// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// Granted is what a log itself lets go: the waivers of its waiver_granted
// events. Whoever projects that log anew meets the events that a recovery went
// on past, and goes on past exactly those. It costs nothing until a rule is
// broken; then the log is read for its waivers, once.
//
// A nil Granted grants nothing.
type Granted struct {
	log    eventlog.History
	known  []archiver.Waiver
	logger *slog.Logger
	note   string // file that keeps used; "": none does

	mu     sync.Mutex
	looked bool              // log was read; owned by mu
	found  []archiver.Waiver // in log, and known; owned by mu
	used   []archiver.Waiver // those that were needed; owned by mu
	err    error             // why the log could not be read, or used not noted; owned by mu
}

const grantedName = "granted.json"

// NewGranted returns what log grants, of which all must be to be had, not only
// what is projected: a waiver comes after what it waives. known are granted as
// well: those of a recovery whose events are not in the log yet.
func NewGranted(log eventlog.History, known []archiver.Waiver, logger *slog.Logger) *Granted {
	return &Granted{log: log, known: known, logger: logger}
}

// CatchUp is projector.CatchUp, past what is granted.
func (g *Granted) CatchUp(ctx context.Context, source projector.Source, runners ...*projector.Runner) error {
	for _, r := range runners {
		r.Tolerate(g.tolerate(ctx))
		defer r.Tolerate(nil) // what comes later, nothing in the log can have waived
	}
	return g.doubted(projector.CatchUp(ctx, source, runners...))
}

// Build calls build with what it is to go on past: with nil first, because
// views are built faster then, and once more when that ended with a violation
// that is granted. The views that an interrupted call of build left must be
// such as the next one goes on from, or builds anew.
func (g *Granted) Build(ctx context.Context, build func(tolerate func(*projector.Violation) bool) error) error {
	if len(g.Used()) == 0 { // else an interrupted run needed it
		err := build(nil)
		if violation := (*projector.Violation)(nil); !errors.As(err, &violation) || !g.covers(ctx, violation) {
			return g.doubted(err)
		}
	}
	return g.doubted(build(g.tolerate(ctx)))
}

// Used returns the waivers that were needed.
func (g *Granted) Used() []archiver.Waiver {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.used)
}

// Err returns why it is not known what is granted, nil when it is known or was
// never asked. A violation that was not gone on past says nothing then.
func (g *Granted) Err() error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// keep keeps in scratch what is used, and takes in what an interrupted run
// needed: it has gone on past those events and does not meet them again.
func (g *Granted) keep(scratch string) error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.note = filepath.Join(scratch, grantedName)
	_, err := readNote(g.note, &g.used)
	return err
}

// tolerate is what a view asks about each violation.
func (g *Granted) tolerate(ctx context.Context) func(*projector.Violation) bool {
	if g == nil {
		return nil
	}
	return func(v *projector.Violation) bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		waiver, granted := g.coveringLocked(ctx, v)
		if !granted || !g.useLocked(waiver) {
			return false
		}
		g.logger.Warn("waived by the log itself: the event changes nothing in this view", "rule", waiver.Rule,
			"first", waiver.Scope.First.String(), "last", waiver.Scope.Last.String(), "seq", v.Seq.String(), "view", v.View, "violation", v.Error())
		return true
	}
}

func (g *Granted) covers(ctx context.Context, v *projector.Violation) bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	_, granted := g.coveringLocked(ctx, v)
	return granted
}

// flags writes the waivers that were found as recover takes them.
func (g *Granted) flags() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []string
	for _, w := range g.found {
		flag := fmt.Sprintf("--waive %s@%s", w.Rule, w.Scope.First)
		if w.Scope.Last != w.Scope.First {
			flag += "-" + w.Scope.Last.String()
		}
		if !slices.Contains(all, flag) { // it may have been recorded twice
			all = append(all, flag)
		}
	}
	return strings.Join(all, " ")
}

// coveringLocked returns the waiver that lets v go.
func (g *Granted) coveringLocked(ctx context.Context, v *projector.Violation) (archiver.Waiver, bool) {
	if !g.looked {
		g.logger.Info("an event breaks a rule; the log is looked through for a waiver of it", "rule", v.Rule.String(), "seq", v.Seq.String(), "view", v.View)
		found, err := waiversIn(ctx, g.log)
		if err != nil {
			g.err = fmt.Errorf("look through the log for waivers: %w", err)
			return archiver.Waiver{}, false
		}
		found = append(found, g.known...)
		g.found = slices.DeleteFunc(found, func(w archiver.Waiver) bool { return w.Rule == archiver.RottenPayload }) // no rule of a view
		g.looked = true
	}
	for _, waiver := range g.found {
		if waiver.Rule == v.Rule.String() && waiver.Scope.Contains(v.Seq) {
			return waiver, true
		}
	}
	return archiver.Waiver{}, false
}

// useLocked notes a waiver that is needed.
func (g *Granted) useLocked(waiver archiver.Waiver) bool {
	if slices.Contains(g.used, waiver) {
		return true
	}
	used := append(slices.Clone(g.used), waiver)
	if g.note != "" {
		// A crash before this line leaves the event unapplied, to be met again;
		// after it the waiver counts as used, whether the event was passed or not.
		if err := writeNote(g.note, used); err != nil {
			g.err = err
			return false
		}
	}
	g.used = used
	return true
}

// doubted takes from err, while it is not known what is granted, that it is a
// violation: the log may waive it.
func (g *Granted) doubted(err error) error {
	unknown := g.Err()
	if violation := (*projector.Violation)(nil); unknown == nil || !errors.As(err, &violation) {
		return err
	}
	return fmt.Errorf("%s; the log may waive that, but it is not known: %w", err.Error(), unknown)
}

// Rotten returns the events whose payloads a log lets go, because they had rotted
// before they were archived.
func Rotten(ctx context.Context, log eventlog.History) ([]eventlog.Range, error) {
	waivers, err := waiversIn(ctx, log)
	var lost []eventlog.Range
	for _, w := range waivers {
		if w.Rule == archiver.RottenPayload {
			lost = append(lost, w.Scope)
		}
	}
	return lost, err
}

// waiversIn reads a log for the waivers that it grants. One is of what came
// before it, however far it says that it reaches.
func waiversIn(ctx context.Context, log eventlog.History) (found []archiver.Waiver, err error) {
	for batch, err := range log.Follow(ctx, eventlog.FirstSeq) {
		if err != nil {
			return nil, err
		}
		for i := range batch.Entries {
			e := &batch.Entries[i].Event
			if e.Type == eventlog.WaiverGranted {
				found = append(found, archiver.Waiver{Rule: e.Name, Scope: eventlog.Range{First: e.From, Last: min(e.To, e.Seq-1)}})
			}
		}
	}
	if ctx.Err() != nil { // a log may just end then
		return nil, context.Cause(ctx)
	}
	return found, nil
}
