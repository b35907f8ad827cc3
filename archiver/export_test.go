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

// OpenStateDirAt is OpenStateDir where identify tells files apart.
func OpenStateDirAt(path string, identify func(string) FileID) (*StateDir, error) {
	return openStateDir(path, identify)
}

// CreateStateDirAt is CreateStateDir where identify tells files apart.
func CreateStateDirAt(path string, first State, identify func(string) FileID) (*StateDir, error) {
	return createStateDir(path, first, identify)
}

// Identify is how files are told apart here.
func Identify(path string) FileID { return identify(path) }

// MachineOf is the machine of the root directory root.
func MachineOf(root string) string { return machineOf(root) }

// ServeHere is what a start records with its claim.
func ServeHere(d *StateDir) error { return d.updateHere(func(*State) {}) }

// PlaceDiffers is what shows that p is another place than q.
func PlaceDiffers(p, q Place) string { return p.differs(&q) }
