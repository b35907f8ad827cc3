// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/plainclient"
	"github.com/strandline-project/strandline/internal/testkit"
)

// contents maps each file below dir, which may be absent, to its bytes.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return all
	}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := os.ReadFile(path)
		all[path] = string(body)
		return err
	}))
	return all
}

// backedUp is a world whose server a stopped cleanly after a backup of a
// small tree.
func backedUp(t *testing.T) (*world, *tree) {
	t.Helper()
	w := initialised(t)
	tr := newTree(t, newRandom(t), 100)
	s := w.serve("a")
	c := s.plain("alice", "laptop")
	must(t, c.Init(t.Context()))
	_, err := c.Backup(t.Context(), tr.dir)
	must(t, err)
	s.endsCleanly()
	return w, tr
}

// plain returns the built-in client for a machine.
func (s *server) plain(account, machine string) *plainclient.Client {
	s.t.Helper()
	c, err := plainclient.New(s.url(account, machine), plainclient.Options{GiveUp: patience})
	must(s.t, err)
	s.t.Cleanup(c.Close)
	return c
}

func TestHoldServesReadsAndWritesNothing(t *testing.T) {
	w, tr := backedUp(t)
	w.recover("b", 1)
	archive, wal, state := contents(t, w.archivePath()), contents(t, w.path("b", "wal")), contents(t, w.path("b"))[w.path("b", "state.json")]
	s := w.serve("b", "--hold")
	d := s.door("alice", "laptop")
	if status := s.status(); status.Mode != httpapi.ModeHold || !status.Ready || status.Epoch != 0 {
		t.Errorf("status: mode %s, ready %v, epoch %d", status.Mode, status.Ready, status.Epoch)
	}
	dir := filepath.Join(t.TempDir(), "restored")
	must(t, s.plain("alice", "laptop").Restore(t.Context(), "latest", dir))
	sameFiles(t, "the backup", describe(t, tr.dir), describe(t, dir))

	lock := d.store("locks", []byte("a reader's lock")) // kept in memory
	d.wants(200, "GET", lock, nil)
	body := []byte("no")
	for _, request := range []string{named("data", body), named("snapshots", body), "config", "?create=true"} {
		if a := d.wants(503, "POST", request, body); a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "hold") {
			t.Errorf("POST %s: %v %s", request, a.header, a.body)
		}
	}
	d.wants(200, "DELETE", lock, nil)
	s.door("nobody", "nowhere").wants(404, "HEAD", "config", nil)
	s.endsCleanly()
	if !maps.Equal(archive, contents(t, w.archivePath())) {
		t.Error("the archive was changed")
	}
	if !maps.Equal(wal, contents(t, w.path("b", "wal"))) {
		t.Error("the WAL was changed")
	}
	if now := contents(t, w.path("b"))[w.path("b", "state.json")]; now != state {
		t.Errorf("the state was %s, is %s", state, now)
	}
}

func TestResticRestoresFromAServerThatHolds(t *testing.T) {
	t.Parallel()
	testkit.Need(t, "restic")
	w := initialised(t)
	tr := newTree(t, newRandom(t), 100)
	s := w.serve("a")
	r := newRestic(t, s.url("alice", "laptop"), w.environ())
	r.ok("init")
	snapshotOf(t, r.begin(tr.dir, "backup", "--json", ".").succeeds())
	s.kill()
	archive, wal := contents(t, w.archivePath()), contents(t, w.path("a", "wal"))
	s.flags = []string{"--hold"}
	s.start()
	sameFiles(t, "the backup", describe(t, tr.dir), r.restored("latest")) // with restic's lock
	s.endsCleanly()
	if !maps.Equal(archive, contents(t, w.archivePath())) || !maps.Equal(wal, contents(t, w.path("a", "wal"))) {
		t.Error("the archive or the WAL was changed")
	}
}

