// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"github.com/strandline-project/strandline/internal/durable"
)

// ErrNotNow says that the log could not begin a generation, for a reason that may
// pass: too many open files, a full disk, a missing permission. Nothing of the
// event is in the log, and a later one may be taken.
var ErrNotNow = errors.New("the log can take nothing in now, a retry may succeed")

// preparePause is how long the preparer rests after a failure, unless the writer
// needs the generation before.
const preparePause = time.Second

// prepared is a generation whose directory is ready, or why there is none.
type prepared struct {
	gen *openGeneration
	err error
}

// preparer makes the next generation's directory ahead of its need. Nothing was
// ever written to what it fails to make, so it makes it again, until it can. Its
// fields belong to its goroutine.
type preparer struct {
	l    *Log
	head Head // of the next generation
	half bool // the last try may have left a part of the directory
}

// runPreparer prepares one generation after the other until the writer ends.
func (l *Log) runPreparer() {
	defer l.done.Done()
	p := preparer{l: l, head: l.opts.Head}
	p.head.Ordinal = l.opts.NextOrdinal
	for {
		gen, err := p.prepare()
		p.tell(err)
		if !p.offer(gen, err) {
			return
		}
		if err == nil {
			p.head.Ordinal++
		}
	}
}

// prepare makes the directory. A crash within it, or a failure, leaves a directory
// without an event: the next try, or the next start, removes it.
func (p *preparer) prepare() (*openGeneration, error) {
	if p.half {
		dir := filepath.Join(p.l.opts.Dir, generationName(p.head.Ordinal, 0))
		if err := durable.RemoveAll(dir); err != nil {
			return nil, fmt.Errorf("removing the half made %s: %w", dir, err)
		}
	}
	gen, err := newGeneration(p.l.opts.Dir, p.head, 0, p.l.opts.files)
	p.half = err != nil && (p.half || !errors.Is(err, fs.ErrExist)) // what was there before is not ours to remove
	return gen, err
}

// offer hands the generation, or why there is none, to the writer. What could not
// be made is offered for a while, and then tried again. It returns false when the
// writer has ended.
func (p *preparer) offer(gen *openGeneration, err error) bool {
	var again <-chan time.Time
	if err != nil {
		timer := time.NewTimer(preparePause)
		defer timer.Stop()
		again = timer.C
	}
	select {
	case p.l.prepared <- prepared{gen, err}:
	case <-again:
	case <-p.l.stop:
		if err == nil {
			p.l.discard(gen)
		}
		return false
	}
	return true
}

// tell remembers why the next generation cannot be prepared, for the status, and
// says so once, and once that it is over.
func (p *preparer) tell(err error) {
	before := p.l.unprepared.Load()
	switch {
	case err == nil && before != nil:
		p.l.unprepared.Store(nil)
		p.l.opts.Logger.Info("the next generation of the log is prepared again", "ordinal", p.head.Ordinal)
	case err != nil:
		p.l.unprepared.Store(&err)
		if before == nil {
			p.l.opts.Logger.Error("the next generation of the log cannot be prepared; trying again, and refusing events that need it meanwhile", "ordinal", p.head.Ordinal, "error", err)
		}
	}
}

// Unprepared returns why the next generation cannot be prepared, nil while it can.
// It takes no lock.
func (l *Log) Unprepared() error {
	if err := l.unprepared.Load(); err != nil {
		return *err
	}
	return nil
}

// notNow makes err, for which no generation could be begun, what the events get
// that needed it: ErrDiskFull when the disk is full and nothing of it can drain,
// else ErrNotNow.
func (l *Log) notNow(err error) error {
	waiting, _ := l.Backlog()
	if waiting == 0 && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) {
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return fmt.Errorf("%w: %w", ErrNotNow, err)
}

// discard removes a prepared generation that nobody took. Should it stay, the
// next start removes it.
func (l *Log) discard(gen *openGeneration) {
	err := errors.Join(gen.abandon(), gen.remove())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leftover = errors.Join(l.leftover, err)
}
