// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/blockstore"
	"github.com/strandline-project/strandline/internal/testkit"
)

// halfRequest sends a request that is not whole, ends the sending direction,
// and returns the answer.
func (d *door) halfRequest(request string) (status int, rest string) {
	d.t.Helper()
	conn, err := net.Dial("tcp", d.addr)
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	if _, err := io.WriteString(conn, request); err != nil {
		d.t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		d.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, string(all)
}

func TestWhatTheStoreSaysBecomesAStatus(t *testing.T) {
	away := &blockstore.Unavailable{Reason: "the archive is away", RetryAfter: 1500 * time.Millisecond}
	for _, c := range []struct {
		name       string
		err        error
		status     int
		retryAfter string
		says       string
	}{
		{"no machine", blockstore.ErrNoMachine, 404, "", "no such machine"},
		{"a bad name", blockstore.ErrBadName, 404, "", "not a valid"},
		{"exists with other content", blockstore.ErrExists, 403, "", "exists already"},
		{"append-only", blockstore.ErrAppendOnly, 403, "", "append-only"},
		{"read-only", blockstore.ErrReadOnly, 403, "", "read-only"},
		{"a lossy start", &blockstore.Barred{Machine: "alice/laptop", Reason: "your session was cut off: start anew"}, 403, "", "your session was cut off"},
		{"a wrong hash", blockstore.ErrMismatch, 400, "", "SHA-256"},
		{"a short body", blockstore.ErrShortBody, 400, "", "ended early"},
		{"too large", blockstore.ErrTooLarge, 413, "", "larger"},
		{"quota", blockstore.ErrQuota, 507, "", "quota"},
		{"disk full", blockstore.ErrDiskFull, 507, "", "full"},
		{"damage", blockstore.ErrDamaged, 500, "", "checksums"},
		{"unavailable", away, 503, "2", "the archive is away"},
		{"unavailable without a time", &blockstore.Unavailable{Reason: "recovering"}, 503, "1", "recovering"},
		{"unavailable because of a 404", &blockstore.Unavailable{Reason: "in doubt", Err: blockstore.ErrNotFound}, 503, "1", "in doubt"},
		{"too long", context.DeadlineExceeded, 503, "5", "too long"},
		{"too long on a file", os.ErrDeadlineExceeded, 503, "5", "too long"},
		{"a stopped server", context.Canceled, 503, "5", "too long"},
		{"anything else", errors.New("secret inner trouble"), 500, "", "the server failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := withRepo(t)
			file := repo + "data/" + id("x")
			d.want(200, "POST", file, "x")
			for verb, method := range map[string]string{"Put": "POST", "Delete": "DELETE", "Stat": "HEAD", "Open": "GET"} {
				d.store.failWith(verb, false, fmt.Errorf("while we tested: %w", c.err))
				body := ""
				if method == "POST" {
					body = "x"
				}
				got := d.want(c.status, method, file, body)
				if got.header.Get("Retry-After") != c.retryAfter || method != "HEAD" && !strings.Contains(got.body, c.says) {
					t.Errorf("%s: Retry-After %q, %q", method, got.header.Get("Retry-After"), got.body)
				}
				if strings.Contains(got.body, "secret") {
					t.Errorf("%s tells the server's own trouble: %q", method, got.body)
				}
			}
			d.store.failWith("List", false, c.err)
			d.want(c.status, "GET", repo+"data/", "")
			d.store.failWith("Register", false, c.err)
			d.want(c.status, "POST", repo+"?create=true", "")
			if c.status == 500 && !strings.Contains(d.log.String(), c.err.Error()) {
				t.Errorf("the log does not say why: %s", d.log)
			}
		})
	}
}

func TestADeleteInDoubtIsNot200(t *testing.T) {
	d := withRepo(t)
	d.store.failWith("Delete", false, &blockstore.Unavailable{Reason: "in doubt", Err: blockstore.ErrNotFound})
	d.want(503, "DELETE", repo+"data/"+someID, "")
	d.store.failWith("Delete", false, blockstore.ErrNotFound)
	d.want(200, "DELETE", repo+"data/"+someID, "")
}

func TestAPutThatFailedButWasDoneCanBeRetried(t *testing.T) {
	d := withRepo(t)
	file := repo + "snapshots/" + id("x")
	d.store.failWith("Put", true, &blockstore.Unavailable{Reason: "the archive did not answer in time"})
	d.want(503, "POST", file, "x")
	d.store.failWith("", false, nil)
	d.want(200, "POST", file, "x")
	if got := d.want(200, "GET", repo+"snapshots/", ""); strings.Count(got.body, id("x")) != 1 {
		t.Errorf("listed: %s", got.body)
	}
}

func TestADeleteThatFailedButWasDoneCanBeRetried(t *testing.T) {
	d := withRepo(t)
	file := repo + "keys/" + id("x")
	d.want(200, "POST", file, "x")
	d.store.failWith("Delete", true, &blockstore.Unavailable{Reason: "the archive did not answer in time"})
	d.want(503, "DELETE", file, "")
	d.store.failWith("", false, nil)
	d.want(200, "DELETE", file, "")
	d.want(404, "HEAD", file, "")
}

