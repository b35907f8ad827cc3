// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/blockstore"
)

// ask makes a raw request and returns status, head and body.
func ask(t *testing.T, c *Client, method, path string, head map[string]string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(testContext(t), method, "http://"+c.Addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range head {
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Set(name, value)
	}
	resp, err := direct.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

var laptop = blockstore.Path{Account: "alice", Machine: "laptop"}

func TestAnswers(t *testing.T) {
	working := func() *fakeServer {
		return &fakeServer{
			status: Status{Mode: ModeServing}, log: newLog(3),
			barred: map[blockstore.Path]bool{laptop: true, {Account: "alice"}: true, {Account: "bob", Machine: "nas"}: false},
		}
	}
	away := &fakeServer{
		health: errors.New("the log is poisoned: fsync: input/output error"), ready: errors.New("recovering: 40 %"),
		status: Status{Mode: ModeRecovering},
		fail:   &blockstore.Unavailable{Reason: "the archive does not answer", RetryAfter: 5 * time.Second},
	}
	tests := []struct {
		name         string
		server       *fakeServer
		method, path string
		status       int
		body         string
	}{
		{"health of a live process", working(), "GET", "/healthz", 200, "ok\n"},
		{"health with a poisoned log", away, "GET", "/healthz", 503, "the log is poisoned: fsync: input/output error\n"},
		{"readiness", working(), "GET", "/readyz", 200, "ok\n"},
		{"readiness while recovering", away, "GET", "/readyz", 503, "recovering: 40 %\n"},
		{"metrics", working(), "GET", "/metrics", 200, "strandline_ready 1\n"},
		{"status", working(), "GET", "/api/status", 200, `"mode": "serving"`},
		{"a status that panics", &fakeServer{panics: true}, "GET", "/api/status", 500, "ended in a panic"},
		{"an unknown path", working(), "GET", "/api/nothing", 404, ""},
		{"a wrong method", working(), "POST", "/api/status", 405, ""},
		{"a release by GET", working(), "GET", "/api/release?machine=alice/laptop", 405, ""},
		{"a release", working(), "POST", "/api/release?machine=alice/laptop", 200, `"released": "alice/laptop"`},
		{"a release of the machine with the empty name", working(), "POST", "/api/release?machine=alice/", 200, `"released": "alice/"`},
		{"a release of a machine that is not barred", working(), "POST", "/api/release?machine=bob/nas", 409, "not barred"},
		{"a release of an unknown machine", working(), "POST", "/api/release?machine=eve/nas", 404, "no such machine"},
		{"a release without a machine", working(), "POST", "/api/release", 400, "ACCOUNT/MACHINE"},
		{"a release of an account", working(), "POST", "/api/release?machine=alice", 400, "ACCOUNT/MACHINE"},
		{"a release of a path", working(), "POST", "/api/release?machine=alice/..", 400, "ACCOUNT/MACHINE"},
		{"a release while the archive is away", away, "POST", "/api/release?machine=alice/laptop", 503, "the archive does not answer"},
		{"a release that fails", &fakeServer{fail: errors.New("disk")}, "POST", "/api/release?machine=alice/laptop", 500, "disk"},
		{"events before there are any", away, "GET", "/api/events", 503, "recovering"},
		{"events from what is no seq", working(), "GET", "/api/events?from=7.0", 400, "begin at 1"},
		{"events with a strange flag", working(), "GET", "/api/events?follow=perhaps", 400, "write 1 or 0"},
		{"events of both watermarks", working(), "GET", "/api/events?archived=1&committed=1", 400, "exclude"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, head, body := ask(t, serve(t, tt.server), tt.method, tt.path, nil)
			if status != tt.status || !strings.Contains(body, tt.body) {
				t.Errorf("answered %d %q, want %d %q", status, body, tt.status, tt.body)
			}
			if head.Get("X-Content-Type-Options") != "nosniff" || head.Get("Cache-Control") != "no-store" {
				t.Errorf("head %v", head)
			}
			if status == 503 && strings.HasPrefix(tt.path, "/api/") && head.Get("Retry-After") == "" {
				t.Error("503 without Retry-After")
			}
		})
	}
}

func TestWhatABrowserCouldBeTrickedInto(t *testing.T) {
	release := "/api/release?machine=alice/laptop"
	tests := []struct {
		name         string
		method, path string
		head         map[string]string
		status       int
	}{
		{"a post from another site", "POST", release, map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		{"a post from another origin", "POST", release, map[string]string{"Origin": "http://evil.example"}, 403},
		{"a post from another port of this host", "POST", release, map[string]string{"Sec-Fetch-Site": "same-site"}, 403},
		{"a post from the same origin", "POST", release, map[string]string{"Sec-Fetch-Site": "same-origin"}, 200},
		{"a post from a program", "POST", release, nil, 200},
		{"a name rebound to this address", "GET", "/api/status", map[string]string{"Host": "evil.example:8001"}, 421},
		{"a rebound name for metrics", "GET", "/metrics", map[string]string{"Host": "evil.example"}, 421},
		{"a rebound name that posts to its own origin", "POST", release,
			map[string]string{"Host": "evil.example", "Origin": "http://evil.example"}, 421},
		{"localhost", "GET", "/api/status", map[string]string{"Host": "LocalHost:8001"}, 200},
		{"an address of version 6", "GET", "/api/status", map[string]string{"Host": "[::1]:8001"}, 200},
		{"an address of version 6 without port", "GET", "/api/status", map[string]string{"Host": "[::1]"}, 200},
		{"another address of this host", "GET", "/api/status", map[string]string{"Host": "192.0.2.7"}, 200},
		{"a name that was given", "GET", "/metrics", map[string]string{"Host": "backup.lan:8001"}, 200},
		{"a name below localhost", "GET", "/metrics", map[string]string{"Host": "x.localhost"}, 421},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := &fakeServer{log: newLog(0), barred: map[blockstore.Path]bool{laptop: true}}
			status, _, body := ask(t, serve(t, server, "backup.lan"), tt.method, tt.path, tt.head)
			if status != tt.status {
				t.Errorf("answered %d %q, want %d", status, body, tt.status)
			}
			if released := server.releases == 1; released != (tt.path == release && tt.status == 200) {
				t.Errorf("released: %v", released)
			}
		})
	}
}

func TestSlowHeadsAreCutOff(t *testing.T) {
	server := NewServer(t.Context(), http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	if server.ReadHeaderTimeout == 0 || server.IdleTimeout == 0 || server.MaxHeaderBytes > 64<<10 || server.ReadTimeout != 0 {
		t.Errorf("limits %v %v %d %v", server.ReadHeaderTimeout, server.IdleTimeout, server.MaxHeaderBytes, server.ReadTimeout)
	}
}
