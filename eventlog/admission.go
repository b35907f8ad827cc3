// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"fmt"
	"time"
)

// admission is the room that the limits have promised to one body: its payload
// on the disk and in the backlog, and its spool file. Promised room is nobody
// else's, so bodies that come together cannot all be let in for the same free
// bytes. It belongs to whoever owns the body.
type admission struct {
	limits  *limits
	urgent  bool  // may use the reserve; not held against the backlog
	payload int64 // bytes promised to the payload
	spool   int64 // bytes promised to the spool file and not yet written to it
	spooled int64 // bytes in the spool file
}

// admit promises room for a payload of size bytes, or says why there is none.
// Urgent ones (deletes, locks, the log's own events) may use the reserve under
// the disk floor and do not count against the backlog. The caller gives the
// room back once the payload is committed, or will never be.
func (l *limits) admit(size int64, urgent bool) (*admission, error) {
	a := &admission{limits: l, urgent: urgent}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := a.fitsLocked(size, size); err != nil {
		return nil, err
	}
	a.takeLocked(size)
	return a, nil
}

// reach makes the promise one for a payload of at least n bytes: a body whose
// length was not declared grows.
func (a *admission) reach(n int64) error {
	more := n - a.payload
	if more <= 0 {
		return nil
	}
	a.limits.mu.Lock()
	defer a.limits.mu.Unlock()
	if err := a.fitsLocked(more, more); err != nil {
		return err
	}
	a.takeLocked(more)
	return nil
}

func (a *admission) takeLocked(payload int64) {
	a.payload += payload
	a.limits.promised += payload
	if !a.urgent {
		a.limits.coming += payload
	}
}

// reachSpool promises room for n more bytes of spool file. Until the body is
// committed it lies on the disk twice, or is going to.
func (a *admission) reachSpool(n int64) error {
	more := n - a.spool
	if more <= 0 {
		return nil
	}
	a.limits.mu.Lock()
	defer a.limits.mu.Unlock()
	if err := a.fitsLocked(more, 0); err != nil {
		return err
	}
	a.spool += more
	a.limits.promised += more
	return nil
}

// spools says that n promised bytes go into the spool file now.
func (a *admission) spools(n int64) {
	l := a.limits
	l.mu.Lock()
	defer l.mu.Unlock()
	a.spool -= n
	a.spooled += n
	l.promised -= n
	l.spooled += n
	l.room -= n // until the disk is asked again
}

// giveBack ends the promise; the spool file is gone. It may be called more
// than once.
func (a *admission) giveBack() {
	l := a.limits
	l.mu.Lock()
	defer l.mu.Unlock()
	l.promised -= a.payload + a.spool
	l.spooled -= a.spooled
	if a.spooled > 0 {
		l.asked = time.Time{} // the disk has more room than it said, and is asked again
	}
	if !a.urgent {
		l.coming -= a.payload
	}
	*a = admission{limits: l, urgent: a.urgent}
}

// fitsLocked says whether so many more bytes may be promised on the disk, and
// in the backlog.
func (a *admission) fitsLocked(disk, backlog int64) error {
	l := a.limits
	free, total, err := l.diskLocked()
	if err != nil {
		return err
	}
	floor := l.floor(total, a.urgent)
	if free-l.promised-disk < floor {
		return a.fullLocked(disk, free, floor)
	}
	if waiting := l.backlog + l.coming; !a.urgent && waiting+backlog > l.MaxBacklog && waiting > a.payload {
		return fmt.Errorf("%w: %d bytes, and %d bytes of bodies are coming in; at most %d", ErrBacklog, l.backlog, l.coming, l.MaxBacklog)
	}
	return nil
}

// fullLocked says whether a disk without room for so many more bytes gets some
// by itself: the backlog drains, other bodies that are coming in give back what
// they take twice, or end without being stored, and copies of what is archived
// go.
func (a *admission) fullLocked(disk, free, floor int64) error {
	l := a.limits
	l.refused = max(l.refused, disk)
	l.pressLocked()
	if l.backlog > 0 {
		return fmt.Errorf("%w: %d bytes, and the disk of %s has %d bytes left, %d promised to bodies that are coming in, %d kept free",
			ErrBacklog, l.backlog, l.dir, free, l.promised, floor)
	}
	if without := free + l.spooled - a.spooled; without-a.payload-a.spool-disk >= floor {
		return fmt.Errorf("%w: the disk of %s has %d bytes left, all but %d promised to bodies that are coming in",
			ErrBacklog, l.dir, free, floor)
	}
	if free-l.promised-disk+l.copies >= floor {
		return fmt.Errorf("%w: the disk of %s has %d bytes left, %d kept free; %d bytes of copies of what is archived can go",
			ErrBacklog, l.dir, free, floor, l.copies)
	}
	return fmt.Errorf("%w: %s has %d bytes left, %d kept free", ErrDiskFull, l.dir, free, floor)
}

// leastFloor is the floor of a small disk: a view's store preallocates a little
// more than a memtable of its own log, some MiB, whenever it begins another one,
// and there are two views. A write of the log that meets a disk which is full for
// that moment poisons it.
const leastFloor = 96 << 20

// floor is what stays free of a disk of total bytes. Half of it at least is
// left for what the log and the views write by themselves.
func (l *limits) floor(total int64, urgent bool) int64 {
	floor := l.DiskFloor
	if floor == 0 {
		floor = min(max(total/20, leastFloor), 2<<30)
	}
	if urgent {
		floor -= min(urgentReserve, floor/2)
	}
	return floor
}

// AdmitUrgent says whether the log still takes a small event without a
// payload, or a lock's store: ErrDiskFull when even the reserve is used up.
func (l *Log) AdmitUrgent(size int64) error {
	a, err := l.limits.admit(size, true)
	if err == nil {
		a.giveBack()
	}
	return err
}
