// SPDX-License-Identifier: Apache-2.0

// Package progress tells people how far a long operation is: which phase it
// is in, what is done of how much, how fast, how long it will take, and what
// binds it now. On a terminal it shows a bar for each phase, elsewhere it logs
// a line every ten seconds, and always it answers Snapshot, for status and
// metrics, and tells the service manager. What binds it finds by measuring the
// processor, the disk and the store, see Explain. It is the only importer of
// mpb.
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
	// tellEvery is how often the service manager is told.
	tellEvery = 5 * time.Second
	window    = 21 // samples that a rate is measured over, ten seconds from first to last
)

// Progress follows one operation through its phases, one at a time. Add, Expect,
// AddBytes and Bind may be called by any goroutine, and so may Snapshot and
// Phases; Start, Done and Close belong to whoever runs the phases. Every
// method does nothing on nil.
type Progress struct {
	log     *slog.Logger
	bars    *bars // nil without a terminal
	current atomic.Pointer[phase]
	reading func() Reading // nil: what binds is not found by itself; set before the first phase
	disk    string         // a directory on the volume that is written to

	elsewhere bool // another process works; set before the first phase

	mu        sync.Mutex // guards what follows, and each phase's samples
	finished  []Snapshot
	diskSpeed float64 // bytes a second in all; 0: not known
	probing   bool    // the disk is, or was, tried
	tried     bool    // that is over: diskSpeed is what it stays
	probes    sync.WaitGroup

	stop    chan struct{} // closed by Close
	stopped chan struct{} // closed when watch has ended
}

// phase is one of the operation's. Its counters only grow.
type phase struct {
	name        string
	total       atomic.Int64
	begin       time.Time
	done, bytes atomic.Int64
	events      atomic.Int64
	wait        wait                    // for what is read
	ahead       atomic.Pointer[float64] // see Ahead; nil: nothing is known to come
	binds       atomic.Pointer[string]
	ended       atomic.Pointer[Snapshot] // nil while it runs
	base        uint64                   // bytes that had been read from the store before
	first       sample
	samples     []sample // the last window ones; guarded by Progress.mu
	advised     string   // what the terminal was told to do; owned by watch
	bar         *bar     // nil without a terminal
}

// sample is what a phase had done at a moment.
type sample struct {
	at                  time.Time
	done, bytes, events int64
	waited, waiting     time.Duration // in all, and since when now
	usage
	reading Reading
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
	ph := &phase{name: name, begin: time.Now()}
	ph.total.Store(max(total, 0))
	if p.reading != nil {
		ph.base = p.reading().Bytes
	}
	ph.first = p.sample(ph)
	ph.samples = append(make([]sample, 0, window), ph.first)
	if p.bars != nil {
		ph.bar = p.bars.add(p, ph)
	} else {
		p.log.Info("begins: " + name)
	}
	p.current.Store(ph)
	p.tell(ph)
}

// sample takes what ph has done until now.
func (p *Progress) sample(ph *phase) sample {
	s := sample{at: time.Now(), done: ph.done.Load(), bytes: ph.bytes.Load(), events: ph.events.Load()}
	if p.reading != nil {
		s.reading = p.reading()
		if !p.elsewhere {
			s.usage = measureUsage()
		}
		s.waited, s.waiting = ph.wait.until(s.at)
		s.bytes += int64(s.reading.Bytes - ph.base)
	}
	return s
}

// tell tells the service manager how far ph is, and that it is worth waiting.
func (p *Progress) tell(ph *phase) {
	if err := Notify("STATUS=" + p.snapshot(ph).String() + "\n" + Extension); err != nil {
		p.log.Debug("the service manager is not told", "err", err)
	}
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

// Expect says that the phase will have n more units than it was known to.
func (p *Progress) Expect(n int64) {
	if p == nil {
		return
	}
	if ph := p.current.Load(); ph != nil {
		ph.total.Add(n)
	}
}

// Ahead says that other phases come behind this one, which take about times the
// processor time that all of this one takes, spread over all cores: so the end
// of all can be told.
func (p *Progress) Ahead(times float64) {
	if p == nil {
		return
	}
	if ph := p.current.Load(); ph != nil {
		ph.ahead.Store(&times)
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

// AddEvents says that n more events went through, where the phase counts
// something else.
func (p *Progress) AddEvents(n int) {
	if p == nil {
		return
	}
	if ph := p.current.Load(); ph != nil {
		ph.events.Add(int64(n))
	}
}

// Bind says what the phase waits for most now: "bucket", "disk", "cpu". The
// empty string says that this is not known. It overrides what Explain finds.
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
	s := p.final(ph)
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
	p.probes.Wait()
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
	logged, told := time.Now(), time.Now()
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
		if time.Since(told) >= tellEvery {
			told = time.Now()
			p.tell(ph)
		}
		switch {
		case ph.bar != nil:
			ph.bar.move(ph)
			p.advise(ph)
		case time.Since(logged) >= LogEvery:
			logged = time.Now()
			s := p.snapshot(ph)
			p.log.Info(s.Phase, s.attrs()...)
		}
	}
}

func (p *Progress) measure(ph *phase) {
	taken := p.sample(ph)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(ph.samples) == window {
		ph.samples = append(ph.samples[:0], ph.samples[1:]...)
	}
	ph.samples = append(ph.samples, taken)
	if s := p.shares(&ph.samples[0], &taken); !p.probing && s.binds() == "disk" && p.disk != "" {
		p.probing = true
		p.probes.Go(func() { p.probe(s.written) })
	}
}

// probe finds out how much the disk can write in all: what it takes now, and
// what it takes beside that.
func (p *Progress) probe(now float64) {
	beside, err := probeDisk(p.disk)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tried = true
	if err != nil {
		p.log.Debug("how fast the disk is is not known", "err", err)
		return
	}
	p.diskSpeed = now + beside
}

// advise says above the bars what would help, each advice once. Of the disk it
// says nothing before the disk was tried: the figure that helps would not be
// said any more.
func (p *Progress) advise(ph *phase) {
	p.mu.Lock()
	early := p.disk != "" && !p.tried
	p.mu.Unlock()
	s := p.snapshot(ph)
	if s.Advice == "" || s.Binds == ph.advised || s.Binds == "disk" && early {
		return
	}
	ph.advised = s.Binds
	p.bars.say(s.Advice)
}
