// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"errors"
	"fmt"

	"github.com/strandline-project/strandline/eventlog"
)

// This file is about rot in what is closed and not archived: no other copy is
// anywhere. Nothing behind it can become visible, because ordinals are dense. So
// the shipper stops there, the state directory remembers where, and no start
// claims an epoch that could archive nothing.

// summedAtStart is how many bytes a start sums of what an unclean end left: about
// half a second's worth. The oldest come first: nothing passes them.
const summedAtStart = 512 << 20

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
	return fmt.Errorf("%w; the archive does not have it, and nothing behind it can be archived. Keep this directory; "+
		"`strandline recover --data NEWDIR --archive ...` rebuilds everything that was archived", damage)
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
			return s.Dir.remember(rot, err)
		} else if err != nil {
			return err
		}
	}
	if state.Rotten == nil {
		return nil
	}
	// It reads as it was written again, the archive has it, or it is gone.
	return s.Dir.Update(func(state *State) { state.Rotten = nil })
}