func TestWithoutItsBucketAStartServesReadsUntilItIsBack(t *testing.T) {
	t.Parallel()
	minio := testkit.MinIO(t)
	w := newWorld(t)
	w.archive, w.env = minio.Spec(), minio.Environ()
	w.init()
	s := w.serve("a")
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	block := d.store("data", []byte("here before"))
	s.kill()
	minio.Stop()
	must(t, os.RemoveAll(w.path("a", "views"))) // the WAL has all that they had
	must(t, s.launch())
	eventually(t, "reads are served", func() error {
		a, err := d.try(t.Context(), "GET", block, nil)
		if err == nil && a.status != 200 {
			err = fmt.Errorf("%d %s", a.status, a.body)
		}
		return err
	})
	if s.ready() == nil {
		t.Error("ready without an archive")
	}
	for _, kind := range []string{"data", "locks"} {
		body := []byte("not yet")
		if a := d.wants(503, "POST", named(kind, body), body); a.header.Get("Retry-After") == "" {
			t.Errorf("%s: 503 without Retry-After", kind)
		}
	}
	if out := w.ok("status", "--admin", s.admin); !strings.Contains(out, "cannot be reached") {
		t.Errorf("status says %s", out)
	}
	minio.Start()
	s.awaitReady()
	d.store("data", []byte("here after"))
	d.wants(200, "GET", block, nil)
	minio.Stop()
	if code := s.stop(); code != 0 {
		t.Errorf("a stop without the bucket: code %d", code)
	}
	must(t, s.launch()) // and one that never got so far
	eventually(t, "reads are served again", func() error {
		_, err := d.try(t.Context(), "GET", block, nil)
		return err
	})
	if code := s.stop(); code != 0 {
		t.Errorf("a stop before the bucket was back: code %d", code)
	}
}

func TestWithAnArchiveThatIsReadOnlyAStartServesReadsUntilItTakesObjects(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.serve("a")
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	block := d.store("data", []byte("here before"))
	s.kill()
	claims := len(contents(t, w.archivePath("epoch")))
	s.wrap = ownMounts(t, `mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"`, w.archivePath())
	must(t, s.launch())
	eventually(t, "reads are served", func() error {
		a, err := d.try(t.Context(), "GET", block, nil)
		if err == nil && a.status != 200 {
			err = fmt.Errorf("%d %s", a.status, a.body)
		}
		return err
	})
	body := []byte("not yet")
	d.wants(503, "POST", named("data", body), body)
	if s.ready() == nil {
		t.Error("ready with an archive that takes nothing")
	}
	if out := w.ok("status", "--admin", s.admin); !strings.Contains(out, "takes no") || !strings.Contains(out, "read-only") {
		t.Errorf("status says %s", out)
	}
	if !strings.Contains(s.printed(), "trying again") {
		t.Error("nothing was logged of the tries")
	}
	s.inside("mount", "-o", "remount,bind,rw", w.archivePath())
	s.awaitReady()
	if now := len(contents(t, w.archivePath("epoch"))); now != claims+1 {
		t.Errorf("it claimed %d epochs", now-claims)
	}
	d.store("data", []byte("here after"))
	d.wants(200, "GET", block, nil)
	s.endsCleanly()
}

func TestADirectoryArchiveThatIsNotMountedIsAwayAndNotMade(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.serve("a")
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	block := d.store("data", []byte("here before"))
	s.kill()
	must(t, os.Rename(w.archivePath(), w.path("away")))
	readsOnly := func() {
		t.Helper()
		must(t, s.launch())
		eventually(t, "reads are served", func() error {
			a, err := d.try(t.Context(), "GET", block, nil)
			if err == nil && a.status != 200 {
				err = fmt.Errorf("%d %s", a.status, a.body)
			}
			return err
		})
		body := []byte("not yet")
		d.wants(503, "POST", named("data", body), body)
		if s.ready() == nil {
			t.Error("ready without an archive")
		}
	}
	readsOnly()
	if code := s.stop(); code != 0 {
		t.Errorf("a stop before the archive was back: code %d", code)
	}
	must(t, os.Mkdir(w.archivePath(), 0o700)) // where it will be mounted
	readsOnly()
	if left, err := os.ReadDir(w.archivePath()); err != nil || len(left) > 0 {
		t.Errorf("%v was made, %v", left, err)
	}
	must(t, os.Remove(w.archivePath()))
	must(t, os.Rename(w.path("away"), w.archivePath()))
	s.awaitReady()
	d.wants(200, "GET", block, nil)
	d.store("data", []byte("here after"))
	if s.status().Lossy {
		t.Error("the start was lossy")
	}
	s.endsCleanly()
}

