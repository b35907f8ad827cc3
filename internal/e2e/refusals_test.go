// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/strandline-project/strandline/internal/httpapi"
	"golang.org/x/crypto/bcrypt"
)

// writeUsers writes an htpasswd file in which each user's password is the
// name backwards.
func writeUsers(t *testing.T, path string, users ...string) {
	t.Helper()
	var text strings.Builder
	for _, user := range users {
		hash, err := bcrypt.GenerateFromPassword([]byte(backwards(user)), bcrypt.MinCost)
		must(t, err)
		fmt.Fprintf(&text, "%s:%s\n", user, hash)
	}
	must(t, os.WriteFile(path, []byte(text.String()), 0o600))
}

func backwards(s string) string {
	var b strings.Builder
	for i := len(s) - 1; i >= 0; i-- {
		b.WriteByte(s[i])
	}
	return b.String()
}

// as returns the door with a user's name and password.
func (d *door) as(user, password string) *door {
	c := *d
	c.user, c.password = user, password
	return &c
}

func TestUsersReachTheirOwnPathsOnly(t *testing.T) {
	w := initialised(t)
	users := w.path("users")
	writeUsers(t, users, "alice", "bob")
	s := w.serve("a", "--htpasswd-file", users)
	alice, bob := s.door("alice", "laptop").as("alice", "ecila"), s.door("bob", "laptop").as("bob", "bob")
	alice.create()
	bob.create()
	alice.as("alice", "wrong").wants(401, "HEAD", "config", nil)
	alice.as("", "").wants(401, "HEAD", "config", nil)
	alice.as("mallory", "yrollam").wants(401, "HEAD", "config", nil)

	there := bob.as("alice", "ecila").wants(403, "GET", "config", nil)
	absent := s.door("carol", "laptop").as("alice", "ecila").wants(403, "GET", "config", nil)
	unregistered := s.door("bob", "phone").as("alice", "ecila").wants(403, "GET", "config", nil)
	if there.body != absent.body || there.body != unregistered.body {
		t.Errorf("another account's path answers %q, one that does not exist %q, a machine that does not %q", there.body, absent.body, unregistered.body)
	}

	carol := s.door("carol", "laptop").as("carol", "lorac")
	carol.wants(401, "HEAD", "config", nil)
	writeUsers(t, users, "alice", "carol")
	s.signal(syscall.SIGHUP)
	eventually(t, "the htpasswd file was read again", func() error {
		if a := carol.do("HEAD", "config", nil); a.status != 404 {
			return fmt.Errorf("carol gets %d", a.status)
		}
		return nil
	})
	carol.create()
	bob.wants(401, "HEAD", "config", nil)
	must(t, os.WriteFile(users, []byte("this is no htpasswd file"), 0o600))
	s.signal(syscall.SIGHUP)
	eventually(t, "the bad file was reported", func() error {
		if !strings.Contains(s.printed(), "the users read before stay") {
			return fmt.Errorf("not a word of it")
		}
		return nil
	})
	alice.wants(200, "HEAD", "config", nil)
	s.endsCleanly()
}

// chunked hides the length of a body.
func chunked(body []byte) io.Reader { return io.MultiReader(bytes.NewReader(body)) }

func TestBodiesThatAreTooLargeAreRefused(t *testing.T) {
	w := initialised(t)
	s := w.serve("a", "--max-body", "1MiB")
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	body := bytes.Repeat([]byte{7}, 1<<20+1)
	d.wants(413, "POST", named("data", body), body)
	a, err := d.send(context.Background(), "POST", named("data", body), chunked(body))
	must(t, err)
	if a.status != 413 {
		t.Errorf("chunked: %d %s", a.status, a.body)
	}
	d.wants(404, "HEAD", named("data", body), nil)
	d.store("data", body[1:])
	s.endsCleanly()
}

func TestAQuotaIsAnsweredWith507WhateverTheBodysForm(t *testing.T) {
	w := initialised(t)
	s := w.serve("a", "--max-size", "1MiB")
	d, other := s.door("alice", "laptop"), s.door("bob", "laptop")
	d.create()
	other.create()
	d.store("locks", []byte("a lock"))
	first := d.store("data", bytes.Repeat([]byte{1}, 700<<10))
	body := bytes.Repeat([]byte{2}, 700<<10)
	d.wants(507, "POST", named("data", body), body)
	a, err := d.send(context.Background(), "POST", named("data", body), chunked(body))
	must(t, err)
	if a.status != 507 {
		t.Errorf("chunked: %d %s", a.status, a.body)
	}
	other.store("data", body) // a quota is an account's
	d.wants(200, "DELETE", first, nil)
	d.store("data", body)
	s.endsCleanly()
}

