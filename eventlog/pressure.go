// SPDX-License-Identifier: Apache-2.0

package eventlog

// The disk comes under pressure before it is full: when what is free is half a
// floor above the floor, or a body was refused. Then copies of archived
// generations should go until a whole floor is free above the floor.

// Pressed holds a value when local copies of archived generations should go
// sooner than later: WantsRoom says how many bytes.
func (l *Log) Pressed() <-chan struct{} { return l.limits.pressed }

// WantsRoom returns how many bytes should go from the disk; 0 when it is not
// under pressure.
func (l *Log) WantsRoom() (int64, error) { return l.limits.wantsRoom() }

// pressLocked says that copies should go, if there are any.
func (l *limits) pressLocked() {
	if l.copies == 0 {
		return
	}
	select {
	case l.pressed <- struct{}{}:
	default: // it was said
	}
}

func (l *limits) wantsRoom() (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	free, total, err := l.diskLocked()
	if err != nil {
		return 0, err
	}
	refused := l.refused
	l.refused = 0
	floor := l.floor(total, false)
	above := free - l.promised - refused - floor
	if above >= floor/2 {
		return 0, nil
	}
	return floor - above, nil
}

// keepCopies says how many bytes of archived generations there are that may go.
func (l *limits) keepCopies(bytes int64, freed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.copies = bytes
	if freed {
		l.asked = l.asked.Add(-askDisk) // the disk has more room than it said
	}
}

// copiesLocked returns the bytes of the archived generations at hand, but for
// the last one, from which the next start begins.
func (l *Log) copiesLocked() (bytes int64) {
	last := int64(0)
	for _, g := range l.gens {
		if !g.closed() || g.lastSeq() > l.archived {
			break
		}
		bytes += last
		last = g.Size()
	}
	return bytes
}
