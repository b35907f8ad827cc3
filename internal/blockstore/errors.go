// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"errors"
	"fmt"
	"time"
)

// What a request can be told for certain. A door maps each to its protocol;
// whatever is none of these (nor an Unavailable) is the server's own trouble.
var (
	ErrNoMachine  = errors.New("no such machine")                             // never registered, or not under that account
	ErrNotFound   = errors.New("no such block")                               // of a machine that exists
	ErrExists     = errors.New("exists already, with other content")          // a config, or a name whose body does not match
	ErrMismatch   = errors.New("the body's SHA-256 is not the block's name")  // nothing was stored
	ErrShortBody  = errors.New("the body ended early")                        // nothing was stored
	ErrTooLarge   = errors.New("the body is larger than this server accepts") // nothing was stored
	ErrAppendOnly = errors.New("this server is append-only: only locks may be deleted")
	ErrReadOnly   = errors.New("this repository is read-only")
	ErrQuota      = errors.New("the quota is used up")                          // nothing was stored
	ErrDiskFull   = errors.New("the server's disk is full")                     // nothing was stored, and nothing drains
	ErrDamaged    = errors.New("the stored bytes do not match their checksums") // never served as good
	ErrBadRange   = errors.New("the range begins at or after the block's end")
	ErrBadName    = errors.New("not a valid account or machine name")
)

// Unavailable says that the server cannot do it now, and why; a retry after
// RetryAfter is sensible. Nothing is lost by retrying.
type Unavailable struct {
	Reason     string
	RetryAfter time.Duration
	Err        error // the cause, may be nil
}

func (u *Unavailable) Error() string {
	if u.Err != nil {
		return fmt.Sprintf("%s: %v", u.Reason, u.Err)
	}
	return u.Reason
}

// Unwrap returns the cause.
func (u *Unavailable) Unwrap() error { return u.Err }

// Barred says that writes of a machine are refused because its session was
// cut off by a lossy start; Reason tells the client all it needs to know.
type Barred struct {
	Machine string
	Reason  string
}

func (b *Barred) Error() string { return b.Reason }
