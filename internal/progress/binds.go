// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

// Reading is what is known of an operation's reads from a store.
type Reading struct {
	Requests uint64        // done so far
	Bytes    uint64        // read so far
	InFlight int           // requests now
	Latency  time.Duration // until an answer begins
	Limit    int           // requests that may be under way at once, now; 0: not known
	Min, Max int           // what Limit stays between
}

// Explain lets p find out by itself what binds: it measures the processor and
// the disk, asks reading, which may be nil, how the store answers, and is told
// by Waiting while the operation has nothing to do. disk is a directory on the
// volume that is written to; its own speed is tried when the disk binds. Call
// it before the first Start.
func (p *Progress) Explain(reading func() Reading, disk string) {
	if p == nil {
		return
	}
	if reading == nil {
		reading = func() Reading { return Reading{} }
	}
	p.reading, p.disk = reading, disk
}

// Mirror lets p show what another process does: reading tells of its reads, Bind
// what binds it. Nothing of this process is measured. Call it before the first
// Start.
func (p *Progress) Mirror(reading func() Reading) {
	if p == nil {
		return
	}
	p.reading, p.elsewhere = reading, true
}

// Waiting says that the operation has nothing to do from now until it calls
// what is returned, because nothing has been read yet. The time counts while it
// passes: a store that stops is seen while it has stopped.
func (p *Progress) Waiting() (over func()) {
	if p == nil {
		return func() {}
	}
	ph := p.current.Load()
	if ph == nil {
		return func() {}
	}
	ph.wait.begin()
	return ph.wait.end
}

// wait adds up the time in which something was waited for.
type wait struct {
	mu    sync.Mutex
	count int           // who wait now; owned by mu
	since time.Time     // since when somebody does; owned by mu
	total time.Duration // of the waits that are over; owned by mu
}

func (w *wait) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count++; w.count == 1 {
		w.since = time.Now()
	}
}

func (w *wait) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count--; w.count == 0 {
		w.total += time.Since(w.since)
	}
}

// until returns what was waited until now, and for how long the wait goes on
// that is not over.
func (w *wait) until(now time.Time) (total, running time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count > 0 {
		running = max(0, now.Sub(w.since))
	}
	return w.total + running, running
}

// usage is what the process has used since it began.
type usage struct {
	cpu     time.Duration // of all cores
	written uint64        // bytes, to disks
	stalled time.Duration // some process of the machine waited for a disk
}

// shares are of a stretch of time.
type shares struct {
	waited  float64       // for the store
	stopped time.Duration // that the wait at its end has lasted
	cpu     float64       // of all cores
	stalled float64
	written float64 // bytes a second
	reading Reading // of the stretch
	seconds float64
}

func (p *Progress) shares(from, to *sample) shares {
	took := to.at.Sub(from.at).Seconds()
	if took <= 0 {
		return shares{}
	}
	return shares{
		waited: to.waited.Seconds()/took - from.waited.Seconds()/took, cpu: (to.cpu - from.cpu).Seconds() / took / float64(runtime.GOMAXPROCS(0)),
		stalled: (to.stalled - from.stalled).Seconds() / took, written: float64(to.written-from.written) / took, seconds: took,
		stopped: to.waiting,
		reading: Reading{Requests: to.reading.Requests - from.reading.Requests, Bytes: to.reading.Bytes - from.reading.Bytes, InFlight: to.reading.InFlight, Latency: to.reading.Latency},
	}
}

const (
	bindsAfter = 0.2 // seconds; before, nothing can be said
	bindsAt    = 0.5 // share of the time that something is waited for
	cpuBindsAt = 0.8
	idleCPU    = 0.4
	diskLeast  = 4 << 20 // bytes a second that can be called writing
	// stopsAfter is how long nothing comes, beside ten answers' time, until a
	// store is said to have stopped.
	stopsAfter = 3 * time.Second
)

