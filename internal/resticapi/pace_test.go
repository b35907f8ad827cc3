// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/blockstore"
	"github.com/strandline-project/strandline/internal/testkit"
)

// hurried makes a Handler lose patience at once.
func hurried(h *Handler) {
	h.pace = pace{rate: 1 << 20, readGrace: 50 * time.Millisecond, writeGrace: 500 * time.Millisecond}
}

func TestABodyThatStopsComingIs408AndNothingIsStored(t *testing.T) {
	d := openDoorWith(t, hurried)
	d.want(200, "POST", repo+"?create=true", "")
	for name, framing := range map[string]string{
		"declared": "Content-Length: 5000\r\n\r\nsome",
		"chunked":  "Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n",
		"nothing":  "Content-Length: 5000\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			if status, rest := d.raw("POST " + repo + "config HTTP/1.1\r\nHost: x\r\n" + framing); status != 408 {
				t.Errorf("%d %q", status, rest)
			}
			d.want(404, "HEAD", repo+"config", "")
		})
	}
}

func TestABodyThatIsRefusedAndNeverComesDoesNotHoldTheConnection(t *testing.T) {
	d := openDoorWith(t, hurried)
	if status, _ := d.raw("POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nsome"); status != 404 {
		t.Errorf("%d", status)
	}
	if status, _ := d.raw("POST " + repo + "?create=true HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nsome"); status != 200 {
		t.Errorf("%d", status)
	}
}

// TestAnAnswerThatNobodyReadsIsBrokenOff sends more than the socket's buffers
// hold, to a client that reads nothing until the server gave up.
func TestAnAnswerThatNobodyReadsIsBrokenOff(t *testing.T) {
	over := make(chan int64, 1)
	d := openDoorWith(t, hurried, func(c *Config) { c.Observer = observeGets(over) })
	d.want(200, "POST", repo+"?create=true", "")
	content := random(64<<20, 10)
	p, ref := blockstore.Path{Account: "alice", Machine: "laptop"}, blockstore.Ref{Kind: eventlog.KindConfig}
	d.store.set(func(s *fakeStore) { s.machines[p][ref] = content })
	conn, err := net.Dial("tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET %sconfig HTTP/1.1\r\nHost: x\r\n\r\n", repo); err != nil {
		t.Fatal(err)
	}
	if sent := <-over; sent >= int64(len(content)) {
		t.Errorf("all %d bytes were sent", sent)
	}
	if _, err := io.Copy(io.Discard, bufio.NewReader(conn)); err != nil {
		t.Logf("then the client saw: %v", err) // a reset or an early end, both will do
	}
}

// observeGets sends the bytes of every GET's answer.
type observeGets chan int64

func (o observeGets) Observe(method, _ string, _ int, _, out int64, _ time.Duration) {
	if method == http.MethodGet {
		o <- out
	}
}

// TestASlowStoreIsNotTheClientsFault lets the Store pause for longer than a
// client may, in the middle of the body and after it.
func TestASlowStoreIsNotTheClientsFault(t *testing.T) {
	testkit.NeedLong(t, "a client that this machine does not let run for seconds falls behind, too")
	t.Parallel()
	const grace = 3 * time.Second
	patience := func(h *Handler) { h.pace = pace{rate: 1 << 10, readGrace: grace, writeGrace: time.Minute} }
	for name, open := range map[string]func(*testing.T) *door{
		"HTTP/1.1": func(t *testing.T) *door { return openDoorWith(t, patience) },
		"HTTP/2":   func(t *testing.T) *door { return openTLSDoor(t, patience) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := open(t)
			d.want(200, "POST", repo+"?create=true", "")
			d.store.set(func(s *fakeStore) {
				s.readBody = func(r io.Reader) ([]byte, error) {
					first := make([]byte, 100)
					if _, err := io.ReadFull(r, first); err != nil {
						return nil, err
					}
					<-time.After(2 * grace)
					rest, err := io.ReadAll(r)
					return append(first, rest...), err
				}
				s.received = func(ctx context.Context) {
					select {
					case <-ctx.Done():
						t.Error("the request was cut off")
					case <-time.After(2 * grace):
					}
				}
			})
			content := string(random(100_000, 11))
			d.want(200, "POST", repo+"data/"+id(content), content)
			d.want(200, "HEAD", repo+"data/"+id(content), "")
		})
	}
}

