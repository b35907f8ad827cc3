// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bufio"
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// measureUsage tells what this process has used so far, and how long the
// machine's processes have waited for its disks. What the system does not
// tell is zero.
func measureUsage() usage {
	var u usage
	var self syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &self) == nil {
		u.cpu = time.Duration(self.Utime.Nano() + self.Stime.Nano())
	}
	u.written = field("/proc/self/io", "write_bytes: ")
	u.stalled = time.Duration(field("/proc/pressure/io", "total=")) * time.Microsecond
	return u
}

// field returns the number behind the first name in the file, 0 when there is
// none.
func field(path, name string) uint64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0 // another kernel, or not allowed
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if _, number, found := strings.Cut(lines.Text(), name); found {
			n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}
