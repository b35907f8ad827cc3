// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"sync"
	"time"
)

const (
	verifiedFor = time.Minute // how long a password that was right is not hashed again
	lookEvery   = time.Second // how often at most the file is looked at for a change
)

// Auth checks user and password against an htpasswd file with bcrypt or {SHA}
// hashes. Each user may use the account of the same name and no other. It is
// safe for concurrent use.
//
// The file is read again when its time, size or identity changed, seen at the
// next request a second or more after the last look, and on Reload. A file that
// cannot be read or has a bad line changes nothing: the users read before stay.
type Auth struct {
	file  string
	log   *slog.Logger
	key   [32]byte      // of this process: what is kept of a password is worthless elsewhere
	slots chan struct{} // as many hashes at once as there are processors
	limit failureLimit

	mu     sync.Mutex
	users  *userTable  // guarded by mu; replaced whole, with its memory of right passwords
	stamp  os.FileInfo // guarded by mu: the file when it was last read, well or badly
	looked time.Time   // guarded by mu
}

// OpenAuth reads an htpasswd file. It fails on a bad line, naming its number:
// a user who is silently left out would be found out by a failing backup. log
// may be nil.
func OpenAuth(file string, log *slog.Logger) (*Auth, error) {
	if log == nil {
		log = slog.Default()
	}
	a := &Auth{file: file, log: log, slots: make(chan struct{}, runtime.GOMAXPROCS(0)), limit: newFailureLimit()}
	if _, err := rand.Read(a.key[:]); err != nil {
		return nil, fmt.Errorf("draw the key for remembered passwords: %w", err)
	}
	if err := a.Reload(); err != nil {
		return nil, err
	}
	return a, nil
}

// Reload reads the file now, whatever its time says. On an error the users read
// before stay valid.
func (a *Auth) Reload() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reloadLocked()
}

// reloadLocked takes the stamp before it reads: a change in between is read
// again later rather than missed.
func (a *Auth) reloadLocked() error {
	stamp, err := os.Stat(a.file)
	if err != nil {
		return fmt.Errorf("read the users: %w", err)
	}
	a.stamp = stamp
	content, err := os.ReadFile(a.file)
	if err != nil {
		return fmt.Errorf("read the users: %w", err)
	}
	users, err := parseUsers(content)
	if err != nil {
		return fmt.Errorf("read the users from %s: %w", a.file, err)
	}
	a.users = users
	return nil
}

// current returns the users, read again if the file changed.
func (a *Auth) current() *userTable {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); now.Sub(a.looked) >= lookEvery {
		a.looked = now
		if fileChanged(a.file, a.stamp) {
			if err := a.reloadLocked(); err != nil {
				a.log.Error("the password file changed but cannot be used: the users read before stay", "err", err)
			} else {
				a.log.Info("the password file was read again", "file", a.file)
			}
		}
	}
	return a.users
}

// verify returns the user whom the request's password proves, or a refusal:
// 401, after a while when many failures came from its address, or 429 when too
// many wait there already.
func (a *Auth) verify(r *http.Request) (string, error) {
	user, password, ok := r.BasicAuth()
	if !ok || !userName.MatchString(user) {
		return "", errUnauthorised
	}
	users, mark := a.current(), a.mark(user, password)
	age, known := users.lastVerified(mark)
	if known && age < verifiedFor {
		return user, nil
	}
	// Clients come with several connections at once; one hash does for all. If
	// the client whose request does it hangs up, another one's takes over.
	for {
		_, err, _ := users.flight.Do(string(mark[:]), func() (any, error) {
			return nil, a.check(r, users, user, password, mark, known)
		})
		if !errors.Is(err, context.Canceled) || r.Context().Err() != nil {
			return user, err
		}
	}
}

// check hashes the password. One that was right before, with this file, is not
// held up by the failures of others behind the same address.
func (a *Auth) check(r *http.Request, users *userTable, user, password string, mark mark, known bool) error {
	source := remoteSource(r.RemoteAddr)
	var turn time.Duration
	if !known {
		var ok bool
		if turn, ok = a.limit.admit(source, time.Now()); !ok {
			return &refusal{status: http.StatusTooManyRequests, text: "too many wrong passwords from this address", retryAfter: turn}
		}
	}
	right, err := a.hash(r.Context(), users, user, password, turn)
	if !known {
		a.limit.settle(source, time.Now(), right || err != nil)
	}
	switch {
	case err != nil:
		return &refusal{status: http.StatusServiceUnavailable, text: "too many passwords to check", retryAfter: retryDefault, err: err}
	case !right:
		a.log.Warn("wrong user or password", "remote", r.RemoteAddr, "user", user)
		return errUnauthorised
	}
	users.remember(mark, time.Now())
	return nil
}

// hash waits for the password's turn, and for a free processor.
func (a *Auth) hash(ctx context.Context, users *userTable, user, password string, turn time.Duration) (bool, error) {
	if turn > 0 {
		timer := time.NewTimer(turn)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return false, fmt.Errorf("wait for the turn of the password of %s: %w", user, ctx.Err())
		}
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
		return users.match(user, password), nil
	case <-ctx.Done():
		return false, fmt.Errorf("wait to check the password of %s: %w", user, ctx.Err())
	}
}

// mark stands for a user and a password in memory.
type mark [sha256.Size]byte

func (a *Auth) mark(user, password string) (m mark) {
	mac := hmac.New(sha256.New, a.key[:])
	mac.Write(binary.AppendUvarint(nil, uint64(len(user))))
	mac.Write([]byte(user))
	mac.Write([]byte(password))
	mac.Sum(m[:0])
	return m
}