func TestABodyThatStopsComingOverHTTP2Is408(t *testing.T) {
	d := openTLSDoor(t, hurried)
	d.want(200, "POST", repo+"?create=true", "")
	body, feed := io.Pipe()
	go feed.Write([]byte("some")) // and nothing more; ends when body is closed
	if got := d.ask("POST", repo+"config", body); got.status != 408 {
		t.Errorf("%d %s", got.status, got.body)
	}
	d.want(404, "HEAD", repo+"config", "")
}

func TestAClientThatHangsUpWhileTheStoreWorksIsLoggedAs499(t *testing.T) {
	received, over := make(chan struct{}), make(observations, 10)
	d := withRepo(t, func(c *Config) { c.Observer = over })
	<-over
	d.store.set(func(s *fakeStore) {
		s.received = func(ctx context.Context) {
			close(received)
			<-ctx.Done()
		}
	})
	conn, err := net.Dial("tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "POST %sconfig HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nsome", repo); err != nil {
		t.Fatal(err)
	}
	<-received
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-over; !strings.HasPrefix(got, "POST config 499 in 4") {
		t.Error(got)
	}
}

// slowBody gives chunk bytes every pause, n times.
type slowBody struct {
	chunk, n int
	pause    time.Duration
}

func (b *slowBody) Read(p []byte) (int, error) {
	if b.n == 0 {
		return 0, io.EOF
	}
	time.Sleep(b.pause)
	b.n--
	return min(len(p), b.chunk), nil
}

func (b *slowBody) Close() error { return nil }

func TestThePaceOfABody(t *testing.T) {
	for _, c := range []struct {
		name     string
		body     slowBody
		max      int64
		between  time.Duration // the Store's own pause between reads
		want     error
		atLeast  time.Duration
		atMost   time.Duration
		wantRead int64
	}{
		{"a quick client", slowBody{32 << 10, 100, time.Millisecond}, 1 << 30, 0, nil, 0, time.Second, 3_276_800},
		{"one byte a second is dropped after half a minute", slowBody{1, 1000, time.Second}, 1 << 30, 0, os.ErrDeadlineExceeded, 30 * time.Second, 32 * time.Second, -1},
		{"one KiB a second is just enough", slowBody{1 << 10, 600, time.Second}, 1 << 30, 0, nil, 600 * time.Second, 601 * time.Second, 600 << 10},
		{"a quick start does not pay for a stop of an hour", slowBody{1 << 20, 2, time.Hour}, 1 << 30, 0, os.ErrDeadlineExceeded, 0, 2 * time.Hour, -1},
		{"a store that takes its time is not the client's fault", slowBody{100, 50, time.Millisecond}, 1 << 30, time.Minute, nil, 50 * time.Minute, 52 * time.Minute, 5000},
		{"a byte over the limit", slowBody{100, 11, 0}, 1099, 0, blockstore.ErrTooLarge, 0, time.Second, -1},
		{"exactly the limit", slowBody{100, 11, 0}, 1100, 0, nil, 0, time.Second, 1100},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &requestBody{body: &c.body, rc: http.NewResponseController(httptest.NewRecorder()), pace: defaultPace, left: defaultPace.readGrace, max: c.max}
				start := time.Now()
				var err error
				for buf := make([]byte, 1<<20); err == nil; time.Sleep(c.between) {
					_, err = b.Read(buf)
				}
				took := time.Since(start)
				if c.want == nil && err != io.EOF || c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("ended with %v, want %v", err, c.want)
				}
				if took < c.atLeast || took > c.atMost {
					t.Errorf("took %v", took)
				}
				if c.wantRead >= 0 && b.n != c.wantRead {
					t.Errorf("read %d bytes, want %d", b.n, c.wantRead)
				}
			})
		})
	}
}

func TestABodyThatEndedStaysEnded(t *testing.T) {
	b := &requestBody{body: io.NopCloser(bytes.NewReader(make([]byte, 10))), rc: http.NewResponseController(httptest.NewRecorder()), pace: defaultPace, left: time.Second, max: 5}
	n, err := io.ReadFull(b, make([]byte, 10))
	if n != 5 || !errors.Is(err, blockstore.ErrTooLarge) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if n, err := b.Read(make([]byte, 10)); n != 0 || !errors.Is(err, blockstore.ErrTooLarge) {
		t.Errorf("again: %d bytes, %v", n, err)
	}
	if n, err := b.Read(nil); n != 0 || !errors.Is(err, blockstore.ErrTooLarge) {
		t.Errorf("into nothing: %d bytes, %v", n, err)
	}
}
