// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/minio/minio-go/v7/pkg/signer"
)

// Op is what a request asks of a store.
type Op string

// The requests that the S3 driver makes. It asks for an object's first byte to
// learn its size: that is a Head.
const (
	Put    Op = "put"
	Get    Op = "get"
	Head   Op = "head"
	List   Op = "list"
	Delete Op = "delete"
	Other  Op = "other" // about the bucket itself
)

// Request is one request that comes to a Proxy.
type Request struct {
	Op  Op
	Key string // as the archive calls it; of a list the prefix that it asks for
}

// Fault spoils one request: it answers by itself, or lets next answer and
// spoils that.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Rule says which requests a fault spoils.
type Rule struct {
	When  func(Request) bool // nil: all
	Skip  int                // lets so many of them pass first
	Every int                // of each kind the first one and then every nth; 0: each one
	Times int                // spoils so many and no more; 0: any number
	Do    Fault
}

// On picks the requests that ask op of a key with that prefix.
func On(op Op, prefix string) func(Request) bool {
	return func(r Request) bool { return r.Op == op && strings.HasPrefix(r.Key, prefix) }
}

// Proxy stands in front of an S3 server and spoils what its rules say.
type Proxy struct {
	Endpoint string // http://127.0.0.1:PORT

	t      testing.TB
	target string
	store  http.Handler
	mu     sync.Mutex
	rules  []*Active // owned by mu
}

// Active is a rule that was added to a Proxy.
type Active struct {
	rule   Rule
	mu     sync.Mutex
	asked  int            // owned by mu
	ofKind map[string]int // owned by mu
	hits   int            // owned by mu
}

// NewProxy opens a proxy to the server at endpoint, without any fault yet. It
// is closed when the test ends.
func NewProxy(t testing.TB, endpoint string, rules ...Rule) *Proxy {
	t.Helper()
	target, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 512, DisableCompression: true}
	p := &Proxy{t: t, target: endpoint}
	p.store = &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { handOn(r, target) },
		Transport: transport,
		ErrorLog:  log.New(io.Discard, "", 0), // a store that is away is answered with 502
	}
	for _, rule := range rules {
		p.Add(rule)
	}
	server := httptest.NewServer(p)
	p.Endpoint = server.URL
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		transport.CloseIdleConnections()
	})
	return p
}

// handOn directs a request to the store. The host stays the one that the client
// has signed. A fault that changed what was signed has removed the signature.
func handOn(r *httputil.ProxyRequest, target *url.URL) {
	r.SetURL(target)
	r.Out.Host = r.In.Host
	if r.Out.Header.Get("Authorization") == "" && r.Out.Header.Get("X-Amz-Date") != "" {
		*r.Out = *signer.SignV4(*r.Out, AccessKey, SecretKey, "", "us-east-1")
	}
}

// Add makes a rule hold from now on. Of several, the one that was added first
// sees a request first.
func (p *Proxy) Add(rule Rule) *Active {
	active := &Active{rule: rule, ofKind: map[string]int{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = append(p.rules, active)
	return active
}

// Clear ends all rules.
func (p *Proxy) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = nil
}

// Through returns the specification of an archive at the server behind, with
// the proxy before it.
func (p *Proxy) Through(spec string) string {
	p.t.Helper()
	if !strings.Contains(spec, p.target) {
		p.t.Fatalf("%s is not at %s", spec, p.target)
	}
	return strings.Replace(spec, p.target, p.Endpoint, 1)
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	rules := p.rules
	p.mu.Unlock()
	p.serve(rules, w, r)
}

// serve lets each rule see the request, the first one first.
func (p *Proxy) serve(rules []*Active, w http.ResponseWriter, r *http.Request) {
	if len(rules) == 0 {
		p.store.ServeHTTP(w, r)
		return
	}
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(rules[1:], w, r) })
	if rules[0].takes(requestOf(r)) {
		rules[0].rule.Do(w, r, next)
		return
	}
	next(w, r)
}

// takes decides whether a request is spoiled, and counts it.
func (a *Active) takes(r Request) bool {
	if a.rule.When != nil && !a.rule.When(r) {
		return false
	}
	kind, _, _ := strings.Cut(r.Key, "/")
	kind = string(r.Op) + " " + kind
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	before := a.ofKind[kind]
	a.ofKind[kind]++
	switch {
	case a.asked <= a.rule.Skip, a.rule.Times > 0 && a.hits == a.rule.Times, a.rule.Every > 0 && before%a.rule.Every != 0:
		return false
	}
	a.hits++
	return true
}

// Count is how many requests the rule has spoiled.
func (a *Active) Count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hits
}

// requestOf finds out what a request asks for. It takes an archive below one
// prefix: /BUCKET/PREFIX/KEY.
func requestOf(r *http.Request) Request {
	if query := r.URL.Query(); query.Has("list-type") {
		_, prefix, _ := strings.Cut(query.Get("prefix"), "/")
		return Request{Op: List, Key: prefix}
	}
	parts := strings.SplitN(r.URL.Path, "/", 4)
	if len(parts) < 4 || parts[3] == "" {
		return Request{Op: Other}
	}
	ops := map[string]Op{http.MethodPut: Put, http.MethodGet: Get, http.MethodHead: Head, http.MethodDelete: Delete}
	op := ops[r.Method]
	if op == Get && r.Header.Get("Range") == "bytes=0-0" {
		op = Head
	}
	return Request{Op: op, Key: parts[3]}
}
