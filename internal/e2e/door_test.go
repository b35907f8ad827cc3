// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// door sends single requests to one machine's path, each once.
type door struct {
	t              testing.TB
	base           string // ends with a slash
	user, password string // "": no authentication
	client         *http.Client
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

// door returns the door of a machine on the server.
func (s *server) door(account, machine string) *door {
	s.t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &door{t: s.t, base: s.url(account, machine), client: &http.Client{Transport: transport, Timeout: patience}}
}

// try sends a request. A body is sent with its length.
func (d *door) try(ctx context.Context, method, path string, body []byte) (answer, error) {
	return d.send(ctx, method, path, bytes.NewReader(body))
}

// send is try for any body: one whose length http does not know is chunked.
func (d *door) send(ctx context.Context, method, path string, body io.Reader) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, d.base+path, body)
	if err != nil {
		return answer{}, err
	}
	if d.user != "" {
		req.SetBasicAuth(d.user, d.password)
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(text)}, errors.Join(err, resp.Body.Close())
}

// do sends a request that must be answered, whatever the answer.
func (d *door) do(method, path string, body []byte) answer {
	d.t.Helper()
	a, err := d.try(context.Background(), method, path, body)
	must(d.t, err)
	return a
}

// wants sends a request that must get the status, and returns the answer.
func (d *door) wants(status int, method, path string, body []byte) answer {
	d.t.Helper()
	a := d.do(method, path, body)
	if a.status != status {
		d.t.Fatalf("%s %s: %d %s, want %d", method, path, a.status, strings.TrimSpace(a.body), status)
	}
	return a
}

// create registers the machine and stores a config.
func (d *door) create() {
	d.t.Helper()
	d.wants(200, "POST", "?create=true", nil)
	d.wants(200, "POST", "config", []byte("config"))
}

// store stores a body under its name, which it returns as kind/name.
func (d *door) store(kind string, body []byte) string {
	d.t.Helper()
	path := named(kind, body)
	d.wants(200, "POST", path, body)
	return path
}

// named is the path of a body.
func named(kind string, body []byte) string {
	sum := sha256.Sum256(body)
	return kind + "/" + hex.EncodeToString(sum[:])
}

// persist sends a request until it is answered with anything but 5xx, or ctx
// ends.
func (d *door) persist(ctx context.Context, method, path string, body []byte) (answer, error) {
	for {
		a, err := d.try(ctx, method, path, body)
		if err == nil && a.status < 500 {
			return a, nil
		}
		if ctx.Err() != nil {
			return a, ctx.Err()
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}
