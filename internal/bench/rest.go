// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// opTimeout is how long an operation may take before it counts as an error.
const opTimeout = time.Minute

// Target is a machine's path on a server, over HTTP/1.1.
type Target struct {
	addr   string         // host:port
	secure bool           // over TLS
	roots  *x509.CertPool // whose certificates a server proves its name by; nil: those that the system trusts
	prefix string         // of every request's path, ends with a slash
	auth   string         // value of the Authorization header, "" for none
}

// ParseTarget reads an address like https://USER:PASSWORD@HOST:PORT/alice/laptop/.
func ParseTarget(address string) (Target, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return Target{}, errors.New("the address to measure: write http://HOST:PORT/ACCOUNT/MACHINE/, or https://")
	}
	t := Target{addr: u.Host, secure: u.Scheme == "https", prefix: strings.TrimSuffix(u.EscapedPath(), "/") + "/"}
	if u.Port() == "" {
		t.addr = net.JoinHostPort(u.Hostname(), u.Scheme)
	}
	if u.User != nil {
		password, _ := u.User.Password()
		t.auth = "Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password))
	}
	return t, nil
}

// Running is a peer that somebody else has started.
func Running(name string, t Target) Peer {
	return Peer{Name: name, Start: func(ctx context.Context, _ string) (*Instance, error) {
		if err := t.create(ctx); err != nil {
			return nil, err
		}
		return &Instance{Client: t.client, Stop: func() error { return nil }}, nil
	}}
}

// create registers the machine.
func (t Target) create(ctx context.Context) error {
	c := t.client()
	err := c.(*restClient).do(ctx, request{method: "POST", path: "?create=true"}, nil)
	return errors.Join(err, c.Close())
}

// Commit stores a lock: a server that answers has archived all that it was sent
// before, too.
func (t Target) Commit(ctx context.Context) error {
	c := t.client()
	return errors.Join(c.Lock(ctx), c.Close())
}

func (t Target) client() Client { return &restClient{target: t} }

// restClient implements Client over one connection. It writes its requests by
// hand: a load generator must cost less than what it measures, and net/http's
// client would cost about as much as the server.
type restClient struct {
	target Target
	conn   net.Conn // nil before the first request and after an error
	in     *bufio.Reader
	head   []byte // of the request in the making
	buf    []byte // for the answer's body
}

var _ Client = (*restClient)(nil)

// Lock stores a small unique block of kind locks.
func (c *restClient) Lock(ctx context.Context) error {
	b := body{}
	rand.Read(b.head[:])
	return c.do(ctx, request{method: "POST", path: "locks/" + hashBody(b), body: &b}, nil)
}

// Put stores b under its name.
func (c *restClient) Put(ctx context.Context, name string, b body) error {
	return c.do(ctx, request{method: "POST", path: "data/" + name, body: &b}, nil)
}

// Get reads a block and compares it with b.
func (c *restClient) Get(ctx context.Context, name string, b body) error {
	return c.do(ctx, request{method: "GET", path: "data/" + name}, func(answer *http.Response) error {
		return c.expect(answer, b, 0, b.size())
	})
}

// Range reads a part of a block and compares it with b's.
func (c *restClient) Range(ctx context.Context, name string, b body, at, n int64) error {
	return c.do(ctx, request{method: "GET", path: "data/" + name, at: at, part: n}, func(answer *http.Response) error {
		return c.expect(answer, b, at, n)
	})
}

// expect reads an answer that is to be n bytes of b from the one at on.
func (c *restClient) expect(answer *http.Response, b body, at, n int64) error {
	if int64(len(c.buf)) < n {
		c.buf = make([]byte, n)
	}
	if answer.ContentLength != n {
		return fmt.Errorf("%d bytes instead of %d: %w", answer.ContentLength, n, errWrongBytes)
	}
	if _, err := io.ReadFull(answer.Body, c.buf[:n]); err != nil {
		return err
	}
	if !b.has(c.buf[:n], at) {
		return errWrongBytes
	}
	return nil
}

