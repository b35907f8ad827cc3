// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/tg123/go-htpasswd"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/singleflight"
)

// maxCost is the highest bcrypt cost accepted: one more than 16 and a password
// takes ten seconds to check.
const maxCost = 16

var userName = regexp.MustCompile(`^[\p{L}\d@._-]+$`)

// userTable is one reading of the password file.
type userTable struct {
	users  map[string]user
	decoy  htpasswd.EncodedPasswd // the file's costliest bcrypt hash, spent on users who are not there; nil if all are {SHA}
	nobody lane                   // of those
	flight singleflight.Group     // by mark
}

type user struct {
	hash    string // as the file has it
	encoded htpasswd.EncodedPasswd
	slow    bool // bcrypt
	lane    lane
}

// lane lets one password of a user be hashed at a time. So whoever guesses at
// one name, from however many addresses, holds up no other for longer than that.
type lane chan struct{}

func newLane() lane { return make(lane, 1) }

// laneOf returns the lane of a name; those not in the file have one together.
func (t *userTable) laneOf(name string) lane {
	if u, known := t.users[name]; known {
		return u.lane
	}
	return t.nobody
}

// match says whether the password is the user's. A user who is not in the file
// takes as long as one who is.
func (t *userTable) match(name, password string) bool {
	u, known := t.users[name]
	right := known && u.encoded.MatchesPassword(password)
	if !right && !u.slow && t.decoy != nil {
		t.decoy.MatchesPassword(password) // only for its time
	}
	return right
}

// parseUsers reads "user:hash" lines; empty lines and those that begin with #
// are skipped. Errors name the line, never its hash.
func parseUsers(content []byte) (*userTable, error) {
	t := &userTable{users: map[string]user{}, nobody: newLane()}
	highest := 0
	for i, line := range strings.Split(string(content), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		cost, err := t.addLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		if cost > highest {
			highest = cost
			name, _, _ := strings.Cut(line, ":")
			t.decoy = t.users[name].encoded
		}
	}
	if len(t.users) == 0 {
		return nil, errors.New("no user in it: add one with htpasswd -B")
	}
	return t, nil
}

// addLine returns the cost of a bcrypt hash, 0 for {SHA}.
func (t *userTable) addLine(line string) (cost int, err error) {
	name, hash, found := strings.Cut(line, ":")
	if !found {
		return 0, errors.New("not a user, a colon and a hash")
	}
	if !userName.MatchString(name) {
		return 0, fmt.Errorf("user %q: a name has letters, digits and @._- only", name)
	}
	if _, twice := t.users[name]; twice {
		return 0, fmt.Errorf("user %q stands in the file twice", name)
	}
	u, cost, err := parseHash(hash)
	if err != nil {
		return 0, fmt.Errorf("user %q: %w", name, err)
	}
	u.hash, u.lane = hash, newLane()
	t.users[name] = u
	return cost, nil
}

var errHash = errors.New("neither a bcrypt nor a {SHA} hash: make one with htpasswd -B")

func parseHash(hash string) (u user, cost int, err error) {
	if strings.HasPrefix(hash, "{SHA}") {
		encoded, err := htpasswd.AcceptSha(hash)
		if err != nil || encoded == nil {
			return user{}, 0, errHash // not err, which quotes the hash
		}
		return user{encoded: encoded}, 0, nil
	}
	encoded, err := htpasswd.AcceptBcrypt(hash)
	if err != nil || encoded == nil || strings.HasPrefix(hash, "$2x$") {
		return user{}, 0, errHash
	}
	cost, err = bcrypt.Cost([]byte(hash))
	if err != nil {
		return user{}, 0, errHash
	}
	if cost > maxCost {
		return user{}, 0, fmt.Errorf("a bcrypt cost of %d takes too long, %d is the most", cost, maxCost)
	}
	return user{encoded: encoded, slow: true}, cost, nil
}
