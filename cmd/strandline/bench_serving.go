// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/strandline-project/strandline/internal/bench"
	"github.com/strandline-project/strandline/internal/httpapi"
)

// recover runs `strandline recover` into a new directory of that name.
func (b *recoverBench) recover(ctx context.Context, name, spec string, flags ...string) (*recoverResult, error) {
	args := append([]string{"recover", "--json", "--data", filepath.Join(b.scratch, name), "--archive", spec}, flags...)
	cmd := exec.CommandContext(ctx, b.self, args...)
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("strandline recover: %w", err)
	}
	var r recoverResult
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("strandline recover: %w", err)
	}
	return &r, nil
}

// checkpoint lets a server that was recovered take a checkpoint, and then
// recovers from that until it serves.
func (b *recoverBench) checkpoint(ctx context.Context, spec string) error {
	taker, err := b.serve(ctx, "full", "--checkpoint-every", "1s")
	if err != nil {
		return err
	}
	began := time.Now()
	err = taker.await(ctx, func(s *httpapi.Status) bool { return s.Checkpoint != nil && s.Checkpoint.Seq != 0 })
	took := time.Since(began)
	if err = errors.Join(err, taker.stop(), os.RemoveAll(filepath.Join(b.scratch, "full"))); err != nil {
		return err
	}
	r, err := b.recover(ctx, "again", spec)
	if err != nil {
		return err
	}
	if r.Checkpoint == nil {
		return fmt.Errorf("the recovery did not begin from the checkpoint: %v", r.Fallbacks)
	}
	transfer, err := transferTime(filepath.Join(b.scratch, "again"))
	if err != nil {
		return err
	}
	began = time.Now()
	server, err := b.serve(ctx, "again")
	if err != nil {
		return err
	}
	started := time.Since(began).Seconds()
	f := &b.figures
	f.add(float64(r.Checkpoint.Bytes)/(1<<20), "MiB", "", "bytes of a checkpoint of %d events' views", b.archive.Events)
	f.add(100*took.Seconds()/time.Hour.Seconds(), "%", "under 5", "of the time, taking such a checkpoint every hour")
	f.add(transfer, "s", "", "the transfer of a checkpoint, every byte hashed")
	f.add(r.Seconds-transfer+started, "s", "under 5", "from a checkpoint until the server serves, without the transfer")
	f.add(started, "s", "", "of that, the server's start")
	return errors.Join(b.beside(ctx, server), server.stop(), os.RemoveAll(filepath.Join(b.scratch, "again")))
}

// transferTime is how long the recovery of a state directory restored a
// checkpoint, as its report says.
func transferTime(data string) (float64, error) {
	report, err := readReport(data)
	if err != nil {
		return 0, err
	}
	for _, phase := range report.Phases {
		if phase.Name == "restore a checkpoint (bytes)" {
			return phase.Ended.Sub(phase.Began).Seconds(), nil
		}
	}
	return 0, fmt.Errorf("the report of the recovery of %s tells of no checkpoint", data)
}

// benchServer is a server that is measured.
type benchServer struct {
	cmd    *exec.Cmd
	listen string
	admin  string
	ended  chan error
}

// serve starts a server on a state directory, and waits until it is ready.
func (b *recoverBench) serve(ctx context.Context, name string, flags ...string) (*benchServer, error) {
	admin, err := freeLoopback()
	if err != nil {
		return nil, err
	}
	listen, err := freeLoopback()
	if err != nil {
		return nil, err
	}
	args := append([]string{"serve", "--data", filepath.Join(b.scratch, name), "--no-auth", "--listen", listen, "--admin", admin, "--drill-every", "0"}, flags...)
	s := &benchServer{cmd: exec.CommandContext(ctx, b.self, args...), listen: listen, admin: admin, ended: make(chan error, 1)}
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("strandline serve: %w", err)
	}
	go func() { s.ended <- s.cmd.Wait() }()
	err = s.await(ctx, func(status *httpapi.Status) bool { return status.Ready })
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// await returns when the server's status is as wanted.
func (s *benchServer) await(ctx context.Context, wanted func(*httpapi.Status) bool) error {
	client := httpapi.Client{Addr: s.admin}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if status, err := client.Status(ctx); err == nil && wanted(status) {
			return nil
		}
		select {
		case err := <-s.ended:
			s.ended <- err
			return fmt.Errorf("strandline serve ended: %w", err)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func (s *benchServer) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the server: %w", err)
	}
	err := <-s.ended
	s.ended <- err
	return err
}

func freeLoopback() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// overhead measures storing small blocks with what recovery wants of a server,
// digests even 16 times as often as by default, and without. (What an hourly
// checkpoint costs was measured with a large one.)
func (b *recoverBench) overhead(ctx context.Context) error {
	if b.ingest == 0 {
		return nil
	}
	load := bench.Load{Op: bench.OpPut, Size: 1 << 10, Clients: 32, Lock: true, Duration: b.ingest, MaxOps: 400_000}
	plan := bench.Plan{
		Peers: []bench.Peer{servePeer("with", b.self, nil, dirArchive, "--record-every", "4096"), servePeer("without", b.self, nil, dirArchive, "--checkpoint-every", "0", "--record-every", "1000000000")},
		Loads: []bench.Load{load}, Rounds: 10, Dir: b.scratch, Progress: func(text string) { slog.Info(text) },
	}
	report, err := bench.Run(ctx, plan)
	if err != nil {
		return err
	}
	if report.Failed() {
		return errors.New("some puts failed: the overhead is not known")
	}
	with, without := report.Rows[0].Results[0].OpsPerSecond(), report.Rows[0].Results[1].OpsPerSecond()
	b.figures.add(with, "puts/s", "", "storing 1 KiB blocks, 32 clients, digests recorded every 4,096 events")
	b.figures.add(100*(1-with/without), "%", "under 5", "of that, slower than without them")
	b.figures.add(100*b.indexing.Seconds()/(float64(b.archive.Events)/with), "%", "under 5", "of the time that storing %d blocks so takes, writing their index objects", b.archive.Events)
	return nil
}
