// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"errors"
	"syscall"
)

// Passing reports whether err may be gone at the next try: there were no
// descriptors left, no memory, no room or no permission. Only errors of opening
// and reading are to be asked about. After a failed write or sync nobody knows
// what the disk holds, whatever the reason.
func Passing(err error) bool {
	for _, number := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOSPC, syscall.EDQUOT,
		syscall.EACCES, syscall.EPERM, syscall.EINTR, syscall.EAGAIN,
	} {
		if errors.Is(err, number) {
			return true
		}
	}
	return false
}
