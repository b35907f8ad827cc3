// SPDX-License-Identifier: Apache-2.0

package plainclient

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fakeServer is a strict server of the protocol for one machine: it refuses
// everything that a good client does not send, and notes it as a test error.
type fakeServer struct {
	t    *testing.T
	http *httptest.Server

	// fault may answer a request itself. before runs ahead of the effect
	// ("failed and not done"), after once it is done ("failed but done"); true
	// means that the answer has been given.
	before, after func(w http.ResponseWriter, r *http.Request) bool

	mu      sync.Mutex
	created bool
	blocks  map[string][]byte // by path: "data/<name>", "config"
	log     []string          // "POST data/<name>", in order of arrival
}

const userName, password = "alice", "secret"

func newServer(t *testing.T) *fakeServer {
	t.Helper()
	s := &fakeServer{t: t, blocks: map[string][]byte{}}
	s.http = httptest.NewServer(s)
	t.Cleanup(s.http.Close)
	return s
}

func (s *fakeServer) url() string { return s.http.URL + "/alice/laptop" }

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if u, p, _ := r.BasicAuth(); u != userName || p != password {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/alice/laptop/")
	if !ok {
		s.t.Errorf("%s %s is outside of the machine's path", r.Method, r.URL.Path)
		http.NotFound(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client went away
	}
	s.mu.Lock()
	s.log = append(s.log, r.Method+" "+path)
	before, after := s.before, s.after
	s.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	answer := httptest.NewRecorder()
	s.mu.Lock()
	s.serve(answer, r, path, body)
	s.mu.Unlock()
	if after != nil && after(w, r) {
		return
	}
	for key, values := range answer.Header() {
		w.Header()[key] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

func (s *fakeServer) serve(w http.ResponseWriter, r *http.Request, path string, body []byte) {
	kind, name, slash := strings.Cut(path, "/")
	switch {
	case r.Method == http.MethodPost && path == "" && r.URL.Query().Get("create") == "true":
		s.created = true
	case path == "config" || slash && validName(name):
		s.serveBlock(w, r, kind, name, body)
	case slash && name == "" && r.Method == http.MethodGet:
		s.serveList(w, r, kind)
	default:
		s.t.Errorf("%s %q is not of the protocol", r.Method, path)
		http.NotFound(w, r)
	}
}

func (s *fakeServer) serveBlock(w http.ResponseWriter, r *http.Request, kind, name string, body []byte) {
	key := strings.TrimSuffix(kind+"/"+name, "/")
	have, exists := s.blocks[key]
	switch r.Method {
	case http.MethodGet:
		if !exists {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(have)
	case http.MethodPost:
		s.store(w, r, key, name, body)
	case http.MethodDelete:
		if kind != "locks" {
			s.t.Errorf("DELETE %s: this client deletes nothing but locks", key)
		}
		delete(s.blocks, key)
	}
}

func (s *fakeServer) store(w http.ResponseWriter, r *http.Request, key, name string, body []byte) {
	have, exists := s.blocks[key]
	sum := sha256.Sum256(body)
	switch {
	case !s.created:
		s.t.Errorf("POST %s before the machine was created", key)
		http.NotFound(w, r)
	case r.ContentLength != int64(len(body)):
		s.t.Errorf("POST %s without its length", key)
	case key == "config" && exists:
		http.Error(w, "config exists", http.StatusForbidden)
	case key != "config" && hex.EncodeToString(sum[:]) != name:
		http.Error(w, "hash mismatch", http.StatusBadRequest)
	case exists && !bytes.Equal(have, body):
		http.Error(w, "exists", http.StatusForbidden)
	default:
		s.blocks[key] = body
	}
}

func (s *fakeServer) serveList(w http.ResponseWriter, r *http.Request, kind string) {
	if r.Header.Get("Accept") != mediaV2 {
		s.t.Errorf("GET %s/ accepts %q", kind, r.Header.Get("Accept"))
	}
	rows := []listed{} // never null
	for key, body := range s.blocks {
		if name, ok := strings.CutPrefix(key, kind+"/"); ok {
			rows = append(rows, listed{Name: name, Size: int64(len(body))})
		}
	}
	w.Header().Set("Content-Type", mediaV2)
	_ = json.NewEncoder(w).Encode(rows)
}

// names returns the names of the blocks of a kind.
func (s *fakeServer) names(kind string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for key := range s.blocks {
		if name, ok := strings.CutPrefix(key, kind+"/"); ok {
			all = append(all, name)
		}
	}
	return all
}

// count returns how many blocks of a kind there are.
func (s *fakeServer) count(kind string) int { return len(s.names(kind)) }

// requests returns the log with names cut off, equal neighbours once.
func (s *fakeServer) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	short := make([]string, 0, len(s.log))
	for _, line := range s.log {
		if i := strings.Index(line, "/"); i > 0 && len(line) > i+1 {
			line = line[:i+1] + "*"
		}
		short = append(short, line)
	}
	return slices.Compact(short)
}

func (s *fakeServer) set(before, after func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after = before, after
}

// tamper changes every block of a kind.
func (s *fakeServer) tamper(kind string, change func([]byte) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, body := range s.blocks {
		if strings.HasPrefix(key, kind+"/") {
			s.blocks[key] = change(slices.Clone(body))
		}
	}
}

// breakOff cuts the connection without an answer.
func breakOff(http.ResponseWriter) bool { panic(http.ErrAbortHandler) }
