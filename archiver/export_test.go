// SPDX-License-Identifier: Apache-2.0

package archiver

// SetPieceSize makes the pieces of index objects as small until the function
// that it returns is called.
func SetPieceSize(size int64) (restore func()) {
	before := pieceLimit
	pieceLimit = size
	return func() { pieceLimit = before }
}

// EncodeClaim is the claim as it is put.
func EncodeClaim(c *Claim) ([]byte, error) { return c.encode() }
