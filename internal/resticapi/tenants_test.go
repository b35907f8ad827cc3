// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/blockstore"
	"pgregory.net/rapid"
)

// TestNoSpellingOfAPathReachesAnotherAccount sends requests of three users to
// each other's paths, spelled in every way that comes to mind. Each account's
// config names its owner, so whose config was touched shows.
func TestNoSpellingOfAPathReachesAnotherAccount(t *testing.T) {
	users := []string{"alice", "alice.x", "bob"}
	file := writeUsers(t, users[0]+":"+shaSecret+"\n", users[1]+":"+shaSecret+"\n", users[2]+":"+shaSecret+"\n")
	auth, err := OpenAuth(file, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		store := newFakeStore()
		for _, u := range users {
			config := map[blockstore.Ref][]byte{{Kind: eventlog.KindConfig}: []byte("config of " + u)}
			store.machines[blockstore.Path{Account: u, Machine: "pc"}] = config
			store.machines[blockstore.Path{Account: u}] = config
		}
		h := NewHandler(Config{Store: store, Auth: auth, Log: slog.New(slog.DiscardHandler)})
		user := rapid.SampledFrom(users).Draw(t, "user")
		path := "/" + strings.Join(rapid.SliceOfN(component(users), 1, 5).Draw(t, "path"), "/")
		method := rapid.SampledFrom([]string{"GET", "HEAD", "POST", "DELETE", "PUT"}).Draw(t, "method")
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return // net/http answers 400
		}
		r := httptest.NewRequest(method, "/?create=true", strings.NewReader("overwritten by "+user))
		r.URL.Path, r.URL.RawPath = u.Path, u.RawPath
		r.SetBasicAuth(user, "secret")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		checkTenants(t, store, users, user, w)
	})
}

// component is one part of a path, plain or in disguise.
func component(users []string) *rapid.Generator[string] {
	plain := rapid.SampledFrom(append([]string{"", ".", "..", "pc", "config", "data", "locks", someID, "pc@1.2"}, users...))
	return rapid.Custom(func(t *rapid.T) string {
		var b strings.Builder
		for _, c := range []byte(plain.Draw(t, "component")) {
			if rapid.IntRange(0, 5).Draw(t, "escape") == 0 {
				fmt.Fprintf(&b, "%%%02x", c)
			} else {
				b.WriteByte(c)
			}
		}
		return b.String() + rapid.SampledFrom([]string{"", "", "", "", "%2f", "%2F..%2fbob", "%5c", "%00", ";", "\\", "%252f"}).Draw(t, "tail")
	})
}

func checkTenants(t *rapid.T, store *fakeStore, users []string, user string, w *httptest.ResponseRecorder) {
	if w.Code >= 300 && w.Code < 400 || w.Code >= 500 || w.Code == http.StatusUnauthorized {
		t.Fatalf("answered %d %s", w.Code, w.Body)
	}
	for _, other := range users {
		if other == user {
			continue
		}
		if strings.Contains(w.Body.String(), "config of "+other) && !strings.Contains("config of "+user, "config of "+other) {
			t.Fatalf("%s read %q", user, w.Body)
		}
	}
	for p, blocks := range store.machines {
		if p.Account == user {
			continue
		}
		if got := string(blocks[blockstore.Ref{Kind: eventlog.KindConfig}]); got != "config of "+p.Account || len(blocks) != 1 || p.Machine != "pc" && p.Machine != "" {
			t.Fatalf("%s left %s with %q", user, p, got)
		}
	}
}
