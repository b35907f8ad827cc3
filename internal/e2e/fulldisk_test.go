// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A recovery that fills its disk, wherever it is by then, ends and says what
// to do; the same command, once there is room, ends with the same digests.
func TestARecoveryThatFillsItsDiskEndsAndGoesOnOnceThereIsRoom(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ok("bench", "archive", "--archive", w.archive, "--events", "60000", "--objects", "6")
	want := w.recover("there-is-room", 1)
	full := 0
	for size := 512; ; size += size / 2 {
		if size > 64<<10 {
			t.Fatal("64 MiB are not enough for 60,000 events")
		}
		code, last, then := w.recoverOnSmallDisk(size)
		if len(then.Views) != len(want.Views) {
			t.Fatalf("with %d KiB, then with room: %d views", size, len(then.Views))
		}
		for i, view := range then.Views {
			if view != want.Views[i] {
				t.Errorf("with %d KiB, then with room: %+v, want %+v", size, view, want.Views[i])
			}
		}
		if code == 0 {
			break
		}
		full++
		checkRefusal(t, fmt.Sprintf("recover, on %d KiB", size), code, 1, last, []string{"no space left on device", "make room, then give the same command again"})
	}
	if full < 3 {
		t.Errorf("%d disks were full", full)
	}
}

// recoverOnSmallDisk recovers onto a disk of so many KiB, and onto the same
// once it has become large. It returns what the first recovery ended with, and
// said last, and what the second one made.
func (w *world) recoverOnSmallDisk(size int) (code int, last string, then recovery) {
	w.t.Helper()
	must(w.t, os.MkdirAll(w.path("small"), 0o700))
	script := fmt.Sprintf(`
		mount -t tmpfs -o size=%dk tmpfs "$0"
		code=0
		"$@" >"$0.out" 2>"$0.err" || code=$?
		echo $code >"$0.code"
		mount -o remount,size=256m "$0"
		[ $code != 0 ] || set -- "$@" --data "$0/again"
		exec "$@" --json`, size)
	command := append(ownMounts(w.t, script, w.path("small")), program, "recover", "--skip-disk-check",
		"--archive", w.archive, "--data", w.path("small", "data"))
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = w.environ(), &out, &stderr
	if err := cmd.Run(); err != nil {
		w.t.Fatalf("on %d KiB: %v\n%s", size, errors.Join(err, ctx.Err()), stderr.String())
	}
	must(w.t, json.Unmarshal(out.Bytes(), &then))
	text, err := os.ReadFile(w.path("small.code"))
	must(w.t, err)
	if _, err := fmt.Sscan(string(text), &code); err != nil {
		w.t.Fatal(err)
	}
	text, err = os.ReadFile(w.path("small.err"))
	must(w.t, err)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return code, lines[len(lines)-1], then
}

// The views are on a disk of their own, which fills: the view stops, writes
// are refused, reads go on, and the log has all that was acknowledged. With
// room, the next start goes on.
func TestAServerWhoseViewsDiskIsFullServesReadsUntilThereIsRoom(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.newServer("a")
	must(t, os.MkdirAll(w.path("a", "views"), 0o700))
	s.wrap = ownMounts(t, `
		mount -t tmpfs -o size=384k tmpfs "$0"
		exec "$@"`, w.path("a", "views"))
	s.start()
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	var stored []string
	var refused answer
	for n := 0; refused.status == 0; n++ {
		if n == 20_000 {
			t.Fatal("20,000 rows fit on a disk of 384 KiB")
		}
		body := fmt.Appendf(nil, "block %d", n)
		if a := d.do("POST", named("data", body), body); a.status == 200 {
			stored = append(stored, named("data", body))
		} else {
			refused = a
		}
	}
	if refused.status != 503 {
		t.Fatalf("after %d blocks: %d %s", len(stored), refused.status, refused.body)
	}
	eventually(t, "the status says why", func() error {
		if text := fmt.Sprintf("%+v", s.status()); !strings.Contains(text, "no space left on device") {
			return errors.New(text)
		}
		return nil
	})
	d.wants(200, "GET", stored[0], nil)
	d.wants(200, "GET", stored[len(stored)-1], nil)
	if lines := strings.Count(s.printed(), "no space left on device"); lines > 40 {
		t.Errorf("%d lines say it:\n%s", lines, s.printed())
	}
	s.stop()
	s.wrap = nil
	s.start()
	d = s.door("alice", "laptop")
	for _, path := range stored {
		d.wants(200, "GET", path, nil)
	}
	d.store("locks", []byte("another lock"))
	s.endsCleanly()
}

// A state directory on a small disk takes more than the disk holds: what is
// archived already goes from there, long before its ten minutes are over.
func TestAServerOnASmallDiskTakesMoreThanTheDiskHolds(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.newServer("a")
	s.wrap = ownMounts(t, `
		cp -a "$0" "$0.was"
		mount -t tmpfs -o size=256m tmpfs "$0"
		cp -a "$0.was/." "$0"
		exec "$@"`, w.path("a"))
	s.start()
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	block := make([]byte, 4<<20)
	for n := range 80 {
		binary.LittleEndian.PutUint64(block, uint64(n))
		eventually(t, "the server takes the block", func() error {
			a := d.do("POST", named("data", block), block)
			switch a.status {
			case 200:
				return nil
			case 503:
				return fmt.Errorf("block %d: %s", n, a.body)
			}
			t.Fatalf("block %d: %d %s", n, a.status, a.body)
			return nil
		})
	}
	for n := range 80 {
		binary.LittleEndian.PutUint64(block, uint64(n))
		d.wants(200, "GET", named("data", block), nil)
	}
	s.endsCleanly()
}