func TestAServerWithoutItsArchiveStopsWithoutWaitingForEver(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	s := w.serve("a")
	d := s.door("alice", "laptop")
	d.create()
	d.store("locks", []byte("a lock"))
	s.awaitArchived()
	must(t, os.Rename(w.archivePath(), w.path("away")))
	block := d.store("data", []byte("committed, not archived"))
	s.endsCleanly()
	if !strings.Contains(s.printed(), "events unshipped") {
		t.Error("the server does not say what it could not ship")
	}
	must(t, os.Rename(w.path("away"), w.archivePath()))
	s.start()
	s.awaitArchived()
	d.wants(200, "GET", block, nil)
	if s.status().Lossy {
		t.Error("the next start is lossy")
	}
	s.endsCleanly()
}

func TestNATSComesAndGoesAndNothingIsMissed(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	nats := newNATS(t)
	s := w.serve("a", "--nats", nats.url())
	load := startLoad(t, s.door("load", "blocks"))
	connected := func(want bool) {
		eventually(t, fmt.Sprintf("the feed's connection is %v", want), func() error {
			if got := s.status().Feed; got.Connected != want {
				return fmt.Errorf("%+v", got)
			}
			return nil
		})
	}
	progress := func() {
		before := load.next.Load()
		eventually(t, "writes go on", func() error {
			if n := load.next.Load(); n < before+100 {
				return fmt.Errorf("%d blocks, %d before", n, before)
			}
			return s.ready()
		})
	}
	connected(true)
	progress()
	for range 2 {
		nats.stop()
		connected(false)
		progress()
		nats.start()
		connected(true)
		progress()
	}
	load.end()
	load.check(false)
	nats.stop()
	s.kill()
	s.start() // without any NATS
	load.check(false)
	s.endsCleanly()
}

// certificate writes a self-signed certificate for loopback and returns the
// files and a client that trusts it.
func certificate(t *testing.T) (cert, key string, client *http.Client) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	must(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	must(t, os.WriteFile(cert, public, 0o600))
	must(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(public)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return cert, key, &http.Client{Transport: transport, Timeout: patience}
}

func TestTLSServesBothVersionsOfHTTPAndNoPlainOne(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	cert, key, client := certificate(t)
	s := w.serve("a", "--tls", "--tls-cert", cert, "--tls-key", key)
	d := s.door("alice", "laptop")
	d.base, d.client = strings.Replace(d.base, "http:", "https:", 1), client
	d.create()
	block := d.store("data", pattern("over TLS", 200<<10))
	if a := d.wants(200, "GET", block, nil); named("data", []byte(a.body)) != block {
		t.Error("other bytes came back")
	}
	resp, err := client.Get(d.base + "config")
	must(t, err)
	must(t, resp.Body.Close())
	if resp.ProtoMajor != 2 {
		t.Errorf("the protocol is %s", resp.Proto)
	}
	if a, err := s.door("alice", "laptop").try(t.Context(), "HEAD", "config", nil); err == nil && a.status < 400 {
		t.Errorf("plain HTTP got %d", a.status)
	}
	if testkit.All() {
		r := newRestic(t, d.base[len("http"):], w.environ())
		r.env = append(r.env, "RESTIC_CACERT="+cert, "RESTIC_REPOSITORY=rest:"+strings.Replace(d.base, "laptop", "phone", 1))
		r.ok("init", "--cacert", cert)
		r.ok("backup", "--cacert", cert, cert)
	}
	s.endsCleanly()
}

func TestTheServerSaysWhereItListensAsRestServerDoes(t *testing.T) {
	w := initialised(t)
	s := w.serve("a")
	eventually(t, "the line that restic's own tests wait for", func() error {
		for line := range strings.Lines(s.printed()) {
			if line == "start server on "+s.listen+"\n" {
				return nil
			}
		}
		return fmt.Errorf("it is not there")
	})
	s.endsCleanly()
}
