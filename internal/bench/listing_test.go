// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// lists serves a list of two names that takes its time between them.
func lists(t *testing.T, pause time.Duration) Target {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := io.Writer(w)
		if r.Header.Get("Accept-Encoding") == "gzip" {
			w.Header().Set("Content-Encoding", "gzip")
			zip := gzip.NewWriter(w)
			defer zip.Close()
			out = zip
		}
		io.WriteString(out, `[{"name":"`+strings.Repeat("a", 64)+`","size":1},`)
		http.NewResponseController(w).Flush()
		time.Sleep(pause)
		io.WriteString(out, `{"name":"`+strings.Repeat("b", 64)+`","size":1}]`)
	}))
	t.Cleanup(server.Close)
	target, err := ParseTarget(server.URL + "/alice/laptop/")
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestAListIsTimedAndItsNamesAreCounted(t *testing.T) {
	const pause = 50 * time.Millisecond
	l, err := lists(t, pause).List(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if l.Names != 2 || l.Bytes != 2*85+1 || l.FirstByte <= 0 || l.Whole-l.FirstByte < pause/2 {
		t.Errorf("%+v", l)
	}
}

func TestAListThatIsToBeGzippedIs(t *testing.T) {
	l, err := lists(t, 0).List(t.Context(), true)
	if err != nil || l.Names != 0 || l.Bytes == 0 {
		t.Errorf("%+v, %v", l, err)
	}
	_, plain := newMemoryServer(t)
	if _, err := plain.List(t.Context(), true); err == nil {
		t.Error("a plain answer passed for a gzipped one")
	}
}
