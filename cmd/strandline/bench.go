// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/internal/bench"
)

// benchOptions are the flags of `bench serve`.
type benchOptions struct {
	dir, rclone, minio, only, url string
	benchstat                     string
	seconds                       time.Duration
	rounds, clients               int
}

func newBench(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "bench",
		Short:   "Measure",
		Example: "  strandline bench serve",
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBenchServe(g), newBenchRestic(g), newBenchRecover(g), newBenchScale(g), newBenchArchive(g))
	return cmd
}

func newBenchServe(g *globals) *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Measure the server next to rclone serve restic, plain files and the disk",
		Long: `Starts a Strandline server with a directory archive, with --minio one whose
archive is in a MinIO server, rclone serve restic, a baseline that writes, fsyncs
and renames plain files, and for puts one file that is appended to and synced, in
turns and in temporary directories, puts the same load on each, and prints a
table. The last column is the first server's rate as a multiple of that line's.
"At half load beside" says that a load's clients begin half as many operations
as they can beside the other one, which is not in the figures; a latency counts
from the moment when its operation was due. Nothing else should run meanwhile.`,
		Example: "  strandline bench serve\n  strandline bench serve --minio /usr/local/bin/minio\n  strandline bench serve --only 'put 1KiB' --time 10s --dir /mnt/disk --json\n  strandline bench serve --rounds 6 --only 'put' --benchstat new.txt  # then: benchstat old.txt new.txt",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), g, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "", "directory on the disk to measure (default: the system's for temporary files)")
	f.StringVar(&o.rclone, "rclone", "rclone", "rclone program; empty leaves it out")
	f.StringVar(&o.minio, "minio", "", "MinIO program to start for a second server's archive (default: none)")
	f.StringVar(&o.only, "only", "", "regular expression: only the loads whose name matches, like 'put 64KiB'")
	f.StringVar(&o.url, "url", "", "measure this running server instead: http://HOST:PORT/ACCOUNT/MACHINE/, or https://")
	f.StringVar(&o.benchstat, "benchstat", "", "file to write a line for each turn to, as Go's benchmarks do, so that benchstat can compare two runs")
	f.DurationVar(&o.seconds, "time", 3*time.Second, "time for each load, peer and round")
	f.IntVar(&o.clients, "clients", 0, "clients at once, for every load (0: as many as the load's name says)")
	f.IntVar(&o.rounds, "rounds", 2, "how often the peers take turns at each load; even numbers are fair")
	return cmd
}

func (o *benchOptions) run(ctx context.Context, g *globals, out io.Writer) error {
	plan, err := o.plan()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "strandline-bench-")
	if err != nil {
		return fmt.Errorf("make a directory for the measurement: %w", err)
	}
	plan.Dir = dir
	report, err := bench.Run(ctx, plan)
	err = errors.Join(err, os.RemoveAll(dir))
	if err != nil && len(report.Rows) == 0 {
		return err
	}
	report.Version = readVersion().String()
	text := func(w io.Writer) error { return report.WriteTable(w) }
	if err := errors.Join(err, o.writeBenchstat(&report), g.print(out, report, text)); err != nil {
		return err // the rows before it were measured
	}
	if report.Failed() {
		return errors.New("some operations failed: those rows are not results")
	}
	return nil
}

func (o *benchOptions) writeBenchstat(report *bench.Report) error {
	if o.benchstat == "" {
		return nil
	}
	var lines bytes.Buffer
	if err := report.WriteBenchstat(&lines); err != nil {
		return err
	}
	if err := os.WriteFile(o.benchstat, lines.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write for benchstat: %w", err)
	}
	return nil
}

func (o *benchOptions) plan() (bench.Plan, error) {
	if o.seconds <= 0 || o.rounds < 1 || o.clients < 0 {
		return bench.Plan{}, usagef("--time and --rounds must be positive, --clients not negative: write --time 3s --rounds 2 --clients 8")
	}
	only, err := regexp.Compile(o.only)
	if err != nil {
		return bench.Plan{}, usagef("--only %s: not a regular expression: %w", o.only, err)
	}
	plan := bench.Plan{Rounds: o.rounds, Progress: func(text string) { slog.Info(text) }}
	for _, load := range bench.Standard(o.seconds) {
		if !only.MatchString(load.String()) {
			continue
		}
		if o.clients > 0 {
			load.Clients = o.clients
		}
		plan.Loads = append(plan.Loads, load)
	}
	if len(plan.Loads) == 0 {
		return bench.Plan{}, usagef("--only %s matches no load: write something like --only 'put 1KiB'", o.only)
	}
	plan.Peers, err = o.peers()
	return plan, err
}

// peers are Strandline (or the running server), with another archive if one is
// asked for, rclone if it is there, plain files and the disk.
func (o *benchOptions) peers() ([]bench.Peer, error) {
	first, err := o.firstPeer()
	if err != nil {
		return nil, err
	}
	peers := []bench.Peer{first}
	if o.minio != "" {
		other, err := minioPeer(o.minio)
		if err != nil {
			return nil, err
		}
		peers = append(peers, other)
	}
	peers = append(peers, rclonePeers(o.rclone)...)
	return append(peers, bench.Files(), bench.Disk()), nil
}

// rclonePeers is rclone if it is asked for and there.
func rclonePeers(program string) []bench.Peer {
	if program == "" {
		return nil
	}
	path, err := exec.LookPath(program)
	if err != nil {
		slog.Warn("rclone is left out: install it, or name it with --rclone", "error", err)
		return nil
	}
	return []bench.Peer{bench.Rclone(path).Peer()}
}

func (o *benchOptions) firstPeer() (bench.Peer, error) {
	if o.url != "" {
		target, err := bench.ParseTarget(o.url)
		if err != nil {
			return bench.Peer{}, usagef("--url: %w", err)
		}
		return bench.Running("server", target), nil
	}
	return dirPeer()
}

// dirPeer is a server of this program whose archive is a directory.
func dirPeer() (bench.Peer, error) {
	self, err := os.Executable()
	if err != nil {
		return bench.Peer{}, fmt.Errorf("find this program: %w", err)
	}
	return servePeer("strandline", self, nil, dirArchive), nil
}

// minioPeer is one whose archive is in a MinIO server that is started with it.
func minioPeer(program string) (bench.Peer, error) {
	self, err := os.Executable()
	if err != nil {
		return bench.Peer{}, fmt.Errorf("find this program: %w", err)
	}
	return bench.OnMinIO(program, func(archive string, env []string) bench.Peer {
		return servePeer("on MinIO", self, env, func(string) string { return archive })
	}), nil
}

// dirArchive is an archive in a directory beside the state.
func dirArchive(dir string) string { return "dir:" + filepath.Join(dir, "archive") }

// servePeer is a server of this program with the archive that is named for its
// directory.
func servePeer(name, self string, env []string, archive func(dir string) string, flags ...string) bench.Peer {
	return bench.Command{
		Name: name, Env: env,
		Before: func(dir string) []string {
			return []string{self, "init", "--data", filepath.Join(dir, "state"), "--archive", archive(dir)}
		},
		Args: func(dir, addr string) []string {
			return append([]string{self, "serve", "--data", filepath.Join(dir, "state"), "--no-auth", "--listen", addr, "--drill-every", "0"}, flags...)
		},
		AdminFlag: "--admin", Path: "bench/load/",
	}.Peer()
}
