// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/blockstore"
)

var someID = strings.Repeat("0123456789abcdef", 4)

func TestPathsThatNameSomething(t *testing.T) {
	name, _ := parseID(someID)
	at := func(account, machine string, w what, folder string, ref blockstore.Ref) target {
		return target{what: w, path: blockstore.Path{Account: account, Machine: machine}, folder: folder, ref: ref}
	}
	for path, want := range map[string]target{
		"/alice/":                             at("alice", "", wantMachine, "", blockstore.Ref{}),
		"/alice/laptop/":                      at("alice", "laptop", wantMachine, "", blockstore.Ref{}),
		"/alice/laptop/config":                at("alice", "laptop", wantBlock, "config", blockstore.Ref{Kind: eventlog.KindConfig}),
		"/alice/config":                       at("alice", "", wantBlock, "config", blockstore.Ref{Kind: eventlog.KindConfig}),
		"/alice/laptop/data/":                 at("alice", "laptop", wantList, "data", blockstore.Ref{Kind: eventlog.KindData}),
		"/alice/data/":                        at("alice", "", wantList, "data", blockstore.Ref{Kind: eventlog.KindData}),
		"/alice/laptop/snapshots/":            at("alice", "laptop", wantList, "snapshots", blockstore.Ref{Kind: eventlog.KindRoot}),
		"/alice/laptop/data/" + someID:        at("alice", "laptop", wantBlock, "data", blockstore.Ref{Kind: eventlog.KindData, Name: name}),
		"/alice/index/" + someID:              at("alice", "", wantBlock, "index", blockstore.Ref{Kind: eventlog.KindIndex, Name: name}),
		"/alice/laptop/keys/" + someID:        at("alice", "laptop", wantBlock, "keys", blockstore.Ref{Kind: eventlog.KindKey, Name: name}),
		"/alice/laptop/locks/" + someID:       at("alice", "laptop", wantBlock, "locks", blockstore.Ref{Kind: eventlog.KindLock, Name: name}),
		"/alice/laptop/snapshots/" + someID:   at("alice", "laptop", wantBlock, "snapshots", blockstore.Ref{Kind: eventlog.KindRoot, Name: name}),
		"/a@b.org/My-Machine_1.2/":            at("a@b.org", "My-Machine_1.2", wantMachine, "", blockstore.Ref{}),
		"/a%40b.org/l%61ptop/":                at("a@b.org", "laptop", wantMachine, "", blockstore.Ref{}),
		"/m%C3%BCller/b%C3%BCro/":             at("müller", "büro", wantMachine, "", blockstore.Ref{}),
		"/alice/%64ata/":                      at("alice", "", wantList, "data", blockstore.Ref{Kind: eventlog.KindData}),
		"/alice/api/":                         at("alice", "api", wantMachine, "", blockstore.Ref{}),
		"/" + strings.Repeat("a", 64) + "/":   at(strings.Repeat("a", 64), "", wantMachine, "", blockstore.Ref{}),
		"/a/" + strings.Repeat("b", 64) + "/": at("a", strings.Repeat("b", 64), wantMachine, "", blockstore.Ref{}),
	} {
		if got, err := parsePath(path); err != nil || got != want {
			t.Errorf("parsePath(%q) = %+v, %v; want %+v", path, got, err, want)
		}
	}
}

