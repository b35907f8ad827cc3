// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// touchMemory uses size bytes of the free memory, or half of it, for a moment. A
// virtual machine gets each page from its host when it is used for the first time,
// which takes several times as long as writing it to a file does.
func touchMemory(size int64) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("ask for the free memory: %w", err)
	}
	size = min(size, int64(info.Freeram)*int64(info.Unit)/2)
	pages, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err == nil {
		err = unix.Munmap(pages)
	}
	if err != nil {
		return fmt.Errorf("touch %d bytes of memory: %w", size, err)
	}
	return nil
}
