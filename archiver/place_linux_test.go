// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/archiver"
)

// ownMounts is set in the process that may mount what it likes: nobody else
// sees it, and it is gone with the process.
const ownMounts = "STRANDLINE_OWN_MOUNTS"

// TestAPlaceOnEachFileSystem runs itself again among mounts of its own.
func TestAPlaceOnEachFileSystem(t *testing.T) {
	if os.Getenv(ownMounts) != "" {
		for _, disk := range disks {
			t.Run(disk.name, disk.run)
		}
		return
	}
	if out, err := exec.Command("unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", t.TempDir()).CombinedOutput(); err != nil {
		t.Skipf("needs the right to mount, as root has it: %v %s", err, out)
	}
	cmd := exec.Command("unshare", "-m", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), ownMounts+"=1")
	out, err := cmd.CombinedOutput()
	t.Logf("among mounts of its own:\n%s", out)
	if err != nil {
		t.Error(err)
	}
}

// disk is a file system to try places on.
type disk struct {
	name  string
	known bool
	// mount mounts it at root; again unmounts it and mounts it as another device.
	mount func(d *mounts, root string)
	again func(d *mounts, root string) // nil: its files are gone with the mount
}

var disks = []disk{
	{name: "ext4", known: true, mount: mountImage("mkfs.ext4", "-q", "-F"), again: mountImageAgain},
	{name: "ext4 without birth times", mount: mountImage("mkfs.ext4", "-q", "-F", "-I", "128"), again: mountImageAgain},
	{name: "xfs", known: true, mount: mountImage("mkfs.xfs", "-q", "-f"), again: mountImageAgain},
	{name: "btrfs", known: true, mount: mountImage("mkfs.btrfs", "-q", "-f"), again: mountImageAgain},
	{name: "tmpfs", mount: func(d *mounts, root string) { d.run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", root) }},
	{name: "overlayfs", mount: func(d *mounts, root string) {
		base := d.t.TempDir()
		d.run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", base)
		d.t.Cleanup(func() { d.run("umount", base) })
		d.run("mkdir", base+"/lower", base+"/upper", base+"/work")
		d.run("mount", "-t", "overlay", "-o", fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", base), "overlay", root)
	}},
}

// mounts is a test that mounts.
type mounts struct {
	t     *testing.T
	image string
}

// run runs a command; where it is missing or refused, the file system cannot
// be had here.
func (d *mounts) run(command ...string) {
	d.t.Helper()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) || err != nil && strings.HasPrefix(command[0], "m") {
		d.t.Skipf("this file system cannot be had here: %v: %v %s", command, err, out)
	}
	if err != nil {
		d.t.Fatalf("%v: %v %s", command, err, out)
	}
}

// mountImage makes the file system in a file.
func mountImage(mkfs ...string) func(*mounts, string) {
	return func(d *mounts, root string) {
		d.image = filepath.Join(d.t.TempDir(), "image")
		d.run("truncate", "-s", "320M", d.image) // the least that xfs takes
		d.run(append(mkfs, d.image)...)
		d.run("mount", "-o", "loop", d.image, root)
	}
}

// mountImageAgain is a reboot in which another disk took the device's number.
func mountImageAgain(d *mounts, root string) {
	d.run("umount", root)
	other, there := d.image+"-other", d.t.TempDir()
	d.run("truncate", "-s", "16M", other)
	d.run("mkfs.ext4", "-q", "-F", other)
	d.run("mount", "-o", "loop", other, there)
	d.run("mount", "-o", "loop", d.image, root)
	d.t.Cleanup(func() { d.run("umount", there) })
}

func (c *disk) run(t *testing.T) {
	d := &mounts{t: t}
	root := t.TempDir()
	c.mount(d, root)
	t.Cleanup(func() { d.run("umount", root) })
	path := filepath.Join(root, "state")
	served(t, path)

	expectPlace(t, "opened again", path, c.known, false)
	if c.again != nil {
		c.again(d, root)
		expectPlace(t, "after a reboot, as another device", path, c.known, false)
	}
	volume := t.TempDir()
	d.run("mount", "--bind", root, volume)
	expectPlace(t, "as the volume of another container", filepath.Join(volume, "state"), c.known, false)
	d.run("umount", volume)
	renamed := filepath.Join(root, "renamed")
	d.run("mv", path, renamed)
	expectPlace(t, "renamed", renamed, c.known, false)

	clone := filepath.Join(root, "clone")
	d.run("cp", "-a", renamed, clone)
	expectPlace(t, "a copy", clone, c.known, c.known)
	linked := filepath.Join(root, "linked")
	d.run("cp", "-al", renamed, linked)
	expectPlace(t, "a copy made of hard links", linked, c.known, c.known)
	expectPlace(t, "its original", renamed, c.known, false)
	d.run("cp", "-a", clone+"/.", renamed)
	expectPlace(t, "a copy put back over the original", renamed, c.known, c.known)
	d.run("rm", "-r", renamed, linked)
	d.run("cp", "-a", clone, renamed) // most file systems give it the inodes that have become free
	expectPlace(t, "a copy where the original was", renamed, c.known, c.known)
}

// served is a state directory that was served and not ended in order.
func served(t *testing.T, path string) {
	t.Helper()
	dir, err := archiver.CreateStateDir(path, archiver.State{Phase: archiver.PhaseReady})
	if err == nil {
		err = errors.Join(archiver.ServeHere(dir), dir.Update(func(*archiver.State) {}), dir.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func expectPlace(t *testing.T, what, path string, known, copied bool) {
	t.Helper()
	dir, err := archiver.OpenStateDir(path)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if dir.KnowsPlace() != known {
		t.Errorf("%s: its place is known: %t, want %t", what, dir.KnowsPlace(), known)
	}
	if got := dir.Copied(); (got != "") != copied {
		t.Errorf("%s: what shows that it is a copy is %q; is it one: %t", what, got, copied)
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTheMachineIsKnownOutsideAContainerOnly(t *testing.T) {
	const id = "3d1219c7c4c5404aaa1f6d2a48adfda4"
	for name, c := range map[string]struct {
		files map[string]string
		known bool
	}{
		"a machine":                      {map[string]string{"etc/machine-id": id + "\n"}, true},
		"no id":                          {map[string]string{"etc/hostname": "x"}, false},
		"an id that is not there yet":    {map[string]string{"etc/machine-id": "uninitialized\n"}, false},
		"a container of Docker":          {map[string]string{"etc/machine-id": id, ".dockerenv": ""}, false},
		"a container of Podman":          {map[string]string{"etc/machine-id": id, "run/.containerenv": ""}, false},
		"a container that systemd is in": {map[string]string{"etc/machine-id": id, "run/systemd/container": "lxc"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, content := range c.files {
				if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(root, file)), 0o700), os.WriteFile(filepath.Join(root, file), []byte(content), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			namespace, err := os.Readlink("/proc/self/ns/pid")
			lasts := archiver.Identify(root) != archiver.FileID{}
			if c.known && (!lasts || err != nil || namespace != "pid:[4026531836]") {
				t.Skip("this runs in a container, or its files do not last")
			}
			got := archiver.MachineOf(root)
			if (got != "") != c.known || strings.Contains(got, id) {
				t.Errorf("the machine is %q; is it known: %t", got, c.known)
			}
		})
	}
}