var badPaths = []string{
	"", "/", "alice/", "//", "/alice", "/alice/laptop", "/alice/laptop/data", "/alice/data",
	"/alice/laptop/config/", "/alice/config/x", "/alice/laptop/foo/", "/alice/laptop/foo/" + someID,
	"/alice/laptop/data/foobar", "/alice/laptop/data/" + someID[1:], "/alice/laptop/data/" + someID + "0",
	"/alice/laptop/data/" + strings.ToUpper(someID), "/alice/laptop/data/" + someID + "/",
	"/alice/laptop/data//" + someID, "/alice//data/", "//alice/", "/alice/laptop//", "/alice//",
	"/data/", "/index/x/", "/keys/", "/locks/", "/snapshots/", "/config", "/config/", "/api/v1/", "/metrics/", "/healthz/", "/readyz/",
	"/./", "/../", "/alice/./", "/alice/../", "/alice/../bob/", "/alice/%2e%2e/bob/", "/%2e/", "/alice/laptop/../data/",
	"/alice%2flaptop/", "/alice/lap%2Ftop/", "/alice%5claptop/", "/alice\\laptop/", "/alice/lap\\top/", "/alice/x%5Cy/",
	"/alice/x%00/", "/%00/", "/alice/a%20b/", "/alice/a b/", "/alice/%zz/", "/alice/%ff/", "/%C3/", "/al%0dice/", "/a:b/",
	"/alice/data/config", "/alice/config/config", "/alice/laptop/data/data/" + someID, "/a/b/c/", "/a/b/c/data/" + someID,
	"/" + strings.Repeat("a", 65) + "/", "/a/" + strings.Repeat("b", 65) + "/",
}

func TestPathsThatNameNothingAre404(t *testing.T) {
	for _, path := range badPaths {
		_, err := parsePath(path)
		if r, ok := errors.AsType[*refusal](err); !ok || r.status != 404 {
			t.Errorf("parsePath(%q): %v, want a 404", path, err)
		}
	}
}

func TestBadPathsAre404OverTheWireAndNeverRedirects(t *testing.T) {
	d := withRepo(t)
	for _, path := range badPaths {
		if !strings.HasPrefix(path, "/") || strings.Contains(path, " ") || strings.Contains(path, "%zz") {
			continue // net/http refuses these itself, with 400
		}
		if status, rest := d.rawGet(path); status != 404 || strings.Contains(rest, "Location:") {
			t.Errorf("GET %q: %d %q, want 404", path, status, rest)
		}
	}
}

func TestTheRootSaysHowAURLLooks(t *testing.T) {
	d := openDoor(t)
	if got := d.want(404, "GET", "/", ""); !strings.Contains(got.body, "rest:http://") {
		t.Errorf("GET /: %q does not show a URL", got.body)
	}
}

func TestARepositoryAsOfATimeIsNotServedYet(t *testing.T) {
	d := withRepo(t)
	for _, path := range []string{"/alice/laptop@7.1234/", "/alice/laptop@7.1234/config", "/alice/@2026-01-01T00:00:00Z/config"} {
		if got := d.want(404, "GET", path, ""); !strings.Contains(got.body, "earlier time") {
			t.Errorf("GET %s: %q", path, got.body)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	for _, p := range badPaths {
		f.Add(p)
	}
	f.Add("/alice/laptop/data/" + someID)
	f.Add("/m%C3%BCller/")
	f.Fuzz(func(t *testing.T, path string) {
		got, err := parsePath(path)
		if err != nil {
			if r, ok := errors.AsType[*refusal](err); !ok || r.status != 404 {
				t.Fatalf("parsePath(%q): %v is no 404", path, err)
			}
			return
		}
		if err := got.path.Check(); err != nil {
			t.Fatalf("parsePath(%q) let a bad name through: %v", path, err)
		}
		if got.what == wantNothing || isFolder(got.path.Machine) {
			t.Fatalf("parsePath(%q) = %+v", path, got)
		}
		again, err := parsePath(got.String())
		if err != nil || again != got {
			t.Fatalf("parsePath(%q) = %+v, but its canonical form %q gives %+v, %v", path, got, got.String(), again, err)
		}
	})
}

// String is the canonical path of t.
func (t target) String() string {
	s := "/" + url.PathEscape(t.path.Account) + "/"
	if t.path.Machine != "" {
		s += url.PathEscape(t.path.Machine) + "/"
	}
	switch {
	case t.what == wantList:
		s += t.folder + "/"
	case t.folder == configName:
		s += configName
	case t.what == wantBlock:
		s += t.folder + "/" + strings.TrimPrefix(t.ref.String(), t.ref.Kind.String()+"/")
	}
	return s
}
