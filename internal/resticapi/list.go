// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/strandline-project/strandline/internal/blockstore"
)

// The two list formats. restic compares the type of version 2 byte by byte: a
// parameter, and it would read version 1.
const (
	typeV1 = "application/vnd.x.restic.rest.v1"
	typeV2 = "application/vnd.x.restic.rest.v2"
)

// smallList is the size up to which a list is held back, so that it goes out
// in one piece, unencoded and with its length, and trouble is still a status.
const smallList = 4 << 10

// list sends all names of one kind, streamed in the order the Store has them.
func (h *Handler) list(x *exchange) error {
	if x.r.Method != http.MethodGet {
		return methodNotAllowed(http.MethodGet)
	}
	rows, err := h.store.List(x.r.Context(), x.target.path, x.target.ref.Kind)
	if err != nil {
		return err
	}
	l := newLister(x.w, x.r.Header)
	for row, err := range rows {
		if err != nil {
			return fmt.Errorf("list %s of %s: %w", x.target.folder, x.target.path, err)
		}
		if err := l.add(row); err != nil {
			return fmt.Errorf("send the list of %s of %s: %w", x.target.folder, x.target.path, err)
		}
	}
	return l.finish()
}

// lister writes a list. Until the first smallList bytes are there nothing is
// sent. A lister that is not finished leaves no list that parses: its "]" and,
// if it was encoded, gzip's own end are missing.
type lister struct {
	w      *answer
	v2     bool
	zip    bool         // the client takes gzip
	gz     *gzip.Writer // non-nil once the header is out, if zip
	out    io.Writer    // nil until the header is out
	buf    []byte
	listed bool // at least one row
}

func newLister(w *answer, asked http.Header) *lister {
	l := &lister{w: w, v2: asked.Get("Accept") == typeV2, zip: takesGzip(asked), buf: make([]byte, 0, smallList+256)}
	h := w.Header()
	h.Set("Content-Type", typeV1)
	if l.v2 {
		h.Set("Content-Type", typeV2)
	}
	h.Set("Vary", "Accept, Accept-Encoding")
	l.buf = append(l.buf, '[')
	return l
}

// add appends one row: "<id>" in version 1, {"name":"<id>","size":n} in 2.
func (l *lister) add(row blockstore.Listed) error {
	if l.listed {
		l.buf = append(l.buf, ',')
	}
	l.listed = true
	if l.v2 {
		l.buf = append(l.buf, `{"name":"`...)
		l.buf = hex.AppendEncode(l.buf, row.Name[:])
		l.buf = append(l.buf, `","size":`...)
		l.buf = strconv.AppendUint(l.buf, row.Length, 10)
		l.buf = append(l.buf, '}')
	} else {
		l.buf = append(l.buf, '"')
		l.buf = hex.AppendEncode(l.buf, row.Name[:])
		l.buf = append(l.buf, '"')
	}
	if len(l.buf) < smallList {
		return nil
	}
	return l.flush()
}

// flush sends what is held back, after the header if that was not sent yet.
func (l *lister) flush() error {
	if l.out == nil {
		l.out = l.w
		if l.zip {
			l.w.Header().Set("Content-Encoding", "gzip")
			gz, err := gzip.NewWriterLevel(l.w, gzip.BestSpeed)
			if err != nil {
				return fmt.Errorf("begin a gzip stream: %w", err)
			}
			l.gz, l.out = gz, gz
		}
		l.w.WriteHeader(http.StatusOK)
	}
	_, err := l.out.Write(l.buf)
	l.buf = l.buf[:0]
	return err
}

// finish closes the list.
func (l *lister) finish() error {
	l.buf = append(l.buf, ']')
	if l.out == nil {
		l.zip = false
		l.w.Header().Set("Content-Length", strconv.Itoa(len(l.buf)))
	}
	if err := l.flush(); err != nil {
		return fmt.Errorf("send the end of a list: %w", err)
	}
	if l.gz == nil {
		return nil
	}
	if err := l.gz.Close(); err != nil {
		return fmt.Errorf("send the end of a list: %w", err)
	}
	return nil
}

// takesGzip reads Accept-Encoding: gzip named, and not with a weight of zero.
func takesGzip(h http.Header) bool {
	for _, value := range h.Values("Accept-Encoding") {
		for coding := range strings.SplitSeq(value, ",") {
			name, weight, _ := strings.Cut(coding, ";")
			if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
				continue
			}
			q, found := strings.CutPrefix(strings.ReplaceAll(weight, " ", ""), "q=")
			return !found || strings.Trim(q, "0.") != ""
		}
	}
	return false
}
