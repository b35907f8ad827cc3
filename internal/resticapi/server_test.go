// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/blockstore"
	"github.com/strandline-project/strandline/internal/testkit"
)

// writeCertificate makes a key pair for 127.0.0.1 and returns its files.
func writeCertificate(t testing.TB, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "PRIVATE KEY", keyDER)
	return certFile, keyFile
}

func writePEM(t testing.TB, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// serve runs a server as the program does and returns its address.
func serve(t testing.TB, c ServerConfig, change ...func(*http.Server)) (addr string, srv *http.Server) {
	t.Helper()
	c.Log = slog.New(slog.DiscardHandler)
	srv, err := NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(srv)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- Serve(srv, ln) }()
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Errorf("a server that was closed: %v", err)
		}
	})
	return ln.Addr().String(), srv
}

// tlsDoor serves a door over TLS, to a client that speaks HTTP/2.
func tlsDoor(t testing.TB) (d *door, certFile, keyFile string) {
	t.Helper()
	certFile, keyFile = writeCertificate(t, t.TempDir(), "first")
	return serveTLSDoor(t, func(*Handler) {}, certFile, keyFile), certFile, keyFile
}

func openTLSDoor(t testing.TB, change func(*Handler)) *door {
	t.Helper()
	certFile, keyFile := writeCertificate(t, t.TempDir(), "x")
	return serveTLSDoor(t, change, certFile, keyFile)
}

func serveTLSDoor(t testing.TB, change func(*Handler), certFile, keyFile string) *door {
	t.Helper()
	d := &door{t: t, store: newFakeStore(), log: &syncBuffer{}}
	h := NewHandler(Config{Store: d.store, Log: slog.New(slog.NewTextHandler(d.log, nil))})
	change(h)
	addr, _ := serve(t, ServerConfig{Handler: h, CertFile: certFile, KeyFile: keyFile})
	chain, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(chain)
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	d.http, d.addr, d.url = &http.Client{Transport: transport}, addr, "https://"+addr
	return d
}

func TestHTTP2CarriesTheWholeProtocol(t *testing.T) {
	d, _, _ := tlsDoor(t)
	d.want(200, "POST", repo+"?create=true", "")
	content := string(random(3<<20, 20))
	file := repo + "data/" + id(content)
	d.want(200, "POST", file, content)
	if got := d.ask("POST", file, slowly(strings.NewReader(content))); got.status != 200 {
		t.Errorf("of unknown length: %d", got.status)
	}
	if got := d.want(200, "GET", file, ""); got.body != content {
		t.Error("the body is not what was sent")
	}
	if got := d.want(206, "GET", file, "", "Range: bytes=5-9"); got.body != content[5:10] {
		t.Errorf("a range: %q", got.body)
	}
	d.store.set(func(s *fakeStore) { s.breakAt = 1 << 20 })
	if got := d.ask("GET", file, nil); got.err == nil {
		t.Error("damage was not seen")
	}
	d.want(200, "DELETE", file, "")
	resp, err := d.http.Get(d.url + repo + "data/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Errorf("spoken: %s", resp.Proto)
	}
}

func TestAnEarlyRefusalOverHTTP2LeavesTheConnectionUsable(t *testing.T) {
	d, _, _ := tlsDoor(t)
	d.want(200, "POST", repo+"?create=true", "")
	d.store.set(func(s *fakeStore) {
		s.readBody = func(io.Reader) ([]byte, error) { return nil, &blockstore.Unavailable{Reason: "full"} }
	})
	content := random(4<<20, 21)
	for range 5 {
		if got := d.ask("POST", repo+"data/"+id(string(content)), bytes.NewReader(content)); got.status != 503 {
			t.Errorf("%d", got.status)
		}
		d.want(200, "GET", repo+"data/", "")
	}
}

func TestTLSOlderThan12IsRefused(t *testing.T) {
	d, _, _ := tlsDoor(t)
	for version, want := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		c, err := tls.Dial("tcp", d.addr, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		if (err == nil) != want {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			c.Close()
		}
	}
}

