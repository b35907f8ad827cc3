// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/strandline-project/strandline/internal/bench"
	"github.com/strandline-project/strandline/projector/kv"
)

// measurement is a run of a benchmark that writes archives, recovers from them
// and serves them, each time in a process of its own of this program.
type measurement struct {
	dir   string // on the disk to measure
	minio string // program; "": directory archives

	self    string       // this program
	scratch string       // below dir; removed at the end
	store   *bench.Store // nil: directory archives
	figures figures
}

func (m *measurement) bind(flags *pflag.FlagSet, minio string) {
	flags.StringVar(&m.minio, "minio", "", minio)
	flags.StringVar(&m.dir, "dir", "", "directory on the disk to measure (default: the system's for temporary files)")
}

// run calls measure, and prints the figures there are, after an error, too.
func (m *measurement) run(ctx context.Context, g *globals, out io.Writer, measure func(context.Context) error) error {
	err := m.within(ctx, measure)
	return errors.Join(err, g.print(out, m.figures, m.figures.print))
}

// within calls measure with a scratch directory.
func (m *measurement) within(ctx context.Context, measure func(context.Context) error) (err error) {
	if m.self, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if m.scratch, err = os.MkdirTemp(m.dir, "strandline-bench-"); err != nil {
		return fmt.Errorf("make a directory for the measurement: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(m.scratch)) }()
	defer func() {
		if m.store != nil {
			err = errors.Join(err, m.store.Stop())
		}
	}()
	return measure(ctx)
}

// startStore starts MinIO if its program is known. From then on archives are
// in it. It may be called again.
func (m *measurement) startStore(ctx context.Context) (err error) {
	if m.minio == "" || m.store != nil {
		return nil
	}
	data := filepath.Join(m.scratch, "minio")
	if err := os.MkdirAll(filepath.Join(data, "bench"), 0o700); err != nil { // MinIO takes a folder for a bucket
		return fmt.Errorf("make a bucket: %w", err)
	}
	if m.store, err = bench.StartMinIO(ctx, m.minio, data, filepath.Join(m.scratch, "minio.log")); err != nil {
		return err
	}
	for _, setting := range m.store.Env { // of this process and of those that it starts
		name, value, _ := strings.Cut(setting, "=")
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("set MinIO's credentials: %w", err)
		}
	}
	return nil
}

// spec names the archive called name.
func (m *measurement) spec(name string) string {
	if m.store == nil {
		return "dir:" + m.path("archive-"+name)
	}
	return "s3://bench/" + name + "?endpoint=" + m.store.Endpoint
}

// path is that of a state directory or of whatever else lies in scratch.
func (m *measurement) path(name string) string { return filepath.Join(m.scratch, name) }

// remove removes what is left of a state directory and of its archive in a
// directory.
func (m *measurement) remove(name string) error {
	return errors.Join(os.RemoveAll(m.path(name)), os.RemoveAll(m.path("archive-"+name)))
}

// objectsOf is how many objects events lie in that a server stored at 1,000
// blocks a second.
func objectsOf(events int) int { return 1 + events/5000 }

// fill writes a synthetic archive, and returns its spec.
func (m *measurement) fill(ctx context.Context, name string, archive *bench.Archive) (string, error) {
	spec := m.spec(name)
	bucket, err := openBucket(spec, true)
	if err != nil {
		return "", err
	}
	began := time.Now()
	archive.Engine, archive.Scratch = kv.OnDisk(slog.Default()), m.path("fill-"+name)
	if _, err := archive.Write(ctx, bucket, spec, nil); err != nil {
		return "", fmt.Errorf("write the archive: %w", err)
	}
	slog.Info("the archive is written", "events", archive.Events, "objects", archive.Objects, "metadata_bytes", archive.Metadata, "seconds", time.Since(began).Seconds())
	return spec, os.RemoveAll(archive.Scratch)
}

// initialise makes an empty archive, and a state directory for it.
func (m *measurement) initialise(ctx context.Context, name, spec string) error {
	_, err := m.command(ctx, "init", "--data", m.path(name), "--archive", spec)
	return err
}

// recover runs `strandline recover` into a new directory of that name.
func (m *measurement) recover(ctx context.Context, name, spec string, flags ...string) (*recoverResult, error) {
	text, err := m.command(ctx, append([]string{"recover", "--json", "--data", m.path(name), "--archive", spec}, flags...)...)
	if err != nil {
		return nil, err
	}
	var r recoverResult
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("strandline recover: %w", err)
	}
	return &r, nil
}

// command runs this program to its end, and returns what it printed.
func (m *measurement) command(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, m.self, args...)
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("strandline %s: %w", args[0], err)
	}
	return text, nil
}

// load measures a load with each of the peers, in turns.
func (m *measurement) load(ctx context.Context, load bench.Load, rounds int, peers ...bench.Peer) ([]bench.Result, error) {
	report, err := bench.Run(ctx, bench.Plan{
		Peers: peers, Loads: []bench.Load{load}, Rounds: rounds, Dir: m.scratch, Progress: func(text string) { slog.Info(text) },
	})
	if err != nil {
		return nil, err
	}
	for i, result := range report.Rows[0].Results {
		if result.Errors > 0 {
			return nil, fmt.Errorf("%s with %s: %d operations failed, so that nothing is known; the first: %s", load, peers[i].Name, result.Errors, result.FirstError)
		}
	}
	return report.Rows[0].Results, nil
}
