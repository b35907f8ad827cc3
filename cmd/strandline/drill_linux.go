// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ownProgram is the program that runs, even if its file was replaced.
func ownProgram() (string, error) { return "/proc/self/exe", nil }

// runLow runs cmd at the lowest priority of processor and disk. Both belong to
// a thread, and a child is born with those of the thread that starts it. They
// cannot be raised again, so the thread is this child's alone: it waits for
// it, because with its end the child would be killed, and ends with its
// goroutine, which never unlocks it. While busy says so, cmd gives way.
func runLow(cmd *exec.Cmd, busy func() bool) error {
	done := make(chan error, 1)
	go onOwnThread(func() {
		if err := lowerThread(); err != nil {
			slog.Warn("a drill runs at the priority of the server; its rates are limited all the same", "err", err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // a terminal's Ctrl-C is for the server
		err := cmd.Start()
		if err == nil {
			ended, gave := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(gave)
				giveWay(cmd.Process, busy, ended)
			}()
			err = cmd.Wait()
			close(ended)
			<-gave
		}
		done <- err
	})
	return <-done
}

// onOwnThread does something on a thread that ends with it. The main thread
// does not end, and its priority is taken for that of the process.
func onOwnThread(do func()) {
	runtime.LockOSThread()
	if unix.Gettid() != os.Getpid() {
		do()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		onOwnThread(do) // not here, where this waits
	}()
	<-done
	runtime.UnlockOSThread()
}

// While clients are served a drill runs for childTurn of every childRound.
const (
	childRound = 50 * time.Millisecond
	childTurn  = 2 * time.Millisecond
)

// giveWay has the child stand still for most of the time that busy says so,
// until it has ended. Its priority alone is not enough: a process that does
// nothing but count took a fifth of the puts from who stored on two cores
// (docs/adr/0015-a-drill-is-a-process-of-its-own.md). All that a drill does is slowed down so, and it is
// stopped between two system calls, where it holds nothing that others wait for.
func giveWay(child *os.Process, busy func() bool, ended <-chan struct{}) {
	turn := childRound
	for wait := time.NewTimer(turn); ; wait.Reset(turn) {
		select {
		case <-ended:
			return
		case <-wait.C:
		}
		if turn = childRound; !busy() {
			continue
		}
		// A child that has ended meanwhile is no error; one that is killed need
		// not run for that; and if this process is killed here, so is the child.
		err := child.Signal(syscall.SIGSTOP)
		if err == nil {
			wait.Reset(childRound - childTurn)
			select {
			case <-ended:
				return
			case <-wait.C:
			}
			err = child.Signal(syscall.SIGCONT)
		}
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			slog.Warn("a drill does not give way to clients; its priority is the lowest all the same", "err", err)
			return
		}
		turn = childTurn // from now on, however late this was
	}
}

// From linux/ioprio.h.
const (
	ioprioWhoProcess = 1
	ioprioIdle       = 3 << 13 // class 3 in the bits above 13
)

// firstToGo makes the kernel kill this process before any other of its cgroup,
// or of the machine, when memory is short: a drill can be done again, a server
// is missed.
func firstToGo() error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0o600); err != nil {
		return fmt.Errorf("offer the drill to the kernel first when memory is short: %w", err)
	}
	return nil
}

func lowerThread() error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 19); err != nil {
		return fmt.Errorf("lower the processor's priority: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, ioprioIdle); errno != 0 {
		return fmt.Errorf("lower the disk's priority: %w", errno)
	}
	return nil
}
