// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/internal/bench"
)

// resticBench are the flags of `bench restic`.
type resticBench struct {
	dir, restic, rclone, minio, until string
	smallFiles, rounds                int
	smallBytes, largeBytes            Size
	seed                              uint64
}

func newBenchRestic(g *globals) *cobra.Command {
	b := resticBench{smallBytes: 270e6, largeBytes: 2e9}
	cmd := &cobra.Command{
		Use:   "restic",
		Short: "Measure whole backups and restores next to rclone serve restic and MinIO",
		Long: `Lets stock restic back up a tree of small files and some large ones, restore
both, check every byte, back up the tree again with a third of its files
changed, and forget the first backup of it and prune all that nothing uses any
more (--max-unused 0): with a Strandline server whose archive is a directory,
next to rclone serve restic, and with --minio with one whose archive is in a
MinIO server, next to restic straight to MinIO. They take turns, each with a
fresh server, repository and cache, and what is restored must be what was backed
up.

The table shows how long restic took, CPU time and peak memory of the processes,
what servers and MinIO wrote to disk, requests and bytes as MinIO counted them
(of a directory archive, the server's own requests), and what was not yet
archived when restic had ended. The last column is a peer's time as a multiple
of that of the Strandline server beside it: above 1, Strandline is quicker.
It needs about four times the bytes on the disk. Nothing else should run
meanwhile.`,
		Example: `  strandline bench restic
  strandline bench restic --minio /usr/local/bin/minio --dir /mnt/disk
  strandline bench restic --small-files 1000 --small-bytes 20MB --large-bytes 100MB --rounds 4 --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return b.run(cmd.Context(), g, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&b.dir, "dir", "", "directory on the disk to measure (default: the system's for temporary files)")
	f.StringVar(&b.restic, "restic", "restic", "restic program")
	f.StringVar(&b.rclone, "rclone", "rclone", "rclone program; empty leaves it out")
	f.StringVar(&b.minio, "minio", "", "MinIO program to start for a second server's archive, and for restic alone (default: neither)")
	f.IntVar(&b.smallFiles, "small-files", 15_000, "files in the tree of small files")
	f.Var(&b.smallBytes, "small-bytes", "bytes of all small files")
	f.Var(&b.largeBytes, "large-bytes", "bytes of all large files")
	f.Uint64Var(&b.seed, "seed", 1, "the same seed makes the same files")
	f.StringVar(&b.until, "until", "", "last step to do, like 'restore large' (default: all)")
	f.IntVar(&b.rounds, "rounds", 2, "how often the peers take turns; even numbers are fair")
	return cmd
}

func (b *resticBench) run(ctx context.Context, g *globals, out io.Writer) error {
	plan, err := b.plan()
	if err != nil {
		return err
	}
	if plan.Dir, err = os.MkdirTemp(b.dir, "strandline-bench-"); err != nil {
		return fmt.Errorf("make a directory for the measurement: %w", err)
	}
	report, err := bench.RunRestic(ctx, plan)
	if err = errors.Join(err, os.RemoveAll(plan.Dir)); err != nil && len(report.Rows) == 0 {
		return err
	}
	return errors.Join(err, g.print(out, report, report.WriteTable)) // what was measured before an error counts
}

func (b *resticBench) plan() (plan bench.ResticPlan, err error) {
	if b.smallFiles < 1 || b.smallBytes < 1 || b.largeBytes < 1 || b.rounds < 1 {
		return plan, usagef("files, bytes and rounds must be positive: write --small-files 15000 --small-bytes 270MB --large-bytes 2GB --rounds 2")
	}
	if steps := bench.ResticSteps(); b.until != "" && !slices.Contains(steps, b.until) {
		return plan, usagef("--until %s: no such step: write one of '%s'", b.until, strings.Join(steps, "', '"))
	}
	plan = bench.ResticPlan{
		Until: b.until, Rounds: b.rounds, Progress: func(text string) { slog.Info(text) },
		Source: bench.Source{SmallFiles: b.smallFiles, SmallBytes: int64(b.smallBytes), LargeBytes: int64(b.largeBytes), Seed: b.seed},
	}
	if plan.Program, err = exec.LookPath(b.restic); err != nil {
		return plan, usagef("--restic %s: %w: install restic, or name it", b.restic, err)
	}
	plan.Peers, plan.Beside, err = b.peers()
	return plan, err
}

// peers are Strandline, and next to it rclone if it is there; and, if MinIO is
// asked for, Strandline on it and next to that restic straight to it. A peer's
// name leads to that of the server it is compared with.
func (b *resticBench) peers() (peers []bench.Peer, beside map[string]string, err error) {
	local, err := dirPeer()
	if err != nil {
		return nil, nil, err
	}
	beside = map[string]string{}
	peers = append([]bench.Peer{local}, rclonePeers(b.rclone)...)
	for _, p := range peers[1:] {
		beside[p.Name] = local.Name
	}
	if b.minio == "" {
		return peers, beside, nil
	}
	remote, err := minioPeer(b.minio)
	if err != nil {
		return nil, nil, err
	}
	straight := bench.ResticOnMinIO(b.minio)
	beside[straight.Name] = remote.Name
	return append(peers, remote, straight), beside, nil
}
