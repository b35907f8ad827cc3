// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
)

// ofCgroup is how much of a cgroup's memory the heap may have: the rest is for
// what the collector does not know of.
const ofCgroup = 0.9

// FollowCgroup makes GOMEMLIMIT nine tenths of what the cgroup of this process
// may have of memory, and returns it in bytes; 0 when there is no limit. Who sets
// GOMEMLIMIT keeps it. So the collector works harder before the kernel kills.
func FollowCgroup() (int64, error) {
	if _, set := os.LookupEnv("GOMEMLIMIT"); set {
		return 0, nil
	}
	most, err := cgroupMemory(os.DirFS("/"))
	if err != nil || most == math.MaxInt64 {
		return 0, err
	}
	limit := int64(float64(most) * ofCgroup)
	debug.SetMemoryLimit(limit)
	return limit, nil
}

// cgroupMemory returns the least limit of the cgroup of this process and of
// those above it, below root; MaxInt64 when there is none, or no cgroups.
func cgroupMemory(root fs.FS) (int64, error) {
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return math.MaxInt64, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find the cgroup of this process: %w", err)
	}
	least := int64(math.MaxInt64)
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3) // hierarchy, controllers, path
		if len(fields) != 3 {
			return 0, fmt.Errorf("find the cgroup of this process: no line of /proc/self/cgroup is %q", line)
		}
		controllers := strings.Split(fields[1], ",")
		var limit int64
		switch {
		case fields[0] == "0" && fields[1] == "":
			limit, err = leastLimit(root, "sys/fs/cgroup", fields[2], "memory.max")
		case slices.Contains(controllers, "memory"):
			limit, err = leastLimit(root, "sys/fs/cgroup/memory", fields[2], "memory.limit_in_bytes")
		default:
			continue
		}
		if err != nil {
			return 0, err
		}
		least = min(least, limit)
	}
	return least, nil
}

// leastLimit looks into the cgroup at at, and into all above it. One that is
// not there belongs to the world outside of this container.
func leastLimit(root fs.FS, mount, at, name string) (int64, error) {
	least := int64(math.MaxInt64)
	for at = path.Clean("/" + at); ; at = path.Dir(at) {
		file := path.Join(mount, at, name)
		text, err := fs.ReadFile(root, file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("read the cgroup's limit of memory: %w", err)
		}
		if said := strings.TrimSpace(string(text)); err == nil && said != "max" {
			limit, err := strconv.ParseInt(said, 10, 64)
			if err != nil || limit < 0 {
				return 0, fmt.Errorf("read the cgroup's limit of memory: /%s says %q", file, said)
			}
			if limit < unlimited {
				least = min(least, limit)
			}
		}
		if at == "/" {
			return least, nil
		}
	}
}

// unlimited is less than what a cgroup of version 1 says when it has no limit,
// and more than any machine has.
const unlimited = 1 << 60