// binds says what an operation waits for most, "" when nothing stands out.
func (s *shares) binds() string {
	switch {
	case s.seconds < bindsAfter:
		return ""
	case s.hasStopped():
		return "store"
	case s.waited >= bindsAt:
		return s.store()
	case s.written >= diskLeast && (s.stalled >= bindsAt || s.cpu < idleCPU):
		return "disk"
	case s.cpu >= cpuBindsAt:
		return "CPU"
	case s.cpu*float64(runtime.GOMAXPROCS(0)) >= cpuBindsAt:
		return "CPU, not all cores"
	}
	return ""
}

// hasStopped reports whether what is read next has not come for long.
func (s *shares) hasStopped() bool {
	return s.stopped >= stopsAfter && s.stopped >= 10*s.reading.Latency
}

// store tells a slow answer from a slow transfer: by Little's law a request
// takes as long as there are requests at once for each that ends in a second.
func (s *shares) store() string {
	if s.reading.Requests == 0 || s.reading.InFlight == 0 || s.reading.Latency == 0 {
		return "store"
	}
	took := time.Duration(float64(s.reading.InFlight) * s.seconds / float64(s.reading.Requests) * float64(time.Second))
	if took > 2*s.reading.Latency {
		return "network"
	}
	return "store latency"
}

// advice says what would help. speed is what the disk can write in all, 0 when
// that is not known; eta is how long everything will take as it goes, in seconds.
func (s *shares) advice(binds string, speed, eta float64) string {
	switch binds {
	case "store":
		if s.hasStopped() {
			return fmt.Sprintf("store: nothing has come for %s, %d reads are under way; see whether the store and the way to it are well", s.stopped.Round(time.Second), s.reading.InFlight)
		}
	case "store latency":
		return fmt.Sprintf("store: an answer takes %s, %d reads at once; a machine nearer to the store would be faster", s.reading.Latency.Round(100*time.Microsecond), s.reading.InFlight)
	case "network":
		return fmt.Sprintf("network: %.1f MB/s come in with %d reads at once; a faster way to the store would help", float64(s.reading.Bytes)/s.seconds/1e6, s.reading.InFlight)
	case "disk":
		return s.diskAdvice(speed, eta)
	case "CPU", "CPU, not all cores":
		return fmt.Sprintf("CPU: %.1f of %d cores are busy; faster or more of them would help", s.cpu*float64(runtime.GOMAXPROCS(0)), runtime.GOMAXPROCS(0))
	}
	return ""
}

// diskAdvice says how long it would take with a disk that is as fast as this
// processor can use.
func (s *shares) diskAdvice(speed, eta float64) string {
	if speed <= 0 {
		return fmt.Sprintf("disk: %.0f MB/s are written", s.written/1e6)
	}
	text := fmt.Sprintf("disk: %.0f MB/s of %.0f available", s.written/1e6, speed/1e6)
	faster := min(5, 1/max(s.cpu, 0.05))
	if eta <= 0 || faster < 1.2 {
		return text
	}
	return fmt.Sprintf("%s; a volume with %.0f MB/s would finish in %s instead of %s", text, speed*faster/1e6, clock(eta/faster), clock(eta))
}

// clock prints seconds as on a clock: 1:47, 2:03:10.
func clock(s float64) string {
	n := int(s + 0.5)
	if n >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", n/3600, n/60%60, n%60)
	}
	return fmt.Sprintf("%d:%02d", n/60, n%60)
}

// probeSize is what a probe writes: a second's worth on a slow disk.
const probeSize = 32 << 20

// probeDisk returns how many bytes a second dir's volume takes beside what is
// written to it anyway.
func probeDisk(dir string) (speed float64, err error) {
	file, err := os.CreateTemp(dir, "probe-")
	if err != nil {
		return 0, fmt.Errorf("try the disk: %w", err)
	}
	defer func() {
		if gone := os.Remove(file.Name()); err == nil && gone != nil {
			err = fmt.Errorf("try the disk %s: %w", filepath.Dir(file.Name()), gone)
		}
	}()
	began := time.Now()
	block := make([]byte, 1<<20)
	for written := 0; written < probeSize && err == nil; written += len(block) {
		_, err = file.Write(block)
	}
	if err == nil {
		err = file.Sync()
	}
	took := time.Since(began).Seconds()
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return 0, fmt.Errorf("try the disk: %w", err)
	}
	return probeSize / max(took, 1e-6), nil
}
