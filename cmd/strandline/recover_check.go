// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

// checkResult is what recover --check-all prints.
type checkResult struct {
	Archive    string           `json:"archive"`
	Last       eventlog.Seq     `json:"last_seq"`
	Events     uint64           `json:"events"`
	Violations []foundViolation `json:"violations"`
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

// explained is of how many violations it is told what later events say: to
// know that, the log is read on from each.
const explained = 20

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
	result := checkResult{Archive: bucket.String(), Violations: []foundViolation{}}
	var violations []*projector.Violation
	var mu sync.Mutex
	bar := newBar(bucket, scratch)
	defer bar.Close()
	defer obeyBounds(ctx, filepath.Join(scratch, boundsName), bucket)()
	defer (&recovering{
		cfg: cfg, logID: archive.LogID(), bucket: bucket, progress: bar, started: time.Now(),
		dir: scratch, reason: "every event of the archive is checked against the rules; nothing of it is kept",
	}).serve()()
	built, err := recovery.Run(ctx, recovery.Options{
		Archive: archive, Engine: kv.OnDisk(slog.Default()), Dir: filepath.Join(scratch, "views"), Scratch: filepath.Join(scratch, "runs"), Progress: bar,
		Room: asked.roomAt(scratch, "--scratch"),
		Tolerate: func(v *projector.Violation) bool {
			mu.Lock()
			defer mu.Unlock()
			violations = append(violations, v)
			return true
		},
	})
	if err != nil {
		return fmt.Errorf("checking %v: %w", bucket, err)
	}
	result.Last, result.Events = built.Last, built.Events
	slices.SortFunc(violations, func(a, b *projector.Violation) int {
		return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.View, b.View))
	})
	places := recovery.PlacesOf(archive)
	for i, v := range violations {
		if i < explained {
			v.Explain(ctx, archive)
		}
		result.Violations = append(result.Violations, foundViolation{v.Rule.String(), v.Seq, v.View, v.Error() + places.Of(ctx, v), fmt.Sprintf("%s@%s", v.Rule, v.Seq)})
	}
	bar.Close()
	if err := g.print(out, result, func(w io.Writer) error { return result.print(w) }); err != nil {
		return err
	}
	if n := len(result.Violations); n > 0 {
		return withCode(exitDamage, fmt.Errorf("%d events of %v break a rule", n, bucket))
	}
	return nil
}

func (r *checkResult) print(w io.Writer) error {
	for _, v := range r.Violations {
		fmt.Fprintf(w, "%s\n  to go on past it: --waive %s\n", v.Detail, v.Waive)
	}
	_, err := fmt.Fprintf(w, "%d events of %s up to %s checked, %d break a rule\n", r.Events, r.Archive, r.Last, len(r.Violations))
	return err
}
