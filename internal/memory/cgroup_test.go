// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/strandline-project/strandline/internal/testkit"
)

func TestTheLimitOfMemoryIsTheLeastOfTheCgroupsAround(t *testing.T) {
	const none = math.MaxInt64
	for name, test := range map[string]struct {
		files map[string]string
		want  int64
		fails bool
	}{
		"no cgroups": {want: none},
		"version 2, its own": {want: 1000, files: map[string]string{
			"proc/self/cgroup": "0::/system.slice/strandline.service\n", "sys/fs/cgroup/system.slice/strandline.service/memory.max": "1000\n"}},
		"version 2, of the slice above": {want: 500, files: map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "1000\n", "sys/fs/cgroup/a/memory.max": "500\n"}},
		"version 2, none": {want: none, files: map[string]string{
			"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"}},
		"version 2, the root of a container": {want: 700, files: map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "700\n"}},
		"version 2, a path of the world outside": {want: 700, files: map[string]string{
			"proc/self/cgroup": "0::/../docker/abc\n", "sys/fs/cgroup/memory.max": "700\n"}},
		"version 2, the root of a machine": {want: none, files: map[string]string{"proc/self/cgroup": "0::/\n"}},
		"version 1": {want: 900, files: map[string]string{
			"proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/x\n1:cpuset:/y\n0::/\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "900\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}},
		"no number": {fails: true, files: map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "a lot\n"}},
		"no line": {fails: true, files: map[string]string{"proc/self/cgroup": "memory\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := fstest.MapFS{}
			for path, content := range test.files {
				root[path] = &fstest.MapFile{Data: []byte(content)}
			}
			got, err := cgroupMemory(root)
			if (err != nil) != test.fails || err == nil && got != test.want {
				t.Errorf("%d, %v; want %d", got, err, test.want)
			}
		})
	}
}

// limitedChild is set in a process that this test starts within a cgroup.
const limitedChild = "STRANDLINE_TEST_LIMITED"

func TestTheMemoryLimitFollowsARealCgroup(t *testing.T) {
	if os.Getenv(limitedChild) != "" {
		limit, err := FollowCgroup()
		fmt.Println("limit", limit, debug.SetMemoryLimit(-1), err)
		return
	}
	const most = 512 << 20
	procs := limitedCgroup(t, most)
	for _, test := range []struct{ variable, want string }{
		{"NOTHING=1", fmt.Sprint("limit ", int64(most*9/10), " ", int64(most*9/10), " <nil>")},
		{"GOMEMLIMIT=100MiB", fmt.Sprint("limit 0 ", 100<<20, " <nil>")},
	} {
		cmd := exec.Command("sh", "-c", `echo $$ >"$0" && exec "$@"`, procs, os.Args[0], "-test.run", t.Name())
		cmd.Env = append(os.Environ(), limitedChild+"=1", test.variable)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), test.want) {
			t.Errorf("%v\n%swant %s", err, out, test.want)
		}
	}
}

// limitedCgroup makes a cgroup with so many bytes of memory and returns the file
// that takes a process in.
func limitedCgroup(t *testing.T, most int64) string {
	t.Helper()
	for _, version := range []struct{ mount, limit string }{
		{"/sys/fs/cgroup", "memory.max"}, {"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
	} {
		dir := filepath.Join(version.mount, "strandline-test-"+strconv.Itoa(os.Getpid()))
		if os.Mkdir(dir, 0o700) != nil {
			continue
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		limit, err := os.OpenFile(filepath.Join(dir, version.limit), os.O_WRONLY, 0) // which the kernel has made
		if err != nil {
			continue
		}
		_, err = limit.Write(strconv.AppendInt(nil, most, 10))
		if err := errors.Join(err, limit.Close()); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, "cgroup.procs")
	}
	testkit.Lacks(t, "a cgroup of its own", os.ErrPermission)
	return ""
}
