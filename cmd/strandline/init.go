// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
)

func newInit(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a new log: a state directory and its archive",
		Long: `Makes the state directory --data and the archive --archive of a new log. The
archive begins with the claim of epoch 1 and the log's first two events, so it
is never empty. A directory archive is made if it is missing; a bucket must
exist. If init was interrupted, the same command again goes on where it stopped.

Credentials for S3 come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the
files named by the same variables with _FILE, or ~/.aws/credentials.`,
		Example: "  strandline init --data /var/lib/strandline --archive dir:/mnt/backup/strandline\n" +
			"  strandline init --data /var/lib/strandline --archive 's3://backups/strandline?endpoint=http://127.0.0.1:9000'",
	}
	load := bindConfig(cmd, "data", "archive", "single-writer")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load.load()
		if err != nil {
			return err
		}
		return runInit(cmd.Context(), g, &cfg, cmd.OutOrStdout())
	}
	return cmd
}

// initTimeout bounds an init whose store does not answer. Interrupted, it goes
// on when it is run again.
const initTimeout = 2 * time.Minute

// initResult is what init prints.
type initResult struct {
	LogID   eventlog.ID `json:"log_id"`
	Data    string      `json:"data"`
	Archive string      `json:"archive"`
}

func runInit(ctx context.Context, g *globals, cfg *Config, out io.Writer) (err error) {
	if err := cfg.resolve(); err != nil {
		return err
	}
	bucket, err := openBucket(cfg.Archive, true)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	dir, err := resume(cfg)
	if err != nil {
		return err
	}
	defer func() {
		if dir != nil {
			err = errors.Join(err, dir.Close())
		}
	}()
	// Whose the archive is comes before anything is written: to it, or to a
	// directory that would belong to it.
	if err := archiver.CheckVacant(ctx, bucket, logOf(dir)); err != nil {
		return err
	}
	if !cfg.SingleWriter {
		if err := probeBefore(ctx, bucket); err != nil {
			return err
		}
	}
	if dir == nil {
		dir, err = archiver.CreateStateDir(cfg.Data, archiver.State{
			LogID: archiver.NewID(), DirID: archiver.NewID(), Archive: cfg.Archive, SingleWriter: cfg.SingleWriter, Phase: archiver.PhaseInitialising,
		})
		if err != nil {
			return err
		}
	}
	if err := archiver.Initialise(ctx, dir, exclusive(bucket, cfg.SingleWriter), hostname(), time.Now()); err != nil {
		return err
	}
	warnAbout(ctx, bucket, cfg.Data)
	result := initResult{LogID: dir.State().LogID, Data: cfg.Data, Archive: dir.State().Archive}
	return g.print(out, result, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "log %s\nstate directory %s\narchive %s\n\nNow: strandline serve --data %s --no-auth\n",
			result.LogID, result.Data, result.Archive, result.Data)
		return err
	})
}

// resume opens the state directory that an earlier init began; nil: there is
// none.
func resume(cfg *Config) (*archiver.StateDir, error) {
	dir, err := archiver.OpenStateDir(cfg.Data)
	if errors.Is(err, archiver.ErrNoState) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if had := dir.State().Archive; had != cfg.Archive {
		err := withCode(exitUsage, fmt.Errorf("%s is the state directory of a log whose archive is %s; name that one, or a new directory", cfg.Data, had))
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// logOf is the log of a state directory, the zero id when there is none yet.
func logOf(dir *archiver.StateDir) eventlog.ID {
	if dir == nil {
		return eventlog.ID{}
	}
	return dir.State().LogID
}
