// SPDX-License-Identifier: Apache-2.0

// Package progress tells people how far a long operation is: which phase it
// is in, what is done of how much, how fast, how long it will take, and what
// binds it now. On a terminal it shows a bar for each phase, elsewhere it logs
// a line every ten seconds, and always it answers Snapshot, for status and
// metrics. It is the only importer of mpb.
package progress

import (
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"
)

const (
	// LogEvery is how often a line is logged where there is no terminal.
	LogEvery = 10 * time.Second
	tick     = 500 * time.Millisecond
	window   = 21 // samples that a rate is measured over, ten seconds from first to last
)

// Progress follows one operation through its phases, one at a time. Add,
// AddBytes and Bind may be called by any goroutine, and so may Snapshot and
// Phases; Start, Done and Close belong to whoever runs the phases. Every
// method does nothing on nil.
type Progress struct {
	log     *slog.Logger
	bars    *bars // nil without a terminal
	current atomic.Pointer[phase]

	mu       sync.Mutex // guards finished and each phase's samples
	finished []Snapshot

	stop    chan struct{} // closed by Close
	stopped chan struct{} // closed when watch has ended
}

// phase is one of the operation's. Its counters only grow.
type phase struct {
	name        string
	total       int64
	begin       time.Time
	done, bytes atomic.Int64
	binds       atomic.Pointer[string]
	samples     []sample // the last window ones; guarded by Progress.mu
	bar         *bar     // nil without a terminal
}

// sample is what a phase had done at a moment.
type sample struct {
	at          time.Time
	done, bytes int64
}

// New returns a Progress that shows bars on out when that is a terminal, and
// logs to log otherwise. Close it to give the terminal back; out may be nil.
func New(out *os.File, log *slog.Logger) *Progress {
	if out != nil && term.IsTerminal(int(out.Fd())) {
		return start(log, newBars(out, false))
	}
	return start(log, nil)
}

// newForced shows bars on anything; for tests.
func newForced(out io.Writer, log *slog.Logger) *Progress { return start(log, newBars(out, true)) }

func start(log *slog.Logger, b *bars) *Progress {
	p := &Progress{log: log, bars: b, stop: make(chan struct{}), stopped: make(chan struct{})}
	go p.watch()
	return p
}

// Start begins a phase of total units (events, objects, whatever the phase
// counts), 0 when that is not known, and ends the one before.
func (p *Progress) Start(name string, total int64) {
	if p == nil {
		return
	}
	p.Done()
	ph := &phase{name: name, total: max(total, 0), begin: time.Now()}
	ph.samples = append(make([]sample, 0, window), sample{at: ph.begin})
	if p.bars != nil {
		ph.bar = p.bars.add(p, ph)
	}
	p.current.Store(ph)
}

// Add says that n more units of the phase are done.
func (p *Progress) Add(n int64) {
	if p == nil {
		return
	}
	if ph := p.current.Load(); ph != nil {
		ph.done.Add(n)
	}
}

// AddBytes says that n more bytes went through, for a rate in bytes.
func (p *Progress) AddBytes(n int64) {
	if p == nil {
		return
	}
	if ph := p.current.Load(); ph != nil {
		ph.bytes.Add(n)
	}
}

// Bind says what the phase waits for most now: "bucket", "disk", "cpu". The
// empty string says that this is not known.
func (p *Progress) Bind(what string) {
	if p == nil {
		return
	}
	if ph := p.current.Load(); ph != nil {
		ph.binds.Store(&what)
	}
}

// Done ends the phase. Without one it does nothing.
func (p *Progress) Done() {
	if p == nil {
		return
	}
	ph := p.current.Swap(nil)
	if ph == nil {
		return
	}
	s := p.snapshot(ph).final()
	p.mu.Lock()
	p.finished = append(p.finished, s)
	p.mu.Unlock()
	if ph.bar != nil {
		ph.bar.complete(ph)
		return
	}
	p.log.Info("done: "+s.Phase, s.attrs()...)
}

// Close ends what is shown; a phase that runs is shown as broken off, not as
// done. The counters of finished phases can still be read.
func (p *Progress) Close() {
	if p == nil {
		return
	}
	select {
	case <-p.stop:
		return
	default:
		close(p.stop)
	}
	<-p.stopped
	if ph := p.current.Swap(nil); ph != nil && ph.bar != nil {
		ph.bar.abort(ph)
	}
	if p.bars != nil {
		p.bars.wait()
	}
}

// watch measures the running phase at each tick, moves its bar, and logs it.
func (p *Progress) watch() {
	defer close(p.stopped)
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	logged := time.Now()
	for {
		select {
		case <-p.stop:
			return
		case <-ticks.C:
		}
		ph := p.current.Load()
		if ph == nil {
			continue
		}
		p.measure(ph)
		switch {
		case ph.bar != nil:
			ph.bar.move(ph)
		case time.Since(logged) >= LogEvery:
			logged = time.Now()
			s := p.snapshot(ph)
			p.log.Info(s.Phase, s.attrs()...)
		}
	}
}

func (p *Progress) measure(ph *phase) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(ph.samples) == window {
		ph.samples = append(ph.samples[:0], ph.samples[1:]...)
	}
	ph.samples = append(ph.samples, sample{time.Now(), ph.done.Load(), ph.bytes.Load()})
}