// request is one request to a target.
type request struct {
	method, path string
	body         *body
	at, part     int64 // of the answer's body are wanted part bytes from at on; 0: all
	gzip         bool  // the answer may be gzipped
}

// wanted is the status of the answer to r.
func (r *request) wanted() int {
	if r.part != 0 {
		return http.StatusPartialContent
	}
	return http.StatusOK
}

// List reads the listing of all data blocks.
func (c *restClient) List(ctx context.Context) error {
	return c.do(ctx, request{method: "GET", path: "data/"}, nil)
}

// Delete removes a block.
func (c *restClient) Delete(ctx context.Context, name string) error {
	return c.do(ctx, request{method: "DELETE", path: "data/" + name}, nil)
}

// Close hangs up.
func (c *restClient) Close() error {
	if c.conn == nil {
		return nil
	}
	conn := c.conn
	c.conn = nil
	return conn.Close()
}

// do sends one request and reads its whole answer. After an error the
// connection is not used again.
func (c *restClient) do(ctx context.Context, r request, read func(*http.Response) error) error {
	err := c.exchange(ctx, &r, read)
	if err != nil {
		err = errors.Join(fmt.Errorf("%s %s: %w", r.method, r.path, err), c.Close())
	}
	return err
}

func (c *restClient) exchange(ctx context.Context, r *request, read func(*http.Response) error) error {
	if err := c.dial(ctx); err != nil {
		return err
	}
	deadline := time.Now().Add(opTimeout)
	if until, ok := ctx.Deadline(); ok && until.Before(deadline) {
		deadline = until
	}
	if err := c.conn.SetDeadline(deadline); err != nil {
		return err
	}
	// A server may answer, and hang up, before it has read the whole body:
	// then the answer says more than the failed write.
	werr := c.send(r)
	answer, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return errors.Join(werr, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != r.wanted() {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 200)) // the status is the news
		return fmt.Errorf("answered %s: %s", answer.Status, strings.TrimSpace(string(text)))
	}
	if werr != nil {
		return werr
	}
	return c.finish(answer, read)
}

// finish reads the answer's body to its end, and hangs up if the server wants.
func (c *restClient) finish(answer *http.Response, read func(*http.Response) error) error {
	if read != nil {
		if err := read(answer); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.Close {
		return c.Close()
	}
	return nil
}

func (c *restClient) dial(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	dialer := &net.Dialer{Timeout: opTimeout}
	dial := dialer.DialContext
	if c.target.secure {
		dial = (&tls.Dialer{NetDialer: dialer, Config: &tls.Config{RootCAs: c.target.roots}}).DialContext
	}
	conn, err := dial(ctx, "tcp", c.target.addr)
	if err != nil {
		return err
	}
	c.conn = conn
	c.in = bufio.NewReaderSize(conn, 16<<10)
	return nil
}

// send writes the request, over plain TCP with one system call and without copying
// the body.
func (c *restClient) send(r *request) error {
	h := append(c.head[:0], r.method...)
	h = append(h, ' ')
	h = append(h, c.target.prefix...)
	h = append(h, r.path...)
	h = append(h, " HTTP/1.1\r\nHost: "...)
	h = append(h, c.target.addr...)
	h = append(h, "\r\nUser-Agent: strandline-bench\r\nAccept: application/vnd.x.restic.rest.v2\r\n"...)
	if c.target.auth != "" {
		h = append(h, "Authorization: "+c.target.auth+"\r\n"...)
	}
	parts := net.Buffers{nil}
	length := int64(0)
	if r.body != nil {
		length = r.body.size()
		parts = append(parts, r.body.head[:], r.body.tail)
	}
	if r.gzip {
		h = append(h, "Accept-Encoding: gzip\r\n"...)
	}
	if r.part != 0 {
		h = fmt.Appendf(h, "Range: bytes=%d-%d\r\n", r.at, r.at+r.part-1)
	}
	if r.method == "POST" {
		h = fmt.Appendf(h, "Content-Type: application/octet-stream\r\nContent-Length: %d\r\n", length)
	}
	h = append(h, "\r\n"...)
	parts[0], c.head = h, h
	_, err := parts.WriteTo(c.conn)
	return err
}
