// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/httpapi"
)

func newDemo(g *globals) *cobra.Command {
	var dir, client string
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch a server die and come back, in about a minute",
		Long: `In a temporary directory, with a directory as the archive: starts a server, backs
up a copy of --dir (at most 256 MiB of it), kills the server in the middle of a
second backup, starts it again, kills it once more and deletes its whole state
directory, recovers from the archive alone, compares the digests of both views,
restores, and compares the files byte by byte. Each step is printed with its
time. restic is the client if it is on PATH, else a small built-in one.`,
		Example: "  strandline demo\n  strandline demo --dir ~/Documents --client builtin",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &demo{source: dir, keep: keep, out: cmd.OutOrStdout(), quiet: g.json}
			if err := d.setUp(client); err != nil {
				return err
			}
			if err := errors.Join(d.run(cmd.Context()), d.tearDown()); err != nil {
				return err
			}
			return g.print(cmd.OutOrStdout(), d.steps, d.printEnd)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "directory to back up; a copy of it is used")
	cmd.Flags().StringVar(&client, "client", "", "restic or builtin (default: restic if it is on PATH)")
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the temporary directory")
	return cmd
}

// demoStep is one line of what demo prints.
type demoStep struct {
	What    string  `json:"step"`
	Detail  string  `json:"detail,omitempty"`
	Seconds float64 `json:"seconds"`
}

// demo is one run: the real program, in processes of their own.
type demo struct {
	source string
	keep   bool
	out    io.Writer
	quiet  bool // steps are printed at the end, as JSON

	self   string // this program
	dir    string // everything is below
	client demoClient
	listen string
	admin  string
	server *exec.Cmd
	log    *os.File
	steps  []demoStep
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

func (d *demo) setUp(client string) (err error) {
	if d.self, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if d.dir, err = os.MkdirTemp("", "strandline-demo-"); err != nil {
		return fmt.Errorf("make a temporary directory: %w", err)
	}
	if d.log, err = os.Create(d.path("server.log")); err != nil {
		return err
	}
	if d.listen, err = freeAddress(); err == nil {
		d.admin, err = freeAddress()
	}
	if err == nil {
		d.client, err = newDemoClient(client, "http://"+d.listen+"/alice/laptop/", d.dir)
	}
	if err != nil {
		return errors.Join(err, d.tearDown())
	}
	return nil
}

// freeAddress returns a loopback address that nothing listens on now. Its port
// is none that the system gives to outgoing connections, so it is still free
// when the server that was killed comes back to it, whatever the client dials
// meanwhile.
func freeAddress() (string, error) {
	var err error
	for range 100 {
		var ln net.Listener
		if ln, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(20000))); err == nil {
			return ln.Addr().String(), ln.Close()
		}
	}
	return "", fmt.Errorf("find a free port: %w", err)
}

func (d *demo) tearDown() error {
	d.kill()
	err := d.log.Close()
	if !d.keep {
		err = errors.Join(err, os.RemoveAll(d.dir))
	}
	return err
}

// step runs one step and prints it with its time.
func (d *demo) step(what string, do func() (detail string, err error)) error {
	if !d.quiet {
		fmt.Fprintf(d.out, "%-52s", what)
	}
	began := time.Now()
	detail, err := do()
	took := time.Since(began)
	if err != nil {
		if !d.quiet {
			fmt.Fprintln(d.out, " FAILED")
		}
		return fmt.Errorf("%s: %w%s", what, err, d.serverLog())
	}
	d.steps = append(d.steps, demoStep{What: what, Detail: detail, Seconds: took.Seconds()})
	if !d.quiet {
		fmt.Fprintf(d.out, " %7.2f s  %s\n", took.Seconds(), detail)
	}
	return nil
}

// serverLog is the end of what the server said, for a step that failed.
func (d *demo) serverLog() string {
	text, err := os.ReadFile(d.path("server.log"))
	if err != nil || len(text) == 0 {
		return ""
	}
	return "\nthe server's log ends with:\n" + string(text[max(0, len(text)-4000):])
}

// run tells the story.
func (d *demo) run(ctx context.Context) error {
	var before []httpapi.View // of the server that dies
	var second *runningBackup
	files := d.path("files")
	steps := []struct {
		what string
		do   func() (string, error)
	}{
		{"copy the files to back up", func() (string, error) { return copyTree(ctx, d.source, files) }},
		{"make a log and its archive", func() (string, error) {
			return "", d.command(ctx, nil, "init", "--data", d.path("state"), "--archive", "dir:"+d.path("archive"))
		}},
		{"start the server", func() (string, error) { return "", d.serve(ctx) }},
		{"first backup, with " + d.client.String(), func() (string, error) { return d.client.backup(ctx, files) }},
		{"change the files", func() (string, error) { return changeTree(files) }},
		{"second backup begins; SIGKILL in the middle", func() (detail string, err error) {
			second, detail, err = d.killDuring(ctx, files)
			return detail, err
		}},
		{"start the server again", func() (string, error) { return "", d.serve(ctx) }},
		{"the second backup goes on and ends", func() (string, error) { return second.wait() }},
		{"everything reaches the archive; note the digests", func() (detail string, err error) {
			before, detail, err = d.awaitArchived(ctx)
			return detail, err
		}},
		{"SIGKILL; delete the whole state directory", func() (string, error) { d.kill(); return "", os.RemoveAll(d.path("state")) }},
		{"recover from the archive alone", func() (string, error) { return d.recover(ctx) }},
		{"compare the digests", func() (string, error) { return d.compare(ctx, before) }},
		{"serve what was recovered", func() (string, error) { return "", d.serve(ctx, "--take-over") }},
		{"restore", func() (string, error) { return d.client.restore(ctx, files, d.path("restored")) }},
		{"compare the files byte by byte", func() (string, error) { return compareTrees(files, d.path("restored")) }},
	}
	for _, s := range steps {
		if err := d.step(s.what, s.do); err != nil {
			return err
		}
	}
	return nil
}

