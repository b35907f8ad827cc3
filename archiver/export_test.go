// SPDX-License-Identifier: Apache-2.0

package archiver

// EncodeClaim is the claim as it is put.
func EncodeClaim(c *Claim) ([]byte, error) { return c.encode() }
