// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Answer answers in the words of S3 and hands nothing on.
func Answer(status int, code string) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body) // else the client may see its connection closed, not the answer
		w.Header().Set("Content-Type", "application/xml")
		w.Header().Set("X-Amz-Request-Id", "17C5D3A1B2E4F600")
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?>`+ // whoever has gone does not need it
			`<Error><Code>%s</Code><Message>by the proxy</Message><RequestId>17C5D3A1B2E4F600</RequestId><HostId>proxy</HostId></Error>`, code)
	}
}

// What stores answer.
var (
	Absent      = Answer(http.StatusNotFound, "NoSuchKey")
	Throttled   = Answer(http.StatusServiceUnavailable, "SlowDown")
	Forbidden   = Answer(http.StatusForbidden, "AccessDenied")
	Unsupported = Answer(http.StatusNotImplemented, "NotImplemented")
)

// UnsupportedCondition is a store that knows no conditions: it answers 501 to a
// request that has one.
func UnsupportedCondition(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if r.Header.Get("If-None-Match") != "" {
		next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { Unsupported(w, r, nil) })
	}
	next.ServeHTTP(w, r)
}

// IgnoreCondition is a store, or a proxy before one, that overlooks the
// condition of a put.
func IgnoreCondition(w http.ResponseWriter, r *http.Request, next http.Handler) {
	r.Header.Del("If-None-Match")
	r.Header.Del("Authorization") // signed anew
	next.ServeHTTP(w, r)
}

// NotDone breaks the connection before the store has heard of the request.
func NotDone(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.Copy(io.Discard, r.Body)
	panic(http.ErrAbortHandler)
}

// DoneUnanswered lets the store do what is asked, and loses its answer.
func DoneUnanswered(_ http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// Delay lets each request wait before it is handed on.
func Delay(each time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		timer := time.NewTimer(each)
		defer timer.Stop()
		select {
		case <-timer.C:
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}
}

// Late holds puts back: whoever made one sees its connection break, and the
// request is still on its way until Land is called.
type Late struct {
	mu   sync.Mutex
	held []func() int // owned by mu
}

// Fault holds a request back.
func (l *Late) Fault(_ http.ResponseWriter, r *http.Request, next http.Handler) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // it never came whole
	}
	held := r.Clone(context.Background())
	l.mu.Lock()
	l.held = append(l.held, func() int {
		held.Body = io.NopCloser(bytes.NewReader(body))
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, held)
		return answer.Code
	})
	l.mu.Unlock()
	panic(http.ErrAbortHandler)
}

// Land lets the requests arrive that were held back, and returns the status of
// each answer.
func (l *Late) Land() []int {
	l.mu.Lock()
	held := l.held
	l.held = nil
	l.mu.Unlock()
	var answers []int
	for _, arrive := range held {
		answers = append(answers, arrive())
	}
	return answers
}

// edit lets edit change the body of a good answer.
func edit(change func(body []byte) []byte) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		body := answer.Body.Bytes()
		if answer.Code < 300 && r.Method == http.MethodGet {
			body = change(body)
		}
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(answer.Code)
		_, _ = w.Write(body)
	}
}

// WrongByte changes a byte in the middle of what is read.
var WrongByte = edit(func(body []byte) []byte {
	if len(body) > 0 {
		body[len(body)/2] ^= 0x20
	}
	return body
})

// WrongLength gives the first half of what is read for the whole.
var WrongLength = edit(func(body []byte) []byte { return body[:len(body)/2] })

// Listed is an entry of a list.
type Listed struct {
	Key      string // as the archive calls it
	Modified time.Time
}

// ListStale gives lists as they were at that moment, as far as nothing was
// deleted.
func ListStale(at time.Time) Fault {
	return editList(func(entry Listed, _, _ int) bool { return !entry.Modified.After(at) }, false)
}

// ListWithout leaves entries out of lists.
func ListWithout(hide func(key string) bool) Fault {
	return editList(func(entry Listed, _, _ int) bool { return !hide(entry.Key) }, false)
}

// ListLacksLast leaves the last entries of lists out.
func ListLacksLast(lacks int) Fault {
	return editList(func(_ Listed, i, n int) bool { return i < n-lacks }, true)
}

// ListEndsAt says after so many entries that the list is complete.
func ListEndsAt(entries int) Fault {
	return editList(func(_ Listed, i, _ int) bool { return i < entries }, true)
}

// editList lets keep say of each entry of a list's page, the ith of n, whether
// it stays. last calls the page the list's last one.
func editList(keep func(entry Listed, i, n int) bool, last bool) Fault {
	return edit(func(body []byte) []byte {
		n, i := len(listedXML.FindAll(body, -1)), -1
		body = listedXML.ReplaceAllFunc(body, func(text []byte) []byte {
			if i++; keep(parseListed(text), i, n) {
				return text
			}
			return nil
		})
		if last {
			body = bytes.Replace(body, []byte("<IsTruncated>true<"), []byte("<IsTruncated>false<"), 1)
			body = nextTokenXML.ReplaceAll(body, nil)
		}
		return body
	})
}

var (
	listedXML    = regexp.MustCompile(`(?s)<Contents>.*?</Contents>`)
	keyXML       = regexp.MustCompile(`<Key>(.*?)</Key>`)
	modifiedXML  = regexp.MustCompile(`<LastModified>(.*?)</LastModified>`)
	nextTokenXML = regexp.MustCompile(`<NextContinuationToken>.*?</NextContinuationToken>`)
)

func parseListed(text []byte) Listed {
	key, err := url.QueryUnescape(string(keyXML.FindSubmatch(text)[1]))
	if err != nil {
		panic(err)
	}
	modified, err := time.Parse(time.RFC3339, string(modifiedXML.FindSubmatch(text)[1]))
	if err != nil {
		panic(err)
	}
	_, key, _ = strings.Cut(key, "/")
	return Listed{Key: key, Modified: modified}
}

var errCut = errors.New("cut off")

// Reset breaks a transfer in its middle, with a reset of the connection. The
// answer announces the whole length.
var Reset = cut(func(length int64) int64 { return length / 2 }, func(w http.ResponseWriter) error {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		err = errors.Join(conn.(*net.TCPConn).SetLinger(0), conn.Close())
	}
	return errors.Join(errCut, err)
})

// EndEarly ends a transfer behind its last whole block of 4 KiB, with a
// connection that is closed in good order, as by a process that ends. The
// answer announces the whole length.
var EndEarly = cut(func(length int64) int64 { return (length - 1) &^ 4095 }, func(http.ResponseWriter) error { return errCut })

func cut(at func(length int64) int64, end func(http.ResponseWriter) error) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&cutWriter{ResponseWriter: w, at: at, end: end, left: -1}, r)
	}
}

// cutWriter ends an answer early.
type cutWriter struct {
	http.ResponseWriter
	at   func(length int64) int64
	end  func(http.ResponseWriter) error
	left int64 // bytes until the cut; negative: there is none
}

// Unwrap returns the writer below, for http.ResponseController.
func (w *cutWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader decides where the answer ends.
func (w *cutWriter) WriteHeader(status int) {
	length, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64)
	if err == nil && length > 0 && status < 300 {
		w.left = w.at(length)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write passes on what comes before the end.
func (w *cutWriter) Write(p []byte) (int, error) {
	if w.left < 0 {
		return w.ResponseWriter.Write(p)
	}
	n, err := w.ResponseWriter.Write(p[:min(int64(len(p)), w.left)])
	if w.left -= int64(n); err == nil && n < len(p) {
		if err = http.NewResponseController(w.ResponseWriter).Flush(); err == nil { // what comes before the cut has left
			err = w.end(w.ResponseWriter) // the proxy breaks the answer off
		}
	}
	return n, err
}
