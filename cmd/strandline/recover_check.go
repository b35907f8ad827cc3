// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

// checkResult is what recover --check-all prints. The violations come last,
// one by one: there may be one of every event.
type checkResult struct {
	Archive string       `json:"archive"`
	Last    eventlog.Seq `json:"last_seq"`
	Events  uint64       `json:"events"`
	// Cut is of how many violations not all later events were looked at.
	Cut uint64 `json:"later_events_cut,omitempty"`

	violations *spill[foundViolation]
}

// foundViolation is one event that breaks a rule. Waive is what recover's
// --waive would have to say.
type foundViolation struct {
	Rule   string       `json:"rule"`
	Seq    eventlog.Seq `json:"seq"`
	View   string       `json:"view"`
	Detail string       `json:"detail"`
	Waive  string       `json:"waive"`
}

// explainedAtOnce is of how many violations later events are looked for at
// once, which bounds the memory of that at about 100 MiB.
const explainedAtOnce = 1 << 16

// checkAll projects the whole archive into a temporary directory, past every
// violation.
func checkAll(ctx context.Context, g *globals, cfg *Config, asked *recoverFlags, out io.Writer) (err error) {
	bucket, archive, err := openForRecovery(ctx, cfg.Archive, &asked.concurrency)
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(asked.scratch, "strandline-check-")
	if err != nil {
		return fmt.Errorf("make a directory to check in: %w; write --scratch DIR", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	bar := newBar(bucket, scratch)
	defer bar.Close()
	tellBounds(filepath.Join(scratch, boundsName))
	defer obeyBounds(ctx, filepath.Join(scratch, boundsName), bucket)()
	defer (&recovering{
		cfg: cfg, logID: archive.LogID(), bucket: bucket, progress: bar, started: time.Now(),
		dir: scratch, reason: "every event of the archive is checked against the rules; nothing of it is kept",
	}).serve()()
	found := &found{dir: scratch, views: map[string]*spill[projector.Violation]{}}
	defer func() { err = errors.Join(err, found.close()) }()
	built, err := recovery.Run(ctx, recovery.Options{
		Archive: archive, Engine: kv.OnDisk(slog.Default()), Dir: filepath.Join(scratch, "views"), Scratch: filepath.Join(scratch, "runs"), Progress: bar,
		Room: asked.roomAt(scratch, "--scratch"), Tolerate: found.tolerate,
	})
	if err = cmp.Or(found.err, err); err != nil {
		return fmt.Errorf("checking %v: %w", bucket, err)
	}
	result := checkResult{Archive: bucket.String(), Last: built.Last, Events: built.Events}
	if result.violations, err = newSpill[foundViolation](filepath.Join(scratch, "told")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, result.violations.close()) }()
	if len(found.views) > 0 {
		if err := result.explain(ctx, archive, found, bar); err != nil {
			return fmt.Errorf("checking %v: %w", bucket, err)
		}
	}
	bar.Close()
	if err := result.print(out, g.json); err != nil {
		return err
	}
	if n := result.violations.len; n > 0 {
		return withCode(exitDamage, fmt.Errorf("%d events of %v break a rule", n, bucket))
	}
	return nil
}

// explain adds to what was found what later events say of it: the archive is
// read once more, from the first violation on.
func (r *checkResult) explain(ctx context.Context, archive *archiver.Archive, found *found, bar *progress.Progress) error {
	bar.Start("look for later events (batches)", 0)
	defer bar.Done()
	places := recovery.PlacesOf(archive)
	later := recovery.Counted(recovery.UpTo(archive, r.Last), bar, nil)
	return projector.ExplainAll(ctx, later, found.all(), explainedAtOnce, func(v *projector.Violation, cut bool) error {
		if cut {
			r.Cut++
		}
		return r.violations.add(&foundViolation{v.Rule.String(), v.Seq, v.View, v.Error() + places.Of(ctx, v), fmt.Sprintf("%s@%s", v.Rule, v.Seq)})
	})
}

func (r *checkResult) print(w io.Writer, asJSON bool) error {
	out := bufio.NewWriter(w)
	p := &printer{w: out}
	if asJSON {
		r.printJSON(p)
	} else {
		r.printText(p)
	}
	if p.err != nil {
		return fmt.Errorf("print the result: %w", p.err)
	}
	return out.Flush()
}

func (r *checkResult) printText(p *printer) {
	for v, err := range r.violations.all() {
		if err != nil {
			p.err = cmp.Or(p.err, err)
			return
		}
		p.say("%s\n  to go on past it: --waive %s\n", v.Detail, v.Waive)
	}
	p.say("%d events of %s up to %s checked, %d break a rule\n", r.Events, r.Archive, r.Last, r.violations.len)
	if r.Cut > 0 {
		p.say("note: of %d of them not all later events were looked at, as each says: that is done for %d at once, which bounds the memory\n", r.Cut, explainedAtOnce)
	}
}

// printJSON prints r as one object, as globals.print would if it had all of it
// in memory.
func (r *checkResult) printJSON(p *printer) {
	head, err := json.MarshalIndent(r, "", "  ")
	p.err = cmp.Or(p.err, err)
	p.say("%s,\n  \"violations\": [", bytes.TrimSuffix(head, []byte("\n}")))
	between := "\n    "
	for v, err := range r.violations.all() {
		var line []byte
		if err == nil {
			line, err = json.MarshalIndent(v, "    ", "  ")
		}
		p.err = cmp.Or(p.err, err)
		p.say("%s%s", between, line)
		between = ",\n    "
	}
	if r.violations.len > 0 {
		p.say("\n  ")
	}
	p.say("]\n}\n")
}

// found are an archive's violations, of each view by itself: it finds them in
// the order of the log.
type found struct {
	dir   string
	mu    sync.Mutex
	views map[string]*spill[projector.Violation] // owned by mu
	err   error                                  // owned by mu; why something found was not kept
}

// tolerate keeps what a view finds. What cannot be kept stops the view.
func (f *found) tolerate(v *projector.Violation) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.views[v.View], error(nil)
	if s == nil {
		if s, err = newSpill[projector.Violation](filepath.Join(f.dir, "found-"+v.View)); err == nil {
			f.views[v.View] = s
		}
	}
	if err == nil {
		kept := *v
		kept.Err = nil // its words are in the detail
		err = s.add(&kept)
	}
	f.err = cmp.Or(f.err, err)
	return err == nil
}

// all yields what was found, by the seqs, those of one by the views' names. To
// be called when nothing more is found.
func (f *found) all() iter.Seq2[*projector.Violation, error] {
	type head struct {
		v    *projector.Violation // nil: to be read
		next func() (*projector.Violation, error, bool)
	}
	return func(yield func(*projector.Violation, error) bool) {
		var heads []*head
		for _, name := range slices.Sorted(maps.Keys(f.views)) {
			next, stop := iter.Pull2(f.views[name].all())
			defer stop()
			heads = append(heads, &head{next: next})
		}
		for {
			var first *head
			for _, h := range heads {
				if h.v == nil {
					var err error
					if h.v, err, _ = h.next(); err != nil {
						yield(nil, err)
						return
					}
				}
				if h.v != nil && (first == nil || h.v.Seq < first.v.Seq) {
					first = h
				}
			}
			if first == nil || !yield(first.v, nil) {
				return
			}
			first.v = nil
		}
	}
}

func (f *found) close() (err error) {
	for _, s := range f.views {
		err = errors.Join(err, s.close())
	}
	return err
}
