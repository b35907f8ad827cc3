// SPDX-License-Identifier: Apache-2.0

// Command strandline does not run on Windows.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "strandline: Windows is not supported, because a rename and a directory's fsync do not promise there what Strandline's log needs. "+
		"Run it on Linux (WSL 2 will do); restic on Windows can back up to it.")
	os.Exit(2) // usage, as in exit.go
}
