// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/strandline-project/strandline/internal/blockstore"
)

// block answers requests on one file.
func (h *Handler) block(x *exchange) error {
	switch x.r.Method {
	case http.MethodHead:
		return h.head(x)
	case http.MethodGet:
		return h.get(x)
	case http.MethodPost:
		return h.post(x)
	case http.MethodDelete:
		return h.delete(x)
	}
	return methodNotAllowed("GET, HEAD, POST, DELETE")
}

func (h *Handler) head(x *exchange) error {
	length, err := h.store.Stat(x.r.Context(), x.target.path, x.target.ref)
	if err != nil {
		return err
	}
	x.w.describe(int64(length))
	x.w.WriteHeader(http.StatusOK)
	return nil
}

// get sends a block or a range of it.
func (h *Handler) get(x *exchange) error {
	t := x.target
	var part byteRange
	var size int64
	body, err := h.store.Open(x.r.Context(), t.path, t.ref, func(length int64) (int64, int64, error) {
		size = length
		var ok bool
		if part, ok = pickRange(x.r.Header, size); !ok {
			x.w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
			return 0, 0, fmt.Errorf("it has %d bytes: %w", size, blockstore.ErrBadRange)
		}
		return part.start, part.length, nil
	})
	if err != nil {
		return err
	}
	err = x.w.send(body, part, size)
	if err := body.Close(); err != nil {
		h.log.Warn("close a block that was read", "block", t.ref.String(), "err", err)
	}
	return err
}

func (h *Handler) post(x *exchange) error {
	size := x.r.ContentLength
	if size > h.maxBody {
		return fmt.Errorf("%d bytes, the limit is %d: %w", size, h.maxBody, blockstore.ErrTooLarge)
	}
	if err := h.store.Put(x.r.Context(), x.actor, x.target.path, x.target.ref, x.body, size); err != nil {
		return x.body.explain(err)
	}
	x.ok()
	return nil
}

// delete is idempotent: a client that lost the first answer asks again.
func (h *Handler) delete(x *exchange) error {
	err := h.store.Delete(x.r.Context(), x.actor, x.target.path, x.target.ref)
	if err != nil && !(errors.Is(err, blockstore.ErrNotFound) && certain(err)) {
		return err
	}
	x.ok()
	return nil
}

// certain says that err is no Unavailable with a certain error inside.
func certain(err error) bool {
	_, unsure := errors.AsType[*blockstore.Unavailable](err)
	return !unsure
}

// describe sets the header of a file of length bytes. It is never encoded:
// clients compare lengths.
func (a *answer) describe(length int64) {
	h := a.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Length", strconv.FormatInt(length, 10))
}

// buffers hold what is read of a block before it is sent.
var buffers = sync.Pool{New: func() any { b := make([]byte, 128<<10); return &b }}

// send sends the part of a block of size bytes that body holds. The header
// goes out only after the first buffer was read, so damage there is still an
// honest 500; an error afterwards is returned with the header written.
func (a *answer) send(body io.Reader, part byteRange, size int64) error {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	first := (*buffer)[:min(int64(len(*buffer)), part.length)]
	if _, err := io.ReadFull(body, first); err != nil {
		return fmt.Errorf("read a block's beginning: %w", err)
	}
	a.describe(part.length)
	status := http.StatusOK
	if part.partial {
		a.Header().Set("Content-Range", part.contentRange(size))
		status = http.StatusPartialContent
	}
	a.WriteHeader(status)
	if _, err := a.Write(first); err != nil {
		return fmt.Errorf("send a block: %w", err)
	}
	rest := part.length - int64(len(first))
	n, err := io.CopyBuffer(onlyWriter{a}, body, *buffer)
	if err == nil && n < rest {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("send a block, %d bytes before its end: %w", rest-n, err)
	}
	return nil
}

// onlyWriter hides everything but Write, so that io.CopyBuffer uses its buffer,
// or lets the body write its own.
type onlyWriter struct{ io.Writer }
