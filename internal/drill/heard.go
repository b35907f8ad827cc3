// SPDX-License-Identifier: Apache-2.0

package drill

import (
	"context"
	"log/slog"
	"sync"
)

// maxHeard bounds the warnings that become remarks.
const maxHeard = 20

// heard passes a log on and keeps its warnings: what an archive has that is
// damaged and was helped, such as an index object, is no failure of a drill, but
// whoever reads its verdict is to know. It is given to an Archive, which makes
// no logs out of it (With).
type heard struct {
	slog.Handler

	mu   sync.Mutex
	said []string // owned by mu; at most maxHeard
}

func (h *heard) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn || h.Handler.Enabled(ctx, level)
}

func (h *heard) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		h.keep(r)
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h *heard) keep(r slog.Record) {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += "; " + a.String()
		return true
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.said) < maxHeard {
		h.said = append(h.said, text)
	}
}

func (h *heard) warnings() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.said
}
