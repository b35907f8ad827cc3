// SPDX-License-Identifier: Apache-2.0

// Package resticapi is the restic door: an http.Handler that speaks restic's
// REST protocol, versions 1 and 2, in front of the application.
//
// A request takes one way through the package, and each step is decided once:
//
//	parse the path -> who is it -> may they be here -> ask the Store -> answer
//
// What must hold:
//   - The path is parsed by hand from its escaped form, before anything is
//     looked up; nothing is cleaned, completed or redirected.
//   - A status code is a promise. 404 says "certainly not there" and is never
//     an answer to trouble or doubt; those are 503 and 500. A list is whole or
//     it is broken off, never short.
//   - Bytes whose checksum failed are not sent: before the first byte that is
//     a 500, later it breaks the connection.
//   - A client that sends or takes less than about 1 KiB a second is dropped.
//
// Words of restic's (repository, pack, snapshot) appear only here; to the rest
// of the program a repository is a machine and a file is a block.
package resticapi

import (
	"cmp"
	"context"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/blockstore"
)

// Store is what the door asks of the application. Errors are those of package
// blockstore (its sentinels, Unavailable, Barred); whatever else comes back is
// answered with 500. Every method may be called by many goroutines at once.
type Store interface {
	// Register opens the account if need be and registers the machine. It is
	// idempotent, and returns only when its events survive the loss of the
	// server (or did already).
	Register(ctx context.Context, actor string, p blockstore.Path) error
	// Stat returns a block's length in bytes.
	Stat(ctx context.Context, p blockstore.Path, ref blockstore.Ref) (uint64, error)
	// Open returns the bytes of a block that part picks, each verified before
	// Read hands it out. The caller closes it.
	Open(ctx context.Context, p blockstore.Path, ref blockstore.Ref, part blockstore.Part) (io.ReadCloser, error)
	// List returns the machine's blocks of one kind, each once, in any order,
	// those of every answered Put included. An error, at once or in the
	// sequence, means that the list is not whole.
	List(ctx context.Context, p blockstore.Path, kind eventlog.Kind) (iter.Seq2[blockstore.Listed, error], error)
	// Put reads body to its end, checks its hash against ref and stores it;
	// size is its length or -1 if the client did not say. It returns nil only
	// when the block is as durable as its kind demands, and does not touch
	// body after it returned.
	Put(ctx context.Context, actor string, p blockstore.Path, ref blockstore.Ref, body io.Reader, size int64) error
	// Delete removes a block; that there is none is no error.
	Delete(ctx context.Context, actor string, p blockstore.Path, ref blockstore.Ref) error
}

// Observer is told of every request once it is over. method is one of the
// usual names or "OTHER"; kind is restic's folder name ("data", "config", …),
// "repository" for the machine itself, or "none" where the path named nothing;
// in and out count the bytes of the bodies.
type Observer interface {
	Observe(method, kind string, status int, in, out int64, d time.Duration)
}

// DefaultMaxBody is the largest body accepted when Config says nothing: 1 GiB.
const DefaultMaxBody = 1 << 30

// Config is what NewHandler needs. Only Store must be set.
type Config struct {
	Store     Store
	Auth      *Auth        // nil: everybody may do everything, the Authorization header is ignored
	MaxBody   int64        // bytes; 0 means DefaultMaxBody
	AccessLog io.Writer    // one line a request, combined format; nil: none
	Observer  Observer     // nil: none
	Log       *slog.Logger // the server's own trouble; nil: slog.Default()
}

// Handler is the restic door. It holds no state of its own beside the caches
// of its Auth, and is safe for concurrent use.
type Handler struct {
	store    Store
	auth     *Auth
	maxBody  int64
	access   *accessLog
	observer Observer
	log      *slog.Logger
	pace     pace
}

var _ http.Handler = (*Handler)(nil)

// NewHandler returns the door described by c.
func NewHandler(c Config) *Handler {
	log := cmp.Or(c.Log, slog.Default())
	return &Handler{
		store:    c.Store,
		auth:     c.Auth,
		maxBody:  cmp.Or(c.MaxBody, DefaultMaxBody),
		access:   newAccessLog(c.AccessLog, log),
		observer: c.Observer,
		log:      log,
		pace:     defaultPace,
	}
}

// ServeHTTP answers one request of the protocol.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := h.begin(w, r)
	defer x.end()
	if err := h.serve(x); err != nil {
		x.fail(err)
	}
}

// serve goes the way of the package comment. The path is parsed first because
// that tells nothing; a stranger hears of its result only after 401.
func (h *Handler) serve(x *exchange) error {
	t, pathErr := parsePath(x.r.URL.EscapedPath())
	x.target = t
	if err := h.identify(x); err != nil {
		return err
	}
	if pathErr != nil {
		return pathErr
	}
	if err := h.authorise(x); err != nil {
		return err
	}
	switch t.what {
	case wantMachine:
		return h.machine(x)
	case wantList:
		return h.list(x)
	default:
		return h.block(x)
	}
}

// identify says who is asking: x.actor, and x.user if a password proved it.
func (h *Handler) identify(x *exchange) error {
	if h.auth == nil {
		x.actor = "anonymous"
		return nil
	}
	user, err := h.auth.verify(x.r)
	if err != nil {
		return err
	}
	x.user, x.actor = user, "user:"+user
	return nil
}

// authorise is the one place that decides whose path this is, on names alone
// and before any look-up: so what exists under another account shows neither
// in the answer nor in its time.
func (h *Handler) authorise(x *exchange) error {
	if h.auth == nil || x.user == x.target.path.Account {
		return nil
	}
	return errForeign
}

// machine answers requests on the repository itself: POST ?create=true.
func (h *Handler) machine(x *exchange) error {
	if x.r.Method != http.MethodPost {
		return methodNotAllowed(http.MethodPost)
	}
	if x.r.URL.Query().Get("create") != "true" {
		return &refusal{status: http.StatusBadRequest, text: "to create the repository, POST with ?create=true"}
	}
	if err := h.store.Register(x.r.Context(), x.actor, x.target.path); err != nil {
		return err
	}
	x.ok()
	return nil
}
