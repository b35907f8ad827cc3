// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/zeebo/blake3"

	"github.com/strandline-project/strandline/eventlog"
)

// Digest is the order-independent sum over the live rows of a view (or of a
// machine's part of one): four uint64s, little-endian, each the wrapping sum
// of the matching eight bytes of every row's hash. It changes with each row
// added or taken away, without looking at the others. Two views are equal
// exactly when their digests are, as far as accidents go; an attacker who can
// choose rows could make them collide.
type Digest [32]byte

// String prints d in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText makes a Digest print as String does in JSON.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the form that String prints.
func (d *Digest) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(d) {
		return fmt.Errorf("digest %q: want %d hexadecimal digits", text, 2*len(d))
	}
	if _, err := hex.Decode(d[:], text); err != nil {
		return fmt.Errorf("digest %q: %w", text, err)
	}
	return nil
}

// sum is a Digest while it is being counted.
type sum [4]uint64

func (s *sum) add(row *[32]byte) {
	for i := range s {
		s[i] += binary.LittleEndian.Uint64(row[8*i:])
	}
}

func (s *sum) sub(row *[32]byte) {
	for i := range s {
		s[i] -= binary.LittleEndian.Uint64(row[8*i:])
	}
}

func (s *sum) addSum(other *sum) {
	for i := range s {
		s[i] += other[i]
	}
}

func (s sum) digest() Digest {
	var d Digest
	for i := range s {
		binary.LittleEndian.PutUint64(d[8*i:], s[i])
	}
	return d
}

func (d Digest) sum() sum {
	var s sum
	for i := range s {
		s[i] = binary.LittleEndian.Uint64(d[8*i:])
	}
	return s
}

// rowHasher hashes rows for one view: BLAKE3 with a key that is derived from
// the view's name and version, over table (1 byte), length of the key
// (uvarint), key, seq (8 bytes, big-endian), value. For nearly all blocks that
// is one block of BLAKE3's, 64 bytes.
type rowHasher struct {
	hasher *blake3.Hasher
	text   []byte
	hash   [32]byte // of the row hashed last
}

func newRowHasher(name string, version uint32) (*rowHasher, error) {
	var key [32]byte
	blake3.DeriveKey("strandline view digest", fmt.Appendf(nil, "%s/%d", name, version), key[:])
	hasher, err := blake3.NewKeyed(key[:])
	if err != nil {
		return nil, fmt.Errorf("make the digest's hash for view %s: %w", name, err)
	}
	return &rowHasher{hasher: hasher}, nil
}

// row returns the hash of a row; it is overwritten by the next.
func (h *rowHasher) row(table byte, key []byte, seq eventlog.Seq, value []byte) *[32]byte {
	h.text = append(h.text[:0], table)
	h.text = binary.AppendUvarint(h.text, uint64(len(key)))
	h.text = append(h.text, key...)
	h.text = binary.BigEndian.AppendUint64(h.text, uint64(seq))
	h.text = append(h.text, value...)
	h.hasher.Reset()
	h.hasher.Write(h.text) // a hash never fails
	h.hasher.Sum(h.hash[:0])
	return &h.hash
}
