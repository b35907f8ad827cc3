// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Copyable is a view as it is sent to who compares it; *projector.View is one.
type Copyable interface {
	// Name is "machine" or "block".
	Name() string
	// Export writes a copy of the view as it is now, and as it stays while it
	// is being written.
	Export(ctx context.Context, w io.Writer) error
}

func (h *handler) copyView(w http.ResponseWriter, r *http.Request) {
	views := h.server.Copyable()
	if len(views) == 0 {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "no views to be had yet: "+string(h.server.Status().Mode), http.StatusServiceUnavailable)
		return
	}
	for _, view := range views {
		if view.Name() == r.PathValue("name") {
			h.send(w, r, view)
			return
		}
	}
	http.Error(w, fmt.Sprintf("there is no %s view", r.PathValue("name")), http.StatusNotFound)
}

// send sends a copy of a view. One that breaks off is cut off: what is whole
// ends with the number of its rows.
func (h *handler) send(w http.ResponseWriter, r *http.Request, view Copyable) {
	w.Header().Set("Content-Type", "application/octet-stream")
	to := &patient{w: w, control: http.NewResponseController(w)}
	err := view.Export(r.Context(), to)
	switch {
	case err == nil:
	case !to.begun:
		h.log.Error("copy a view", "view", view.Name(), "err", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		if r.Context().Err() == nil {
			h.log.Warn("the copy of a view broke off", "view", view.Name(), "err", err)
		}
		panic(http.ErrAbortHandler)
	}
}

// patient gives its reader writeTimeout for each piece.
type patient struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

func (p *patient) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, fmt.Errorf("bound the time of a write: %w", err)
	}
	p.begun = true
	return p.w.Write(b)
}

// CopyView returns a copy of the server's view of that name as it is now, for
// projector.Import, which tells whether it came whole. The caller closes it,
// soon: the server keeps the moment until then.
func (c *Client) CopyView(ctx context.Context, name string) (io.ReadCloser, error) {
	resp, err := c.do(ctx, http.MethodGet, "/api/views/"+name, nil)
	if err != nil {
		return nil, fmt.Errorf("ask for the %s view: %w", name, err)
	}
	return resp.Body, nil
}
