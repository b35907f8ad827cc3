// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
)

// The tests of this file are the table of requests and status codes of
// restic's REST protocol, row by row, in raw HTTP.

func TestCreateIs200AlsoIfItExists(t *testing.T) {
	d := openDoor(t)
	for range 2 {
		d.want(200, "POST", repo+"?create=true", "")
	}
	if got := d.ask("POST", repo+"?create=true", slowly(strings.NewReader("")), "Content-Type: binary/octet-stream"); got.status != 200 {
		t.Errorf("create with an empty chunked body, as restic sends it: %d", got.status)
	}
	d.want(200, "POST", "/alice/?create=true", "")
	d.want(200, "GET", "/alice/data/", "")
}

func TestCreateWithoutCreateTrueIs400(t *testing.T) {
	d := openDoor(t)
	d.want(400, "POST", repo, "")
	d.want(400, "POST", repo+"?create=false", "")
	d.want(404, "GET", repo+"data/", "")
}

func TestCreateWithoutTheLastSlashIs404(t *testing.T) {
	openDoor(t).want(404, "POST", "/alice/laptop?create=true", "")
}

func TestWrongMethodsAre405AndSayWhatIsAllowed(t *testing.T) {
	d := withRepo(t)
	for _, c := range []struct{ method, path, allow string }{
		{"DELETE", repo, "POST"},
		{"GET", repo, "POST"},
		{"HEAD", repo, "POST"},
		{"PUT", repo, "POST"},
		{"HEAD", repo + "data/", "GET"},
		{"POST", repo + "data/", "GET"},
		{"DELETE", repo + "locks/", "GET"},
		{"PUT", repo + "data/" + someID, "GET, HEAD, POST, DELETE"},
		{"PATCH", repo + "config", "GET, HEAD, POST, DELETE"},
		{"OPTIONS", repo + "config", "GET, HEAD, POST, DELETE"},
	} {
		if got := d.want(405, c.method, c.path, ""); got.header.Get("Allow") != c.allow {
			t.Errorf("%s %s: Allow %q, want %q", c.method, c.path, got.header.Get("Allow"), c.allow)
		}
	}
}

func TestConfigIs404BeforeItIsStored(t *testing.T) {
	d := openDoor(t)
	d.want(404, "HEAD", repo+"config", "")
	d.want(200, "POST", repo+"?create=true", "")
	d.want(404, "HEAD", repo+"config", "")
	d.want(404, "GET", repo+"config", "")
}

func TestConfigIsStoredReadAndNotOverwritten(t *testing.T) {
	d := withRepo(t)
	d.want(200, "POST", repo+"config", "the config")
	if got := d.want(200, "HEAD", repo+"config", ""); got.header.Get("Content-Length") != "10" {
		t.Errorf("HEAD config: Content-Length %q", got.header.Get("Content-Length"))
	}
	if got := d.want(200, "GET", repo+"config", ""); got.body != "the config" {
		t.Errorf("GET config: %q", got.body)
	}
	if got := d.want(206, "GET", repo+"config", "", "Range: bytes=0-"); got.body != "the config" {
		t.Errorf("GET config as restic does: %q", got.body)
	}
	d.want(403, "POST", repo+"config", "another config")
	d.want(200, "POST", repo+"config", "the config")
}

func TestConfigCanBeDeletedAndStoredAnewAsMigrateDoes(t *testing.T) {
	d := withRepo(t)
	d.want(200, "DELETE", repo+"config", "")
	d.want(200, "POST", repo+"config", "version 1")
	d.want(200, "DELETE", repo+"config", "")
	d.want(404, "HEAD", repo+"config", "")
	d.want(200, "POST", repo+"config", "version 2")
}

func TestListOfARepositoryNeverCreatedIs404(t *testing.T) {
	d := openDoor(t)
	for folder := range folders {
		d.want(404, "GET", repo+folder+"/", "")
	}
}

func TestEmptyListsAreEmptyArraysNeverNull(t *testing.T) {
	d := withRepo(t)
	for folder := range folders {
		for _, accept := range []string{"", typeV1, typeV2} {
			if got := d.want(200, "GET", repo+folder+"/", "", "Accept: "+accept); got.body != "[]" {
				t.Errorf("GET %s/ as %q: %q", folder, accept, got.body)
			}
		}
	}
}

