// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"log/slog"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownProgram is the program that runs, even if its file was replaced.
func ownProgram() (string, error) { return "/proc/self/exe", nil }

// runLow runs cmd at the lowest priority of processor and disk. Both belong to
// a thread, and a child is born with those of the thread that starts it. They
// cannot be raised again, so the thread is this child's alone: it waits for
// it, because with its end the child would be killed, and ends with its
// goroutine, which never unlocks it.
func runLow(cmd *exec.Cmd) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := lowerThread(); err != nil {
			slog.Warn("a drill runs at the priority of the server; its rates are limited all the same", "err", err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // a terminal's Ctrl-C is for the server
		done <- cmd.Run()
	}()
	return <-done
}

// From linux/ioprio.h.
const (
	ioprioWhoProcess = 1
	ioprioIdle       = 3 << 13 // class 3 in the bits above 13
)

func lowerThread() error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 19); err != nil {
		return fmt.Errorf("lower the processor's priority: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, ioprioIdle); errno != 0 {
		return fmt.Errorf("lower the disk's priority: %w", errno)
	}
	return nil
}
