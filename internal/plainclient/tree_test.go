// SPDX-License-Identifier: Apache-2.0

package plainclient

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAListOfFilesThatCouldDoHarmIsRefused(t *testing.T) {
	good := strings.Repeat("ab", 32)
	for name, entries := range map[string]string{
		"a path above the directory":   `{"path":"../x","type":"file"}`,
		"an absolute path":             `{"path":"/etc/passwd","type":"file"}`,
		"an empty path":                `{"path":"","type":"file"}`,
		"a path twice":                 `{"path":"a","type":"file"},{"path":"a","type":"symlink"}`,
		"an unknown type":              `{"path":"a","type":"device"}`,
		"a directory with content":     `{"path":"a","type":"dir","size":1}`,
		"a size without pieces":        `{"path":"a","type":"file","size":9223372036854775807}`,
		"a piece of no bytes":          `{"path":"a","type":"file","pieces":[{"block":"` + good + `","hash":"` + good + `"}]}`,
		"a piece before its block":     `{"path":"a","type":"file","size":1,"pieces":[{"block":"` + good + `","hash":"` + good + `","offset":-1,"length":1}]}`,
		"a piece behind any block":     `{"path":"a","type":"file","size":1,"pieces":[{"block":"` + good + `","hash":"` + good + `","offset":4194304,"length":1}]}`,
		"a piece in a block's path":    `{"path":"a","type":"file","size":1,"pieces":[{"block":"../config","hash":"` + good + `","length":1}]}`,
		"a piece with a sloppy hash":   `{"path":"a","type":"file","size":1,"pieces":[{"block":"` + good + `","hash":"` + strings.ToUpper(good) + `","length":1}]}`,
		"an escaped path above by NUL": `{"path":{"bytes":"Li4vAA=="},"type":"file"}`,
	} {
		if _, err := decodeTree([]byte(`{"version":1,"entries":[` + entries + `]}`)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := decodeTree([]byte(`{"version":2}`)); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("version 2: %v", err)
	}
}

func FuzzDecodeTree(f *testing.F) {
	f.Add([]byte(`{"version":1,"entries":[{"path":".","type":"dir","mode":493,"mtime":1}]}`))
	f.Add([]byte(`{"version":1,"entries":[{"path":{"bytes":"/w=="},"type":"symlink","target":"x"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		tree, err := decodeTree(body)
		if err != nil {
			return
		}
		again, err := json.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeTree(again); err != nil {
			t.Fatalf("%s decodes, what it encodes to does not: %v", body, err)
		}
	})
}

func FuzzDecodeSnapshot(f *testing.F) {
	f.Add([]byte(`{"time":"2014-08-01T12:00:00Z","index":"` + strings.Repeat("0", 64) + `"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if s, err := decodeSnapshot("name", body); err == nil && !validName(s.Index) {
			t.Fatalf("%s was accepted", body)
		}
	})
}

func TestAddressesAreReadOrExplained(t *testing.T) {
	c, err := New("rest:http://bob:pw@host:8000/bob?x=1#y", Options{})
	if err != nil || c.base.String() != "http://host:8000/bob/" || c.opts.User != "bob" || c.opts.Password != "pw" {
		t.Errorf("%v %+v %v", c.base, c.opts, err)
	}
	for _, bad := range []string{"", "localhost:8000", "ftp://x/", "http:///x", "::"} {
		if _, err := New(bad, Options{}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if _, err := New("ftp://bob:topsecret@host/", Options{}); err == nil || strings.Contains(err.Error(), "topsecret") {
		t.Errorf("the error must not repeat a password: %v", err)
	}
}

// handlerTransport calls a handler without a network, for use in a bubble.
type handlerTransport struct{ http.Handler }

func (h handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	answer := httptest.NewRecorder()
	if !h.answers(answer, r) {
		return nil, io.ErrUnexpectedEOF
	}
	return answer.Result(), nil
}

// answers reports whether the handler came to its end, as opposed to breakOff.
func (h handlerTransport) answers(w http.ResponseWriter, r *http.Request) (ok bool) {
	defer func() {
		if r := recover(); r != nil && r != http.ErrAbortHandler {
			panic(r)
		}
	}()
	r.ContentLength = max(r.ContentLength, 0)
	h.ServeHTTP(w, r)
	return true
}

// inBubble returns a server and its client without a network, for use inside
// of synctest.Test.
func inBubble(t *testing.T) (*fakeServer, *Client) {
	t.Helper()
	s := &fakeServer{t: t, blocks: map[string][]byte{}}
	c, err := New("http://server/alice/laptop/", Options{User: userName, Password: password, Transport: handlerTransport{s}})
	must(t, err)
	return s, c
}

func TestALongSessionRenewsItsLockAndEndsWhenItIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := inBubble(t)
		must(t, c.Init(t.Context()))
		l, session, err := c.acquire(t.Context())
		must(t, err)
		first := s.names("locks")[0]
		time.Sleep(3*refreshEvery + time.Second)
		synctest.Wait()
		if now := s.names("locks"); len(now) != 1 || now[0] == first {
			t.Errorf("after three renewals there are the locks %q, the first was %s", now, first)
		}
		_, err = c.Unlock(t.Context())
		must(t, err)
		<-session.Done()
		must(t, errors.Join(l.release(t.Context())))
		if l.err == nil || !strings.Contains(l.err.Error(), "gone") {
			t.Errorf("the session ended with %v", l.err)
		}
	})
}

func TestARequestIsGivenUpInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		c, err := New("http://server/", Options{
			Transport: handlerTransport{http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { tries++; unavailable(w) })},
		})
		must(t, err)
		start := time.Now()
		_, err = c.list(t.Context(), "data")
		var status *StatusError
		if !errors.As(err, &status) || status.Status != http.StatusServiceUnavailable {
			t.Errorf("it ended with %v", err)
		}
		if took := time.Since(start); took < 10*time.Minute || took > 16*time.Minute || tries < 10 {
			t.Errorf("given up after %s and %d tries", took, tries)
		}
	})
}

func TestAListingMustBeOfVersion2(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter){
		"a parameter in the type": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", mediaV2+"; charset=utf-8")
			_, _ = w.Write([]byte("[]"))
		},
		"version 1": func(w http.ResponseWriter) { _, _ = w.Write([]byte(`["x"]`)) },
		"null": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", mediaV2)
			_, _ = w.Write([]byte("null"))
		},
		"a name that is none": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", mediaV2)
			_, _ = w.Write([]byte(`[{"name":"tmp-1","size":1}]`))
		},
	} {
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) })
		c, err := New("http://server/", Options{Transport: handlerTransport{h}})
		must(t, err)
		if _, err := c.list(t.Context(), "data"); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
