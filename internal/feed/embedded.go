// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/strandline-project/strandline/eventlog"
)

// Users of the embedded server. Only the first may publish; it has a password
// that nobody knows, made anew at each start.
const (
	insideUser  = "strandline"
	outsideUser = "consumer"
)

const readyTimeout = 5 * time.Second

// embedded is the NATS server inside this process.
type embedded struct {
	server   *server.Server
	password string // of insideUser
	listens  bool
}

func startEmbedded(ctx context.Context, o Options, s subjects, log *slog.Logger) (*embedded, error) {
	e := &embedded{password: rand.Text(), listens: o.ListenAddr != ""}
	config, err := e.config(o, s)
	if err != nil {
		return nil, err
	}
	if e.server, err = server.NewServer(config); err != nil {
		return nil, fmt.Errorf("make the embedded NATS server: %w", err)
	}
	lines := &natsLog{log: log}
	e.server.SetLoggerV2(lines, false, false, false)
	e.server.Start()
	if err := e.await(ctx); err != nil {
		e.stop()
		return nil, errors.Join(err, lines.last())
	}
	if e.listens {
		log.Info("NATS listens", "addr", e.addr())
	}
	if e.listens && o.ListenPassword == "" {
		log.Warn("the NATS port asks for no password: every user of this host can read all events", "addr", e.addr())
	}
	return e, nil
}

// config describes a server that keeps nothing on disk and handles no signal.
func (e *embedded) config(o Options, s subjects) (*server.Options, error) {
	config := &server.Options{
		ServerName:      "strandline",
		DontListen:      !e.listens,
		NoSigs:          true,
		NoSystemAccount: true,
		MaxPayload:      2 * eventlog.MaxEvent, // an event and its headers always fit
		MaxPending:      16 << 20,
		WriteDeadline:   2 * time.Second,
		Users:           []*server.User{{Username: insideUser, Password: e.password}},
	}
	if !e.listens {
		return config, nil
	}
	host, port, err := listenAddr(o)
	if err != nil {
		return nil, err
	}
	config.Host, config.Port = host, port
	config.Users = append(config.Users, &server.User{
		Username: outsideUser, Password: o.ListenPassword,
		Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Deny: []string{">"}},
			Subscribe: &server.SubjectPermission{Allow: []string{s.events(), s.committed}},
		},
	})
	if o.ListenPassword == "" {
		config.NoAuthUser = outsideUser
	}
	return config, nil
}

func listenAddr(o Options) (host string, port int, err error) {
	host, portText, err := net.SplitHostPort(o.ListenAddr)
	if err != nil {
		return "", 0, fmt.Errorf("NATS listen address %q: %w; write host:port, 127.0.0.1:4222 say", o.ListenAddr, err)
	}
	port, err = strconv.Atoi(portText)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("NATS listen address %q: the port must be a number up to 65535", o.ListenAddr)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	ip := net.ParseIP(host)
	if o.ListenPassword == "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", 0, fmt.Errorf("NATS listen address %q is not loopback and there is no password for it: "+
			"listen on 127.0.0.1, or give one, or use an external NATS server with credentials", o.ListenAddr)
	}
	return host, port, nil
}

// await returns when connections are accepted.
func (e *embedded) await(ctx context.Context) error {
	timeout := readyTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline))
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("wait for the embedded NATS server: %w", err)
	}
	if !e.server.ReadyForConnections(timeout) {
		return fmt.Errorf("the embedded NATS server was not ready within %s", timeout)
	}
	return nil
}

func (e *embedded) target() target {
	return target{options: []nats.Option{
		nats.InProcessServer(e.server),
		nats.UserInfo(insideUser, e.password),
	}}
}

func (e *embedded) addr() string {
	if !e.listens {
		return ""
	}
	if addr := e.server.Addr(); addr != nil {
		return addr.String()
	}
	return ""
}

func (e *embedded) stop() {
	e.server.Shutdown()
	e.server.WaitForShutdown()
}

// natsLog turns the server's lines into ours. Its notices are of no interest
// to an operator of Strandline.
type natsLog struct {
	log   *slog.Logger
	worst atomic.Pointer[string] // the last error line
}

var _ server.Logger = (*natsLog)(nil)

func (l *natsLog) line(level slog.Level, format string, v []any) {
	text := fmt.Sprintf(format, v...)
	if level >= slog.LevelError {
		l.worst.Store(&text)
	}
	l.log.Log(context.Background(), level, "nats-server: "+text)
}

// last returns the last error line as an error, nil when there was none.
func (l *natsLog) last() error {
	if text := l.worst.Load(); text != nil {
		return errors.New(*text)
	}
	return nil
}

func (l *natsLog) Noticef(format string, v ...any) { l.line(slog.LevelDebug, format, v) }
func (l *natsLog) Errorf(format string, v ...any)  { l.line(slog.LevelError, format, v) }
func (l *natsLog) Fatalf(format string, v ...any)  { l.line(slog.LevelError, format, v) }
func (l *natsLog) Debugf(format string, v ...any)  { l.line(slog.LevelDebug, format, v) }
func (l *natsLog) Tracef(format string, v ...any)  { l.line(slog.LevelDebug, format, v) }

// Warnf leaves out what is meant for the author of a configuration file; the
// passwords here never were in one.
func (l *natsLog) Warnf(format string, v ...any) {
	if strings.HasPrefix(format, "Plaintext passwords detected") {
		return
	}
	l.line(slog.LevelWarn, format, v)
}
