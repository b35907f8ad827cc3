// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"github.com/strandline-project/strandline/internal/testkit"
)

// TestMain looks for goroutines left over. net/http waits half a second before
// it closes a connection whose client was still sending; that ends by itself.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// door is a served Handler in front of a fakeStore.
type door struct {
	t     testing.TB
	store *fakeStore
	url   string
	addr  string
	http  *http.Client
	log   *syncBuffer
}

// openDoor serves; adjust may change the Config, and the Handler it makes.
func openDoor(t testing.TB, adjust ...func(*Config)) *door {
	t.Helper()
	return openDoorWith(t, nil, adjust...)
}

func openDoorWith(t testing.TB, change func(*Handler), adjust ...func(*Config)) *door {
	t.Helper()
	d := &door{t: t, store: newFakeStore(), log: &syncBuffer{}}
	c := Config{Store: d.store, Log: slog.New(slog.NewTextHandler(d.log, nil))}
	for _, a := range adjust {
		a(&c)
	}
	h := NewHandler(c)
	if change != nil {
		change(h)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.NewTextHandler(d.log, nil), slog.LevelWarn)
	srv.Start()
	t.Cleanup(srv.Close)
	d.url, d.addr = srv.URL, srv.Listener.Addr().String()
	d.http = srv.Client()
	d.http.CheckRedirect = func(*http.Request, []*http.Request) error { return errors.New("a redirect") }
	return d
}

// reply is an answer, read to its end.
type reply struct {
	status int
	header http.Header
	body   string
	err    error // of reading the body
}

// ask sends a request. header is "Name: value" lines.
func (d *door) ask(method, path string, body io.Reader, header ...string) reply {
	d.t.Helper()
	req, err := http.NewRequest(method, d.url+path, body)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	resp, err := d.http.Do(req)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return reply{status: resp.StatusCode, header: resp.Header, body: string(got), err: err}
}

// want sends a request and checks the status.
func (d *door) want(status int, method, path string, body string, header ...string) reply {
	d.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	got := d.ask(method, path, reader, header...)
	if got.status != status {
		d.t.Fatalf("%s %s: got %d %q, want %d", method, path, got.status, got.body, status)
	}
	return got
}

// raw sends bytes as they are and returns the answer's status line and all that
// followed until the server closed the connection.
func (d *door) raw(request string) (status int, rest string) {
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
	answer := bufio.NewReader(conn)
	line, err := answer.ReadString('\n')
	if err != nil {
		d.t.Fatalf("%q: no status line: %v", request, err)
	}
	if _, err := fmt.Sscanf(line, "HTTP/1.1 %d", &status); err != nil {
		d.t.Fatalf("%q: status line %q: %v", request, line, err)
	}
	all, err := io.ReadAll(answer)
	if err != nil {
		d.t.Fatalf("%q: %v", request, err)
	}
	return status, string(all)
}

// rawGet asks for a path that an http.Client would not send.
func (d *door) rawGet(path string) (status int, rest string) {
	d.t.Helper()
	return d.raw("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

const repo = "/alice/laptop/"

// withRepo opens a door with the repository in it.
func withRepo(t testing.TB, adjust ...func(*Config)) *door {
	t.Helper()
	d := openDoor(t, adjust...)
	d.want(200, "POST", repo+"?create=true", "")
	return d
}

func id(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// slowly hides the length of a reader, so that it is sent chunked.
func slowly(r io.Reader) io.Reader { return struct{ io.Reader }{r} }

func bcryptLine(t testing.TB, user, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return user + ":" + string(hash) + "\n"
}

func writeUsers(t testing.TB, lines ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func random(n int, seed byte) []byte {
	var out bytes.Buffer
	block := sha256.Sum256([]byte{seed})
	for out.Len() < n {
		out.Write(block[:])
		block = sha256.Sum256(block[:])
	}
	return out.Bytes()[:n]
}

// protocolObserver notes which versions of HTTP were spoken.
type protocolObserver struct {
	mu   sync.Mutex
	seen map[string]bool
}

func (p *protocolObserver) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.seen[r.Proto] = true
		p.mu.Unlock()
		next.ServeHTTP(w, r)
	})
}