func TestListFormatFollowsAccept(t *testing.T) {
	d := withRepo(t)
	d.want(200, "POST", repo+"data/"+id("some bytes"), "some bytes")
	v1 := `["` + id("some bytes") + `"]`
	v2 := `[{"name":"` + id("some bytes") + `","size":10}]`
	for _, c := range []struct{ accept, contentType, body string }{
		{"", "application/vnd.x.restic.rest.v1", v1},
		{"*/*", "application/vnd.x.restic.rest.v1", v1},
		{"application/json", "application/vnd.x.restic.rest.v1", v1},
		{"application/vnd.x.restic.rest.v1", "application/vnd.x.restic.rest.v1", v1},
		{"application/vnd.x.restic.rest.v3", "application/vnd.x.restic.rest.v1", v1},
		{"application/vnd.x.restic.rest.v2", "application/vnd.x.restic.rest.v2", v2},
	} {
		got := d.want(200, "GET", repo+"data/", "", "Accept: "+c.accept)
		if got.header.Get("Content-Type") != c.contentType || got.body != c.body {
			t.Errorf("Accept %q: %q %q, want %q %q", c.accept, got.header.Get("Content-Type"), got.body, c.contentType, c.body)
		}
	}
}

func TestLongListsAreWholeInBothFormatsAndZippedWhenAsked(t *testing.T) {
	d := withRepo(t)
	want := map[string]int{}
	for i := range 500 {
		content := fmt.Sprintf("block %d", i)
		want[id(content)] = len(content)
		d.want(200, "POST", repo+"index/"+id(content), content)
	}
	for _, encoding := range []string{"", "gzip", "br, gzip;q=0.5", "gzip;q=0", "identity"} {
		zipped := strings.Contains(encoding, "gzip") && !strings.Contains(encoding, "q=0,") && encoding != "gzip;q=0"
		got := d.want(200, "GET", repo+"index/", "", "Accept: "+typeV2, "Accept-Encoding: "+encoding)
		if (got.header.Get("Content-Encoding") == "gzip") != zipped {
			t.Fatalf("Accept-Encoding %q: Content-Encoding %q", encoding, got.header.Get("Content-Encoding"))
		}
		var rows []struct {
			Name string
			Size int
		}
		if err := json.Unmarshal(unzip(t, zipped, got.body), &rows); err != nil {
			t.Fatal(err)
		}
		found := map[string]int{}
		for _, r := range rows {
			found[r.Name] = r.Size
		}
		if len(rows) != len(want) || fmt.Sprint(found) != fmt.Sprint(want) {
			t.Errorf("Accept-Encoding %q: %d rows, want %d", encoding, len(rows), len(want))
		}
	}
	var names []string
	got := d.want(200, "GET", repo+"index/", "")
	if err := json.Unmarshal([]byte(got.body), &names); err != nil || len(names) != len(want) {
		t.Errorf("version 1: %d names, %v", len(names), err)
	}
}

func unzip(t *testing.T, zipped bool, body string) []byte {
	t.Helper()
	if !zipped {
		return []byte(body)
	}
	r, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWritesAreSeenAtOnce(t *testing.T) {
	d := withRepo(t)
	for folder := range folders {
		file := repo + folder + "/" + id("x")
		for range 2 {
			d.want(404, "HEAD", file, "")
			d.want(200, "POST", file, "x")
			d.want(200, "HEAD", file, "")
			if got := d.want(200, "GET", repo+folder+"/", ""); got.body != `["`+id("x")+`"]` {
				t.Errorf("%s after its POST: %s", folder, got.body)
			}
			d.want(200, "DELETE", file, "")
			d.want(404, "GET", file, "")
			if got := d.want(200, "GET", repo+folder+"/", ""); got.body != `[]` {
				t.Errorf("%s after its DELETE: %s", folder, got.body)
			}
		}
	}
}

func TestFilesAreSentWhole(t *testing.T) {
	d := withRepo(t)
	content := string(random(300_000, 1))
	file := repo + "data/" + id(content)
	d.want(200, "POST", file, content)
	got := d.want(200, "GET", file, "", "Accept-Encoding: gzip")
	for name, want := range map[string]string{
		"Content-Length": "300000", "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", "Content-Encoding": "",
	} {
		if got.header.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, got.header.Get(name), want)
		}
	}
	if got.body != content {
		t.Error("the body is not what was stored")
	}
	head := d.want(200, "HEAD", file, "")
	if head.header.Get("Content-Length") != "300000" || head.body != "" || head.header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("HEAD: %v", head.header)
	}
}

func TestEmptyFilesAreSent(t *testing.T) {
	d := withRepo(t)
	file := repo + "keys/" + id("")
	d.want(200, "POST", file, "")
	d.want(200, "GET", file, "", "Range: bytes=0-")
	if got := d.want(200, "HEAD", file, ""); got.header.Get("Content-Length") != "0" {
		t.Errorf("HEAD: %v", got.header)
	}
}

