// SPDX-License-Identifier: Apache-2.0

// Package blockstore is the application: a request becomes events, and a read
// goes from the view to the placement to verified bytes. Doors (the restic
// door, the native API) stand in front of it; it knows nothing of HTTP.
package blockstore

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/strandline-project/strandline/eventlog"
)

// Path names a machine the way clients do.
type Path struct {
	Account string
	Machine string // may be empty: the account's machine with the empty name
}

// String prints p as in a URL path: "alice/laptop".
func (p Path) String() string { return p.Account + "/" + p.Machine }

// maxName is how many characters a name has at most.
const maxName = 64

// Names that mean something else in a path: folders everywhere, the others
// where an account could stand.
var (
	folders  = map[string]bool{"data": true, "index": true, "keys": true, "locks": true, "snapshots": true, "config": true}
	reserved = map[string]bool{"api": true, "metrics": true, "healthz": true, "readyz": true}
)

// Check returns ErrBadName unless both names are within the rules: the
// account 1 to 64 letters, digits or @._-, the machine 0 to 64 letters, digits
// or ._-; neither what a folder in a path is called, nor "." or "..", nor the
// account what the server itself answers to.
func (p Path) Check() error {
	if p.Account == "" || !plain(p.Account, "@._-") || folders[p.Account] || reserved[p.Account] || dots(p.Account) {
		return fmt.Errorf("account %q: %w", p.Account, ErrBadName)
	}
	if !plain(p.Machine, "._-") || folders[p.Machine] || dots(p.Machine) {
		return fmt.Errorf("machine %q: %w", p.Machine, ErrBadName)
	}
	return nil
}

// plain says whether a name that is not too long has letters, digits and marks
// only.
func plain(name, marks string) bool {
	n := 0
	for _, r := range name {
		n++
		digit := '0' <= r && r <= '9'
		if !digit && !unicode.IsLetter(r) && !strings.ContainsRune(marks, r) {
			return false
		}
	}
	return n <= maxName
}

func dots(name string) bool { return name == "." || name == ".." }

// Ref names one block of a machine.
type Ref struct {
	Kind eventlog.Kind
	Name [32]byte // SHA-256 of the content; zero for eventlog.KindConfig
}

// Bytes returns the block's name as events carry it: empty for the config.
func (r Ref) Bytes() []byte {
	if r.Kind == eventlog.KindConfig {
		return nil
	}
	return r.Name[:]
}

// String prints r for people: "data/0123…", "config".
func (r Ref) String() string {
	if r.Kind == eventlog.KindConfig {
		return r.Kind.String()
	}
	return fmt.Sprintf("%s/%x", r.Kind, r.Name)
}

// Listed is one row of a listing.
type Listed struct {
	Name   [32]byte
	Length uint64 // bytes
}