func TestAChangedCertificateIsUsedOnceItIsWhole(t *testing.T) {
	d, certFile, keyFile := tlsDoor(t)
	shown := func() string {
		t.Helper()
		c, err := tls.Dial("tcp", d.addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if got := shown(); got != "first" {
		t.Errorf("at first: %s", got)
	}
	newCert, newKey := writeCertificate(t, t.TempDir(), "second")
	if err := os.Rename(newCert, certFile); err != nil {
		t.Fatal(err)
	}
	if got := shown(); got != "first" {
		t.Errorf("while the key is still the old one: %s", got)
	}
	if err := os.Rename(newKey, keyFile); err != nil {
		t.Fatal(err)
	}
	if got := shown(); got != "second" {
		t.Errorf("when both are new: %s", got)
	}
	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	if got := shown(); got != "second" {
		t.Errorf("when the file is gone: %s", got)
	}
}

func TestABadCertificateIsRefusedAtTheStart(t *testing.T) {
	certFile, keyFile := writeCertificate(t, t.TempDir(), "x")
	_, otherKey := writeCertificate(t, t.TempDir(), "y")
	for _, c := range []ServerConfig{
		{CertFile: certFile}, {KeyFile: keyFile}, {CertFile: certFile, KeyFile: otherKey}, {CertFile: "/no/such", KeyFile: keyFile},
	} {
		if _, err := NewServer(c); err == nil || !strings.Contains(err.Error(), "TLS") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestTheServerHasTheLimitsOfADoorToANetwork(t *testing.T) {
	_, srv := serve(t, ServerConfig{Handler: http.NotFoundHandler()})
	if srv.ReadHeaderTimeout != 10*time.Second || srv.IdleTimeout != 2*time.Minute || srv.MaxHeaderBytes != 16<<10 || srv.ReadTimeout != 0 || srv.WriteTimeout != 0 {
		t.Errorf("%+v", srv)
	}
}

func TestHugeHeadersAre431(t *testing.T) {
	addr, _ := serve(t, ServerConfig{Handler: http.NotFoundHandler()})
	d := &door{t: t, addr: addr}
	if status, _ := d.raw("GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 20<<10) + "\r\n\r\n"); status != 431 {
		t.Errorf("%d", status)
	}
}

func TestClientsThatNeverEndTheirHeadersAreDroppedAndHoldNobodyUp(t *testing.T) {
	impatient := func(s *http.Server) { s.ReadHeaderTimeout = 200 * time.Millisecond }
	addr, _ := serve(t, ServerConfig{Handler: NewHandler(Config{Store: newFakeStore()})}, impatient)
	var idle []net.Conn
	for i := range 200 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n"[:i%20]); err != nil {
			t.Fatal(err)
		}
		idle = append(idle, conn)
	}
	d := &door{t: t, addr: addr}
	if status, _ := d.rawGet("/"); status != 404 {
		t.Errorf("a healthy client: %d", status)
	}
	for i, conn := range idle {
		if err := conn.SetReadDeadline(time.Now().Add(testkit.Patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("connection %d is still open", i)
		}
	}
}

func TestServeSaysWhyItCannot(t *testing.T) {
	srv, err := NewServer(ServerConfig{Handler: http.NotFoundHandler()})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Serve(srv, ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed listener: %v", err)
	}
}

var combined = regexp.MustCompile(`^127\.0\.0\.1 - (\S+) \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "(.*)" (\d{3}) (\d+) "(.*)" "(.*)"$`)

func TestTheAccessLogIsInCombinedFormat(t *testing.T) {
	out := make(lines, 100)
	auth, _ := withAuth(t, bcryptLine(t, "alice", "secret"))
	d := openDoor(t, auth, func(c *Config) { c.AccessLog = out })
	me := basic("alice", "secret")
	d.want(200, "POST", repo+"?create=true", "", me)
	d.want(200, "POST", repo+"config", "12345", me, "User-Agent: a\"quote", "Referer: http://x/")
	d.want(200, "GET", repo+"config", "", me)
	d.want(401, "GET", repo+"config", "", basic("alice", "wrong"))
	content := string(random(300_000, 22))
	d.want(200, "POST", repo+"data/"+id(content), content, me)
	d.store.set(func(s *fakeStore) { s.breakAt = 200_000 })
	d.ask("GET", repo+"data/"+id(content), nil, me)
	var got []string
	for i := range 6 {
		line := <-out
		if i == 1 && !strings.HasSuffix(line, `"a\"quote"`+"\n") {
			t.Errorf("the quote is not escaped: %s", line)
		}
		m := combined.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			t.Fatalf("not the combined format: %q", line)
		}
		got = append(got, strings.Join(m[1:6], "|"))
	}
	want := []string{
		"alice|POST /alice/laptop/?create=true HTTP/1.1|200|0|-",
		"alice|POST /alice/laptop/config HTTP/1.1|200|0|http://x/",
		"alice|GET /alice/laptop/config HTTP/1.1|200|5|-",
		"-|GET /alice/laptop/config HTTP/1.1|401|26|-",
		"alice|POST /alice/laptop/data/" + id(content) + " HTTP/1.1|200|0|-",
		"alice|GET /alice/laptop/data/" + id(content) + " HTTP/1.1|200|200000|-",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// lines hands on each line that is written.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

func TestALineOfTheAccessLogCannotBeForged(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "a\nb": `a\x0ab`, `a"b\`: `a\"b\\`, "ü\x7f": `ü\x7f`,
	} {
		if got := escape(in); got != want {
			t.Errorf("escape(%q) = %q, want %q", in, got, want)
		}
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no space") }

func TestAnAccessLogThatCannotBeWrittenIsReportedOnce(t *testing.T) {
	d := withRepo(t, func(c *Config) { c.AccessLog = failingWriter{} })
	for range 3 {
		d.want(200, "GET", repo+"data/", "")
	}
	if n := strings.Count(d.log.String(), "no space"); n != 1 {
		t.Errorf("reported %d times", n)
	}
}

// observations collects what an Observer is told.
type observations chan string

func (o observations) Observe(method, kind string, status int, in, out int64, _ time.Duration) {
	o <- fmt.Sprintf("%s %s %d in %d out %d", method, kind, status, in, out)
}

func TestTheObserverHearsOfEveryRequest(t *testing.T) {
	heard := make(observations, 100)
	d := openDoor(t, func(c *Config) { c.Observer = heard })
	for _, c := range []struct {
		status             int
		method, path, body string
		want               string
	}{
		{200, "POST", repo + "?create=true", "", "POST repository 200 in 0 out 0"},
		{200, "POST", repo + "data/" + id("12345"), "12345", "POST data 200 in 5 out 0"},
		{200, "GET", repo + "data/" + id("12345"), "", "GET data 200 in 0 out 5"},
		{200, "GET", repo + "locks/", "", "GET locks 200 in 0 out 2"},
		{404, "HEAD", repo + "config", "", "HEAD config 404 in 0 out 0"},
		{404, "GET", "/", "", "GET none 404 in 0 out"},
		{405, "BREW", repo, "", "OTHER repository 405 in 0 out"},
	} {
		d.want(c.status, c.method, c.path, c.body)
		if got := <-heard; !strings.HasPrefix(got, c.want) {
			t.Errorf("%s %s: %q, want %q", c.method, c.path, got, c.want)
		}
	}
}

func TestAPanicIsLoggedAsAFailure(t *testing.T) {
	heard := make(observations, 100)
	d := withRepo(t, func(c *Config) { c.Observer = heard })
	<-heard
	d.store.set(func(s *fakeStore) { s.before = func(string, blockstore.Ref) error { panic("a bug") } })
	if status, err := d.http.Get(d.url + repo + "data/"); err == nil {
		status.Body.Close()
		t.Errorf("an answer: %d", status.StatusCode)
	}
	if got := <-heard; !strings.HasPrefix(got, "GET data 500") {
		t.Error(got)
	}
}
