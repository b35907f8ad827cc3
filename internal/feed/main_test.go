// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testLog = eventlog.ID{0xab, 1, 2, 3}

// deadline is when a test that waits for a condition gives up.
const deadline = testkit.Patience

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

func start(t testing.TB, o Options) *Feed {
	t.Helper()
	if o.LogID == (eventlog.ID{}) {
		o.LogID = testLog
	}
	o.Logger = slog.New(slog.DiscardHandler)
	f, err := Start(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func entryAt(seq eventlog.Seq) *eventlog.Entry {
	e := &eventlog.Entry{Event: eventlog.Event{
		Seq: seq, Type: eventlog.BlockStored, Machine: eventlog.MakeSeq(1, 4), Kind: eventlog.KindData, Block: make([]byte, 32),
	}}
	e.Raw = eventlog.AppendEvent(nil, &e.Event)
	return e
}

// publish publishes the events of these seqs together.
func publish(f *Feed, archived eventlog.Seq, seqs ...eventlog.Seq) {
	var batch []eventlog.Entry
	for _, seq := range seqs {
		batch = append(batch, *entryAt(seq))
	}
	f.Publish(batch, archived)
}

// memoryLog is a log whose events are only their numbers, and a reader of it
// that sees an event only when it looks.
type memoryLog struct {
	mu    sync.Mutex
	last  eventlog.Seq
	looks int
}

func (l *memoryLog) append(seq eventlog.Seq) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = seq
}

func (l *memoryLog) look() eventlog.Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looks++
	return l.last
}

// read follows the log with the waker until it has seen end.
func (l *memoryLog) read(ctx context.Context, w *Waker, end eventlog.Seq) error {
	for {
		position := l.look()
		if position >= end {
			return nil
		}
		if err := w.Wait(ctx, standing(position)); err != nil {
			return err
		}
	}
}

// follow reads in the background; the returned function waits for the end.
func (l *memoryLog) follow(t *testing.T, w *Waker, end eventlog.Seq) (reached func()) {
	t.Helper()
	result := make(chan error, 1)
	ctx := testContext(t)
	go func() { result <- l.read(ctx, w, end) }()
	return func() {
		t.Helper()
		if err := <-result; err != nil {
			t.Fatalf("the reader did not reach %s: %v", end, err)
		}
	}
}

// outside is a NATS server of its own that can be killed and started again on
// the same port.
type outside struct {
	t    *testing.T
	port int
	s    *server.Server
}

func startOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{t: t, port: server.RANDOM_PORT}
	o.start()
	t.Cleanup(o.kill)
	return o
}

func (o *outside) start() {
	o.t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: o.port, NoSigs: true, NoLog: true, NoSystemAccount: true})
	if err != nil {
		o.t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(deadline) {
		o.t.Fatal("the outside NATS server is not ready")
	}
	if o.port == server.RANDOM_PORT {
		_, portText, err := net.SplitHostPort(s.Addr().String())
		if err != nil {
			o.t.Fatal(err)
		}
		if o.port, err = strconv.Atoi(portText); err != nil {
			o.t.Fatal(err)
		}
	}
	o.s = s
}

func (o *outside) kill() {
	if o.s == nil {
		return
	}
	o.s.Shutdown()
	o.s.WaitForShutdown()
	o.s = nil
}

func (o *outside) url() string { return "nats://127.0.0.1:" + strconv.Itoa(o.port) }

// until polls a condition that another goroutine will make true.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			t.Fatalf("never came true: %s", what)
		case <-tick.C:
		}
	}
}

// heard waits for a hint to arrive over NATS.
func heard(t *testing.T, w *Waker) {
	t.Helper()
	select {
	case <-w.news:
	case <-testContext(t).Done():
		t.Fatal("no hint came")
	}
}
