// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// identify returns the identity of a file, zero where it is not known: on a
// file system that may give a file another inode or birth time, or that keeps
// no birth time of this file.
func identify(path string) FileID {
	var info unix.Statx_t
	const mask = unix.STATX_INO | unix.STATX_BTIME
	if !keepsIdentity(path) || unix.Statx(unix.AT_FDCWD, path, 0, mask, &info) != nil || info.Mask&mask != mask {
		return FileID{}
	}
	born := info.Btime.Sec*1e9 + int64(info.Btime.Nsec)
	if born == 0 { // tools that make file systems leave it out
		return FileID{}
	}
	return FileID{Inode: info.Ino, Born: born}
}

// keepsIdentity reports whether path lies on a file system known to keep
// inodes and birth times for as long as a file lives. Overlays, network file
// systems and those of virtual machines do not, and one in memory is gone with
// the machine.
func keepsIdentity(path string) bool {
	const zfs = 0x2fc12fc1 // not in the unix package
	var info unix.Statfs_t
	if unix.Statfs(path, &info) != nil {
		return false
	}
	switch uint32(info.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, zfs:
		return true
	}
	return false
}

// machineOf returns a hash of the machine's id, by the root directory root; ""
// where there is none that lasts: in a container, whose id is its image's or
// its own, or where the id is made anew at each boot and so lies in memory.
func machineOf(root string) string {
	name := filepath.Join(root, "etc/machine-id")
	if inContainer(root) || !keepsIdentity(name) {
		return ""
	}
	text, err := os.ReadFile(name)
	id := strings.TrimSpace(string(text))
	if err != nil || len(id) != 32 { // "uninitialized", say
		return ""
	}
	// The id itself is not to be shown around, see machine-id(5).
	sum := hmac.New(sha256.New, []byte(id))
	sum.Write([]byte("strandline state directory"))
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// inContainer reports whether root is the root directory of a container, by
// the marks that container engines leave, and by the namespace of processes.
func inContainer(root string) bool {
	for _, mark := range []string{".dockerenv", "run/.containerenv", "run/systemd/container"} {
		if _, err := os.Lstat(filepath.Join(root, mark)); !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	const first = "pid:[4026531836]" // PROC_PID_INIT_INO of the kernel
	namespace, err := os.Readlink("/proc/self/ns/pid")
	return err != nil || namespace != first
}

// bootID names the boot of this machine, for people; "" where it is not known.
func bootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
