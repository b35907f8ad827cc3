// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/strandline-project/strandline/eventlog"
)

func TestAPublishedEventWakesEveryWaker(t *testing.T) {
	f := start(t, Options{})
	one, two := f.Waker(), f.Waker()
	publish(f, at, at+1)
	heard(t, one)
	heard(t, two)
	if !one.take(at) || !two.take(at) {
		t.Error("the hint is not about the published event")
	}
	if s := f.Stats(); s.Published != 1 || s.Dropped != 0 || s.Refused != 0 || !s.Connected {
		t.Errorf("stats %+v", s)
	}
}

func TestAClosedWakerHearsNothingMore(t *testing.T) {
	f := start(t, Options{})
	gone, stays := f.Waker(), f.Waker()
	gone.Close()
	publish(f, at, at+1)
	heard(t, stays)
	if gone.take(at) {
		t.Error("a closed waker got a hint")
	}
}

func TestEventsArriveInOrder(t *testing.T) {
	f := start(t, Options{ListenAddr: "127.0.0.1:0"})
	sub := listen(t, f.Addr(), testLog)
	const n = 2000
	for i := range n {
		publish(f, at, at+eventlog.Seq(i))
	}
	for i := range n {
		msg, err := sub.NextMsgWithContext(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := msg.Header.Get(HeaderSeq), strconv.FormatUint(uint64(at)+uint64(i), 10); got != want {
			t.Fatalf("message %d is of %s, want %s", i, got, want)
		}
	}
}

func TestWhatIsCommittedIsToldOnceBeforeTheEvents(t *testing.T) {
	f := start(t, Options{ListenAddr: "127.0.0.1:0"})
	conn := listen(t, f.Addr(), testLog).conn
	got := make(chan *nats.Msg, 100)
	for _, subject := range []string{f.subjects.events(), f.subjects.committed} {
		if _, err := conn.ChanSubscribe(subject, got); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, round := range []struct {
		seqs []eventlog.Seq
		want []string
	}{
		{[]eventlog.Seq{at + 1, at + 2, at + 3}, []string{"committed 3", "event 1", "event 2", "event 3"}},
		{[]eventlog.Seq{at + 4}, []string{"committed 4", "event 4"}},
	} {
		publish(f, at, round.seqs...)
		for i, want := range round.want {
			select {
			case msg := <-got:
				what, seq := "event", msg.Header.Get(HeaderSeq)
				if msg.Subject == f.subjects.committed {
					what, seq = "committed", string(msg.Data)
				}
				n, err := strconv.ParseUint(seq, 10, 64)
				if text := fmt.Sprintf("%s %d", what, n-uint64(at)); err != nil || text != want {
					t.Errorf("message %d is %s (%v), want %s", i, text, err, want)
				}
			case <-testContext(t).Done():
				t.Fatalf("%s did not come", want)
			}
		}
	}
}

func TestAnEventWithoutRoomTakesNoHintAway(t *testing.T) {
	f := start(t, Options{})
	w := f.Waker()
	large := entryAt(at + 1)
	large.Raw = make([]byte, queueBytes+1)
	f.Publish([]eventlog.Entry{*large, *entryAt(at + 2)}, at)
	heard(t, w)
	if !w.take(at+1) || f.Stats().Dropped != 1 {
		t.Errorf("the hint is not about the event that found room; %+v", f.Stats())
	}
}

// A user of an external NATS may lack a right, and hear so for each message.
func TestAMissingRightIsLoggedAFewTimes(t *testing.T) {
	var lines bytes.Buffer
	f := &Feed{log: slog.New(slog.NewTextHandler(&lines, nil))}
	for range 1000 {
		f.complain("publisher", fmt.Errorf("%w: strandline-committed", nats.ErrPermissionViolation))
	}
	if n := strings.Count(lines.String(), "\n"); n != maxDenied || !strings.Contains(lines.String(), "permissions violation") {
		t.Errorf("%d lines: %.500s", n, lines.String())
	}
}

// listen subscribes like a program on another host.
func listen(t *testing.T, addr string, log eventlog.ID, options ...nats.Option) listener {
	t.Helper()
	conn, err := nats.Connect("nats://"+addr, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	sub, err := conn.SubscribeSync(subjectsOf(log).events())
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	return listener{sub, conn}
}

type listener struct {
	*nats.Subscription
	conn *nats.Conn
}

func TestPublishNeverBlocks(t *testing.T) {
	tests := []struct {
		name     string
		size     int // of each event's raw bytes
		publish  int
		accepted int
	}{
		{"when the queue is full of events", 10, queueEvents + 50, queueEvents},
		{"when the queue is full of bytes", queueBytes / 4, 9, 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &Feed{queue: make(chan news, queueEvents)} // nobody takes anything out
			entry := &eventlog.Entry{Raw: make([]byte, tt.size)}
			for range tt.publish {
				f.Publish([]eventlog.Entry{*entry}, 0)
			}
			if got := len(f.queue); got != tt.accepted {
				t.Errorf("%d events queued, want %d", got, tt.accepted)
			}
			if got := f.dropped.Load(); got != uint64(tt.publish-tt.accepted) {
				t.Errorf("%d events dropped, want %d", got, tt.publish-tt.accepted)
			}
			if got := f.queued.Load(); got != int64(tt.accepted*tt.size) {
				t.Errorf("%d bytes counted, want %d", got, tt.accepted*tt.size)
			}
		})
	}
}

func TestCloseSendsWhatIsQueued(t *testing.T) {
	outside := startOutside(t)
	f := start(t, Options{URL: outside.url()})
	sub := listen(t, strings.TrimPrefix(outside.url(), "nats://"), testLog)
	for i := range 100 {
		publish(f, at, at+eventlog.Seq(i))
	}
	f.Close()
	for range 100 {
		if _, err := sub.NextMsgWithContext(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAClosedFeedDropsAndItsWakersGoBySilence(t *testing.T) {
	f := start(t, Options{})
	w := f.Waker()
	f.Close()
	f.Close()
	publish(f, 0, at)
	if s := f.Stats(); s.Dropped != 1 || s.Connected {
		t.Errorf("stats %+v", s)
	}
	if err := w.Wait(testContext(t), standing(at)); err != nil {
		t.Error(err)
	}
}

func TestCloseIsBoundedWhileNATSIsAway(t *testing.T) {
	outside := startOutside(t)
	f := start(t, Options{URL: outside.url()})
	outside.kill()
	for i := range 1000 {
		publish(f, at, at+eventlog.Seq(i))
	}
	f.Close() // it returns, that is: nobody comes back
	if s := f.Stats(); s.Published+s.Dropped != 1000 {
		t.Errorf("%d published and %d dropped of 1000", s.Published, s.Dropped)
	}
}

func TestTheReaderReachesTheEndWhileNATSIsKilledAndStartedAgain(t *testing.T) {
	outside := startOutside(t)
	f := start(t, Options{URL: outside.url()})
	w, log := f.Waker(), &memoryLog{last: at}
	const rounds, each = 5, 200
	reached := log.follow(t, w, at+rounds*each)
	for round := range rounds {
		for i := range each {
			if i == each/2 {
				outside.kill()
			}
			seq := at + eventlog.Seq(round*each+i+1)
			log.append(seq)
			publish(f, at, seq)
		}
		outside.start()
	}
	reached()
	until(t, "connected again", func() bool { return f.Stats().Connected && f.sub.IsConnected() })
	if err := f.sub.Flush(); err != nil { // the subscription has reached the new server
		t.Fatal(err)
	}
	end := at + rounds*each
	for w.take(end) {
	}
	publish(f, at, end+1)
	until(t, "hints come over the new server", func() bool { return w.take(end) })
}

func TestANATSThatIsDownAtStartIsConnectedWhenItComes(t *testing.T) {
	outside := startOutside(t)
	outside.kill()
	f := start(t, Options{URL: outside.url()})
	w := f.Waker()
	publish(f, 0, at)
	until(t, "an event is dropped", func() bool { return f.Stats().Dropped == 1 })
	outside.start()
	until(t, "connected", func() bool { return f.Stats().Connected && f.sub.IsConnected() })
	if err := f.sub.Flush(); err != nil {
		t.Fatal(err)
	}
	publish(f, 0, at+1)
	heard(t, w)
}

func TestForgedAndMalformedMessagesChangeNothing(t *testing.T) {
	outside := startOutside(t)
	f := start(t, Options{URL: outside.url()})
	forger, err := nats.Connect(outside.url())
	if err != nil {
		t.Fatal(err)
	}
	defer forger.Close()
	const lies = 5000
	for i := range lies {
		msg := subjectsOf(testLog).committedMessage(math.MaxUint64 - eventlog.Seq(i%3))
		if i%2 == 0 {
			msg.Data[i%len(msg.Data)] ^= 0x55
		}
		if err := forger.PublishMsg(msg); err != nil {
			t.Fatal(err)
		}
	}
	w, log := f.Waker(), &memoryLog{last: at}
	reached := log.follow(t, w, at+500)
	for seq := at + 1; seq <= at+500; seq++ {
		log.append(seq)
		publish(f, at, seq)
		publish(f, at, seq) // a duplicate
		publish(f, at, at+1)
	}
	reached()
	until(t, "the malformed half is refused", func() bool { return f.Stats().Refused == lies/2 })
}

func TestASlowConsumerLosesHintsAndNothingElse(t *testing.T) {
	f := start(t, Options{ListenAddr: "127.0.0.1:0"})
	w, log := f.Waker(), &memoryLog{last: at}
	f.wakersMu.Lock() // the subscription's goroutine stands still
	const n = pendingMessages + 5000
	for i := range n {
		log.append(at + eventlog.Seq(i+1))
		if err := f.pub.PublishMsg(f.subjects.committedMessage(log.last)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "NATS drops hints", func() bool {
		dropped, err := f.hints.Dropped()
		return err == nil && dropped > 0
	})
	f.wakersMu.Unlock()
	log.follow(t, w, at+n)()
	until(t, "later hints arrive", func() bool {
		publish(f, at, at+n+1)
		return w.take(at + n)
	})
}

func TestStartRefuses(t *testing.T) {
	outside := startOutside(t)
	tests := []struct {
		name string
		o    Options
		want string
	}{
		{"a log without id", Options{}, "not known"},
		{"a port beyond loopback without password", Options{LogID: testLog, ListenAddr: "0.0.0.0:0"}, "not loopback"},
		{"a port on every address without password", Options{LogID: testLog, ListenAddr: ":0"}, "not loopback"},
		{"an address without port", Options{LogID: testLog, ListenAddr: "127.0.0.1"}, "write host:port"},
		{"a port that is no number", Options{LogID: testLog, ListenAddr: "127.0.0.1:nats"}, "must be a number"},
		{"a port in use", Options{LogID: testLog, ListenAddr: strings.TrimPrefix(outside.url(), "nats://")}, "in use"},
		{"credentials that are not there", Options{LogID: testLog, URL: outside.url(), CredsFile: "absent.creds"}, "absent.creds"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Logger = slog.New(slog.DiscardHandler)
			f, err := Start(testContext(t), tt.o)
			if err == nil {
				f.Close()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not say %q", err, tt.want)
			}
		})
	}
}

func TestTheEmbeddedServerOpensNoPortByDefault(t *testing.T) {
	f := start(t, Options{})
	if f.Addr() != "" || f.server.server.Addr() != nil {
		t.Errorf("it listens on %q, %v", f.Addr(), f.server.server.Addr())
	}
}

func TestConsumersMayReadOneLogAndPublishNothing(t *testing.T) {
	f := start(t, Options{ListenAddr: "127.0.0.1:0"})
	w := f.Waker()
	refusals := make(chan error, 10)
	options := nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refusals <- err })
	conn, err := nats.Connect("nats://"+f.Addr(), options)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.SubscribeSync(">"); err != nil {
		t.Fatal(err)
	}
	for _, msg := range []*nats.Msg{message(at + 9), f.subjects.committedMessage(at + 9)} {
		if err := conn.PublishMsg(msg); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 { // one for each
		select {
		case err := <-refusals:
			if !strings.Contains(strings.ToLower(err.Error()), "permissions violation") {
				t.Errorf("refused with %v", err)
			}
		case <-testContext(t).Done():
			t.Fatal("not refused")
		}
	}
	if w.take(at) {
		t.Error("a forged message came through")
	}
}

func TestAPasswordIsAskedFor(t *testing.T) {
	f := start(t, Options{ListenAddr: "127.0.0.1:0", ListenPassword: "open sesame"})
	if conn, err := nats.Connect("nats://" + f.Addr()); err == nil {
		conn.Close()
		t.Error("connected without a password")
	}
	sub := listen(t, f.Addr(), testLog, nats.UserInfo(outsideUser, "open sesame"))
	publish(f, 0, at)
	if _, err := sub.NextMsgWithContext(testContext(t)); err != nil {
		t.Error(err)
	}
}

func TestURLsAreLoggedWithoutSecrets(t *testing.T) {
	for in, want := range map[string]string{
		"nats://u:secret@a:4222, nats://token@b": "nats://a:4222,nats://b",
		"nats://a:4222":                          "nats://a:4222",
		"":                                       "",
		"nats://secret@bad port:%zz":             "(unreadable URL)",
	} {
		if got := redacted(in); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
}

func TestRetriesSlowDownToTheLongestWait(t *testing.T) {
	for attempts, want := range map[int]time.Duration{0: firstRetry, 1: firstRetry, 2: 2 * firstRetry, 8: longestWait, 1 << 30: longestWait} {
		if got := retryDelay(attempts); got != want {
			t.Errorf("attempt %d waits %s, want %s", attempts, got, want)
		}
	}
}

func BenchmarkPublish(b *testing.B) {
	f := start(b, Options{})
	f.Waker()
	var batch []eventlog.Entry // as many as 32 clients make
	for i := range 9 {
		batch = append(batch, *entryAt(at + eventlog.Seq(i)))
	}
	b.ReportAllocs()
	for b.Loop() {
		for len(f.queue) > queueEvents/2 {
			time.Sleep(50 * time.Microsecond)
		}
		f.Publish(batch, at)
	}
}

func TestConnectionsThatTheEmbeddedServerDropsComeBack(t *testing.T) {
	f := start(t, Options{})
	w := f.Waker()
	conns, err := f.server.server.Connz(nil)
	if err != nil {
		t.Fatal(err)
	}
	before := f.sub.Stats().Reconnects + f.pub.Stats().Reconnects
	for _, c := range conns.Conns {
		if err := f.server.server.DisconnectClientByID(c.Cid); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "both are back", func() bool {
		again := f.sub.Stats().Reconnects + f.pub.Stats().Reconnects
		return again == before+2 && f.sub.IsConnected() && f.pub.IsConnected()
	})
	if err := f.sub.Flush(); err != nil {
		t.Fatal(err)
	}
	publish(f, at, at+1)
	heard(t, w)
}
