// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/strandline-project/strandline/eventlog"
)

// The keys of checkpoints. Nothing else of an archive begins with Prefix, and
// nothing else is ever removed by this package.
const (
	Prefix         = "checkpoint/"
	manifestPrefix = Prefix + "manifest/"
	filePrefix     = Prefix + "file/"

	seqDigits = 20
)

// manifestKey returns the key of the manifest of the checkpoint as of seq.
func manifestKey(seq eventlog.Seq) string { return manifestPrefix + nameOf(seq) }

// nameOf names the checkpoint as of seq: decimal, and of fixed width, so that
// byte order is the order of seqs.
func nameOf(seq eventlog.Seq) string { return fmt.Sprintf("%0*d", seqDigits, uint64(seq)) }

// parseManifestKey reads a key as manifestKey makes it, and nothing else.
func parseManifestKey(key string) (eventlog.Seq, bool) {
	name, ok := strings.CutPrefix(key, manifestPrefix)
	if !ok || len(name) != seqDigits || strings.Trim(name, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseUint(name, 10, 64)
	return eventlog.Seq(n), err == nil && eventlog.Seq(n).Valid()
}

// fileKey returns the key of the file with that content.
func fileKey(sum Hash) string { return filePrefix + sum.String() }

// parseFileKey reads a key as fileKey makes it, and nothing else.
func parseFileKey(key string) (sum Hash, ok bool) {
	name, ok := strings.CutPrefix(key, filePrefix)
	if !ok || sum.UnmarshalText([]byte(name)) != nil || sum.String() != name {
		return Hash{}, false
	}
	return sum, true
}

// Hash is the SHA-256 of a file.
type Hash [32]byte

// String prints h in lower-case hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText makes a Hash print as String does in JSON.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads the form that String prints.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) != 2*len(h) {
		return fmt.Errorf("hash %q: want %d hexadecimal digits", text, 2*len(h))
	}
	if _, err := hex.Decode(h[:], text); err != nil {
		return fmt.Errorf("hash %q: %w", text, err)
	}
	return nil
}
