// SPDX-License-Identifier: Apache-2.0

// Package plainclient is the built-in backup client: it sends a directory to
// any server that speaks the restic REST protocol v2 and brings it back, so
// that the demo and the tests need no other program.
//
// It is plain. Blocks are stored UNENCRYPTED, exactly as they were read, next
// to a JSON list of the files they make up. Whoever can read the server reads
// the files. Use restic or rustic for anything that matters, and give this
// client a machine path of its own: it refuses one that another program has
// initialised.
//
// What it stores, by kind of the protocol:
//
//	config     {"format":"strandline-plain","version":1,"id":...}
//	locks      the time, host and process of a run; one per running Backup
//	data       the files' bytes: pieces of at most 1 MiB, the full ones each a
//	           block of its own, the others side by side in blocks of at most 4 MiB
//	index      the list of files of one backup, see tree.go
//	snapshots  the time, host and directory of one backup, and its index block
//
// Nothing is ever overwritten, and a backup exists from the moment its
// snapshots block does. A run that is killed leaves blocks that the next one
// uses, and a lock that Unlock removes.
package plainclient

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Client speaks to one machine's path on one server. Its methods may be
// called concurrently; Close it after the last one.
type Client struct {
	base *url.URL // ends with a slash, holds no credentials
	opts Options
	http *http.Client
}

// Options of a Client; the zero value of each has a default.
type Options struct {
	User, Password string            // HTTP basic authentication; none when both are empty
	Host           string            // the name kept in locks and backups; default: the host's
	Connections    int               // transfers at a time; default 5, as restic's
	GiveUp         time.Duration     // how long one request is retried; default 15 min, as restic's
	TryTimeout     time.Duration     // how long one attempt may take; default 5 min, as restic's
	Transport      http.RoundTripper // default: one of its own
	// Stored is called after a block has been acknowledged, with its kind
	// ("data", "index", ...), name and length in bytes. Calls may overlap.
	Stored func(kind, name string, length int64)
	// Retrying is called before a request is repeated. Calls may overlap.
	Retrying func(err error, wait time.Duration)
}

// ErrForeign is returned for a machine path that another program initialised.
var ErrForeign = errors.New("the path was initialised by another program (choose another machine name)")

// ErrNotInitialised is returned for a machine path without a config.
var ErrNotInitialised = errors.New("the path was never initialised (call Init first)")

const (
	configFormat  = "strandline-plain"
	configVersion = 1
)

// config is the block that marks a path as this client's.
type config struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	ID      string `json:"id"` // random, so that no two paths have the same config
}

// New returns a client of the machine at baseURL, for example
// "http://127.0.0.1:8000/alice/laptop/". A user and password in the URL are
// used unless opts names its own. It sends nothing yet.
func New(baseURL string, opts Options) (*Client, error) {
	u, err := url.Parse(strings.TrimPrefix(baseURL, "rest:"))
	if err != nil {
		return nil, fmt.Errorf("server address: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("server address %q: write http://HOST:PORT/ACCOUNT/MACHINE/", u.Redacted())
	}
	if u.User != nil && opts.User == "" && opts.Password == "" {
		opts.User = u.User.Username()
		opts.Password, _ = u.User.Password()
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	if !strings.HasSuffix(u.Path, "/") {
		u.Path += "/"
	}
	opts.setDefaults()
	return &Client{base: u, opts: opts, http: newHTTPClient(opts.Transport)}, nil
}

func (o *Options) setDefaults() {
	if o.Host == "" {
		o.Host, _ = os.Hostname() // an empty name is only less informative
	}
	if o.Connections <= 0 {
		o.Connections = 5
	}
	if o.GiveUp <= 0 {
		o.GiveUp = 15 * time.Minute
	}
	if o.TryTimeout <= 0 {
		o.TryTimeout = 5 * time.Minute
	}
	if o.Stored == nil {
		o.Stored = func(string, string, int64) {}
	}
	if o.Retrying == nil {
		o.Retrying = func(error, time.Duration) {}
	}
}

// Close releases the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Init makes the path ready for backups. A path that this client initialised
// before is left as it is; one that another program did is ErrForeign.
func (c *Client) Init(ctx context.Context) error {
	err := c.checkConfig(ctx)
	if !errors.Is(err, ErrNotInitialised) {
		return err
	}
	if err := c.create(ctx); err != nil {
		return fmt.Errorf("initialise %s: %w", c.base, err)
	}
	id := make([]byte, 32)
	rand.Read(id) // never fails
	body, err := json.Marshal(config{Format: configFormat, Version: configVersion, ID: hex.EncodeToString(id)})
	if err != nil {
		return fmt.Errorf("initialise %s: %w", c.base, err)
	}
	// A crash before this line leaves a registered machine without a config,
	// which the next Init completes; after it the path is this client's.
	if err := c.post(ctx, "config", "", body); err != nil {
		// 403 may be the answer to the repetition of a POST whose first
		// answer was lost, or to another Init that came first.
		if cerr := c.checkConfig(ctx); cerr != nil {
			return errors.Join(fmt.Errorf("initialise %s: %w", c.base, err), cerr)
		}
	}
	return nil
}

// checkConfig returns nil if the path is this client's, ErrNotInitialised or
// ErrForeign if it is not, another error if that cannot be told.
func (c *Client) checkConfig(ctx context.Context) error {
	body, err := c.get(ctx, "config", "", maxMetaBytes)
	if isNotFound(err) {
		return fmt.Errorf("%s: %w", c.base, ErrNotInitialised)
	}
	if err != nil {
		return fmt.Errorf("read the config of %s: %w", c.base, err)
	}
	var have config
	if json.Unmarshal(body, &have) != nil || have.Format != configFormat {
		return fmt.Errorf("%s: %w", c.base, ErrForeign)
	}
	if have.Version != configVersion {
		return fmt.Errorf("%s has version %d of the plain format, this client knows %d: use a newer strandline",
			c.base, have.Version, configVersion)
	}
	return nil
}