// command runs this program with args and waits; result, if not nil, gets its
// JSON.
func (d *demo) command(ctx context.Context, result any, args ...string) error {
	if result != nil {
		args = append(args, "--json")
	}
	cmd := exec.CommandContext(ctx, d.self, args...)
	cmd.Stderr = d.log
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("strandline %s: %w", args[0], err)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(out, result); err != nil {
		return fmt.Errorf("strandline %s: %w", args[0], err)
	}
	return nil
}

// serve starts the server and waits until it is ready.
func (d *demo) serve(ctx context.Context, flags ...string) error {
	args := append([]string{"serve", "--data", d.path("state"), "--no-auth", "--listen", d.listen, "--admin", d.admin, "--record-every", "50"}, flags...)
	d.server = exec.Command(d.self, args...)
	d.server.Stderr = d.log
	d.server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us, we stop it
	if err := d.server.Start(); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	return d.poll(ctx, func(status *httpapi.Status) bool { return status.Ready })
}

// poll asks the server for its status until good says so.
func (d *demo) poll(ctx context.Context, good func(*httpapi.Status) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := &httpapi.Client{Addr: d.admin}
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		status, err := client.Status(ctx)
		if err == nil && good(status) {
			return nil
		}
		last = err
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waiting for the server: %w", ctx.Err()), last)
		}
	}
}

// kill ends the server with SIGKILL, if it runs.
func (d *demo) kill() {
	if d.server == nil {
		return
	}
	_ = d.server.Process.Kill() // it may have ended by itself
	_ = d.server.Wait()         // killed: that is the point
	d.server = nil
}

// killDuring begins a backup and kills the server once some of it is
// committed.
func (d *demo) killDuring(ctx context.Context, files string) (*runningBackup, string, error) {
	var from eventlog.Seq
	err := d.poll(ctx, func(status *httpapi.Status) bool { from = status.Committed.Seq; return true })
	if err != nil {
		return nil, "", err
	}
	backup := beginBackup(ctx, d.client, files)
	var at eventlog.Seq
	err = d.poll(ctx, func(status *httpapi.Status) bool { at = status.Committed.Seq; return at >= from+4 || backup.ended() })
	if err != nil {
		return nil, "", err
	}
	if backup.ended() {
		return nil, "", errors.New("the backup ended before the server could be killed: name a larger --dir")
	}
	d.kill()
	return backup, fmt.Sprintf("killed after seq %s", at), nil
}

// awaitArchived waits until the views and the archive have everything, and
// returns where the views stand.
func (d *demo) awaitArchived(ctx context.Context) ([]httpapi.View, string, error) {
	var views []httpapi.View
	var at eventlog.Seq
	err := d.poll(ctx, func(status *httpapi.Status) bool {
		views, at = status.Views, status.Committed.Seq
		return status.Archived != nil && status.Archived.Seq == at && appliedAll(views, at)
	})
	return views, fmt.Sprintf("committed and archived: seq %s", at), err
}

func appliedAll(views []httpapi.View, seq eventlog.Seq) bool {
	for _, view := range views {
		if view.Applied == nil || view.Applied.Seq != seq {
			return false
		}
	}
	return len(views) > 0
}

func (d *demo) recover(ctx context.Context) (string, error) {
	var result recoverResult
	if err := d.command(ctx, &result, "recover", "--data", d.path("state"), "--archive", "dir:"+d.path("archive")); err != nil {
		return "", err
	}
	var compared uint64
	for _, view := range result.Views {
		compared += view.Compared
	}
	return fmt.Sprintf("seq %s, %d objects; %d recorded digests equal", result.Last, result.Objects, compared), nil
}

// compare adds the digests of the recovered views up from their rows, and
// holds them against what the lost server said.
func (d *demo) compare(ctx context.Context, before []httpapi.View) (string, error) {
	var detail bytes.Buffer
	for _, lost := range before {
		var got viewReport
		if err := d.command(ctx, &got, "inspect", "view", lost.Name, "--data", d.path("state")); err != nil {
			return "", err
		}
		if got.Position != lost.Applied.Seq || got.Rows.String() != lost.Digest || got.Rows != got.Kept {
			return "", fmt.Errorf("the %s view was %s at seq %s, and is %s at seq %s", lost.Name, lost.Digest, lost.Applied.Seq, got.Rows, got.Position)
		}
		fmt.Fprintf(&detail, "%s %.8s = %.8s  ", lost.Name, lost.Digest, got.Rows)
	}
	return detail.String(), nil
}

func (d *demo) printEnd(w io.Writer) error {
	var total float64
	for _, s := range d.steps {
		total += s.Seconds
	}
	_, err := fmt.Fprintf(w, "\nThe server died twice, lost its disk, and came back with every byte: %.1f s in all.\n", total)
	if err == nil && d.keep {
		_, err = fmt.Fprintf(w, "Everything is still in %s.\n", d.dir)
	}
	return err
}
