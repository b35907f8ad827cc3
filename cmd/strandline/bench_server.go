// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/strandline-project/strandline/internal/bench"
	"github.com/strandline-project/strandline/internal/httpapi"
)

// benchServer is a server that is measured.
type benchServer struct {
	cmd    *exec.Cmd
	listen string
	admin  string
	ended  chan error
}

// serve starts a server on a state directory, and waits until it is ready.
func (m *measurement) serve(ctx context.Context, name string, flags ...string) (*benchServer, error) {
	admin, err := freeLoopback()
	if err != nil {
		return nil, err
	}
	listen, err := freeLoopback()
	if err != nil {
		return nil, err
	}
	args := append([]string{"serve", "--data", m.path(name), "--no-auth", "--listen", listen, "--admin", admin, "--drill-every", "0"}, flags...)
	s := &benchServer{cmd: exec.CommandContext(ctx, m.self, args...), listen: listen, admin: admin, ended: make(chan error, 1)}
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

// serving calls measure with a server on a state directory, and stops it.
func (m *measurement) serving(ctx context.Context, name string, measure func(*benchServer) error, flags ...string) error {
	s, err := m.serve(ctx, name, flags...)
	if err != nil {
		return err
	}
	return errors.Join(measure(s), s.stop())
}

// await returns when the server's status is as wanted.
func (s *benchServer) await(ctx context.Context, wanted func(*httpapi.Status) bool) error {
	return s.awaitEvery(ctx, 10*time.Millisecond, wanted)
}

// awaitEvery is await for one who looks as often as pause says.
func (s *benchServer) awaitEvery(ctx context.Context, pause time.Duration, wanted func(*httpapi.Status) bool) error {
	client := httpapi.Client{Addr: s.admin}
	tick := time.NewTicker(pause)
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

// target is a machine of the server, written as ACCOUNT/MACHINE.
func (s *benchServer) target(machine string) (bench.Target, error) {
	return bench.ParseTarget("http://" + s.listen + "/" + machine + "/")
}

func (s *benchServer) pid() int { return s.cmd.Process.Pid }

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
