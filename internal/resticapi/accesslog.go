// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// accessLog writes a line per request in the combined format:
//
//	HOST - USER [TIME] "METHOD URI PROTOCOL" STATUS BYTES "REFERER" "USER-AGENT"
//
// A nil *accessLog writes nothing.
type accessLog struct {
	mu   sync.Mutex
	w    io.Writer // guarded by mu
	log  *slog.Logger
	once sync.Once // a log that cannot be written is reported once, not once a request
}

func newAccessLog(w io.Writer, log *slog.Logger) *accessLog {
	if w == nil {
		return nil
	}
	return &accessLog{w: w, log: log}
}

func (l *accessLog) write(x *exchange) {
	if l == nil {
		return
	}
	line := accessLine(x.r, x.user, x.w.status, x.w.n, x.started)
	l.mu.Lock()
	_, err := io.WriteString(l.w, line)
	l.mu.Unlock()
	if err != nil {
		l.once.Do(func() { l.log.Error("the access log cannot be written; requests go on without it", "err", err) })
	}
}

func accessLine(r *http.Request, user string, status int, n int64, started time.Time) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil { // a Unix socket has no port
		host = r.RemoteAddr
	}
	return fmt.Sprintf("%s - %s [%s] \"%s %s %s\" %d %d \"%s\" \"%s\"\n",
		cmp.Or(escape(host), "-"), cmp.Or(escape(user), "-"), started.Format("02/Jan/2006:15:04:05 -0700"),
		escape(r.Method), escape(cmp.Or(r.RequestURI, r.URL.RequestURI())), escape(r.Proto),
		status, n, cmp.Or(escape(r.Referer()), "-"), cmp.Or(escape(r.UserAgent()), "-"))
}

// escape keeps a field on its line and inside its quotes, as Apache does.
func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