func TestABacklogIsAnsweredWith503UntilTheArchiveIsBack(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.serve("a", "--max-backlog", "64MiB")
	d := s.door("alice", "laptop")
	d.create()
	lock := d.store("locks", []byte("a lock"))
	s.awaitArchived()
	must(t, os.Rename(w.archivePath(), w.path("away")))

	var refused answer
	var stored []string
	var body []byte
	for n := byte(0); refused.status == 0; n++ {
		if n == 200 {
			t.Fatal("200 MiB were taken in, with a limit of 64 MiB")
		}
		body = bytes.Repeat([]byte{n}, 1<<20)
		if a := d.do("POST", named("data", body), body); a.status != 200 {
			refused = a
		} else {
			stored = append(stored, named("data", body))
		}
	}
	if refused.status != 503 || refused.header.Get("Retry-After") == "" || len(stored) < 32 {
		t.Fatalf("after %d MiB: %d %v %s", len(stored), refused.status, refused.header, refused.body)
	}
	d.wants(200, "GET", stored[len(stored)-1], nil) // reads go on
	d.wants(200, "DELETE", lock, nil)               // so do deletes
	if _, err := os.Stat(w.archivePath()); err == nil {
		t.Error("the server made a new archive where the old one was")
	}
	must(t, os.Rename(w.path("away"), w.archivePath()))
	eventually(t, "the backlog drains and writes go on", func() error {
		if a := d.do("POST", named("data", body), body); a.status != 200 {
			return fmt.Errorf("%d %s", a.status, a.body)
		}
		return nil
	})
	s.awaitArchived()
	s.endsCleanly()
}

// onSmallDisk initialises a server whose state directory is a disk of so many
// MiB, which it alone sees. It does not run yet.
func onSmallDisk(w *world, size int, flags ...string) *server {
	w.t.Helper()
	must(w.t, os.Mkdir(w.path("a"), 0o700))
	s := w.newServer("a", flags...)
	s.wrap = ownMounts(w.t, fmt.Sprintf(`
		mount -t tmpfs -o size=%dm tmpfs "$0"
		"$1" init --data "$0" --archive "$2"
		shift 2
		exec "$@"`, size), w.path("a"), program, w.archive)
	return s
}

func TestBodiesThatComeTogetherDoNotFillTheDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := onSmallDisk(w, 260, "--body-memory", "16MiB")
	s.start()
	d := s.door("alice", "laptop")
	d.create()
	lock := d.store("locks", []byte("a lock"))
	var all sync.WaitGroup
	for n := range byte(10) {
		all.Go(func() {
			body := bytes.Repeat([]byte{n}, 30<<20)
			a, err := d.try(context.Background(), "POST", named("data", body), body)
			// The connection may break while a refused body is still being sent.
			if err == nil && a.status != 200 && a.status != 503 && a.status != 507 {
				t.Errorf("body %d: %d %s", n, a.status, a.body)
			}
		})
	}
	all.Wait()
	if status := s.status(); status.Mode != httpapi.ModeServing {
		t.Fatalf("status: %s, stopped %q", status.Mode, status.Stopped)
	}
	d.store("locks", []byte("another lock"))
	d.wants(200, "DELETE", lock, nil)
	s.endsCleanly()
}

func TestADiskThatIsFullIsAnsweredWith507(t *testing.T) {
	t.Parallel()
	s := onSmallDisk(newWorld(t), 160)
	s.start()
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	var stored []string
	var refused answer
	for n := byte(0); refused.status == 0; n++ {
		if n == 160 {
			t.Fatal("160 MiB fit on a disk of 160 MiB")
		}
		body := bytes.Repeat([]byte{n}, 1<<20)
		eventually(t, "the disk has room or can drain nothing", func() error {
			a := d.do("POST", named("data", body), body)
			switch a.status {
			case 200:
				stored = append(stored, named("data", body))
			case 503: // something drains
				return fmt.Errorf("%d %s", a.status, a.body)
			default:
				refused = a
			}
			return nil
		})
	}
	if refused.status != 507 {
		t.Fatalf("after %d MiB: %d %s", len(stored), refused.status, refused.body)
	}
	t.Logf("507 after %d MiB: %s", len(stored), strings.TrimSpace(refused.body))
	d.store("locks", []byte("another lock")) // the reserve
	d.wants(200, "GET", stored[0], nil)
	d.wants(200, "DELETE", stored[0], nil)
	if err := s.ready(); err != nil {
		t.Errorf("a full disk is no reason to be unready: %v", err)
	}
	s.endsCleanly()
}
