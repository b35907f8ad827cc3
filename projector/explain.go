// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"context"
	"fmt"
	"iter"

	"github.com/strandline-project/strandline/eventlog"
)

// How far Explain reads on, and how much is told of one violation.
const (
	explainEvents = 1 << 20
	explainLines  = 8
)

// Explain reads on in source for later events that name v's machine or block,
// and notes them in v: a machine that is "not known" but registered further
// on tells another story than one that never is. The log is never written
// again as it was, so the words are for a person who decides what to do.
func (v *Violation) Explain(ctx context.Context, source Source) {
	one := func(yield func(*Violation, error) bool) { yield(v, nil) }
	x := newExplaining(one, 1, func(*Violation, bool) error { return nil })
	defer x.stop()
	_ = x.run(ctx, source, explainEvents) // neither one nor its telling fails
}

// ExplainAll explains many violations, which come in the order of their seq,
// while it reads source once, from the first of them to its end. It hands each
// to told, in the same order, when all is noted that will be. No more than
// open of them, a kilobyte or so each, are waited with at once: where there
// are more the oldest is told of as it is, and cut is true. That source cannot
// be read is noted in those that it concerns; the error is one of violations,
// of told or of ctx.
func ExplainAll(ctx context.Context, source Source, violations iter.Seq2[*Violation, error], open int, told func(v *Violation, cut bool) error) error {
	x := newExplaining(violations, open, told)
	defer x.stop()
	if err := x.run(ctx, source, 0); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// explaining listens for what events say of violations.
type explaining struct {
	next   func() (*Violation, error, bool)
	stop   func()
	coming *Violation // the next that is not listened for yet; nil: there is none
	open   int
	told   func(*Violation, bool) error

	queue    []*listener // by their seqs; the first is told of first
	subjects map[subject][]*listener
	seen     uint64 // events
}

// subject is what an event is about: a machine, or, with a name, a block of it.
type subject struct {
	machine eventlog.Seq
	block   string
}

// listener is a violation that is listened for; in the lists of its subjects
// as long as it may be told more.
type listener struct {
	*Violation
	about []subject
	since uint64 // events that were seen before
}

func newExplaining(violations iter.Seq2[*Violation, error], open int, told func(*Violation, bool) error) *explaining {
	x := &explaining{open: max(open, 1), told: told, subjects: map[subject][]*listener{}}
	x.next, x.stop = iter.Pull2(violations)
	return x
}

// run explains all; after limit events it ends, unless that is 0.
func (x *explaining) run(ctx context.Context, source Source, limit uint64) error {
	if err := x.pull(); err != nil || x.coming == nil {
		return err
	}
	for batch, err := range source.Follow(ctx, x.coming.Seq.Next()) {
		if err != nil {
			return x.end(fmt.Sprintf("could not be read: %v", err))
		}
		for i := range batch.Entries {
			if err := x.take(&batch.Entries[i].Event); err != nil {
				return err
			}
		}
		if x.coming == nil && len(x.queue) == 0 {
			return nil
		}
		if limit > 0 && x.seen >= limit {
			break
		}
	}
	return x.end("")
}

func (x *explaining) pull() error {
	v, err, _ := x.next()
	x.coming = v
	return err
}

// take has those listen that come before e, and then e heard.
func (x *explaining) take(e *eventlog.Event) error {
	for x.coming != nil && x.coming.Seq < e.Seq {
		if len(x.queue) == x.open {
			if err := x.dismiss(fmt.Sprintf("what comes after the next %d was not looked at", x.seen-x.queue[0].since), true); err != nil {
				return err
			}
		}
		if err := x.admit(); err != nil {
			return err
		}
	}
	x.seen++
	switch {
	case e.Type != eventlog.BlockStored && e.Type != eventlog.BlockDeleted:
		x.hear(subject{machine: e.Machine}, e)
		if e.Seq != e.Machine {
			x.hear(subject{machine: e.Seq}, e)
		}
	case len(e.Block) > 0:
		x.hear(subject{e.Machine, string(e.Block)}, e)
	}
	for len(x.queue) > 0 && x.queue[0].done() {
		if err := x.dismiss("", false); err != nil {
			return err
		}
	}
	return nil
}

// admit lets the one that comes listen.
func (x *explaining) admit() error {
	l := &listener{x.coming, x.coming.subjects(), x.seen}
	x.queue = append(x.queue, l)
	for _, s := range l.about {
		x.subjects[s] = append(x.subjects[s], l)
	}
	return x.pull()
}

// dismiss tells of the first, and why it hears no more.
func (x *explaining) dismiss(why string, cut bool) error {
	l := x.queue[0]
	x.queue[0], x.queue = nil, x.queue[1:]
	for _, s := range l.about { // where it still listens it is the first
		if all := x.subjects[s]; len(all) > 0 && all[0] == l {
			x.leave(s, all[1:])
		}
	}
	switch {
	case len(l.Later) >= explainLines:
		cut, why = false, ""
	case len(l.about) == 0:
		cut, why = false, "none was looked for: the event names neither a machine nor a block"
	case len(l.Later) == 0 && cut:
		why = fmt.Sprintf("none of the next %d names the same machine or block, %s", x.seen-l.since, why)
	case len(l.Later) == 0 && why == "":
		why = fmt.Sprintf("none of the %d that follow names the same machine or block", x.seen-l.since)
	}
	if why != "" {
		l.Later = append(l.Later, why)
	}
	return x.told(l.Violation, cut)
}

func (x *explaining) leave(s subject, left []*listener) {
	if len(left) == 0 {
		delete(x.subjects, s)
		return
	}
	x.subjects[s] = left
}

// hear notes e with all who listen for s.
func (x *explaining) hear(s subject, e *eventlog.Event) {
	all := x.subjects[s]
	if len(all) == 0 {
		return
	}
	line, left := later(e, s.machine), all[:0]
	for _, l := range all {
		if !l.done() && e.Seq > l.Seq {
			l.Later = append(l.Later, line)
		}
		if !l.done() {
			left = append(left, l)
		}
	}
	clear(all[len(left):])
	x.leave(s, left)
}

// end tells of all that are left, and why they hear no more.
func (x *explaining) end(why string) error {
	for {
		for len(x.queue) > 0 {
			if err := x.dismiss(why, false); err != nil {
				return err
			}
		}
		if x.coming == nil {
			return nil
		}
		if err := x.admit(); err != nil {
			return err
		}
	}
}

// done reports whether nothing more will be noted.
func (l *listener) done() bool { return len(l.about) == 0 || len(l.Later) >= explainLines }

// subjects are what later events may say something of.
func (v *Violation) subjects() []subject {
	var all []subject
	if v.Machine != 0 {
		all = append(all, subject{machine: v.Machine})
	}
	if len(v.Block) > 0 {
		all = append(all, subject{v.Machine, string(v.Block)})
	}
	return all
}

// later is what e says of a machine, or of a block of it.
func later(e *eventlog.Event, machine eventlog.Seq) string {
	line := fmt.Sprintf("%s %s", e.Seq, e.Type)
	switch e.Type {
	case eventlog.MachineRegistered:
		return line + fmt.Sprintf(" registers machine %s as %q of account %s, after events that already name it", machine, e.Name, e.Account)
	case eventlog.MachineReowned:
		return line + fmt.Sprintf(" moves machine %s from account %s to %s", e.Machine, e.From, e.To)
	case eventlog.BlockStored:
		return line + fmt.Sprintf(" stores the same block, %d bytes", e.Length)
	case eventlog.BlockDeleted:
		return line + fmt.Sprintf(" deletes the same block, stored by %s", e.Undoes)
	}
	return line + fmt.Sprintf(" names machine %s", e.Machine)
}
