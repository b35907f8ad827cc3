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
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// lookEvery is how often at most the file is looked at for a change.
const lookEvery = time.Second

// Auth checks user and password against an htpasswd file with bcrypt or {SHA}
// hashes. Each user may use the account of the same name and no other. It is
// safe for concurrent use.
//
// The file is read again when its time, size or identity changed, seen at the
// next request a second or more after the last look, and on Reload. A file that
// cannot be read or has a bad line changes nothing: the users read before stay.
//
// A password that was right once is known from then on, as long as the user's
// hash in the file is the same: it is not hashed again, and no failure of
// anybody's holds it up. A restart forgets it. Nothing is written down that
// would be cheaper to guess from than the hash in the file.
type Auth struct {
	file     string
	log      *slog.Logger
	key      [32]byte      // of this process: what is kept of a password is worthless elsewhere
	slots    chan struct{} // half the processors: guessing leaves the others to those who are in
	limit    failureLimit
	lastHash atomic.Int64 // how long the last hash took, as a time.Duration

	mu       sync.Mutex
	users    *userTable          // guarded by mu; replaced whole
	verified map[string]verified // guarded by mu: by user, the last password that was right
	stamp    os.FileInfo         // guarded by mu: the file when it was last read, well or badly
	looked   time.Time           // guarded by mu
}

// verified is a password that was right for a hash.
type verified struct {
	mark mark
	hash string
}

// OpenAuth reads an htpasswd file. It fails on a bad line, naming its number:
// a user who is silently left out would be found out by a failing backup. log
// may be nil.
func OpenAuth(file string, log *slog.Logger) (*Auth, error) {
	if log == nil {
		log = slog.Default()
	}
	slots := make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
	a := &Auth{file: file, log: log, slots: slots, limit: newFailureLimit(), verified: map[string]verified{}}
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

// current returns the users, read again if the file changed, and whether mark
// is that of a password known to be right for the user.
func (a *Auth) current(user string, m mark) (users *userTable, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lookLocked()
	v, known := a.verified[user]
	return a.users, known && v.mark == m && v.hash == a.users.users[user].hash
}

// lookLocked reads the file again if it changed.
func (a *Auth) lookLocked() {
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
}

// remember keeps a password that was right for the user's hash in users.
func (a *Auth) remember(users *userTable, user string, m mark) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.verified[user] = verified{m, users.users[user].hash}
}

// verify returns the user whom the request's password proves, or a refusal:
// 401, after a while when many failures came from its address, or 429 when too
// many wait there already.
func (a *Auth) verify(r *http.Request) (string, error) {
	user, password, ok := r.BasicAuth()
	if !ok || !userName.MatchString(user) {
		return "", errUnauthorised
	}
	mark := a.mark(user, password)
	users, known := a.current(user, mark)
	if known {
		return user, nil
	}
	// Clients come with several connections at once; one hash does for all. If
	// the client whose request does it hangs up, another one's takes over.
	for {
		_, err, _ := users.flight.Do(string(mark[:]), func() (any, error) {
			return nil, a.check(r, users, user, password, mark)
		})
		if !errors.Is(err, context.Canceled) || r.Context().Err() != nil {
			return user, err
		}
	}
}

// check looks at a password that is not known: at once, from the user's own
// share of failures, or in the turn of its source. A wrong one is answered in
// that turn either way, so that the answers do not tell who is in the file.
func (a *Auth) check(r *http.Request, users *userTable, user, password string, mark mark) error {
	try := &try{source: sourceOf(r), users: users, user: user, password: password}
	err := a.lookAhead(r.Context(), try)
	if err == nil && !try.right {
		err = a.lookInTurn(r.Context(), try)
	}
	switch {
	case err != nil:
		return err
	case !try.right:
		a.log.Warn("wrong user or password", "remote", r.RemoteAddr, "user", user)
		return errUnauthorised
	}
	a.remember(users, user, mark)
	return nil
}

// try is one password that is looked at.
type try struct {
	source         netip.Prefix
	users          *userTable
	user, password string
	hashed, right  bool
}

// lookAhead hashes the password of a user of the file while his share lasts.
func (a *Auth) lookAhead(ctx context.Context, try *try) error {
	if _, inFile := try.users.users[try.user]; !inFile {
		return nil
	}
	f := a.limit.ahead(try.source, try.user, time.Now())
	if f == nil {
		return nil
	}
	err := a.hash(ctx, try)
	a.limit.settle(f, time.Now(), try.right || err != nil)
	return err
}

// lookInTurn waits for the turn of the source, and hashes the password then if
// that was not done. Who has to come again is told so after as long as a hash
// takes.
func (a *Auth) lookInTurn(ctx context.Context, try *try) error {
	f, turn := a.limit.admit(try.source, time.Now())
	if f == nil {
		if !try.hashed {
			if err := a.wait(ctx, try, time.Duration(a.lastHash.Load())); err != nil {
				return err
			}
		}
		return &refusal{status: http.StatusTooManyRequests, text: "too many wrong passwords from this address", retryAfter: turn}
	}
	err := a.wait(ctx, try, turn)
	if err == nil && !try.hashed {
		err = a.hash(ctx, try)
	}
	a.limit.settle(f, time.Now(), !try.hashed || try.right)
	return err
}

func (a *Auth) wait(ctx context.Context, try *try, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return gaveUp(ctx, try)
	}
}

// hash waits until no other password of the user is hashed, and for a free
// processor.
func (a *Auth) hash(ctx context.Context, try *try) error {
	for _, room := range []chan struct{}{try.users.laneOf(try.user), a.slots} {
		select {
		case room <- struct{}{}:
			defer func() { <-room }()
		case <-ctx.Done():
			return gaveUp(ctx, try)
		}
	}
	began := time.Now()
	try.right, try.hashed = try.users.match(try.user, try.password), true
	a.lastHash.Store(int64(time.Since(began)))
	return nil
}

func gaveUp(ctx context.Context, try *try) error {
	return &refusal{status: http.StatusServiceUnavailable, text: "too many passwords to check", retryAfter: retryDefault,
		err: fmt.Errorf("wait to check the password of %s: %w", try.user, ctx.Err())}
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