func TestRangesOfFiles(t *testing.T) {
	d := withRepo(t)
	content := string(random(300_000, 2))
	file := repo + "data/" + id(content)
	d.want(200, "POST", file, content)
	for _, c := range []struct {
		ask          string
		status       int
		from, to     int
		contentRange string
	}{
		{"bytes=0-", 206, 0, 300_000, "bytes 0-299999/300000"},
		{"bytes=5-", 206, 5, 300_000, "bytes 5-299999/300000"},
		{"bytes=100-199", 206, 100, 200, "bytes 100-199/300000"},
		{"bytes=130000-280000", 206, 130_000, 280_001, "bytes 130000-280000/300000"},
		{"bytes=299990-400000", 206, 299_990, 300_000, "bytes 299990-299999/300000"},
		{"bytes=-7", 206, 299_993, 300_000, "bytes 299993-299999/300000"},
		{"bytes=1-2,4-5", 200, 0, 300_000, ""},
		{"bytes=nonsense", 200, 0, 300_000, ""},
	} {
		got := d.want(c.status, "GET", file, "", "Range: "+c.ask)
		if got.body != content[c.from:c.to] || got.header.Get("Content-Range") != c.contentRange ||
			got.header.Get("Content-Length") != fmt.Sprint(c.to-c.from) {
			t.Errorf("%s: %d bytes, %v", c.ask, len(got.body), got.header)
		}
	}
	for _, ask := range []string{"bytes=300000-", "bytes=300000-300001", "bytes=999999999999999999999-", "bytes=-0"} {
		got := d.want(416, "GET", file, "", "Range: "+ask)
		if got.header.Get("Content-Range") != "bytes */300000" {
			t.Errorf("%s: Content-Range %q", ask, got.header.Get("Content-Range"))
		}
	}
	if got := d.want(200, "HEAD", file, "", "Range: bytes=5-9"); got.header.Get("Content-Length") != "300000" {
		t.Errorf("HEAD with a range: %v", got.header)
	}
}

func TestNamesThatAreNoIDsAre404(t *testing.T) {
	d := withRepo(t)
	for _, name := range []string{"foobar", strings.ToUpper(someID), someID[2:], someID + "00"} {
		for _, method := range []string{"GET", "HEAD", "POST", "DELETE"} {
			d.want(404, method, repo+"data/"+name, "")
		}
	}
	d.want(404, "GET", repo+"data/"+someID, "")
}

func TestBodiesOfUnknownLengthAreStored(t *testing.T) {
	d := withRepo(t)
	content := string(random(200_000, 3))
	if got := d.ask("POST", repo+"data/"+id(content), slowly(strings.NewReader(content))); got.status != 200 {
		t.Fatalf("chunked: %d %s", got.status, got.body)
	}
	if got := d.want(200, "GET", repo+"data/"+id(content), ""); got.body != content {
		t.Error("the body is not what was sent")
	}
}

func TestBodiesThatWaitForLeaveAreStored(t *testing.T) {
	d := withRepo(t)
	d.want(200, "POST", repo+"data/"+id("x"), "x", "Expect: 100-continue")
	d.want(400, "POST", repo+"data/"+id("x2"), "x", "Expect: 100-continue")
	d.want(404, "POST", "/alice/other/data/"+id("x"), "x", "Expect: 100-continue")
}

func TestAPostToARepositoryNeverCreatedIs404(t *testing.T) {
	d := openDoor(t)
	d.want(404, "POST", repo+"config", "x")
	d.want(404, "POST", repo+"data/"+id("x"), "x")
	d.want(404, "GET", repo+"data/", "")
}

func TestTheSameNameInTwoFoldersIsTwoFiles(t *testing.T) {
	d := withRepo(t)
	d.want(200, "POST", repo+"data/"+id("x"), "x")
	d.want(404, "HEAD", repo+"index/"+id("x"), "")
	d.want(200, "DELETE", repo+"index/"+id("x"), "")
	d.want(200, "HEAD", repo+"data/"+id("x"), "")
}

func TestTheMachineWithTheEmptyNameIsItsOwn(t *testing.T) {
	d := withRepo(t)
	d.want(200, "POST", "/alice/?create=true", "")
	d.want(200, "POST", "/alice/config", "of alice")
	d.want(200, "POST", repo+"config", "of the laptop")
	if got := d.want(200, "GET", "/alice/config", ""); got.body != "of alice" {
		t.Errorf("%q", got.body)
	}
}

