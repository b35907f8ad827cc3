// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// StartWriteback asks the kernel to begin writing length bytes of f from
// offset on, so that a later SyncData finds less to do. It promises nothing and
// waits for nothing; whether the bytes reach the disk is SyncData's to say.
func StartWriteback(f *os.File, offset, length int64) {
	raw, err := f.SyscallConn()
	if err != nil {
		return // a closed file: the next write or sync says so
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SyncFileRange(int(fd), offset, length, unix.SYNC_FILE_RANGE_WRITE) // a hint
	})
}

// SyncData makes the bytes of f durable, and of its metadata only what is
// needed to read them back (its length, not its times).
func SyncData(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("sync data of %s: %w", f.Name(), err)
	}
	var syncErr error
	err = raw.Control(func(fd uintptr) {
		for {
			if syncErr = syscall.Fdatasync(int(fd)); !errors.Is(syncErr, syscall.EINTR) {
				return
			}
		}
	})
	if err = errors.Join(err, syncErr); err != nil {
		return fmt.Errorf("sync data of %s: %w", f.Name(), err)
	}
	return nil
}
