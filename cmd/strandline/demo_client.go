// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/strandline-project/strandline/internal/plainclient"
)

// demoClient is the backup program of the demo.
type demoClient interface {
	fmt.Stringer
	// backup makes the path ready if need be and backs up dir.
	backup(ctx context.Context, dir string) (detail string, err error)
	// restore writes the latest backup of dir to target.
	restore(ctx context.Context, dir, target string) (detail string, err error)
}

// newDemoClient returns restic or the built-in client; name may be empty.
func newDemoClient(name, url, scratch string) (demoClient, error) {
	path, err := exec.LookPath("restic")
	switch {
	case name == "restic" && err != nil:
		return nil, usagef("--client restic: %w; install restic, or write --client builtin", err)
	case name == "restic", name == "" && err == nil:
		return &resticClient{path: path, url: url, scratch: scratch, password: rand.Text()}, nil
	case name == "", name == "builtin":
		client, err := plainclient.New(url, plainclient.Options{})
		return &builtinClient{client}, err
	}
	return nil, usagef("--client %s: write --client restic or --client builtin", name)
}

// builtinClient is the plain client inside this program.
type builtinClient struct{ client *plainclient.Client }

func (c *builtinClient) String() string { return "the built-in client" }

func (c *builtinClient) backup(ctx context.Context, dir string) (string, error) {
	if err := c.client.Init(ctx); err != nil {
		return "", err
	}
	summary, err := c.client.Backup(ctx, dir)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d files, %.1f MiB; %d blocks stored", summary.Snapshot.Files, mib(summary.Snapshot.Bytes), summary.StoredBlocks), nil
}

func (c *builtinClient) restore(ctx context.Context, _, target string) (string, error) {
	return "", c.client.Restore(ctx, "latest", target)
}

// resticClient is the real one.
type resticClient struct {
	path, url, scratch, password string
	ready                        bool // the repository was initialised
}

func (c *resticClient) String() string { return "restic" }

func (c *resticClient) backup(ctx context.Context, dir string) (string, error) {
	if !c.ready {
		if _, err := c.run(ctx, dir, "init"); err != nil {
			return "", err
		}
		c.ready = true
	}
	out, err := c.run(ctx, dir, "backup", ".")
	if err != nil {
		return "", err
	}
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return string(lines[len(lines)-1]), nil // "snapshot 529463d6 saved"
}

func (c *resticClient) restore(ctx context.Context, dir, target string) (string, error) {
	// The server lost its last seconds, so it may have barred this machine from
	// taking a lock; reading needs none.
	_, err := c.run(ctx, dir, "restore", "latest", "--no-lock", "--target", target)
	return "", err
}

func (c *resticClient) run(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.path, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Env = append(os.Environ(), "RESTIC_REPOSITORY=rest:"+c.url, "RESTIC_PASSWORD="+c.password, "RESTIC_CACHE_DIR="+filepath.Join(c.scratch, "restic-cache"))
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("restic %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// runningBackup is a backup under way.
type runningBackup struct {
	done   chan struct{}
	detail string
	err    error
}

func beginBackup(ctx context.Context, client demoClient, dir string) *runningBackup {
	b := &runningBackup{done: make(chan struct{})}
	go func() {
		defer close(b.done)
		b.detail, b.err = client.backup(ctx, dir)
	}()
	return b
}

func (b *runningBackup) ended() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

func (b *runningBackup) wait() (string, error) {
	<-b.done
	return b.detail, b.err
}
