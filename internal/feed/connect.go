// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// How a lost connection is sought again.
const (
	firstRetry  = 50 * time.Millisecond
	longestWait = 5 * time.Second
	pingEvery   = 10 * time.Second // a silent peer is given up after two of these
)

// maxDenied is how many missing rights are logged: a few, because there is more
// than one subject.
const maxDenied = 10

// target is a NATS server to connect to.
type target struct {
	url     string
	options []nats.Option
}

func external(o Options) target {
	t := target{url: o.URL}
	if o.CredsFile != "" {
		t.options = append(t.options, nats.UserCredentials(o.CredsFile))
	}
	return t
}

// dial connects, now or whenever the server comes up, and stays connected
// until closed: no number of failures, refused log-ins included, ends it.
func (t target) dial(f *Feed, role string) (*nats.Conn, error) {
	options := append([]nats.Option{
		nats.Name("strandline " + role),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(retryDelay),
		// Nothing is kept for a server that is away: the log has it.
		nats.ReconnectBufSize(-1),
		nats.PingInterval(pingEvery),
		nats.Timeout(2 * time.Second),
		nats.FlusherTimeout(flushTimeout),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				f.log.Warn("NATS is away; readers look by themselves", "role", role, "err", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { f.log.Info("NATS is back", "role", role) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { f.complain(role, err) }),
	}, t.options...)
	conn, err := nats.Connect(t.url, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s as %s: %w", redacted(t.url), role, err)
	}
	if !conn.IsConnected() {
		f.log.Warn("NATS does not answer; going on without it until it does", "url", redacted(t.url), "role", role)
	}
	return conn, nil
}

// complain logs an error that NATS reports beside any call. A slow consumer
// is our own subscription losing hints, which silence makes good.
func (f *Feed) complain(role string, err error) {
	if errors.Is(err, nats.ErrSlowConsumer) {
		f.log.Debug("hints were dropped; readers look by themselves", "role", role)
		return
	}
	if errors.Is(err, nats.ErrPermissionViolation) && f.denied.Add(1) > maxDenied {
		return // one for each message; a flood must not fill the log
	}
	f.log.Warn("NATS reports an error", "role", role, "err", err)
}

// retryDelay doubles from firstRetry to longestWait; attempts counts from 1.
func retryDelay(attempts int) time.Duration {
	return min(firstRetry<<min(max(attempts-1, 0), 16), longestWait)
}

// redacted returns a list of NATS URLs without their passwords and tokens.
func redacted(urls string) string {
	var shown []string
	for _, text := range strings.Split(urls, ",") {
		u, err := url.Parse(strings.TrimSpace(text))
		if err != nil {
			shown = append(shown, "(unreadable URL)")
			continue
		}
		u.User = nil
		shown = append(shown, u.String())
	}
	return strings.Join(shown, ",")
}
