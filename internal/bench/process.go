// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 40 * time.Second // a server may wait 20 s for its archive
)

// Command is a server to be started for each turn.
type Command struct {
	Name string // the peer's
	// Before is run to its end first, if there is one ("init").
	Before func(dir string) []string
	// Args is the server's command line, with its data in dir and listening
	// on addr, which is a free loopback address.
	Args func(dir, addr string) []string
	// AdminFlag, if the server has an admin listener, is added to Args with
	// another free address ("--admin").
	AdminFlag string
	Env       []string // added to this process's own
	Path      string   // of the machine to use, "bench/load/"
}

// Peer returns the command as something to measure.
func (c Command) Peer() Peer { return Peer{Name: c.Name, Start: c.start} }

// Rclone is `rclone serve restic` on plain files in a directory.
func Rclone(path string) Command {
	return Command{
		Name: "rclone",
		Args: func(dir, addr string) []string {
			return []string{path, "serve", "restic", "--addr", addr, "--config", filepath.Join(dir, "rclone.conf"), filepath.Join(dir, "data")}
		},
		Path: "bench/load/",
	}
}

// start runs the server and waits until it answers. Its output goes to a file
// in dir, whose end is part of the error if it does not.
func (c Command) start(ctx context.Context, dir string) (*Instance, error) {
	if c.Before != nil {
		if err := c.runBefore(ctx, dir); err != nil {
			return nil, err
		}
	}
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	args, admin := c.Args(dir, addr), ""
	if c.AdminFlag != "" {
		if admin, err = freeAddress(); err != nil {
			return nil, err
		}
		args = append(args, c.AdminFlag, admin)
	}
	server, err := launch(args, c.Env, filepath.Join(dir, "server.log"))
	if err != nil {
		return nil, err
	}
	t := Target{addr: addr, prefix: "/" + c.Path}
	if err := server.awaitReady(ctx, t); err != nil {
		return nil, errors.Join(err, server.kill())
	}
	return &Instance{Client: t.client, PID: server.cmd.Process.Pid, Stop: server.stop, Repository: "rest:http://" + addr + t.prefix, Admin: admin}, nil
}

func (c Command) runBefore(ctx context.Context, dir string) error {
	args := c.Before(dir)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), c.Env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w: %s", strings.Join(args, " "), err, tail(out))
	}
	return nil
}

// server is a process of ours. Its fields belong to start's caller; done is
// closed when it has ended, err is set before.
type server struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error
}

func launch(args, env []string, log string) (*server, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, fmt.Errorf("make the server's log: %w", err)
	}
	defer out.Close() // the process has its own copy
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run %s: %w", strings.Join(args, " "), err)
	}
	s := &server{cmd: cmd, log: log, done: make(chan struct{})}
	go func() { // ends with the process, which stop and kill wait for
		s.err = cmd.Wait()
		close(s.done)
	}()
	return s, nil
}

// awaitReady registers the machine as soon as the server answers.
func (s *server) awaitReady(ctx context.Context, t Target) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := t.create(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.done:
			return fmt.Errorf("the server ended: %w: %s", errors.Join(s.err, err), s.said())
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w: %s", err, s.said())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop asks the server to end, and makes it after stopTimeout.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return errors.Join(fmt.Errorf("stop the server: %w", err), s.kill())
	}
	select {
	case <-s.done:
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("the server did not end within %s: %s", stopTimeout, s.said()), s.kill())
	}
	var exit *exec.ExitError
	if errors.As(s.err, &exit) && !exit.Success() && exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		return fmt.Errorf("the server ended badly: %w: %s", s.err, s.said())
	}
	return nil
}

func (s *server) kill() error {
	err := s.cmd.Process.Kill()
	<-s.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// said is the end of the server's output.
func (s *server) said() string {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return tail(text)
}

func tail(text []byte) string {
	return strings.TrimSpace(string(text[max(0, len(text)-1000):]))
}

// freeAddress is a loopback address that was free a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}