func TestAWrongHashIs400AndNothingIsStored(t *testing.T) {
	d := withRepo(t)
	for folder := range folders {
		file := repo + folder + "/" + id("right")
		d.want(400, "POST", file, "wrong")
		d.want(404, "HEAD", file, "")
		if got := d.want(200, "GET", repo+folder+"/", ""); got.body != "[]" {
			t.Errorf("%s lists %s", folder, got.body)
		}
	}
}

func TestTheSameBytesAgainAre200AndOthers403(t *testing.T) {
	d := withRepo(t)
	file := repo + "data/" + id("right")
	d.want(200, "POST", file, "right")
	d.want(200, "POST", file, "right")
	d.want(403, "POST", file, "wrong")
	if got := d.want(200, "GET", file, ""); got.body != "right" {
		t.Errorf("now it is %q", got.body)
	}
}

func TestABodyCutShortStoresNothing(t *testing.T) {
	d := withRepo(t)
	file := repo + "data/" + id("right")
	for name, request := range map[string]string{
		"declared":      "Content-Length: 100\r\n\r\nright",
		"chunked":       "Transfer-Encoding: chunked\r\n\r\n5\r\nright\r\n",
		"inside a line": "Transfer-Encoding: chunked\r\n\r\n5\r\nrig",
	} {
		t.Run(name, func(t *testing.T) {
			if status, rest := d.halfRequest("POST " + file + " HTTP/1.1\r\nHost: x\r\n" + request); status != 400 {
				t.Errorf("%d %q", status, rest)
			}
			d.want(404, "HEAD", file, "")
		})
	}
}

func TestDeleteIs200AlsoIfAbsent(t *testing.T) {
	d := withRepo(t)
	for folder := range folders {
		d.want(200, "DELETE", repo+folder+"/"+someID, "")
	}
	d.want(404, "DELETE", "/alice/other/data/"+someID, "")
}

func TestAppendOnlyRefusesDeletesButThoseOfLocks(t *testing.T) {
	d := withRepo(t)
	d.want(200, "POST", repo+"config", "config")
	for folder := range folders {
		d.want(200, "POST", repo+folder+"/"+id("x"), "x")
	}
	d.store.set(func(s *fakeStore) { s.appendOnly = true })
	for folder := range folders {
		status := 403
		if folder == "locks" {
			status = 200
		}
		d.want(status, "DELETE", repo+folder+"/"+id("x"), "")
		d.want(status, "DELETE", repo+folder+"/"+id("absent"), "")
		d.want(200, "POST", repo+folder+"/"+id("new"), "new")
	}
	d.want(403, "DELETE", repo+"config", "")
	d.want(403, "POST", repo+"config", "other")
}

func TestABodyDeclaredTooLargeIs413BeforeItIsSent(t *testing.T) {
	d := withRepo(t, func(c *Config) { c.MaxBody = 1000 })
	status, rest := d.raw("POST " + repo + "data/" + someID + " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\nExpect: 100-continue\r\n\r\n")
	if status != 413 || !strings.Contains(rest, "Connection: close") {
		t.Errorf("%d %q", status, rest)
	}
}

func TestABodyThatTurnsOutTooLargeIs413AndNothingIsStored(t *testing.T) {
	d := withRepo(t, func(c *Config) { c.MaxBody = 1000 })
	for _, size := range []int{1001, 5000, 500_000} {
		content := random(size, 4)
		file := repo + "data/" + id(string(content))
		if got := d.ask("POST", file, slowly(bytes.NewReader(content))); got.status != 413 {
			t.Errorf("%d bytes: %d", size, got.status)
		}
		d.want(404, "HEAD", file, "")
	}
	content := string(random(1000, 5))
	if got := d.ask("POST", repo+"data/"+id(content), slowly(strings.NewReader(content))); got.status != 200 {
		t.Errorf("exactly the limit: %d", got.status)
	}
}

func TestNothingIsCached(t *testing.T) {
	d := withRepo(t)
	if got := d.want(200, "GET", repo+"locks/", ""); got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", got.header)
	}
}

func TestWritesSayWhoDidThem(t *testing.T) {
	d := withRepo(t)
	d.want(200, "POST", repo+"data/"+id("x"), "x", "Authorization: Basic Og==")
	d.want(200, "DELETE", repo+"data/"+id("x"), "", "Authorization: Basic "+"YWxpY2U6c2VjcmV0")
	if got := strings.Join(d.store.actors, " "); got != "anonymous anonymous anonymous" {
		t.Errorf("without authentication: %s", got)
	}
}
