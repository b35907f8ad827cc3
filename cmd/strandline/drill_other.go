// SPDX-License-Identifier: Apache-2.0

//go:build !windows && !linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

func ownProgram() (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the program to drill with: %w", err)
	}
	return program, nil
}

// firstToGo does nothing: what a kernel kills when memory is short is not for
// the process to say.
func firstToGo() error { return nil }

// runLow runs cmd at the lowest priority of the processor; that of the disk
// follows it on the systems that have one. The end of its standard input tells
// the child that this process has gone, which it would not hear while it stood
// still: so it does not give way as on Linux.
func runLow(cmd *exec.Cmd, _ func() bool) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is for the server
	if err := cmd.Start(); err != nil {
		return err
	}
	lowered := unix.Setpriority(unix.PRIO_PROCESS, cmd.Process.Pid, 19)
	if errors.Is(lowered, unix.ESRCH) {
		lowered = nil // it has ended already
	}
	return errors.Join(cmd.Wait(), lowered)
}
