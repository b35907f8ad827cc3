// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// Limits of what the log takes in. The zero value of a field means its
// default.
type Limits struct {
	BodyMemory int64         // bytes of bodies held in memory over all requests; default 256 MiB
	MaxBacklog int64         // bytes not yet archived; default 8 GiB
	DrainTime  time.Duration // a backlog that takes longer to upload slows ingest down; default 25 s; negative: never
	DiskFloor  int64         // free bytes below which nothing but small urgent events is written; default: 5 %, at least 96 MiB and at most 2 GiB
}

// urgentReserve is the room under the disk floor that deletes, locks and the
// log's own events may still use.
const urgentReserve = 64 << 20

// What the log refuses to take in, and nothing is kept of it.
var (
	// ErrBacklog: too much waits for the archive, or the disk is full of it; it
	// drains by itself.
	ErrBacklog = errors.New("too many bytes wait for the archive")
	// ErrDiskFull: the disk is full and nothing of it can drain.
	ErrDiskFull = errors.New("the disk is full")
	// ErrTooMany: so many bodies are coming in that memory is full of them.
	ErrTooMany = errors.New("too many bodies are coming in at once")
)

// limits watches the backlog, the disk and the upload rate.
type limits struct {
	Limits
	dir  string
	free func(dir string) (free, total int64, err error) // the disk; a test's in tests

	mu      sync.Mutex
	asked   time.Time // owned by mu; when the disk was asked last
	room    int64     // owned by mu; free bytes then, less what was committed since
	total   int64     // owned by mu; bytes of the disk
	backlog int64     // owned by mu; bytes committed and not archived, payloads and events
	copies  int64     // owned by mu; bytes of archived generations that may go
	refused int64     // owned by mu; the largest body refused for want of disk since WantsRoom was asked
	reading int       // owned by mu; bodies being received
	// What is promised to bodies that are coming in or wait for their commit; see admission.
	promised int64         // owned by mu; bytes of the disk, not yet written
	coming   int64         // owned by mu; bytes of the backlog
	spooled  int64         // owned by mu; bytes in spool files
	speed    float64       // owned by mu; upload bytes per second, 0 until measured
	away     bool          // owned by mu; the bucket does not answer
	pacer    *rate.Limiter // safe by itself
	pressed  chan struct{} // holds one: archived copies should go, see pressLocked
}

func newLimits(l Limits, dir string) *limits {
	if l.BodyMemory == 0 {
		l.BodyMemory = 256 << 20
	}
	if l.MaxBacklog == 0 {
		l.MaxBacklog = 8 << 30
	}
	if l.DrainTime == 0 {
		l.DrainTime = 25 * time.Second
	}
	return &limits{Limits: l, dir: dir, free: diskFree, pacer: rate.NewLimiter(rate.Inf, 4*bufferSize), pressed: make(chan struct{}, 1)}
}

func diskFree(dir string) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("asking for the free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), int64(st.Blocks) * int64(st.Bsize), nil
}

// diskLocked returns the room on the disk, asked for at most every askDisk;
// what was committed since then is taken off.
func (l *limits) diskLocked() (free, total int64, err error) {
	if time.Since(l.asked) < askDisk {
		return l.room, l.total, nil
	}
	free, total, err = l.free(l.dir)
	if err == nil {
		l.asked, l.room, l.total = time.Now(), free, total
	}
	return free, total, err
}

const askDisk = 50 * time.Millisecond

// carried takes in n bytes of payload that lie in frames as well.
func (l *limits) carried(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room -= n
}

func (l *limits) committed(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.backlog += n
	l.room -= n // until the disk is asked again: a fast one writes much in that time
	if floor := l.floor(l.total, false); l.total > 0 && l.room-l.promised < floor+floor/2 {
		l.pressLocked()
	}
	l.repaceLocked()
}

// archived takes n bytes off the backlog; they took d to upload.
func (l *limits) archived(n int64, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.backlog = max(0, l.backlog-n)
	l.away = false
	if seconds := d.Seconds(); seconds > 0 && n >= 1<<20 { // small objects measure latency, not speed
		if l.speed == 0 {
			l.speed = float64(n) / seconds
		}
		l.speed += (float64(n)/seconds - l.speed) / 4
	}
	l.repaceLocked()
}

// unreachable turns pacing off until the next archived: while nothing drains,
// only the hard limits hold.
func (l *limits) unreachable() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = true
	l.repaceLocked()
}

// repaceLocked lets bodies in at the upload rate while the backlog takes longer than
// DrainTime to drain, and at any rate otherwise.
func (l *limits) repaceLocked() {
	limit := rate.Inf
	if l.DrainTime > 0 && !l.away && l.speed > 0 && float64(l.backlog) > l.speed*l.DrainTime.Seconds() {
		limit = rate.Limit(max(l.speed*0.9, 64<<10)) // a trickle, never a stop
	}
	if l.pacer.Limit() != limit {
		l.pacer.SetLimit(limit)
	}
}

// pace wraps a body's reader so that it is slowed down with all others. A body
// that comes alone is admitted at full speed. The caller calls done after the
// last read.
func (l *limits) pace(ctx context.Context, r io.Reader) (paced io.Reader, done func()) {
	l.mu.Lock()
	alone := l.reading == 0
	l.reading++
	l.mu.Unlock()
	done = func() {
		l.mu.Lock()
		l.reading--
		l.mu.Unlock()
	}
	if alone {
		return r, done
	}
	return &pacedReader{ctx: ctx, r: r, pacer: l.pacer}, done
}

type pacedReader struct {
	ctx   context.Context
	r     io.Reader
	pacer *rate.Limiter
}

func (p *pacedReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	for left := n; left > 0 && p.pacer.Limit() != rate.Inf; {
		step := min(left, p.pacer.Burst())
		if waitErr := p.pacer.WaitN(p.ctx, step); waitErr != nil {
			return n, waitErr
		}
		left -= step
	}
	return n, err
}

// Backlog returns the bytes committed and not yet archived, payloads and events, and the
// upload rate last measured in bytes per second (0: not yet).
func (l *Log) Backlog() (bytes int64, rate float64) {
	l.limits.mu.Lock()
	defer l.limits.mu.Unlock()
	return l.limits.backlog, l.limits.speed
}
