// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/strandline-project/strandline/internal/testkit"
)

// update writes the goldens in the scripts anew: go test -run Script -update.
var update = flag.Bool("update", false, "write the goldens in the scripts anew")

// scriptPatience is how long anything in a script may take.
const scriptPatience = testkit.Patience

// TestMain makes this test binary the program itself where a script runs
// `strandline`.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"strandline": main})
}

// TestScripts runs the sessions in testdata/script. Besides what testscript
// knows, they may use
//
//	code N strandline ...   run it; it must end with that exit code, and with
//	                        one line on stderr unless N is 0, 1 or 6
//	ready                   wait until the server at $ADMIN is ready
//	gone                    wait until nobody answers at $ADMIN any more
//	http METHOD PATH N [TEXT]   send a request to $LISTEN; N is its status
//	await FILE TEXT         wait until a file holds a text
//	scrub NAME              write the last stdout into the file NAME, with
//	                        everything that changes from run to run replaced
//
// $LISTEN and $ADMIN are free addresses.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("LISTEN", scriptAddress())
			env.Setenv("ADMIN", scriptAddress())
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": cmdCode, "ready": cmdReady, "gone": cmdGone, "http": cmdHTTP, "await": cmdAwait, "scrub": cmdScrub,
		},
	})
}

// scriptAddress is a loopback address that is free, and not one that the
// system gives to outgoing connections.
func scriptAddress() string {
	for {
		address := fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(20000))
		if ln, err := net.Listen("tcp", address); err == nil && ln.Close() == nil {
			return address
		}
	}
}

func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if err != nil || neg {
		ts.Fatalf("usage: code N command ...")
	}
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	stderr := ts.ReadFile("stderr")
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	if (want == exitUsage || want == exitUnavailable) && strings.Count(stderr, "\n") != 1 {
		ts.Fatalf("want one line that says what to do, got %q", stderr)
	}
}

func cmdReady(ts *testscript.TestScript, _ bool, _ []string) {
	poll(ts, "ready", func() error {
		resp, err := http.Get("http://" + ts.Getenv("ADMIN") + "/readyz")
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			err = errors.New(resp.Status)
		}
		return errors.Join(err, resp.Body.Close())
	})
}

func cmdGone(ts *testscript.TestScript, _ bool, _ []string) {
	poll(ts, "gone", func() error {
		conn, err := net.Dial("tcp", ts.Getenv("ADMIN"))
		if err != nil {
			return nil
		}
		return errors.Join(errors.New("somebody answers"), conn.Close())
	})
}

func cmdAwait(ts *testscript.TestScript, _ bool, args []string) {
	poll(ts, args[1], func() error {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && !strings.Contains(string(text), args[1]) {
			err = fmt.Errorf("%s holds %s", args[0], text)
		}
		return err
	})
}

func poll(ts *testscript.TestScript, what string, probe func() error) {
	deadline := time.Now().Add(scriptPatience)
	for {
		err := probe()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: not after %v: %v", what, scriptPatience, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func cmdHTTP(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), scriptPatience)
	defer cancel()
	var body []byte
	if len(args) > 3 {
		body = []byte(args[3])
	}
	req, err := http.NewRequestWithContext(ctx, args[0], "http://"+ts.Getenv("LISTEN")+args[1], bytes.NewReader(body))
	ts.Check(err)
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	text, err := io.ReadAll(resp.Body)
	ts.Check(errors.Join(err, resp.Body.Close()))
	if fmt.Sprint(resp.StatusCode) != args[2] {
		ts.Fatalf("%s %s: %s %s, want %s", args[0], args[1], resp.Status, text, args[2])
	}
}

// volatile is what changes from run to run, and what stands for it.
var volatile = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "ID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
	{regexp.MustCompile(`\bhost="[^"]*"`), `host=HOST`},
	{regexp.MustCompile(`(digest|of rows) +[0-9a-f]{64}`), "$1 DIGEST"},
	{regexp.MustCompile(`=[0-9a-f]{16}\b`), "=DIGEST"},
	{regexp.MustCompile(`"(digest|digest_of_rows|rows|kept)": "[0-9a-f]+"`), `"$1": "DIGEST"`},
	{regexp.MustCompile(`\bin \d+(\.\d+)?( s|ms|s)\b`), "in DURATION"},
	{regexp.MustCompile(`, \d+ a second`), ", RATE a second"},
	{regexp.MustCompile(`\b\d+ objects`), "N objects"}, // a cut may come
	{regexp.MustCompile(`\d+ requests, .* at once`), "READS"},
	{regexp.MustCompile(`(?m)^generation .*\n`), ""}, // earlier on a slow machine
	{regexp.MustCompile(`"seconds": [0-9.e-]+`), `"seconds": SECONDS`},
	{regexp.MustCompile(`"archive_bytes": \d+`), `"archive_bytes": BYTES`},
	{regexp.MustCompile(`\d+(\.\d+)? MiB of`), "SIZE of"},
	{regexp.MustCompile(`(?m)^(version +).*$`), "${1}VERSION"},
}

func cmdScrub(ts *testscript.TestScript, _ bool, args []string) {
	text := strings.ReplaceAll(ts.ReadFile("stdout"), ts.Getenv("WORK"), "WORK")
	for _, v := range volatile {
		text = v.pattern.ReplaceAllString(text, v.name)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}