func TestARegistrationThatFailedButWasDoneCanBeRetried(t *testing.T) {
	d := openDoor(t)
	d.store.failWith("Register", true, &blockstore.Unavailable{Reason: "the archive did not answer in time"})
	d.want(503, "POST", repo+"?create=true", "")
	d.store.failWith("", false, nil)
	d.want(200, "POST", repo+"?create=true", "")
}

func TestDamageAtTheBeginningIs500AndNoByteIsSent(t *testing.T) {
	d := withRepo(t)
	content := string(random(1<<20, 6))
	file := repo + "data/" + id(content)
	d.want(200, "POST", file, content)
	for _, at := range []int64{1, 64 << 10, 127 << 10} {
		d.store.set(func(s *fakeStore) { s.breakAt = at })
		if got := d.want(500, "GET", file, "", "Range: bytes=0-"); got.header.Get("Content-Range") != "" {
			t.Errorf("damage at %d: %v", at, got.header)
		}
	}
}

func TestLaterDamageBreaksTheConnection(t *testing.T) {
	d := withRepo(t)
	content := string(random(1<<20, 7))
	file := repo + "data/" + id(content)
	d.want(200, "POST", file, content)
	for _, at := range []int64{128 << 10, 500_000, 1<<20 - 1} {
		d.store.set(func(s *fakeStore) { s.breakAt = at })
		got := d.ask("GET", file, nil)
		if got.status != 200 || !errors.Is(got.err, io.ErrUnexpectedEOF) || !strings.HasPrefix(content, got.body) {
			t.Errorf("damage at %d: %d, %d bytes, %v", at, got.status, len(got.body), got.err)
		}
	}
	if !strings.Contains(d.log.String(), "broken off") {
		t.Errorf("the log says nothing: %s", d.log)
	}
}

func TestAListThatBreaksIsNeverShort(t *testing.T) {
	d := withRepo(t)
	for i := range 500 {
		content := fmt.Sprint(i)
		d.want(200, "POST", repo+"locks/"+id(content), content)
	}
	for _, after := range []int{1, 10} {
		d.store.set(func(s *fakeStore) { s.breakList = after })
		d.want(500, "GET", repo+"locks/", "")
	}
	for _, encoding := range []string{"identity", "gzip"} {
		d.store.set(func(s *fakeStore) { s.breakList = 499 })
		d.wantBroken("GET", repo+"locks/", "Accept-Encoding: "+encoding)
	}
}

// wantBroken sends a request whose answer must not arrive whole.
func (d *door) wantBroken(method, path, header string) {
	d.t.Helper()
	conn, err := net.Dial("tcp", d.addr)
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", method, path, header); err != nil {
		d.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return // broken before the header
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err == nil {
		d.t.Errorf("%s %s: %d with %d bytes looks whole", method, path, resp.StatusCode, len(got))
	}
}

// What is announced is of the block that is sent: it is looked up once.
func TestABlockThatChangesMeanwhileIsReadWhole(t *testing.T) {
	d := withRepo(t)
	d.want(200, "POST", repo+"config", "a long config")
	p := blockstore.Path{Account: "alice", Machine: "laptop"}
	d.store.set(func(s *fakeStore) {
		s.before = func(verb string, ref blockstore.Ref) error {
			if verb == "Open" {
				s.set(func(s *fakeStore) { s.machines[p][ref] = []byte("short") })
			}
			return nil
		}
	})
	if got := d.want(200, "GET", repo+"config", ""); got.body != "short" {
		t.Errorf("it reads %q", got.body)
	}
}

// TestAnAbortedUploadLosesNothing is rest-server's TestAbortedRequest: a slow
// upload A of a file, then its DELETE, then an upload B of it, then A fails.
func TestAnAbortedUploadLosesNothing(t *testing.T) {
	d := withRepo(t)
	content := string(random(100_000, 8))
	file := repo + "data/" + id(content)
	begun, ended := make(chan struct{}, 1), make(chan error, 1)
	d.store.set(func(s *fakeStore) {
		s.readBody = func(r io.Reader) ([]byte, error) {
			begun <- struct{}{}
			all, err := io.ReadAll(r)
			if err != nil {
				ended <- err
			}
			return all, err
		}
	})
	a, err := net.Dial("tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(a, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", file, len(content), content[:5000]); err != nil {
		t.Fatal(err)
	}
	<-begun
	d.want(200, "DELETE", file, "")
	d.want(200, "POST", file, content)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("A did not fail")
	}
	if got := d.want(200, "GET", file, ""); got.body != content {
		t.Error("B's content is gone")
	}
}

func TestAnEarlyRefusalIsSeenByAClientThatIsStillSending(t *testing.T) {
	d := withRepo(t)
	d.store.set(func(s *fakeStore) {
		s.readBody = func(io.Reader) ([]byte, error) {
			return nil, &blockstore.Unavailable{Reason: "too many bytes in flight", RetryAfter: time.Second}
		}
	})
	content := random(4<<20, 9)
	for range 10 {
		got := d.ask("POST", repo+"data/"+id(string(content)), strings.NewReader(string(content)))
		if got.status != 503 || got.header.Get("Retry-After") != "1" {
			t.Fatalf("%d %v", got.status, got.header)
		}
	}
}
