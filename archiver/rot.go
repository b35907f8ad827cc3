// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/strandline-project/strandline/eventlog"
)

// This file is about rot in what is closed and not archived: no other copy is
// anywhere. Nothing behind it can become visible, because ordinals are dense. So
// the shipper stops there, the state directory remembers where, and no start
// claims an epoch that could archive nothing.

// summedAtStart is how many bytes a start sums of what an unclean end left: about
// half a second's worth. The oldest come first: nothing passes them.
const summedAtStart = 512 << 20

// RottenPayload is the rule of a waiver that lets go of payloads which rotted
// before they were archived: their generation is shipped as it is. The events
// stay, and so do the checksums of what was written, so that nobody takes the
// bytes for good.
const RottenPayload = "rotten-payload"

// bodyOf describes a closed generation as the object to be. One that has rotted
// is remembered, and refused, unless what it lost is waived.
func (d *StateDir) bodyOf(g *eventlog.Generation) (Body, error) {
	sum, err := g.Checksum()
	var rot *eventlog.Rot
	if errors.As(err, &rot) {
		if !waives(d.State().Waivers, rot) {
			return Body{}, d.remember(rot, err)
		}
		sum, err = rot.Sum, nil
	}
	if err != nil {
		return Body{}, err
	}
	return Body{Path: g.Path(), Size: g.Size(), Checksum: sum}, nil
}

// waives reports whether all that rot took is let go. It never is when anything
// but payloads has rotted.
func waives(waivers []Waiver, rot *eventlog.Rot) bool {
	return len(rot.Payloads) > 0 && !slices.ContainsFunc(rot.Payloads, func(seq eventlog.Seq) bool {
		return !slices.ContainsFunc(waivers, func(w Waiver) bool { return w.Rule == RottenPayload && w.Scope.Contains(seq) })
	})
}

// remember makes it durable that a generation has rotted. The error of the
// damage comes back, with what is safe to do next.
func (d *StateDir) remember(rot *eventlog.Rot, damage error) error {
	mark := RottenMark{Ordinal: rot.Ordinal, Seq: rot.Seq}
	if known := d.State().Rotten; known == nil || *known != mark {
		// A crash before this line leaves it to the next start, or the next try to
		// ship it, to find the rot; after it the next start looks there first.
		if err := d.Update(func(state *State) { state.Rotten = &mark }); err != nil {
			return errors.Join(damage, err)
		}
	}
	return fmt.Errorf("%w; the archive does not have it, and nothing behind it can be archived. Keep this directory. %s"+
		"`strandline recover --data NEWDIR --archive ...` rebuilds everything that was archived", damage, wayOn(rot))
}

// wayOn says how to lose what rot took and nothing else, "" where that cannot
// be.
func wayOn(rot *eventlog.Rot) string {
	if len(rot.Payloads) == 0 {
		return ""
	}
	var flags strings.Builder
	for _, seq := range rot.Payloads {
		fmt.Fprintf(&flags, " --waive %s@%s", RottenPayload, seq)
	}
	return fmt.Sprintf("Damaged are the bytes of %d blocks: `strandline serve`, started with%s, ships all the rest and loses those for good. Or ",
		len(rot.Payloads), flags.String())
}

// checkRot sums what is closed and not archived: the generation that is known to
// have rotted, and, after an end that was not clean, the oldest others.
func (s *Start) checkRot() error {
	state, room := s.Dir.State(), int64(summedAtStart)
	if state.Clean {
		room = 0 // nothing was written since
	}
	for _, g := range s.WAL.Generations() {
		if g.Ordinal <= s.end.ordinal || g.Trailer == nil {
			continue
		}
		known := state.Rotten != nil && state.Rotten.Ordinal == g.Ordinal
		if !known && room <= 0 {
			continue
		}
		room -= g.Size()
		var rot *eventlog.Rot
		if _, err := g.Checksum(); errors.As(err, &rot) {
			if err := s.letGo(rot, err); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
	}
	if state.Rotten == nil {
		return nil
	}
	// It reads as it was written again, the archive has it, it is waived, or it is gone.
	return s.Dir.Update(func(state *State) { state.Rotten = nil })
}

// letGo makes durable that what rot took is waived, if this start waives it or
// an earlier one did.
func (s *Start) letGo(rot *eventlog.Rot, damage error) error {
	known := s.Dir.State().Waivers
	if !waives(slices.Concat(known, s.Waivers), rot) {
		return s.Dir.remember(rot, damage)
	}
	s.Logger.Warn("payloads have rotted before they were archived, and are waived: they are lost, all else is shipped",
		"ordinal", rot.Ordinal, "blocks", len(rot.Payloads), "error", damage)
	if waives(known, rot) {
		return nil
	}
	// A crash before this line leaves the next start to be asked again; after it
	// the waiver is in force until the log has it as an event that is archived.
	return s.Dir.Update(func(state *State) { state.Waivers = slices.Concat(known, s.Waivers) })
}
