// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/internal/testkit"
)

// A service manager learns how the start gets on, when clients are answered,
// and that the server stops; and again and again that it works, if it asks.
func TestAServerTellsTheServiceManager(t *testing.T) {
	dir := t.TempDir()
	data, archive := filepath.Join(dir, "data"), "dir:"+filepath.Join(dir, "archive")
	if _, err := execute(t, "init", "--data", data, "--archive", archive); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	ctx, stop := context.WithCancel(t.Context())
	root := newRoot()
	root.SetArgs([]string{"serve", "--data", data, "--no-auth", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"})
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	}()
	if err := socket.SetReadDeadline(time.Now().Add(testkit.Patience)); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"STATUS=bring the views up to date", "READY=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"} {
		for message := make([]byte, 1000); ; { // each state may be told several times
			n, err := socket.Read(message)
			if err != nil {
				t.Fatalf("waiting for %s: %v", want, err)
			}
			if strings.HasPrefix(string(message[:n]), want) {
				break
			}
		}
		if i == 3 {
			stop()
		}
	}
}

// A unit whose watchdog cannot be read is told so, not killed later.
func TestAWatchdogThatCannotBeReadIsRefused(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "soon")
	stop, err := newApp(&Config{}, slog.New(slog.DiscardHandler)).keepAlive()
	if exitCode(err) != exitUsage || stop != nil || !strings.Contains(err.Error(), "WatchdogSec") {
		t.Errorf("it says %v", err)
	}
}
